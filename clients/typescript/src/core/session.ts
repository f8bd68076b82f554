/**
 * The desired state of one connection, and the requests that bring the daemons to it, one at a
 * time. Unacknowledged changes are merged into one patch, and ride in the next connect.
 */

import { PresenceError, isPresenceError, retryDelayMs } from "./errors.js";
import type { Door } from "./door.js";
import type { Knowledge } from "./knowledge.js";
import { merged } from "./knowledge.js";
import { randomId } from "./token.js";
import type { ConnectOptions, Fields, HeartbeatTimes, Me, Patch } from "./types.js";

export type Operation = "connect" | "update_connection" | "upsert_users" | "disconnect";
/** Carries out one operation: a request of its own, or a part of a batch. */
export type Submit = (operation: Operation, body: object) => Promise<unknown>;

export type ConnectionStatus = "connecting" | "online" | "interrupted" | "closed";

export interface ConnectionSnapshot<F extends object = Fields> {
  readonly status: ConnectionStatus;
  /** When the status began, in milliseconds since 1970. */
  readonly since: number;
  /** The last error; `closed` says by it why it is so. */
  readonly error?: PresenceError | undefined;
  /** The user as it sees itself, from the last answer. */
  readonly me?: Me<F> | undefined;
  readonly idle: boolean;
  /** `relapsed`: the daemons had given the connection up; `recreated`: they had lost the user. */
  readonly regained?: "relapsed" | "recreated" | undefined;
}

export interface Joined<F extends object> {
  connection_id: string;
  me?: Me<F>;
  created?: boolean;
  heartbeat?: HeartbeatTimes;
}

interface Waiter<F extends object> {
  resolve(me: Me<F> | undefined): void;
  reject(error: PresenceError): void;
  /** When it is given up, once the link is up. */
  until: number;
}

const PATCH_DEADLINE_MS = 10_000;
const LEAVE_MS = 2000;

export class Session<F extends object = Fields> {
  connectionId = randomId();
  joined = false;
  lease: string | undefined;
  onJoined: (answer: Joined<F>) => void = () => undefined;
  onLeft: () => void = () => undefined;
  readonly user: string;
  readonly listeners = new Set<() => void>();
  readonly #door: Door;
  readonly #submit: Submit;
  readonly #known: Knowledge;
  #device: string | undefined;
  #defaults: Patch<F>;
  #patch: Patch<F> | undefined;
  #waiters: Waiter<F>[] = [];
  #idle: boolean;
  #idleKnown: boolean | undefined;
  #everJoined = false;
  /** A connect was sent, and no disconnect was answered: the daemons may hold the connection. */
  #mayBeHeld = false;
  #lapsed = false;
  #paused = false;
  #closing = false;
  /** Nothing is sent any more. */
  #done = false;
  #busy = false;
  #failedTries = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #snapshot: ConnectionSnapshot<F>;
  #ended!: () => void;
  readonly ended: Promise<void>;
  readonly #linkListener = {
    up: () => this.#later(Math.random() * this.#door.spreadMs),
    down: (error: PresenceError) => this.onLost(error),
    closed: (error: PresenceError) => this.#end(error),
  };

  readonly #holder = () => this.#show({ me: this.#me });

  constructor(
    door: Door,
    user: string,
    submit: Submit,
    patch: Patch<F>,
    options: ConnectOptions<F>,
  ) {
    this.#door = door;
    this.user = user;
    this.#submit = submit;
    this.#patch = Object.keys(patch).length ? patch : undefined;
    this.#device = options.device;
    this.#idle = options.idle ?? false;
    this.#defaults = options.defaults ?? {};
    this.#known = door.hold(user, this.#holder);
    this.#snapshot = { status: "connecting", since: Date.now(), idle: this.#idle };
    this.ended = new Promise((resolve) => (this.#ended = resolve));
    door.link.listeners.add(this.#linkListener);
  }

  get snapshot(): ConnectionSnapshot<F> {
    return this.#snapshot;
  }

  get underWay(): boolean {
    return this.#busy;
  }

  /** Brings the daemons to what is wanted. */
  kick(): void {
    if (!this.#busy) void this.#pump();
  }

  update(patch: Patch<F>): Promise<Me<F> | undefined> {
    if (this.#snapshot.status === "closed" || this.#closing) {
      return Promise.reject(new PresenceError("closed", "the connection is closed"));
    }
    this.#patch = merged(this.#patch ?? {}, patch);
    return new Promise((resolve, reject) => {
      this.#waiters.push({ resolve, reject, until: Infinity });
      this.kick();
    });
  }

  setIdle(idle: boolean): void {
    if (this.#idle === idle) return;
    this.#idle = idle;
    this.#show({ idle });
    this.kick();
  }

  setDevice(device: string): void {
    if (this.#device === device) return;
    this.#device = device;
    this.#idleKnown = undefined;
    this.kick();
  }

  /** The daemons do not know the connection any more. */
  onUnknown(): void {
    if (!this.joined) return;
    this.#lapsed = true;
    this.onLost(new PresenceError("disconnected", "the daemons had given the connection up"));
    this.kick();
  }

  /** The connection has to be made again, by the same id. */
  onLost(error: PresenceError): void {
    this.joined = false;
    if (this.#snapshot.status === "online") this.#turn("interrupted", error);
    else this.#show({ error });
  }

  /** An error that does not change the status, such as that no daemon answers beats. */
  report(error: PresenceError | undefined): void {
    if (this.#snapshot.error === error || this.#snapshot.status !== "online") return;
    this.#show({ error });
  }

  /** Leaves for a while. The id is spent with the disconnect, sent by the page or the library. */
  pause(): { connection_id: string } | undefined {
    if (this.#paused) return undefined;
    this.#paused = true;
    const spent = this.joined || this.#busy ? { connection_id: this.connectionId } : undefined;
    this.onLost(new PresenceError("disconnected", "left while the page is away"));
    this.connectionId = randomId();
    this.#mayBeHeld = false;
    return spent;
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.kick();
  }

  /**
   * Disconnects, and waits up to two seconds for it. Then a connection with a lease of its own is
   * left to lapse; one on a shared lease would not, so its disconnect is tried on.
   */
  async close(error?: PresenceError): Promise<void> {
    if (this.#snapshot.status === "closed") return;
    this.#closing = true;
    const giveUp = setTimeout(
      () => (this.lease === undefined ? this.#end(error) : this.#showClosed(error)),
      LEAVE_MS,
    );
    this.kick();
    await this.ended;
    clearTimeout(giveUp);
  }

  /** Ends without a word to the daemons. */
  abort(error: PresenceError): void {
    this.#end(error);
  }

  async #pump(): Promise<void> {
    this.#busy = true;
    clearTimeout(this.#timer);
    try {
      while (!this.#done && (await this.#step()));
      this.#failedTries = 0;
    } catch (error) {
      this.#onFailure(
        isPresenceError(error) ? error : new PresenceError("malformed", String(error)),
      );
    } finally {
      this.#busy = false;
    }
  }

  /** One request at most. Says whether there may be more to do. */
  async #step(): Promise<boolean> {
    if (this.#closing) {
      if (this.#mayBeHeld && !this.#door.link.up && this.lease !== undefined) return false;
      if (this.#mayBeHeld && this.#door.link.up) await this.#disconnect(this.connectionId);
      this.#end();
      return false;
    }
    if (!this.#door.link.up || this.#paused) return false;
    // A change makes a record that was deleted meanwhile again. So it rides in a connect where there
    // are defaults: an invisible user stays so.
    const { invisible, availability } = this.#known.toKeep(this.#defaults, {});
    const guarded = invisible || availability || Object.keys(this.#defaults).length > 0;
    if (!this.joined || (this.#patch && guarded)) await this.#connect();
    else if (this.#patch) await this.#upsert();
    else if (this.#idleKnown !== this.#idle) await this.#updateConnection();
    else return false;
    return true;
  }

  async #connect(): Promise<void> {
    const { connectionId: connection_id, lease } = this;
    const { patch, waiters } = this.#takePatch();
    const idle = this.#idle;
    this.#mayBeHeld = true;
    // An undefined field is not sent.
    const answer = (await this.#carry("connect", patch, waiters, {
      user: { id: lease && this.user, ...patch },
      defaults: this.#known.toKeep(this.#defaults, patch ?? {}),
      connection_id,
      lease,
      device: this.#device,
      idle,
    })) as Joined<F>;
    if (this.connectionId !== connection_id) {
      // Left while the connect was under way: the disconnect may have overtaken it.
      if (this.#door.link.up) await this.#disconnect(connection_id);
      return;
    }
    if (this.lease !== lease) return;
    this.joined = this.#door.link.up;
    this.#idleKnown = idle;
    const regained = this.#everJoined && answer.created ? "recreated" : this.#lapsed ? "relapsed" : undefined;
    this.#everJoined = true;
    this.#lapsed = false;
    if (this.#snapshot.status !== "online" || regained) this.#turn("online", undefined, regained);
    this.onJoined(answer);
  }

  async #upsert(): Promise<void> {
    const { patch, waiters } = this.#takePatch();
    await this.#carry("upsert_users", patch, waiters, { users: [{ id: this.user, ...patch }] });
  }

  async #updateConnection(): Promise<void> {
    const idle = this.#idle;
    const update = {
      user_id: this.user,
      connection_id: this.connectionId,
      idle,
      device: this.#device,
    };
    try {
      const answer = await this.#submit("update_connection", update);
      if ((answer as { unknown?: unknown[] }).unknown?.length) return this.onUnknown();
    } catch (error) {
      // What is refused is not repeated before it changes.
      if (!isPresenceError(error) || error.retryable) throw error;
      this.report(error);
    }
    this.#idleKnown = idle;
  }

  async #disconnect(connection_id: string): Promise<void> {
    await this.#submit("disconnect", { user_id: this.user, connection_id, lease: this.lease });
  }

  /** Sends a patch and settles those who wait for it; one that failed is wanted still. */
  async #carry(
    operation: Operation,
    patch: Patch<F> | undefined,
    waiters: Waiter<F>[],
    body: object,
  ): Promise<unknown> {
    try {
      const answer = await this.#submit(operation, body);
      const { me, users } = answer as { me?: Me<F>; users?: Record<string, Me<F>> };
      const view = me ?? users?.[this.user];
      this.#known.onWrite(patch ?? {}, view, this.#door.mark());
      for (const waiter of waiters) waiter.resolve(view);
      return answer;
    } catch (cause) {
      const error = isPresenceError(cause) ? cause : new PresenceError("malformed", String(cause));
      const now = performance.now();
      const expired =
        this.joined && waiters.length > 0 && waiters.every((waiter) => waiter.until <= now);
      if (error.retryable && !expired) {
        this.#patch = patch && merged(patch, this.#patch ?? {});
        this.#waiters = [...waiters, ...this.#waiters];
      } else for (const waiter of waiters) waiter.reject(error);
      throw error;
    }
  }

  #takePatch(): { patch: Patch<F> | undefined; waiters: Waiter<F>[] } {
    const patch = this.#patch;
    const waiters = this.#waiters;
    const until = performance.now() + PATCH_DEADLINE_MS;
    for (const waiter of waiters) waiter.until = Math.min(waiter.until, until);
    this.#patch = undefined;
    this.#waiters = [];
    return { patch, waiters };
  }

  get #me(): Me<F> | undefined {
    return this.#known.me as Me<F> | undefined;
  }

  #onFailure(error: PresenceError): void {
    if (this.#closing && !(error.retryable && this.#mayBeHeld)) this.#end();
    else if (error.retryable) {
      if (error.kind === "no_answer") void this.#door.link.check();
      this.#show({ error });
      this.#later(retryDelayMs(error, ++this.#failedTries));
    } else if (!this.joined) this.#end(error);
    else this.#later(0);
  }

  #later(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.kick(), ms);
  }

  #turn(
    status: ConnectionStatus,
    error?: PresenceError,
    regained?: "relapsed" | "recreated",
  ): void {
    this.#show({ status, since: Date.now(), me: this.#me, error, regained });
  }

  #show(change: Partial<ConnectionSnapshot<F>>): void {
    if (this.#snapshot.status === "closed") return;
    this.#snapshot = { ...this.#snapshot, ...change };
    for (const listener of [...this.listeners]) listener();
  }

  #end(error?: PresenceError): void {
    if (this.#done) return;
    this.#done = true;
    clearTimeout(this.#timer);
    this.joined = false;
    this.#door.link.listeners.delete(this.#linkListener);
    this.#door.letGo(this.user, this.#holder);
    this.onLeft();
    this.#showClosed(error);
  }

  #showClosed(error?: PresenceError): void {
    if (this.#snapshot.status === "closed") return;
    this.#turn("closed", error);
    const closed = error ?? new PresenceError("closed", "the connection is closed");
    for (const waiter of this.#waiters) waiter.reject(closed);
    this.#waiters = [];
    this.#ended();
  }
}
