/**
 * The clock of regular beats. In pages it is a Worker, as browsers slow the timers of hidden tabs.
 */

export interface Ticker {
  /** Calls `tick` every `ms` until the returned function is called. */
  start(ms: number, tick: () => void): () => void;
}

export const timerTicker: Ticker = {
  start(ms, tick) {
    const timer = setInterval(tick, ms);
    return () => clearInterval(timer);
  },
};

/** Beats at 0.9 to 1.0 of the interval; one that is later than 1.5 intervals is a wake. */
export class Beats {
  readonly #ticker: Ticker;
  readonly #beat: (woke: boolean) => void;
  #intervalMs = 0;
  #stop: (() => void) | undefined;
  #last = 0;

  constructor(ticker: Ticker, beat: (woke: boolean) => void) {
    this.#ticker = ticker;
    this.#beat = beat;
  }

  /** Starts, or changes the interval. */
  start(intervalMs: number): void {
    if (this.#stop && intervalMs === this.#intervalMs) return;
    this.stop();
    this.#intervalMs = intervalMs;
    this.#last = performance.now();
    this.#stop = this.#ticker.start(intervalMs * (0.9 + 0.1 * Math.random()), () => {
      const now = performance.now();
      const woke = now - this.#last > 1.5 * intervalMs;
      this.#last = now;
      this.#beat(woke);
    });
  }

  stop(): void {
    this.#stop?.();
    this.#stop = undefined;
  }
}
