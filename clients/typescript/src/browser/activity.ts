/** Whether anybody sits before one of the user's tabs: input of the last minutes, over all tabs. */

const INPUTS = ["pointerdown", "pointermove", "keydown", "wheel", "scroll", "touchstart"];
const SHARE_MS = 5000;

export class Activity {
  #last = Date.now();
  #shared = 0;
  #idle = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #idleAfterMs: number;
  readonly #onChange: (idle: boolean) => void;
  readonly #tabs: BroadcastChannel | undefined;
  readonly #listening = new AbortController();

  constructor(user: string, idleAfterMs: number, onChange: (idle: boolean) => void) {
    this.#idleAfterMs = idleAfterMs;
    this.#onChange = onChange;
    if (typeof BroadcastChannel === "function") {
      this.#tabs = new BroadcastChannel(`presence:${user}`);
      this.#tabs.onmessage = ({ data }: MessageEvent<number>) => this.#take(data);
    }
    const { signal } = this.#listening;
    const input = () => this.#onInput(Date.now());
    for (const name of INPUTS)
      addEventListener(name, input, { passive: true, capture: true, signal });
    const visible = () => document.visibilityState === "visible" && input();
    document.addEventListener("visibilitychange", visible, { signal });
    this.#check();
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#tabs?.close();
    this.#listening.abort();
  }

  #onInput(now: number): void {
    this.#take(now);
    if (now - this.#shared < SHARE_MS) return;
    this.#shared = now;
    this.#tabs?.postMessage(now);
  }

  #take(at: number): void {
    this.#last = Math.max(this.#last, at);
    if (this.#idle) this.#check();
  }

  #check(): void {
    clearTimeout(this.#timer);
    const left = this.#last + this.#idleAfterMs - Date.now();
    if (left > 0) this.#timer = setTimeout(() => this.#check(), left);
    if (this.#idle === left <= 0) return;
    this.#idle = left <= 0;
    this.#onChange(this.#idle);
  }
}
