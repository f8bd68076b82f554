/** A gateway's lease: many connections of many users, one heartbeat, and batches. */

import type { Door } from "./door.js";
import { PresenceError, errorOfReply, isFinal, isPresenceError } from "./errors.js";
import type { ConnectionSnapshot, Operation } from "./session.js";
import { Session } from "./session.js";
import type { Ticker } from "./ticker.js";
import { Beats } from "./ticker.js";
import { randomId, tokenOf } from "./token.js";
import type { ConnectOptions, Fields, HeartbeatTimes, Patch } from "./types.js";

const BATCH_OPERATIONS = 200;
const BATCH_MS = 5;
const BATCHES_IN_FLIGHT = 4;
const REQUEST_MS = 5000;

interface QueuedOperation {
  op: object & { op: Operation };
  resolve: (result: unknown) => void;
  reject: (error: unknown) => void;
}

export interface LeaseState {
  /** `closed` is for good; breaks of the link are told by the seats. */
  readonly status: "open" | "closed";
  /** The last error of its heartbeats; of a closed lease the error that ended it. */
  readonly error?: PresenceError;
}

/** One user's connection on a gateway's lease. */
export class Seat<F extends object = Fields> implements AsyncDisposable {
  readonly user: string;
  readonly #session: Session<F>;

  /** @internal */
  constructor(session: Session<F>) {
    this.user = session.user;
    this.#session = session;
  }

  get id(): string {
    return this.#session.connectionId;
  }

  get state(): ConnectionSnapshot<F> {
    return this.#session.snapshot;
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#session.listeners.add(listener);
    return () => this.#session.listeners.delete(listener);
  };

  async update(patch: Patch<F>): Promise<void> {
    await this.#session.update(patch);
  }

  setIdle(idle: boolean): void {
    this.#session.setIdle(idle);
  }

  close(): Promise<void> {
    return this.#session.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

export class Lease<F extends object = Fields> implements AsyncDisposable {
  /** The name of this run; it changes when the daemons have lost the lease. */
  name: string;
  readonly #base: string;
  readonly #door: Door;
  readonly #sessions = new Set<Session<F>>();
  readonly #beats: Beats;
  readonly #queue: QueuedOperation[] = [];
  readonly #batches = new Set<Promise<void>>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #mismatches = 0;
  #formerLease: string | undefined;
  #state: LeaseState = { status: "open" };
  #closing: Promise<void> | undefined;
  #ended!: () => void;
  readonly #end: Promise<void>;
  readonly #linkListener = { closed: (error: PresenceError) => this.#finish(error) };

  /** @internal */
  constructor(door: Door, name: string, ticker: Ticker) {
    tokenOf(name, "lease");
    this.#base = name;
    this.name = `${name}-${randomId()}`;
    this.#door = door;
    this.#beats = new Beats(ticker, () => void this.#beat());
    this.#end = new Promise((resolve) => (this.#ended = resolve));
    door.link.listeners.add(this.#linkListener);
  }

  get state(): LeaseState {
    return this.#state;
  }

  /** Resolves when the lease has ended, with the error that ended it, if there was one. */
  async closed(): Promise<PresenceError | undefined> {
    await this.#end;
    return this.#state.error;
  }

  /** How many seats the daemons have acknowledged. */
  get held(): number {
    let held = 0;
    for (const session of this.#sessions) if (session.joined) held++;
    return held;
  }

  /** Seats a user; resolves when online, rejects when the daemons refuse. */
  async connect(
    user: string,
    patch: Patch<F> = {},
    options: ConnectOptions<F> & { signal?: AbortSignal } = {},
  ): Promise<Seat<F>> {
    if (this.#isClosed) throw new PresenceError("closed", "the lease is closed");
    tokenOf(user, "user");
    const submit = (operation: Operation, body: object) => this.#submit({ ...body, op: operation });
    const session = new Session<F>(this.#door, user, submit, patch, options);
    session.lease = this.name;
    this.#sessions.add(session);
    session.onLeft = () => this.#sessions.delete(session);
    session.onJoined = ({ heartbeat }) => this.#startBeats(heartbeat);
    // A socket that closes while its connect is under way is disconnected afterwards.
    const aborted = () => void session.close();
    options.signal?.addEventListener("abort", aborted, { once: true });
    await new Promise<void>((resolve) => {
      const settled = () => {
        if (!["online", "closed"].includes(session.snapshot.status)) return;
        session.listeners.delete(settled);
        resolve();
      };
      session.listeners.add(settled);
      session.kick();
    });
    options.signal?.removeEventListener("abort", aborted);
    const { status, error } = session.snapshot;
    if (status === "closed") throw error ?? new PresenceError("closed", "the seat was closed");
    return new Seat<F>(session);
  }

  /**
   * Ends all seats with one disconnect, after the batches that are under way. For a planned restart
   * `graceMs` is the time that users have to come back; without it they go offline after the
   * daemons' own grace.
   */
  close(options: { graceMs?: number } = {}): Promise<void> {
    this.#closing ??= this.#isClosed ? Promise.resolve() : this.#disconnect(options.graceMs);
    return this.#closing;
  }

  /** Stops without a word: the daemons wait for the users until the lease lapses. */
  abandon(): void {
    this.#finish();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  get #isClosed(): boolean {
    return this.#state.status === "closed";
  }

  async #disconnect(graceMs: number | undefined): Promise<void> {
    this.#finish();
    // The daemons do not remember the end of a lease for a connect that comes later.
    await Promise.all(this.#batches);
    await this.#door.call("disconnect", { lease: this.name, grace_ms: graceMs }, REQUEST_MS);
  }

  #finish(error?: PresenceError): void {
    if (this.#isClosed) return;
    this.#state = error ? { status: "closed", error } : { status: "closed" };
    this.#beats.stop();
    clearTimeout(this.#timer);
    this.#door.link.listeners.delete(this.#linkListener);
    const gone = error ?? new PresenceError("closed", "the lease is closed");
    for (const { reject } of this.#queue.splice(0)) reject(gone);
    for (const session of [...this.#sessions]) session.abort(gone);
    this.#ended();
  }

  #startBeats(heartbeat: HeartbeatTimes | undefined): void {
    if (heartbeat && !this.#isClosed) this.#beats.start(heartbeat.interval_ms);
  }

  #underWay(): boolean {
    if (this.#batches.size || this.#queue.length) return true;
    for (const session of this.#sessions) if (session.underWay) return true;
    return false;
  }

  async #beat(): Promise<void> {
    if (!this.#door.link.up) return;
    void this.#door.link.check();
    const lease = this.name;
    const quiet = !this.#underWay();
    try {
      const answer = await this.#door.once<{
        unknown: string[];
        held: number;
        heartbeat?: HeartbeatTimes;
      }>("heartbeat", { lease });
      if (lease !== this.name || this.#isClosed) return;
      this.#state = { status: "open" };
      this.#startBeats(answer.heartbeat);
      if (answer.unknown.length) {
        if (this.held) this.#moveAll(undefined);
      } else if (quiet && !this.#underWay()) this.#compare(answer.held);
    } catch (error) {
      if (!isPresenceError(error)) throw error;
      if (isFinal(error)) this.#finish(error);
      // The next beat asks again; a break of the link is no matter of the lease.
      else if (error.kind !== "disconnected" && !this.#isClosed)
        this.#state = { status: "open", error };
    }
  }

  /** Acts upon the second mismatch running, and on each that stays. */
  #compare(held: number): void {
    const own = this.held;
    this.#mismatches = held === own ? 0 : this.#mismatches + 1;
    if (this.#formerLease !== undefined && held === own) void this.#endFormer(this.#formerLease);
    if (this.#mismatches < 2) return;
    this.#mismatches = 0;
    if (held < own) for (const session of this.#sessions) this.#rejoin(session);
    else this.#moveAll(this.name);
  }

  /** A new lease, all connected to it by batches; the former is ended once they are. */
  #moveAll(former: string | undefined): void {
    this.#formerLease = former;
    this.name = `${this.#base}-${randomId()}`;
    for (const session of this.#sessions) {
      session.lease = this.name;
      this.#rejoin(session);
    }
  }

  #rejoin(session: Session<F>): void {
    if (session.joined) session.onUnknown();
  }

  async #endFormer(lease: string): Promise<void> {
    this.#formerLease = undefined;
    await this.#door.call("disconnect", { lease }, REQUEST_MS).catch(() => {
      this.#formerLease = lease;
    });
  }

  #submit(op: QueuedOperation["op"]): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ op, resolve, reject });
      if (this.#queue.length >= BATCH_OPERATIONS) this.#drain();
      else this.#timer ??= setTimeout(() => this.#drain(), BATCH_MS);
    });
  }

  #drain(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    while (this.#queue.length && this.#batches.size < BATCHES_IN_FLIGHT) {
      const part = this.#queue.splice(0, BATCH_OPERATIONS);
      const batch = this.#send(part).finally(() => {
        this.#batches.delete(batch);
        this.#drain();
      });
      this.#batches.add(batch);
    }
  }

  async #send(part: QueuedOperation[]): Promise<void> {
    try {
      if (this.#isClosed) throw new PresenceError("closed", "the lease is closed");
      const ops = part.map(({ op }) => op);
      // The answer to a connect tells whether the user is hidden already. That costs no request of
      // its own; the views would make the answers of other batches large for nothing.
      const body = { ops, me: ops.some(({ op }) => op === "connect") };
      const { results } = await this.#door.once<{ results: unknown[] }>("batch", body, REQUEST_MS);
      part.forEach(({ resolve, reject }, at) => {
        const refusal = errorOfReply(results[at]);
        if (refusal) reject(refusal);
        else resolve(results[at]);
      });
    } catch (error) {
      if (isPresenceError(error) && error.code === "too_large" && part.length > 1) {
        const half = part.length >> 1;
        await this.#send(part.slice(0, half));
        await this.#send(part.slice(half));
      } else for (const { reject } of part) reject(error);
    }
  }
}
