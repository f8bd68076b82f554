/** A presence without NATS, for an app's own unit tests: the real client on a link in memory. */

import type { Msg } from "@nats-io/nats-core";
import type { Connection } from "../core/connection.js";
import { PresenceError } from "../core/errors.js";
import type { Answer } from "../core/link.js";
import { Link } from "../core/link.js";
import type { PresenceSource } from "../core/source.js";
import { timerTicker } from "../core/ticker.js";
import { idOf, tokenOf } from "../core/token.js";
import type { Fields, Patch, PublicUser, User } from "../core/types.js";
import { UserDoor } from "../core/user.js";

const EVENTS = "user.presence.changed";
const HEARTBEAT = { interval_ms: 20_000, lease_ms: 60_000 };

type Subscriber = { onMessage: (msg: Msg) => void; onRefused: (error: PresenceError) => void };

class FakeLink extends Link {
  readonly users = new Map<string, PublicUser>();
  readonly denied = new Set<string>();
  readonly #subscribers = new Map<string, Set<Subscriber>>();
  readonly #user: string;
  #version = 1;

  constructor(user: string) {
    super();
    this.#user = user;
    this.up = true;
  }

  set(id: string, patch: object): void {
    const now = new Date().toISOString();
    const before: Partial<PublicUser> = this.users.get(id) ?? { created_at: now };
    const user = {
      ...blank(id),
      ...before,
      ...patch,
      id,
      updated_at: now,
      version: this.#version++,
    };
    if (!("availability" in patch)) user.availability = user.online ? "active" : "offline";
    this.users.set(id, user);
    const body = { type: EVENTS, created_at: now, user };
    const msg = { json: () => body } as unknown as Msg;
    for (const { onMessage } of this.#subscribers.get(`${EVENTS}.${tokenOf(id)}`) ?? [])
      onMessage(msg);
  }

  goStale(): void {
    this.detach("the fake link was cut");
  }

  goLive(): void {
    if (this.up || this.closed) return;
    this.up = true;
    for (const listener of [...this.listeners]) listener.up?.();
  }

  deny(id: string): void {
    this.denied.add(id);
    const subject = `${EVENTS}.${tokenOf(id)}`;
    for (const subscriber of this.#subscribers.get(subject) ?? [])
      subscriber.onRefused(refusal(subject));
  }

  override check(): Promise<boolean> {
    return Promise.resolve(this.up);
  }

  override publish(): void {
    // Heartbeats and goodbyes: nobody listens.
  }

  override subscribe(
    subject: string,
    onMessage: (msg: Msg) => void,
    onRefused: (error: PresenceError) => void = () => undefined,
  ): () => void {
    const subscriber = { onMessage, onRefused };
    const all = this.#subscribers.get(subject) ?? new Set();
    this.#subscribers.set(subject, all.add(subscriber));
    if (this.denied.has(idOf(subject.slice(EVENTS.length + 1)) ?? "")) {
      queueMicrotask(() => onRefused(refusal(subject)));
    }
    return () => all.delete(subscriber);
  }

  override async request(subject: string, body: unknown): Promise<Answer> {
    await Promise.resolve();
    if (this.closed) throw this.closed;
    if (!this.up) throw new PresenceError("disconnected", "the fake link is cut");
    return { body: this.#answer(subject.split(".")[2] ?? "", body as Request), status: undefined };
  }

  #answer(operation: string, body: Request): object {
    const me = { invisible: false, availability_choice: "auto", hide_last_active: false };
    switch (operation) {
      case "connect":
        this.set(this.#user, { ...body.user, online: true });
        return {
          connection_id: body.connection_id,
          me: { ...this.users.get(this.#user), ...me },
          created: false,
          heartbeat: HEARTBEAT,
        };
      case "upsert_users":
        for (const user of body.users ?? []) if (typeof user !== "string") this.set(user.id, user);
        return { users: { [this.#user]: { ...this.users.get(this.#user), ...me } } };
      case "query_users": {
        const wanted = body.filter?.id?.$in;
        return {
          users: [...this.users.values()].filter(({ id }) => !wanted || wanted.includes(id)),
          more: false,
        };
      }
      case "watch_channel":
        return this.#channel(body);
      case "count_users":
        return { count: this.users.size };
      case "disconnect":
        this.set(this.#user, { online: false });
        return { disconnected: 1 };
      default:
        return { unknown: [], heartbeat: HEARTBEAT };
    }
  }

  /** Every channel has all users of the fake for members, or those that `data` names. */
  #channel(body: Request): object {
    const ids = body.data?.members ?? [...this.users.keys()];
    const members = ids.map((id) => ({ user_id: id, user: this.users.get(id) ?? blank(id) }));
    const named = body.users?.filter((user) => typeof user === "string");
    const users = named ?? ids.slice(0, 10);
    const rest = named ? [] : ids.slice(10);
    const { type = "", id = "" } = body;
    return {
      channel: {
        ...body.data,
        type,
        id,
        cid: `${type}:${id}`,
        member_count: ids.length,
        members,
        online_count: members.filter(({ user }) => user.online).length,
        last_message_at: null,
      },
      presence: {
        users,
        subjects: users.map((user) => `${EVENTS}.${tokenOf(user)}`),
        truncated: rest.length > 0,
        not_watched: rest,
      },
    };
  }
}

interface Request {
  type?: string;
  id?: string;
  connection_id?: string;
  user?: object;
  users?: (string | { id: string })[];
  filter?: { id?: { $in?: string[] } };
  data?: { members?: string[] };
}

function blank(id: string): PublicUser {
  return {
    id,
    online: false,
    status: null,
    last_active: null,
    offline_since: null,
    availability: "offline",
    version: 0,
  };
}

function refusal(subject: string): PresenceError {
  const message = `NATS does not grant subscribe on "${subject}"`;
  return new PresenceError("permission", message, { subject, operation: "subscribe" });
}

export interface FakePresence<F extends object = Fields> extends PresenceSource<F> {
  readonly connection: Connection<F>;
  /** Changes a user, and tells those who watch. */
  set(id: string, user: Partial<User<F>> | Patch<F>): void;
  /** Cuts the link: pictures are stale, the connection is interrupted. */
  goStale(): void;
  goLive(): void;
  /** Takes the permission to hear of a user away. */
  deny(id: string): void;
  close(): void;
}

/** A presence of `user` among `users`, with the same type and states as that of a page. */
export function fakePresence<F extends object = Fields>(
  users: Record<string, Partial<User<F>>> = {},
  options: { user?: string } = {},
): FakePresence<F> {
  const { user = "me" } = options;
  const link = new FakeLink(user);
  for (const [id, fields] of Object.entries(users)) link.set(id, fields);
  const door = new UserDoor<F>(link, user, { auditMs: null, spreadMs: 0 }, timerTicker);
  return {
    user,
    watch: door.watch,
    watchChannel: door.watchChannel,
    peek: door.peek,
    subscribe: door.subscribe,
    connection: door.begin(),
    set: (id, patch) => link.set(id, patch),
    goStale: () => link.goStale(),
    goLive: () => link.goLive(),
    deny: (id) => link.deny(id),
    close: () => door.close(),
  };
}
