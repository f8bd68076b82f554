/**
 * The users that one door knows: a subscription and a view for each user that is watched, shared by
 * all watches. New ids are queried together. The last watcher's release lingers for a second.
 */

import type { Door } from "./door.js";
import { pause } from "./door.js";
import type { PresenceError } from "./errors.js";
import { isPresenceError, isTooLarge, retryDelayMs } from "./errors.js";
import { tokenOf } from "./token.js";
import type { Knowledge } from "./knowledge.js";
import type { Me, PublicUser } from "./types.js";
import type { Known } from "./view.js";
import { View, userOfEvent } from "./view.js";

const LINGER_MS = 1000;
/** How often an invisible user's own view is asked for: its changes are no events. */
const OWN_AGAIN_MS = 10_000;
const GATHER_MS = 10;
const QUERY_IDS = 100;
const QUERIES_IN_FLIGHT = 4;
const LARGE = 1000;
const EVENTS_MISSING = "events do not arrive: a permission or messages are missing";

/** A watch, as the hub sees it. */
export interface Watcher {
  /** The view of `id` may have changed from `before`, or become fresh, or refused. */
  onEntry(id: string, before: Known): void;
  /** All pictures are stale (`why`), until answers asked for later have come. */
  onStale(why: string): void;
  /** Everything is asked for again. */
  onResync(): void;
  /** The hub's `degraded` changed. */
  onDegraded(): void;
  onDenied(error: PresenceError): void;
  onClosed(error: PresenceError): void;
}

export class Entry {
  readonly id: string;
  readonly view = new View();
  readonly watchers = new Set<Watcher>();
  /** Watches that ask for this user by means of their own (a channel). */
  readonly covers = new Set<Watcher>();
  fresh = false;
  denied: PresenceError | undefined;
  subscribedAt = Infinity;
  stop: (() => void) | undefined;
  linger: ReturnType<typeof setTimeout> | undefined;

  constructor(id: string) {
    this.id = id;
  }
}

export class Hub {
  readonly door: Door;
  /** Events seen that are no events of the contract, or of another user than their subject. */
  foreign = 0;
  /** Audits that found a change that no event had announced. */
  missed = 0;
  /** Why events are not relied upon: an audit found one missing, and each round since as well. */
  degraded: string | undefined;
  readonly #entries = new Map<string, Entry>();
  readonly watchers = new Set<Watcher>();
  /** Told of every change, whatever the user. */
  readonly listeners = new Set<() => void>();
  readonly #queue = new Set<string>();
  #queries = 0;
  /** What the door knows of its own user. */
  readonly #own: Knowledge | undefined;
  /** The login may not ask for its own view by `query_users`. */
  #ownRefused = false;
  #ownAgain: ReturnType<typeof setTimeout> | undefined;
  #gather: ReturnType<typeof setTimeout> | undefined;
  #resync: ReturnType<typeof setTimeout> | undefined;
  #audit: ReturnType<typeof setTimeout> | undefined;
  #auditFrom = 0;
  #roundMissed = false;
  #failedTries = 0;

  constructor(door: Door) {
    this.door = door;
    if (door.user !== undefined) this.#own = door.hold(door.user, (me, at) => this.#onMe(me, at));
    door.link.listeners.add({
      up: () => this.#onUp(),
      down: (error) => this.#onStale(error.message),
      lossy: () => {
        this.#onStale("messages may have been dropped");
        this.#onUp();
      },
      closed: (error) => this.#onClosed(error),
    });
  }

  /** The order of events and questions, to tell what an answer can know. */
  mark(): number {
    return this.door.mark();
  }

  entry(id: string): Entry | undefined {
    return this.#entries.get(id);
  }

  /** Watches a user. A covering watch brings the answers itself. */
  acquire(id: string, watcher: Watcher, cover = false, subscribe = true): void {
    let entry = this.#entries.get(id);
    if (!entry) {
      entry = new Entry(id);
      this.#entries.set(id, entry);
      if (id === this.door.user && this.#own?.me) entry.view.onAnswer(this.#own.me, this.mark());
    }
    clearTimeout(entry.linger);
    entry.linger = undefined;
    entry.watchers.add(watcher);
    if (cover) entry.covers.add(watcher);
    if (subscribe && !entry.stop) this.#subscribe(entry);
    else if (!subscribe && this.door.link.up) entry.subscribedAt = 0;
    if (!cover && !entry.fresh && !entry.covers.size && !entry.denied) this.#enqueue(id);
    this.#askOwnAgain();
    this.#scheduleAudit();
  }

  release(id: string, watcher: Watcher): void {
    const entry = this.#entries.get(id);
    if (!entry?.watchers.delete(watcher)) return;
    const covered = entry.covers.delete(watcher);
    if (entry.watchers.size) {
      if (covered && !entry.covers.size && !entry.fresh) this.#enqueue(id);
      return;
    }
    entry.linger = setTimeout(() => {
      entry.stop?.();
      this.#entries.delete(id);
    }, LINGER_MS);
    (entry.linger as { unref?(): void }).unref?.();
  }

  /** Merges a fresh answer for the users that were asked for when `askedAt` was marked. */
  onAnswer(ids: Iterable<string>, users: ReadonlyMap<string, PublicUser>, askedAt: number): void {
    for (const id of ids) {
      const entry = this.#entries.get(id);
      if (!entry || entry.denied) continue;
      const user = users.get(id);
      const own = id === this.door.user;
      const before = entry.view.user;
      const wasFresh = entry.fresh;
      const newer = !!user && user.version > entry.view.floor;
      if (user) entry.view.onAnswer(user, askedAt);
      else entry.view.onAbsent(askedAt);
      // An event about oneself may be under way to the question that this answers.
      if (wasFresh && newer && before !== undefined && !own) this.missed++;
      entry.fresh ||= askedAt > entry.subscribedAt && this.door.link.up;
      if (entry.view.user !== before || entry.fresh !== wasFresh) this.#tell(entry, before);
      if (own && user && "invisible" in user) this.#own?.onView(user as Me, askedAt);
    }
    this.#askOwnAgain();
  }

  /** The answer to the question of `askedAt` shows nothing of these users: events will. */
  onNotShown(ids: Iterable<string>, askedAt: number): void {
    for (const id of ids) {
      const entry = this.#entries.get(id);
      if (!entry || entry.denied || entry.fresh) continue;
      entry.fresh = askedAt > entry.subscribedAt && this.door.link.up;
      if (entry.fresh) this.#tell(entry, entry.view.user);
    }
  }

  /** Takes a message on the event subject of `id`. */
  onEvent(id: string, data: unknown): void {
    const entry = this.#entries.get(id);
    const user = userOfEvent(id, data);
    if (!user) this.foreign++;
    if (!user || !entry) return;
    // Others see less than the user itself, whose own view is asked for.
    if (id === this.door.user) {
      if (user.version > entry.view.floor) this.#askOwn(entry);
      return;
    }
    const before = entry.view.user;
    entry.view.onEvent(user, this.mark());
    if (entry.view.user !== before) this.#tell(entry, before);
  }

  /** The own view, in an answer of this door. */
  #onMe(me: Me, at: number): void {
    const entry = this.#entries.get(me.id);
    if (!entry || entry.denied) return;
    const before = entry.view.user;
    const wasFresh = entry.fresh;
    entry.view.onAnswer(me, at);
    // Where no question is allowed, nothing fresher comes.
    entry.fresh ||= this.#ownRefused && this.door.link.up;
    if (entry.view.user !== before || entry.fresh !== wasFresh) this.#tell(entry, before);
    this.#askOwnAgain();
  }

  /** Whether what `me` or a channel says of the user is all there is, and stays shown. */
  #keepsOwn(entry: Entry): boolean {
    this.#ownRefused = true;
    if (entry.covers.size) this.#askOwn(entry);
    if (!this.#own?.me) return entry.covers.size > 0;
    entry.fresh = this.door.link.up;
    this.#tell(entry, entry.view.user);
    return true;
  }

  #askOwn(entry: Entry): void {
    if (!this.#ownRefused) this.#enqueue(entry.id);
    else for (const watcher of entry.covers) watcher.onResync();
  }

  #askOwnAgain(): void {
    const hidden = () => {
      const entry = this.#entries.get(this.door.user ?? "");
      return this.#own?.me?.invisible && entry?.watchers.size ? entry : undefined;
    };
    if (this.#ownAgain !== undefined || !hidden()) return;
    this.#ownAgain = setTimeout(() => {
      this.#ownAgain = undefined;
      const entry = hidden();
      if (!entry) return;
      this.#askOwn(entry);
      this.#askOwnAgain();
    }, OWN_AGAIN_MS);
    (this.#ownAgain as { unref?(): void }).unref?.();
  }

  /** Stale at once, asked for again soon; a large picture is spread further. */
  resync(why: string): void {
    this.#onStale(why);
    this.#onUp();
  }

  #subscribe(entry: Entry): void {
    entry.subscribedAt = this.mark();
    entry.stop = this.door.link.subscribe(
      `${this.door.events}.${tokenOf(entry.id)}`,
      (msg) => this.onEvent(entry.id, json(msg)),
      (error) => {
        entry.denied = error;
        entry.fresh = false;
        const before = entry.view.user;
        entry.view.forget();
        this.#tell(entry, before);
      },
    );
  }

  #tell(entry: Entry, before: Known): void {
    for (const watcher of [...entry.watchers]) watcher.onEntry(entry.id, before);
    for (const listener of [...this.listeners]) listener();
  }

  #onStale(why: string): void {
    for (const entry of this.#entries.values()) {
      entry.fresh = false;
      entry.subscribedAt = Infinity;
    }
    for (const watcher of [...this.watchers]) watcher.onStale(why);
  }

  #onUp(): void {
    for (const entry of this.#entries.values()) {
      entry.subscribedAt = this.mark();
      entry.denied = undefined;
    }
    this.#ownRefused = false;
    const upTo = this.mark();
    const watchers = [...this.watchers];
    clearTimeout(this.#resync);
    const spread = this.#entries.size > LARGE ? this.door.spreadMs * 5 : this.door.spreadMs;
    this.#resync = setTimeout(() => {
      // A user who is watched only since then was asked for at once.
      for (const entry of this.#entries.values()) {
        if (!entry.covers.size && !entry.fresh && entry.subscribedAt <= upTo)
          this.#enqueue(entry.id);
      }
      for (const watcher of watchers) if (this.watchers.has(watcher)) watcher.onResync();
    }, Math.random() * spread);
  }

  #onClosed(error: PresenceError): void {
    for (const timer of [this.#gather, this.#resync, this.#audit, this.#ownAgain])
      clearTimeout(timer);
    for (const entry of this.#entries.values()) clearTimeout(entry.linger);
    for (const watcher of [...this.watchers]) watcher.onClosed(error);
    this.#entries.clear();
  }

  #enqueue(id: string, delayMs = GATHER_MS): void {
    this.#queue.add(id);
    this.#gather ??= setTimeout(() => {
      this.#gather = undefined;
      this.#drain();
    }, delayMs);
  }

  #drain(): void {
    while (this.#queries < QUERIES_IN_FLIGHT && this.#queue.size && this.door.link.up) {
      const ids = [...this.#queue].slice(0, QUERY_IDS);
      for (const id of ids) this.#queue.delete(id);
      const wanted = ids.filter((id) => this.#entries.get(id)?.watchers.size);
      if (wanted.length) void this.#query(wanted);
    }
  }

  async #query(ids: string[]): Promise<void> {
    this.#queries++;
    try {
      await this.ask(ids);
      this.#failedTries = 0;
    } catch (error) {
      if (!isPresenceError(error) || this.door.link.closed) return;
      if (!error.retryable) {
        const denied = new Set<Watcher>();
        for (const id of ids) {
          const entry = this.#entries.get(id);
          if (entry && id === this.door.user && this.#keepsOwn(entry)) continue;
          entry?.watchers.forEach((watcher) => denied.add(watcher));
        }
        for (const watcher of denied) watcher.onDenied(error);
      } else if (this.door.link.up) {
        await pause(retryDelayMs(error, ++this.#failedTries));
        for (const id of ids) this.#enqueue(id);
      }
    } finally {
      this.#queries--;
      this.#drain();
    }
  }

  /** One fresh answer for at most 100 users, or several where it would be too large. */
  async ask(ids: readonly string[]): Promise<void> {
    const askedAt = this.mark();
    const body = { filter: { id: { $in: ids } }, limit: ids.length, presence: true };
    try {
      const answer = await this.door.once<{ users: PublicUser[] }>("query_users", body);
      this.onAnswer(ids, new Map(answer.users.map((user) => [user.id, user])), askedAt);
    } catch (error) {
      if (!isTooLarge(error) || ids.length === 1) throw error;
      const half = ids.length >> 1;
      await this.ask(ids.slice(0, half));
      await this.ask(ids.slice(half));
    }
  }

  #scheduleAudit(): void {
    const { auditMs } = this.door;
    if (auditMs === null || this.#audit !== undefined) return;
    const audit = setTimeout(() => void this.#runAudit(), auditMs * (0.8 + 0.4 * Math.random()));
    (audit as { unref?(): void }).unref?.();
    this.#audit = audit;
  }

  /** Asks for one chunk of what is watched: what no event announced shows that events are lost. */
  async #runAudit(): Promise<void> {
    const plain = [...this.#entries.values()].filter((entry) => entry.fresh && !entry.covers.size);
    if (this.#auditFrom >= plain.length) this.#auditFrom = 0;
    if (this.#auditFrom === 0) this.#roundMissed = false;
    const ids = plain
      .slice(this.#auditFrom, (this.#auditFrom += QUERY_IDS))
      .map((entry) => entry.id);
    const missed = this.missed;
    let answered = this.door.link.up;
    try {
      if (ids.length && answered) await this.ask(ids);
      for (const watcher of [...this.watchers]) watcher.onResync();
    } catch {
      // The next audit asks again; a broken link has a resync of its own.
      answered = false;
    }
    if (this.missed > missed) {
      this.#roundMissed = true;
      this.#degrade(EVENTS_MISSING);
      this.resync(EVENTS_MISSING);
    }
    if (!answered) this.#roundMissed = true;
    const isRound = ids.length > 0 && this.#auditFrom >= plain.length;
    if (isRound && !this.#roundMissed) this.#degrade(undefined);
    this.#audit = undefined;
    if (this.#entries.size && !this.door.link.closed) this.#scheduleAudit();
  }

  #degrade(why: string | undefined): void {
    if (this.degraded === why) return;
    this.degraded = why;
    for (const watcher of [...this.watchers]) watcher.onDegraded();
  }
}

export function json(msg: { json(): unknown }): unknown {
  try {
    return msg.json();
  } catch {
    return undefined;
  }
}
