/** The known state of one user, and how events and answers merge into it. Sans-IO. */

import type { PublicUser } from "./types.js";

/** `undefined` is unknown, `null` a user that does not exist. */
export type Known<U extends PublicUser = PublicUser> = U | null | undefined;

export class View {
  user: Known;
  /** Versions up to this are no news; it outlives the user. */
  floor = -1;
  /** When the newest event was taken, to tell answers that were asked for before it. */
  #eventAt = 0;
  /** When the newest of the questions that are answered was asked. */
  #answeredAt = 0;

  /** Takes an event whose version is newer. */
  onEvent(user: PublicUser, at: number): void {
    if (user.version <= this.floor) return;
    this.floor = user.version;
    this.#eventAt = at;
    this.#show(user);
  }

  /** Takes an answer that is not older; an equal version may carry newer custom fields. */
  onAnswer(user: PublicUser, askedAt: number): void {
    const late = askedAt < this.#answeredAt;
    this.#answeredAt = Math.max(this.#answeredAt, askedAt);
    if (user.version < this.floor || (user.version === this.floor && late)) return;
    this.floor = user.version;
    this.#show(user);
  }

  /** A fresh answer without the user: absent, unless an event came since it was asked for. */
  onAbsent(askedAt: number): void {
    const late = askedAt < this.#answeredAt;
    this.#answeredAt = Math.max(this.#answeredAt, askedAt);
    if (this.#eventAt <= askedAt && !late) this.user = null;
  }

  /** A missing permission: what was known is known no longer. */
  forget(): void {
    this.user = undefined;
  }

  #show(user: PublicUser): void {
    // Without a time of making, it is nobody: a member whom nobody has made, or a deleted user.
    if (user.created_at === undefined) this.user = null;
    else if (!sameUser(this.user, user)) this.user = user;
  }
}

/** The user of a message on the event subject of `id`, or `undefined` if it is no such event. */
export function userOfEvent(id: string, payload: unknown): PublicUser | undefined {
  const event = payload as { type?: unknown; user?: PublicUser } | null | undefined;
  const user = event?.type === "user.presence.changed" ? event.user : undefined;
  const valid =
    user?.id === id &&
    typeof user.online === "boolean" &&
    Number.isSafeInteger(user.version) &&
    user.version >= 0;
  return valid ? user : undefined;
}

function sameUser(before: Known, now: PublicUser): boolean {
  return !!before && JSON.stringify(before) === JSON.stringify(now);
}

export type ChangeKind = "came" | "left" | "availability" | "status" | "fields" | "gone";

/** The name of the change, or `undefined` where nothing that is shown differs. */
export function changeKind(
  before: PublicUser | null,
  user: PublicUser | null,
): ChangeKind | undefined {
  if (!user) return before ? "gone" : undefined;
  if ((before?.online ?? false) !== user.online) return user.online ? "came" : "left";
  if (before && before.availability !== user.availability) return "availability";
  if ((before?.status ?? null) !== user.status) return "status";
  return before && sameUser({ ...before, version: 0 }, { ...user, version: 0 })
    ? undefined
    : "fields";
}
