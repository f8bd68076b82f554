/**
 * Watches of channels: the users come in the answers of `watch_channel` or `query_channels`, ten a
 * call, so that a client without `query_users` can watch.
 */

import { pause } from "./door.js";
import type { PresenceError } from "./errors.js";
import { isPresenceError, retryDelayMs } from "./errors.js";
import type { Hub } from "./hub.js";
import { json } from "./hub.js";
import type { Channel, ChannelRef, Fields, PresenceBlock, PublicUser, Query } from "./types.js";
import { Watch } from "./watch.js";

const USERS_A_CALL = 10;

export interface ChannelsAnswer<F extends object> {
  channels: Channel<F>[];
  /** Whom to watch. */
  users: string[];
  notWatched: string[];
  truncated: boolean;
  more: boolean;
  occupancy: string[];
  /** The answers of all watched users, and the mark of the oldest question for each. */
  fresh: Map<string, { user: PublicUser; askedAt: number }>;
  /** The mark before the first question. */
  askedAt: number;
}

export type ChannelsLoader<F extends object> = (hub: Hub) => Promise<ChannelsAnswer<F>>;

export class ChannelsWatch<F extends object = Fields> extends Watch<F> {
  protected override readonly covering = true;
  readonly #load: ChannelsLoader<F>;
  readonly #occupancy = new Map<string, () => void>();
  readonly #counts = new Map<
    string,
    { online_count: number; member_count: number; version: number }
  >();
  #answer: ChannelsAnswer<F> | undefined;
  #loading = false;
  #again = false;
  #loaded = false;

  /** @internal */
  constructor(hub: Hub, loader: ChannelsLoader<F>) {
    super(hub);
    this.#load = loader;
    this.load();
  }

  /** The channels as last answered, with the newest counts. */
  get channels(): readonly Channel<F>[] {
    const channels = this.#answer?.channels ?? [];
    return channels.map((channel) => ({ ...channel, ...this.#counts.get(channel.cid) }));
  }

  /** The one channel of `watchChannel`. */
  get channel(): Channel<F> | undefined {
    return this.channels[0];
  }

  /** Why `online_count` stays as it was answered: the permission for its events is missing. */
  countDenied: PresenceError | undefined;

  /** Whom the watch follows, in order. */
  get watched(): readonly string[] {
    return this.#answer?.users ?? [];
  }

  /** Whether members exist that are not followed although nobody chose so. */
  get truncated(): boolean {
    return this.#answer?.truncated ?? false;
  }

  /** Members that were returned and are not followed. */
  get notWatched(): readonly string[] {
    return this.#answer?.notWatched ?? [];
  }

  /** Whether other channels match behind this page. */
  get more(): boolean {
    return this.#answer?.more ?? false;
  }

  /** Asks again, for a change of membership, which no event tells. */
  reload(): void {
    this.load();
  }

  protected override complete(): boolean {
    return this.#loaded;
  }

  protected override load(): void {
    this.#again = true;
    if (!this.#loading) void this.#run();
  }

  protected override onEnd(): void {
    super.onEnd();
    for (const stop of this.#occupancy.values()) stop();
  }

  async #run(): Promise<void> {
    this.#loading = true;
    const { link } = this.hub.door;
    for (let failedTries = 0; this.#again && link.up && this.status !== "closed";) {
      this.#again = false;
      try {
        this.#take(await this.#load(this.hub));
        failedTries = 0;
      } catch (error) {
        if (!isPresenceError(error)) throw error;
        if (!error.retryable) this.fail(error);
        else if (link.up) {
          if (error.kind === "no_answer") void link.check();
          await pause(retryDelayMs(error, ++failedTries));
          this.#again = true;
        }
      }
    }
    this.#loading = false;
  }

  #take(answer: ChannelsAnswer<F>): void {
    if (this.status === "closed") return;
    const known = new Set(this.ids);
    this.#answer = answer;
    for (const id of answer.users) this.include(id);
    for (const id of known) if (!answer.users.includes(id)) this.exclude(id);
    for (const id of answer.users) {
      const fresh = answer.fresh.get(id);
      if (fresh) this.hub.onAnswer([id], new Map([[id, fresh.user]]), fresh.askedAt);
      // A member behind those that the answer shows.
      else this.hub.onNotShown([id], answer.askedAt);
    }
    this.#followCounts(answer.occupancy);
    // A user who was subscribed to only now is asked for once more: subscribe, then query.
    if (answer.users.some((id) => !known.has(id) && !this.hub.entry(id)?.fresh)) this.#again = true;
    this.#loaded = true;
    this.note();
    this.settle();
  }

  #followCounts(subjects: string[]): void {
    for (const subject of subjects) {
      if (this.#occupancy.has(subject)) continue;
      const stop = this.hub.door.link.subscribe(
        subject,
        (msg) => this.#onCount(json(msg)),
        (error) => {
          this.countDenied = error;
          this.note();
        },
      );
      this.#occupancy.set(subject, stop);
    }
  }

  #onCount(payload: unknown): void {
    const event = payload as
      | {
          type?: string;
          channel?: { cid: string; online_count: number; member_count: number; version: number };
        }
      | undefined;
    if (event?.type !== "channel.presence.changed" || !event.channel) return;
    const { cid, online_count, member_count, version } = event.channel;
    if (version <= (this.#counts.get(cid)?.version ?? -1)) return;
    this.#counts.set(cid, { online_count, member_count, version });
    this.countDenied = undefined;
    this.note();
  }
}

/** Loads one channel, and of `users: "all"` all that are returned, by ten. */
export function channelLoader<F extends object>(ref: ChannelRef): ChannelsLoader<F> {
  return async (hub) => {
    const { type, id, data, users = "first", onlineCount } = ref;
    const named = typeof users === "string" ? undefined : [...new Set(users)];
    const body = { type, id, presence: true, data, online_count: onlineCount };
    const fresh: ChannelsAnswer<F>["fresh"] = new Map();
    const begunAt = hub.mark();
    const ask = async (chunk?: string[]) => {
      const askedAt = hub.mark();
      const answer = await hub.door.onceFitting<{
        channel: Channel<F>;
        presence: PresenceBlock;
      }>("watch_channel", "member_limit", { ...body, users: chunk });
      for (const member of answer.channel.members) {
        if (answer.presence.users.includes(member.user_id)) {
          fresh.set(member.user_id, { user: member.user, askedAt });
        }
      }
      return answer;
    };
    const first = await ask(named?.slice(0, USERS_A_CALL));
    const rest =
      named?.slice(USERS_A_CALL) ?? (users === "all" ? [...first.presence.not_watched] : []);
    const watched = [...first.presence.users];
    for (let at = 0; at < rest.length; at += USERS_A_CALL) {
      watched.push(...(await ask(rest.slice(at, at + USERS_A_CALL))).presence.users);
    }
    const notWatched = first.presence.not_watched.filter((member) => !watched.includes(member));
    return {
      channels: [first.channel],
      users: watched,
      notWatched,
      truncated: first.presence.truncated && first.channel.member_count > watched.length,
      more: false,
      occupancy: first.presence.occupancy_subject ? [first.presence.occupancy_subject] : [],
      fresh,
      askedAt: begunAt,
    };
  };
}

/** Loads a page of channels, each under the rule of ten. */
export function channelsLoader<F extends object>(query: Query): ChannelsLoader<F> {
  return async (hub) => {
    const askedAt = hub.mark();
    const answer = await hub.door.onceFitting<{
      channels: (Channel<F> & { presence?: PresenceBlock })[];
      more?: boolean;
      presence: PresenceBlock;
    }>("query_channels", "member_limit", { ...query, presence: true });
    const fresh: ChannelsAnswer<F>["fresh"] = new Map();
    for (const channel of answer.channels) {
      for (const member of channel.members)
        fresh.set(member.user_id, { user: member.user, askedAt });
    }
    return {
      channels: answer.channels,
      users: [...answer.presence.users],
      notWatched: [...answer.presence.not_watched],
      truncated: answer.presence.truncated,
      more: answer.more ?? false,
      occupancy: answer.channels.flatMap((channel) => channel.presence?.occupancy_subject ?? []),
      fresh,
      askedAt,
    };
  };
}
