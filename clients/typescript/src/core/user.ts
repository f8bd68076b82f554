/** The door of one user's own client. */

import type { NatsConnection } from "@nats-io/nats-core";
import { ChannelsWatch, channelLoader, channelsLoader } from "./channel_watch.js";
import { Connection } from "./connection.js";
import type { DoorOptions } from "./door.js";
import { Door } from "./door.js";
import { Hub } from "./hub.js";
import { borrow } from "./borrowed.js";
import type { Link } from "./link.js";
import type { Ticker } from "./ticker.js";
import { timerTicker } from "./ticker.js";
import type {
  Channel,
  ChannelRef,
  ConnectOptions,
  Fields,
  Me,
  Patch,
  Query,
  User,
} from "./types.js";
import { UsersWatch } from "./watch.js";

export interface Page<T> {
  items: T[];
  /** Whether others match behind this page. */
  more: boolean;
}

export class UserDoor<F extends object = Fields> {
  readonly user: string;
  readonly #door: Door;
  readonly #hub: Hub;
  readonly #ticker: Ticker;

  constructor(link: Link, user: string, options: DoorOptions = {}, ticker: Ticker = timerTicker) {
    this.user = user;
    this.#door = new Door(link, user, options);
    this.#hub = new Hub(this.#door);
    this.#ticker = ticker;
  }

  /** Events that were no events of the contract, and audits that found a change unannounced. */
  get counters(): { foreign: number; missed: number } {
    return { foreign: this.#hub.foreign, missed: this.#hub.missed };
  }

  /** The known state of a user, watched or not: `undefined` is unknown, `null` does not exist. */
  readonly peek = (id: string): User<F> | null | undefined =>
    this.#hub.entry(id)?.view.user as User<F> | null | undefined;

  /** Calls the listener whenever something known of any user changes. */
  readonly subscribe = (listener: () => void): (() => void) => {
    this.#hub.listeners.add(listener);
    return () => this.#hub.listeners.delete(listener);
  };

  /** Is there: resolves when online, rejects when the daemons refuse. */
  connect(patch: Patch<F> = {}, options: ConnectOptions<F> = {}): Promise<Connection<F>> {
    return this.begin(patch, options).online();
  }

  /** As `connect`, without waiting: the connection says by its state how it goes. */
  begin(patch: Patch<F> = {}, options: ConnectOptions<F> = {}): Connection<F> {
    return new Connection<F>(this.#door, this.user, patch, options, this.#ticker);
  }

  /** Follows users by id; needs the permission for `query_users`. */
  readonly watch = (ids: Iterable<string>): UsersWatch<F> => new UsersWatch<F>(this.#hub, ids);

  /** Follows members of a channel. */
  readonly watchChannel = (ref: ChannelRef): ChannelsWatch<F> =>
    new ChannelsWatch<F>(this.#hub, channelLoader<F>(ref));

  readonly watchChannels = (query: Query = {}): ChannelsWatch<F> =>
    new ChannelsWatch<F>(this.#hub, channelsLoader<F>(query));

  /** Changes the user without a connection. */
  async update(patch: Patch<F>): Promise<Me<F>> {
    const change = { ...patch, id: this.user };
    const { users } = await this.#door.upsert<{ users: Record<string, Me<F>> }>([change]);
    return users[this.user] as Me<F>;
  }

  async queryUsers(query: Query = {}): Promise<Page<User<F>>> {
    const { users, more } = await this.#door.call<{ users: User<F>[]; more?: boolean }>(
      "query_users",
      query,
    );
    return { items: users, more: more ?? false };
  }

  async countUsers(query: Pick<Query, "filter"> = {}): Promise<number> {
    return (await this.#door.call<{ count: number }>("count_users", query)).count;
  }

  async queryChannels(query: Query = {}): Promise<Page<Channel<F>>> {
    const answer = await this.#door.call<{ channels: Channel<F>[]; more?: boolean }>(
      "query_channels",
      query,
    );
    return { items: answer.channels, more: answer.more ?? false };
  }

  /** Ends watches and connections of this door; the NATS connection stays as it is. */
  close(): void {
    this.#door.link.close();
  }
}

/** The door of `user` on the app's own NATS connection. */
export function forUser<F extends object = Fields>(
  nc: NatsConnection,
  user: string,
  options?: DoorOptions,
): UserDoor<F> {
  return new UserDoor<F>(borrow(nc), user, options);
}
