/** A picture of some users that stays true: snapshot, listeners, and a conflating iterator. */

import { PresenceError } from "./errors.js";
import type { Hub, Watcher } from "./hub.js";
import type { Fields, User } from "./types.js";
import type { ChangeKind, Known } from "./view.js";
import { changeKind } from "./view.js";

/** `loading → live ⇄ stale → closed`, with `denied` where nothing may be seen. */
export type WatchStatus = "loading" | "live" | "stale" | "denied" | "closed";

export interface WatchSnapshot<F extends object = Fields> {
  readonly status: WatchStatus;
  /** When the status began, in milliseconds since 1970. */
  readonly since: number;
  readonly why?: string | undefined;
  /** Why events may be missing though the picture is complete: audits find what differs. */
  readonly degraded?: string | undefined;
  readonly error?: PresenceError | undefined;
  /** `null` for a user that does not exist; an unknown user is not in it. */
  readonly users: ReadonlyMap<string, User<F> | null>;
  /** Users whose events NATS refuses, and the permission that is missing. */
  readonly denied: ReadonlyMap<string, PresenceError>;
}

export type Change<F extends object = Fields> =
  | { kind: ChangeKind; id: string; user: User<F> | null; before: User<F> | null }
  | { state: WatchStatus; why?: string | undefined };

/** Is called with the ids that changed; an empty set tells of a change of status. */
export type WatchListener = (ids: ReadonlySet<string>) => void;

export class Watch<F extends object = Fields> implements AsyncDisposable {
  /** Resolves with the first complete picture; rejects where nothing may be seen. */
  readonly live: Promise<void>;
  protected readonly hub: Hub;
  protected readonly watcher: Watcher;
  protected readonly ids = new Set<string>();
  protected readonly covering: boolean = false;
  readonly #pending = new Set<string>();
  readonly #readers = new Set<Reader<F>>();
  readonly #listeners = new Set<WatchListener>();
  readonly #changed = new Set<string>();
  #status: WatchStatus = "loading";
  #since = Date.now();
  #why: string | undefined;
  #error: PresenceError | undefined;
  #snapshot: WatchSnapshot<F> | undefined;
  #scheduled = false;
  #settle!: { resolve: () => void; reject: (error: PresenceError) => void };

  /** @internal */
  constructor(hub: Hub) {
    this.hub = hub;
    this.live = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
    this.live.catch(() => undefined);
    this.watcher = {
      onEntry: (id, before) => this.#onEntry(id, before),
      onStale: (why) => this.#onStale(why),
      onResync: () => this.load(),
      onDegraded: () => this.note(),
      onDenied: (error) => this.#onDenied(error),
      onClosed: (error) => this.#end(error),
    };
    hub.watchers.add(this.watcher);
    const { closed } = hub.door.link;
    if (closed) queueMicrotask(() => this.#end(closed));
  }

  get status(): WatchStatus {
    return this.#status;
  }

  /** The user, `null` if there is none of that id, `undefined` while it is unknown. */
  get(id: string): User<F> | null | undefined {
    return this.ids.has(id) ? (this.hub.entry(id)?.view.user as Known<User<F>>) : undefined;
  }

  /** The same object until something changes. */
  readonly getSnapshot = (): WatchSnapshot<F> => {
    this.#snapshot ??= this.#picture();
    return this.#snapshot;
  };

  /** Calls the listener until the returned function is called. */
  readonly subscribe = (listener: WatchListener): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  /** Changes since the first picture: the newest of each user, not all in between. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Change<F>> {
    const reader = new Reader<F>(
      (id) => this.get(id),
      () => this.#readers.delete(reader),
    );
    if (this.#status === "closed") reader.end();
    else this.#readers.add(reader);
    return reader;
  }

  close(): void {
    this.#end();
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  protected include(id: string, subscribe = true): void {
    if (this.ids.has(id) || this.#status === "closed") return;
    this.ids.add(id);
    this.hub.acquire(id, this.watcher, this.covering, subscribe);
    const entry = this.hub.entry(id);
    if (!entry?.fresh && !entry?.denied) this.#pending.add(id);
    this.note(id);
  }

  protected exclude(id: string): void {
    if (!this.ids.delete(id)) return;
    this.#pending.delete(id);
    this.hub.release(id, this.watcher);
    this.note(id);
    this.settle();
  }

  /** Whether the picture is complete apart from users that are not fresh yet. */
  protected complete(): boolean {
    return true;
  }

  /** Asks for what the hub does not ask for by itself. */
  protected load(): void {
    this.settle();
  }

  /** Recomputes the status after an answer. */
  protected settle(): void {
    if (
      this.#status === "closed" ||
      !this.hub.door.link.up ||
      this.#pending.size ||
      !this.complete()
    )
      return;
    const refusals = [...this.ids].map((id) => this.hub.entry(id)?.denied);
    const refused = refusals.length && refusals.every(Boolean) ? refusals[0] : undefined;
    if (refused) this.#onDenied(refused);
    else {
      this.#turn("live");
      this.#settle.resolve();
    }
  }

  protected fail(error: PresenceError): void {
    this.#onDenied(error);
  }

  protected note(id?: string): void {
    if (id !== undefined) this.#changed.add(id);
    this.#snapshot = undefined;
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      const ids = new Set(this.#changed);
      this.#changed.clear();
      for (const listener of [...this.#listeners]) listener(ids);
    });
  }

  #onEntry(id: string, before: Known): void {
    const entry = this.hub.entry(id);
    if (!this.ids.has(id) || !entry) return;
    if (entry.fresh || entry.denied) this.#pending.delete(id);
    if (entry.view.user !== before || entry.denied) {
      for (const reader of this.#readers) reader.onUser(id, before as Known<User<F>>);
      this.note(id);
    }
    this.settle();
  }

  #onStale(why: string): void {
    for (const id of this.ids) this.#pending.add(id);
    if (this.#status === "live") this.#turn("stale", why);
  }

  #onDenied(error: PresenceError): void {
    if (this.#status === "closed") return;
    this.#turn("denied", error.message, error);
    this.#settle.reject(error);
  }

  #turn(status: WatchStatus, why?: string, error?: PresenceError): void {
    if (this.#status === status && this.#error === error) return;
    this.#status = status;
    this.#since = Date.now();
    this.#why = why;
    this.#error = error;
    for (const reader of this.#readers) reader.onState(status, why);
    this.note();
  }

  #end(error?: PresenceError): void {
    if (this.#status === "closed") return;
    for (const id of this.ids) this.hub.release(id, this.watcher);
    this.hub.watchers.delete(this.watcher);
    const closed = error ?? new PresenceError("closed", "the watch is closed");
    this.#settle.reject(closed);
    this.#turn("closed", error?.message, error);
    for (const reader of this.#readers) reader.end();
    this.onEnd();
  }

  protected onEnd(): void {
    this.#readers.clear();
  }

  #picture(): WatchSnapshot<F> {
    const users = new Map<string, User<F> | null>();
    const denied = new Map<string, PresenceError>();
    for (const id of this.ids) {
      const entry = this.hub.entry(id);
      if (entry?.denied) denied.set(id, entry.denied);
      if (entry?.view.user !== undefined) users.set(id, entry.view.user as User<F> | null);
    }
    return {
      status: this.#status,
      since: this.#since,
      why: this.#why,
      degraded: this.hub.degraded,
      error: this.#error,
      users,
      denied,
    };
  }
}

/** Users by id, asked for by the hub. */
export class UsersWatch<F extends object = Fields> extends Watch<F> {
  /** @internal */
  constructor(hub: Hub, ids: Iterable<string>) {
    super(hub);
    this.add(ids);
  }

  add(ids: Iterable<string>): void {
    for (const id of ids) this.include(id);
    this.settle();
  }

  remove(ids: Iterable<string>): void {
    for (const id of ids) this.exclude(id);
  }
}

/** One reader of a watch: a slot for each user that changed, and one for the status. */
class Reader<F extends object> implements AsyncIterableIterator<Change<F>> {
  readonly #before = new Map<string, User<F> | null>();
  readonly #get: (this: void, id: string) => User<F> | null | undefined;
  readonly #onReturn: (this: void) => void;
  #state: { state: WatchStatus; why: string | undefined } | undefined;
  #done = false;
  #wake: (() => void) | undefined;

  constructor(get: (id: string) => User<F> | null | undefined, onReturn: () => void) {
    this.#get = get;
    this.#onReturn = onReturn;
  }

  onUser(id: string, before: Known<User<F>>): void {
    // A user who was unknown before is in the first picture, and no change.
    if (before === undefined || this.#before.has(id)) return;
    this.#before.set(id, before);
    this.#wake?.();
  }

  onState(state: WatchStatus, why?: string): void {
    this.#state = { state, why };
    this.#wake?.();
  }

  end(): void {
    this.#done = true;
    this.#wake?.();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<Change<F>, undefined>> {
    for (;;) {
      const change = this.#take();
      if (change) return { done: false, value: change };
      if (this.#done) return { done: true, value: undefined };
      await new Promise<void>((resolve) => (this.#wake = resolve));
      this.#wake = undefined;
    }
  }

  return(): Promise<IteratorResult<Change<F>, undefined>> {
    this.end();
    this.#onReturn();
    return Promise.resolve({ done: true, value: undefined });
  }

  #take(): Change<F> | undefined {
    const state = this.#state;
    this.#state = undefined;
    if (state) return state;
    for (const [id, before] of this.#before) {
      this.#before.delete(id);
      const user = this.#get(id);
      if (user === undefined) continue;
      const kind = changeKind(before, user);
      if (kind) return { kind, id, user, before };
    }
    return undefined;
  }
}
