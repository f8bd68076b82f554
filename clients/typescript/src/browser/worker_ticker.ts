/**
 * Ticks from a Worker: browsers slow the timers of hidden pages down to one a minute, but not those
 * of their Workers. Where the page's policy forbids the Worker, the page's own timers serve.
 */

import type { Ticker } from "../core/ticker.js";
import { timerTicker } from "../core/ticker.js";

const SOURCE = `const timers = new Map();
onmessage = ({ data: { id, ms } }) => {
  clearInterval(timers.get(id));
  if (ms) timers.set(id, setInterval(() => postMessage(id), ms));
};`;

export class WorkerTicker implements Ticker {
  #worker: Worker | undefined;
  #next = 0;
  readonly #ticks = new Map<number, { ms: number; tick: () => void; stop?: () => void }>();
  readonly #onDegraded: (why: string) => void;

  /** `url` names a script of the app's own, for policies without `blob:`. */
  constructor(url: URL | undefined, onDegraded: (why: string) => void) {
    this.#onDegraded = onDegraded;
    const blob = url
      ? undefined
      : URL.createObjectURL(new Blob([SOURCE], { type: "text/javascript" }));
    try {
      const worker = new Worker(url ?? blob ?? "");
      this.#worker = worker;
      worker.onmessage = ({ data }: MessageEvent<number>) => this.#ticks.get(data)?.tick();
      worker.onerror = () => this.#degrade();
    } catch {
      this.#degrade();
    }
  }

  start(ms: number, tick: () => void): () => void {
    const id = this.#next++;
    const entry: { ms: number; tick: () => void; stop?: () => void } = { ms, tick };
    this.#ticks.set(id, entry);
    if (this.#worker) this.#worker.postMessage({ id, ms });
    else entry.stop = timerTicker.start(ms, tick);
    return () => {
      this.#ticks.delete(id);
      entry.stop?.();
      this.#worker?.postMessage({ id, ms: 0 });
    };
  }

  close(): void {
    this.#worker?.terminate();
    this.#worker = undefined;
  }

  #degrade(): void {
    this.close();
    for (const entry of this.#ticks.values())
      entry.stop ??= timerTicker.start(entry.ms, entry.tick);
    this.#onDegraded(
      "the page's policy forbids the Worker that beats while the page is hidden: " +
        "allow worker-src blob:, or name a script by `worker`",
    );
  }
}
