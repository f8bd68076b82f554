/** Presence for Node and browsers, on the app's own NATS connection. */

export { ChannelsWatch } from "./core/channel_watch.js";
export { Connection } from "./core/connection.js";
export type { DoorOptions } from "./core/door.js";
export type { ErrorInfo, ErrorKind } from "./core/errors.js";
export { PresenceError, isPresenceError } from "./core/errors.js";
export type { LeaseState } from "./core/lease.js";
export { Lease, Seat } from "./core/lease.js";
export type { ServiceDoor, Viewpoint, Written } from "./core/service.js";
export { forService } from "./core/service.js";
export type { ConnectionSnapshot, ConnectionStatus } from "./core/session.js";
export { idOf, randomId, tokenOf } from "./core/token.js";
export type { PresenceSource } from "./core/source.js";
export type * from "./core/types.js";
export type { Page, UserDoor } from "./core/user.js";
export { forUser } from "./core/user.js";
export type { ChangeKind } from "./core/view.js";
export type { Change, WatchListener, WatchSnapshot, WatchStatus } from "./core/watch.js";
export { UsersWatch, Watch } from "./core/watch.js";
export type { EveryoneWatch } from "./core/watch_all.js";
