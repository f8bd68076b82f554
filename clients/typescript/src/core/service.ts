/** The door of trusted services, which act for anyone. */

import type { NatsConnection } from "@nats-io/nats-core";
import { ChannelsWatch, channelLoader, channelsLoader } from "./channel_watch.js";
import type { DoorOptions } from "./door.js";
import { Door } from "./door.js";
import { Hub } from "./hub.js";
import { Lease } from "./lease.js";
import { borrow } from "./borrowed.js";
import type { Link } from "./link.js";
import { timerTicker } from "./ticker.js";
import type { Channel, ChannelRef, Fields, Filter, Me, Patch, Query, User } from "./types.js";
import { UsersWatch } from "./watch.js";
import { EveryoneWatch } from "./watch_all.js";

/** Whose view it is, and which write it has to have seen. */
export interface Viewpoint {
  as?: string;
  /** A `rev` of an earlier answer: the answer is not older than that write. */
  minRev?: number;
}

export interface Written<T> {
  value: T;
  /** The revision of the write, for `minRev`. */
  rev: number | undefined;
}

const PAGE = 100;

export class ServiceDoor<F extends object = Fields> {
  readonly #door: Door;
  readonly #hub: Hub;

  constructor(link: Link, options: DoorOptions = {}) {
    this.#door = new Door(link, undefined, options);
    this.#hub = new Hub(this.#door);
  }

  get counters(): { foreign: number; missed: number } {
    return { foreign: this.#hub.foreign, missed: this.#hub.missed };
  }

  readonly watch = (ids: Iterable<string>): UsersWatch<F> => new UsersWatch<F>(this.#hub, ids);

  readonly watchChannel = (ref: ChannelRef): ChannelsWatch<F> =>
    new ChannelsWatch<F>(this.#hub, channelLoader<F>(ref));

  readonly watchChannels = (query: Query = {}): ChannelsWatch<F> =>
    new ChannelsWatch<F>(this.#hub, channelsLoader<F>(query));

  /** Everyone, known and yet to come. */
  readonly watchAll = (): EveryoneWatch<F> => new EveryoneWatch<F>(this.#hub);

  /** Opens a lease; nothing is sent before the first seat. */
  lease(name: string): Lease<F> {
    return new Lease<F>(this.#door, name, timerTicker);
  }

  /** One page. */
  async queryUsers(query: Query & Viewpoint = {}): Promise<{ items: User<F>[]; more: boolean }> {
    const answer = await this.#door.call<{ users: User<F>[]; more?: boolean }>(
      "query_users",
      viewed(query),
    );
    const { users, more = users.length === query.limit } = answer;
    return { items: users, more };
  }

  /** All users that match, by id, page after page. */
  async *users(filter: Filter = {}, viewpoint: Viewpoint = {}): AsyncGenerator<User<F>, void> {
    for (let last: string | undefined; ;) {
      const behind: Filter =
        last === undefined ? filter : { $and: [filter, { id: { $gt: last } }] };
      const { items, more } = await this.queryUsers({ ...viewpoint, filter: behind, limit: PAGE });
      yield* items;
      last = items.at(-1)?.id;
      if (!more || last === undefined) return;
    }
  }

  async countUsers(query: { filter?: Filter } & Viewpoint = {}): Promise<number> {
    return (await this.#door.call<{ count: number }>("count_users", viewed(query))).count;
  }

  async queryChannels(
    query: Query & Viewpoint = {},
  ): Promise<{ items: Channel<F>[]; more: boolean }> {
    const answer = await this.#door.call<{ channels: Channel<F>[]; more?: boolean }>(
      "query_channels",
      viewed(query),
    );
    return { items: answer.channels, more: answer.more ?? false };
  }

  async upsertUsers(
    users: readonly (Patch<F> & { id: string })[],
  ): Promise<Written<Record<string, Me<F>>>> {
    const answer = await this.#door.upsert<{ users: Record<string, Me<F>>; rev?: number }>(users);
    return { value: answer.users, rev: answer.rev };
  }

  async deleteUsers(
    which: { ids: readonly string[] } | { filter: Filter; limit?: number },
  ): Promise<Written<string[]> & { more: boolean }> {
    const answer = await this.#door.call<{ deleted: string[]; more?: boolean; rev?: number }>(
      "delete_users",
      which,
    );
    return { value: answer.deleted, rev: answer.rev, more: answer.more ?? false };
  }

  async upsertChannel(channel: {
    type: string;
    id: string;
    data?: Record<string, unknown>;
    members?: readonly string[];
    add_members?: readonly string[];
    remove_members?: readonly string[];
  }): Promise<Written<Channel<F>>> {
    const answer = await this.#door.call<{ channel: Channel<F>; rev?: number }>(
      "upsert_channel",
      channel,
    );
    return { value: answer.channel, rev: answer.rev };
  }

  async deleteChannel(ref: { type: string; id: string }): Promise<Written<boolean>> {
    const { type, id } = ref;
    const answer = await this.#door.call<{ deleted: boolean; rev?: number }>("delete_channel", {
      type,
      id,
    });
    return { value: answer.deleted, rev: answer.rev };
  }

  /** Why a user is shown as it is, for people on call. */
  explain(user: string): Promise<Record<string, unknown>> {
    return this.#door.call("explain", { user_id: user });
  }

  /** Ends watches of this door; leases are closed by their owner, NATS by the app. */
  close(): void {
    this.#door.link.close();
  }
}

function viewed(query: Viewpoint & object): object {
  const { minRev, ...rest } = query;
  return minRev === undefined ? rest : { ...rest, min_rev: minRev };
}

/** The door of services on the app's own NATS connection. */
export function forService<F extends object = Fields>(
  nc: NatsConnection,
  options?: DoorOptions,
): ServiceDoor<F> {
  return new ServiceDoor<F>(borrow(nc), options);
}
