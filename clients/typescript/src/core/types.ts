/** Objects of the wire, as `docs/protocol.md` has them. Unknown fields of answers are kept. */

export type Fields = Record<string, unknown>;
export type Availability = "active" | "away" | "busy" | "offline";
export type AvailabilityChoice = "auto" | "away" | "busy";

/** The fields of every user, as others see it. Times are RFC 3339 texts in UTC. */
export interface PublicUser {
  readonly id: string;
  readonly online: boolean;
  readonly status: string | null;
  readonly status_expires_at?: string;
  readonly last_active: string | null;
  readonly offline_since: string | null;
  readonly availability: Availability;
  readonly devices?: readonly string[];
  readonly created_at?: string;
  readonly updated_at?: string;
  readonly version: number;
}

/** A user with the app's own fields; each may be absent, as nobody need ever have set it. */
export type User<F extends object = Fields> = PublicUser & Readonly<Partial<F>>;

/** The user as it sees itself. */
export type Me<F extends object = Fields> = User<F> & {
  readonly invisible: boolean;
  readonly availability_choice?: AvailabilityChoice;
  readonly hide_last_active?: boolean;
};

/** A partial change of a user: absent fields stay, `null` removes. */
export type Patch<F extends object = Fields> = {
  status?: string | null;
  status_expires_at?: string | null;
  invisible?: boolean;
  availability?: AvailabilityChoice;
  hide_last_active?: boolean;
} & { [K in keyof F]?: F[K] | null };

export interface ConnectOptions<F extends object = Fields> {
  /** The kind of device: 1 to 32 of `[a-z0-9_-]`. */
  device?: string;
  idle?: boolean;
  /** Fields that count only if this connect makes the user. */
  defaults?: Patch<F>;
}

export interface Member<F extends object = Fields> {
  readonly user_id: string;
  readonly user: User<F>;
}

export type Channel<F extends object = Fields> = ChannelBase<F> & Readonly<Record<string, unknown>>;

export interface ChannelBase<F extends object = Fields> {
  readonly type: string;
  readonly id: string;
  readonly cid: string;
  readonly member_count: number;
  readonly members: readonly Member<F>[];
  readonly online_count?: number;
  readonly last_message_at: string | null;
  readonly created_at: string;
  readonly updated_at: string;
}

export interface PresenceBlock {
  readonly users: readonly string[];
  readonly subjects: readonly string[];
  readonly truncated: boolean;
  readonly not_watched: readonly string[];
  readonly occupancy_subject?: string;
}

export type Scalar = string | number | boolean;
export type Operators = {
  [Op in "$eq" | "$ne" | "$gt" | "$gte" | "$lt" | "$lte" | "$contains"]?:
    Scalar | readonly Scalar[];
} & {
  $in?: readonly Scalar[];
  $nin?: readonly Scalar[];
  $exists?: boolean;
  $autocomplete?: string;
};

/** The filter language of `docs/protocol.md`. */
export interface Filter {
  $and?: readonly Filter[];
  $or?: readonly Filter[];
  $nor?: readonly Filter[];
  [field: string]: Scalar | readonly Scalar[] | Operators | readonly Filter[] | undefined;
}

export type Sort = Record<string, 1 | -1> | readonly Record<string, 1 | -1>[];

export interface Query {
  filter?: Filter;
  sort?: Sort;
  limit?: number;
  offset?: number;
}

export interface ChannelRef {
  type: string;
  id: string;
  /** Used only where the channel does not exist yet. */
  data?: Record<string, unknown> & { members?: readonly string[] };
  /** Whom to watch: the first ten in order of joining, those named, or all that are returned. */
  users?: "first" | "all" | readonly string[];
  onlineCount?: boolean;
}

export interface HeartbeatTimes {
  readonly interval_ms: number;
  readonly lease_ms: number;
}
