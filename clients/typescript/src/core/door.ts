/** Requests at one of the two doors, repeated within a deadline (`docs/protocol.md`, *Errors*). */

import {
  PresenceError,
  afterDoubtfulTry,
  errorOfReply,
  isPresenceError,
  isTooLarge,
  retryDelayMs,
} from "./errors.js";
import type { Holder } from "./knowledge.js";
import { Knowledge } from "./knowledge.js";
import type { Answer, Link } from "./link.js";
import { tokenOf } from "./token.js";
import type { Me, Patch } from "./types.js";

export interface DoorOptions {
  /** The request prefix without the version, `presence` by default. */
  prefix?: string;
  /** The event prefix, `user.presence.changed` by default. */
  events?: string;
  /** The mean time between audits of watches; `null` turns them off. Ten minutes by default. */
  auditMs?: number | null;
  /** Up to how long a resync waits, at random, so that a returning crowd is spread. One second. */
  spreadMs?: number;
}

const DEADLINE_MS = 10_000;

export class Door {
  readonly link: Link;
  /** The user whose door it is; none at the door of services. */
  readonly user: string | undefined;
  readonly events: string;
  readonly auditMs: number | null;
  readonly spreadMs: number;
  readonly #prefix: string;
  readonly #suffix: string;
  readonly #known = new Map<string, Knowledge>();
  #tick = 0;

  constructor(link: Link, user: string | undefined, options: DoorOptions = {}) {
    this.link = link;
    this.user = user;
    this.#prefix = `${options.prefix ?? "presence"}.v1`;
    this.#suffix = user === undefined ? "" : `.${tokenOf(user, "user")}`;
    this.events = options.events ?? "user.presence.changed";
    this.auditMs = options.auditMs === undefined ? 600_000 : options.auditMs;
    this.spreadMs = options.spreadMs ?? 1000;
  }

  subject(operation: string): string {
    return `${this.#prefix}.${operation}${this.#suffix}`;
  }

  /** The order of events, questions and answers, to tell what an answer can know. */
  mark(): number {
    return ++this.#tick;
  }

  /** Shares what is known of a user, until `letGo`. */
  hold(user: string, holder: Holder): Knowledge {
    const known = this.#known.get(user) ?? new Knowledge(user === this.user);
    this.#known.set(user, known);
    known.holders.add(holder);
    return known;
  }

  letGo(user: string, holder: Holder): void {
    const holders = this.#known.get(user)?.holders;
    holders?.delete(holder);
    if (!holders?.size) this.#known.delete(user);
  }

  /** Changes users, and has those who share them know. */
  async upsert<A extends { users: Record<string, object> }>(
    users: readonly (Patch & { id: string })[],
  ): Promise<A> {
    const answer = await this.call<A>("upsert_users", { users });
    const at = this.mark();
    for (const { id, ...patch } of users)
      this.#known.get(id)?.onWrite(patch, answer.users[id] as Me | undefined, at);
    return answer;
  }

  /** One try. An answer that carries an error is thrown. */
  async once<T>(operation: string, body: unknown, timeoutMs?: number): Promise<T> {
    const subject = this.subject(operation);
    return resultOf<T>(await this.link.request(subject, body, timeoutMs), subject);
  }

  /** One try with up to a hundred of what `field` counts, fewer where they would be too large. */
  async onceFitting<T>(operation: string, field: string, body: object): Promise<T> {
    for (let most = 100; ; most >>= 1) {
      try {
        return await this.once<T>(operation, { ...body, [field]: most });
      } catch (error) {
        if (!isTooLarge(error) || most === 1) throw error;
      }
    }
  }

  /** Repeats what may succeed later, for ten seconds. */
  async call<T>(operation: string, body: unknown, timeoutMs?: number): Promise<T> {
    const end = performance.now() + DEADLINE_MS;
    let doubtful = false;
    for (let failedTries = 1; ; failedTries++) {
      try {
        await untilUp(this.link, end);
        return await this.once<T>(operation, body, timeoutMs);
      } catch (cause) {
        if (!isPresenceError(cause)) throw cause;
        const error: PresenceError = doubtful ? afterDoubtfulTry(cause) : cause;
        doubtful = error.mayHaveApplied;
        const delay = retryDelayMs(error, failedTries);
        if (!error.retryable || performance.now() + delay >= end) throw error;
        if (error.kind === "no_answer") void this.link.check();
        await pause(delay);
      }
    }
  }
}

/** The object of an answer; the error that it carries is thrown. */
export function resultOf<T>({ body, status }: Answer, subject: string): T {
  const refusal = errorOfReply(body, status);
  if (refusal) throw refusal;
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    throw new PresenceError("malformed", `the answer on ${subject} is no object`, { subject });
  }
  return body as T;
}

/** Waits until the link is up; sends nothing meanwhile. */
function untilUp(link: Link, end: number): Promise<void> {
  if (link.closed) return Promise.reject(link.closed);
  if (link.up) return Promise.resolve();
  return new Promise((resolve, reject) => {
    const done = (error?: PresenceError) => {
      link.listeners.delete(listener);
      clearTimeout(timer);
      if (error) reject(error);
      else resolve();
    };
    const listener = { up: done, closed: done };
    const late = () => done(new PresenceError("disconnected", "there is no connection to NATS"));
    const timer = setTimeout(late, end - performance.now());
    link.listeners.add(listener);
  });
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
