/**
 * Presence in a page: owns its connection, and lives through hiding, reloads, sleep and dead links.
 */

import type { Connection } from "../core/connection.js";
import type { DoorOptions } from "../core/door.js";
import { PresenceError } from "../core/errors.js";
import type { PresenceSource } from "../core/source.js";
import type { Ticker } from "../core/ticker.js";
import { timerTicker } from "../core/ticker.js";
import { tokenOf } from "../core/token.js";
import type { ConnectOptions, Fields, Patch } from "../core/types.js";
import { UserDoor } from "../core/user.js";
import { Activity } from "./activity.js";
import { Dialer } from "./dialer.js";
import type { Auth } from "./token.js";
import { WorkerTicker } from "./worker_ticker.js";

export { isPresenceError, PresenceError } from "../core/errors.js";
export type { ConnectionSnapshot, ConnectionStatus } from "../core/session.js";
export type { PresenceSource } from "../core/source.js";
export type * from "../core/types.js";
export type { Change, WatchListener, WatchSnapshot, WatchStatus } from "../core/watch.js";
export type { Auth } from "./token.js";
export { LoginGone } from "./token.js";

export interface OpenOptions<F extends object = Fields> extends DoorOptions, ConnectOptions<F> {
  /** Of nats-server's WebSocket listener: `wss://…`. */
  url: string | string[];
  user: string;
  auth?: Auth;
  /** The state of the user from the first moment on. */
  patch?: Patch<F>;
  /**
   * After how long without input, in any tab, the user is idle. Five minutes; `Infinity` for never.
   */
  idleAfterMs?: number;
  /** The effect of hiding the page: it stays online, or leaves after half a minute. */
  hidden?: "stay" | "leave";
  /** After how long hidden it leaves. Half a minute. */
  leaveAfterMs?: number;
  /**
   * A script for the Worker, where the policy forbids `blob:`; `false` for the page's own timers.
   */
  worker?: URL | false;
  /** `_INBOX_<token of the user>` by default. */
  inboxPrefix?: string;
  logger?: Pick<Console, "warn" | "debug">;
}

const IDLE_AFTER_MS = 300_000;
const LEAVE_AFTER_MS = 30_000;

export class BrowserPresence<F extends object = Fields>
  implements PresenceSource<F>, AsyncDisposable
{
  readonly user: string;
  readonly connection: Connection<F>;
  readonly watch: UserDoor<F>["watch"];
  readonly watchChannel: UserDoor<F>["watchChannel"];
  readonly watchChannels: UserDoor<F>["watchChannels"];
  readonly peek: UserDoor<F>["peek"];
  readonly subscribe: UserDoor<F>["subscribe"];
  /** Queries at the user's door. */
  readonly door: UserDoor<F>;
  /** Why the presence is less than it could be, such as that the Worker is forbidden. */
  degraded: string | undefined;
  readonly #dialer: Dialer;
  readonly #ticker: Ticker | WorkerTicker;
  readonly #activity: Activity | undefined;
  readonly #leaveAfterMs: number | undefined;
  readonly #listening = new AbortController();
  #leaving: ReturnType<typeof setTimeout> | undefined;

  constructor(options: OpenOptions<F>) {
    const { user, logger, worker, hidden = "stay", idleAfterMs = IDLE_AFTER_MS } = options;
    this.user = user;
    this.#leaveAfterMs = hidden === "leave" ? (options.leaveAfterMs ?? LEAVE_AFTER_MS) : undefined;
    this.#ticker =
      worker === false
        ? timerTicker
        : new WorkerTicker(worker, (why) => {
            this.degraded = why;
            logger?.warn(why);
          });
    this.#dialer = new Dialer({
      url: options.url,
      auth: options.auth,
      inboxPrefix: options.inboxPrefix ?? `_INBOX_${tokenOf(user, "user")}`,
      log: (message, error) => logger?.debug(message, error),
      onEndNear: () => this.connection.beat(),
    });
    const door = new UserDoor<F>(this.#dialer.link, user, options, this.#ticker);
    this.door = door;
    ({
      watch: this.watch,
      watchChannel: this.watchChannel,
      watchChannels: this.watchChannels,
    } = door);
    ({ peek: this.peek, subscribe: this.subscribe } = door);
    this.connection = door.begin(options.patch, options);
    if (Number.isFinite(idleAfterMs)) {
      this.#activity = new Activity(user, idleAfterMs, this.connection.setIdle);
    }
    this.#listen();
    this.#dialer.link.listeners.add({ closed: () => this.#stop() });
  }

  /** Settles when the first attempt to connect has ended; rejects where the login is refused. */
  async opened(): Promise<this> {
    await this.#dialer.attempted;
    const { closed } = this.#dialer.link;
    if (closed) throw closed;
    if (this.#dialer.link.up) await this.connection.online();
    return this;
  }

  /** Disconnects and closes the connection. */
  async close(): Promise<void> {
    await this.connection.close();
    this.#dialer.close(new PresenceError("closed", "closed by the app"));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #listen(): void {
    const { signal } = this.#listening;
    const doubt = () => {
      this.#dialer.now();
      this.connection.beat(true);
    };
    addEventListener("pagehide", () => this.#onPageHide(), { signal });
    addEventListener("pageshow", (event) => event.persisted && this.#onPageShow(), { signal });
    addEventListener("online", doubt, { signal });
    addEventListener("offline", () => void this.#dialer.link.check(), { signal });
    document.addEventListener("resume", doubt, { signal });
    document.addEventListener("visibilitychange", () => this.#onVisibility(doubt), { signal });
  }

  #onPageHide(): void {
    this.connection.leave();
    this.#dialer.pause();
  }

  #onPageShow(): void {
    this.#dialer.resume();
    this.connection.resume();
  }

  #onVisibility(doubt: () => void): void {
    clearTimeout(this.#leaving);
    if (document.visibilityState === "visible") {
      this.connection.resume();
      doubt();
    } else if (this.#leaveAfterMs !== undefined) {
      this.#leaving = setTimeout(() => this.connection.leave(), this.#leaveAfterMs);
    }
  }

  #stop(): void {
    this.#listening.abort();
    clearTimeout(this.#leaving);
    this.#activity?.close();
    if (this.#ticker instanceof WorkerTicker) this.#ticker.close();
  }
}

/**
 * Opens the presence of `user`. Resolves when online, or when the first attempt has failed and is
 * being repeated; rejects where the daemons or the login refuse.
 */
export function open<F extends object = Fields>(
  options: OpenOptions<F>,
): Promise<BrowserPresence<F>> {
  return new BrowserPresence<F>(options).opened();
}
