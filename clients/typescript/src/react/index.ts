/** Hooks over a presence: each renders when what it shows changes, and for nothing else. */

import type { ReactNode } from "react";
import {
  createContext,
  createElement,
  useCallback,
  useContext,
  useMemo,
  useRef,
  useSyncExternalStore,
} from "react";
import type {
  Channel,
  ChannelRef,
  ChannelsWatch,
  ConnectionSnapshot,
  Fields,
  Me,
  Patch,
  PresenceError,
  PresenceSource,
  User,
  UsersWatch,
  WatchStatus,
} from "../index.js";

const LINGER_MS = 1000;
const Context = createContext<PresenceSource | null>(null);

/** `value` may be `null` until the presence is open: all is unknown then, as on the server. */
export function PresenceProvider(props: {
  // A presence of any app's fields: what they are is said where a hook is called.
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  value: PresenceSource<any> | null;
  children?: ReactNode;
}): ReactNode {
  return createElement(
    Context.Provider,
    { value: props.value as PresenceSource | null },
    props.children,
  );
}

interface Held<W> {
  watch: W;
  holders: number;
  linger?: ReturnType<typeof setTimeout>;
}
type AnyWatch = UsersWatch | ChannelsWatch;
const held = new WeakMap<PresenceSource, Map<string, Held<AnyWatch>>>();

/** One watch for all that ask for the same; it lingers, as StrictMode mounts twice. */
function hold<W extends AnyWatch>(
  source: PresenceSource,
  key: string,
  make: () => W,
): [W, () => void] {
  const all = held.get(source) ?? new Map<string, Held<AnyWatch>>();
  held.set(source, all);
  let entry = all.get(key) as Held<W> | undefined;
  if (!entry) {
    entry = { watch: make(), holders: 0 };
    all.set(key, entry);
  }
  const mine = entry;
  clearTimeout(mine.linger);
  mine.holders++;
  const release = () => {
    if (--mine.holders) return;
    mine.linger = setTimeout(() => {
      all.delete(key);
      mine.watch.close();
    }, LINGER_MS);
  };
  return [mine.watch, release];
}

const idle = () => () => undefined;
const nothing = () => undefined;

/** The user, `null` if there is none of that id, `undefined` while it is unknown. */
export function useUser<F extends object = Fields>(id: string): User<F> | null | undefined {
  const source = useContext(Context);
  const subscribe = useCallback(
    (onChange: () => void) => {
      if (!source) return nothing;
      const [watch, release] = hold(source, `user ${id}`, () => source.watch([id]));
      const stop = watch.subscribe(onChange);
      return () => {
        stop();
        release();
      };
    },
    [source, id],
  );
  const snapshot = () => source?.peek(id) as User<F> | null | undefined;
  return useSyncExternalStore(subscribe, snapshot, nothing);
}

export interface UsersView<F extends object = Fields> {
  readonly users: ReadonlyMap<string, User<F> | null>;
  readonly status: WatchStatus;
  readonly live: boolean;
  readonly stale: boolean;
  /** Users whose events are not granted. */
  readonly denied: ReadonlyMap<string, PresenceError>;
  readonly error?: PresenceError;
}

export interface ChannelView<F extends object = Fields> extends UsersView<F> {
  /** Those that are watched, in order; oneself is not among the `others`. */
  readonly members: readonly User<F>[];
  readonly others: readonly User<F>[];
  readonly channel: Channel<F> | undefined;
  readonly truncated: boolean;
  readonly notWatched: readonly string[];
  /** Why the count in `channel` does not move: a permission is missing. */
  readonly countDenied?: PresenceError | undefined;
}

const LOADING: ChannelView = {
  users: new Map(),
  status: "loading",
  live: false,
  stale: false,
  denied: new Map(),
  members: [],
  others: [],
  channel: undefined,
  truncated: false,
  notWatched: [],
};

/** Several users at once. `ids` may be a new array each time. */
export function useUsers<F extends object = Fields>(ids: readonly string[]): UsersView<F> {
  const key = JSON.stringify([...new Set(ids)].sort());
  const make = useCallback(
    (source: PresenceSource) => source.watch(JSON.parse(key) as string[]),
    [key],
  );
  return useWatch(`users ${key}`, make, usersView) as UsersView<F>;
}

/** A channel and whom the watch follows in it. `ref` may be a new object each time. */
export function useChannel<F extends object = Fields>(ref: ChannelRef): ChannelView<F> {
  const key = JSON.stringify(ref);
  const make = useCallback(
    (source: PresenceSource) => source.watchChannel(JSON.parse(key) as ChannelRef),
    [key],
  );
  return useWatch(`channel ${key}`, make, channelView) as ChannelView<F>;
}

function useWatch<W extends AnyWatch, V>(
  key: string,
  make: (source: PresenceSource) => W,
  view: (watch: W, source: PresenceSource) => V,
): V {
  const source = useContext(Context);
  const store = useMemo(() => watchStore(source, key, make, view), [source, key, make, view]);
  return useSyncExternalStore(store.subscribe, store.snapshot, () => LOADING as V);
}

/** Begins the watch with the first subscriber; shows the same object until something changes. */
function watchStore<W extends AnyWatch, V>(
  source: PresenceSource | null,
  key: string,
  make: (source: PresenceSource) => W,
  view: (watch: W, source: PresenceSource) => V,
) {
  let watch: W | undefined;
  let seen: unknown;
  let shown = LOADING as V;
  const subscribe = (onChange: () => void) => {
    if (!source) return nothing;
    const [mine, release] = hold(source, key, () => make(source));
    watch = mine;
    const stop = mine.subscribe(onChange);
    return () => {
      stop();
      release();
    };
  };
  const snapshot = () => {
    const now = watch?.getSnapshot();
    if (watch && source && now !== seen) {
      seen = now;
      shown = view(watch, source);
    }
    return shown;
  };
  return { subscribe, snapshot };
}

function usersView(watch: AnyWatch): UsersView {
  const { users, status, denied, error } = watch.getSnapshot();
  const known = { users, status, denied, live: status === "live", stale: status === "stale" };
  return error ? { ...known, error } : known;
}

function channelView(watch: ChannelsWatch, source: PresenceSource): ChannelView {
  const { channel, truncated, notWatched, countDenied } = watch;
  const members = watch.watched.flatMap((id) => watch.get(id) ?? []);
  const others = members.filter(({ id }) => id !== source.user);
  return { ...usersView(watch), members, others, channel, truncated, notWatched, countDenied };
}

const CONNECTING: ConnectionSnapshot = { status: "connecting", since: 0, idle: false };

function useConnection<T>(select: (snapshot: ConnectionSnapshot) => T): T {
  const connection = useContext(Context)?.connection;
  return useSyncExternalStore(
    connection?.subscribe ?? idle,
    () => select(connection?.getSnapshot() ?? CONNECTING),
    () => select(CONNECTING),
  );
}

/** `connecting`, `online`, `interrupted` or `closed`, since when, and the last error. */
export function useConnectionState(): ConnectionSnapshot {
  return useConnection((snapshot) => snapshot);
}

/** The user as it sees itself, and how to change it. */
export function useMe<F extends object = Fields>(): [
  me: Me<F> | undefined,
  update: (patch: Patch<F>) => Promise<Me<F>>,
] {
  const source = useContext(Context);
  const me = useConnection((snapshot) => snapshot.me) as Me<F> | undefined;
  const update = useCallback(
    (patch: Patch<F>) =>
      source
        ? (source.connection.update(patch) as Promise<Me<F>>)
        : Promise.reject(new Error("the presence is not open yet")),
    [source],
  );
  return [me, update];
}

/** Whether this page's user has been idle for a while. */
export function useIdle(): boolean {
  return useConnection((snapshot) => snapshot.idle);
}

export interface Known {
  user: (id: string) => User | null | undefined;
  connection: ConnectionSnapshot;
}

/** The result of `select` over all that is known; renders when it differs by `equal`. */
export function useSelector<T>(
  select: (known: Known) => T,
  equal: (a: T, b: T) => boolean = Object.is,
): T {
  const source = useContext(Context);
  const last = useRef<{ value: T } | undefined>(undefined);
  const subscribe = useCallback(
    (onChange: () => void) => {
      if (!source) return nothing;
      const stops = [source.subscribe(onChange), source.connection.subscribe(onChange)];
      return () => stops.forEach((stop) => stop());
    },
    [source],
  );
  const snapshot = () => {
    const value = select({
      user: (id) => source?.peek(id),
      connection: source?.connection.getSnapshot() ?? CONNECTING,
    });
    if (!last.current || !equal(last.current.value, value)) last.current = { value };
    return last.current.value;
  };
  const server = () => select({ user: nothing, connection: CONNECTING });
  return useSyncExternalStore(subscribe, snapshot, server);
}
