/** The base of user interfaces: `open()` of the browser entry, or the doors of one user. */

import type { ChannelsWatch } from "./channel_watch.js";
import type { Connection } from "./connection.js";
import type { ChannelRef, Fields, User } from "./types.js";
import type { UsersWatch } from "./watch.js";

export interface PresenceSource<F extends object = Fields> {
  readonly user: string;
  watch(this: void, ids: Iterable<string>): UsersWatch<F>;
  watchChannel(this: void, ref: ChannelRef): ChannelsWatch<F>;
  peek(this: void, id: string): User<F> | null | undefined;
  subscribe(this: void, listener: () => void): () => void;
  readonly connection: Pick<Connection<F>, "getSnapshot" | "subscribe" | "update" | "setIdle">;
}
