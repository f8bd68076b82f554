/**
 * One way to NATS that may come and go: an owner of connections attaches one after the other.
 * Nothing is sent while the link is down.
 */

import type { Msg, NatsConnection, Subscription } from "@nats-io/nats-core";
import { PresenceError } from "./errors.js";

const PROBE_MS = 2500;

interface LinkSubscription {
  subject: string;
  onMessage(msg: Msg): void;
  onRefused(error: PresenceError): void;
  live: Subscription | undefined;
}

export interface Answer {
  body: unknown;
  /** The number in `Nats-Service-Error-Code`. */
  status: number | undefined;
}

export interface LinkListener {
  up?(): void;
  /** Again with each newer reason. */
  down?(error: PresenceError): void;
  /** Messages may have been lost, although the link is up. */
  lossy?(): void;
  closed?(error: PresenceError): void;
}

export class Link {
  up = false;
  closed: PresenceError | undefined;
  readonly listeners = new Set<LinkListener>();
  #nc: NatsConnection | undefined;
  readonly #inflight = new Set<(error: PresenceError) => void>();
  readonly #subscriptions = new Set<LinkSubscription>();
  readonly #abandon: ((nc: NatsConnection) => void) | undefined;
  #probe: Promise<boolean> | undefined;

  /** `abandon` replaces a silent connection; without it nats.js is told to reconnect. */
  constructor(abandon?: (nc: NatsConnection) => void) {
    this.#abandon = abandon;
  }

  attach(nc: NatsConnection): void {
    if (this.closed) return;
    this.#nc = nc;
    this.up = true;
    for (const subscription of this.#subscriptions) this.#subscribe(subscription);
    for (const listener of [...this.listeners]) listener.up?.();
  }

  /** The link is down: requests under way fail at once. */
  detach(reason = "the connection to NATS is interrupted", cause?: unknown): void {
    if (!this.up) return;
    this.up = false;
    const error = new PresenceError("disconnected", reason, { cause });
    for (const fail of [...this.#inflight]) fail(error);
    for (const listener of [...this.listeners]) listener.down?.(error);
  }

  /** Tells why the link, which is down, does not come back yet. */
  report(error: PresenceError): void {
    if (this.up || this.closed) return;
    for (const listener of [...this.listeners]) listener.down?.(error);
  }

  /** Ends the link for good; the NATS connection is its owner's business. */
  close(error = new PresenceError("closed", "closed by the app")): void {
    if (this.closed) return;
    this.closed = error;
    this.up = false;
    for (const fail of [...this.#inflight]) fail(error);
    for (const subscription of this.#subscriptions) unsubscribe(subscription);
    this.#subscriptions.clear();
    for (const listener of [...this.listeners]) listener.closed?.(error);
  }

  async request(subject: string, body: unknown, timeoutMs = PROBE_MS): Promise<Answer> {
    const nc = this.#current();
    let fail: ((error: PresenceError) => void) | undefined;
    const broken = new Promise<never>((_, reject) => {
      fail = reject;
      this.#inflight.add(reject);
    });
    try {
      const answer = nc.request(subject, JSON.stringify(body), { timeout: timeoutMs });
      const msg = await Promise.race([answer, broken]);
      const status = msg.headers?.get("Nats-Service-Error-Code");
      return { body: parse(msg, subject), status: status ? Number(status) : undefined };
    } catch (error) {
      throw translate(error, subject);
    } finally {
      if (fail) this.#inflight.delete(fail);
    }
  }

  /** Without an answer. `now` writes to the socket at once, for a page that is being left. */
  publish(subject: string, body: unknown, now = false): void {
    const nc = this.#current();
    nc.publish(subject, JSON.stringify(body));
    if (now) nc.flush().catch(() => undefined);
  }

  /** Subscribes on every connection of this link, until the returned function is called. */
  subscribe(
    subject: string,
    onMessage: (msg: Msg) => void,
    onRefused: (error: PresenceError) => void = () => undefined,
  ): () => void {
    const subscription: LinkSubscription = { subject, onMessage, onRefused, live: undefined };
    this.#subscriptions.add(subscription);
    if (this.up) this.#subscribe(subscription);
    return () => {
      this.#subscriptions.delete(subscription);
      unsubscribe(subscription);
    };
  }

  /** Two unanswered probes while the transport claims to be up: the connection is replaced. */
  check(): Promise<boolean> {
    this.#probe ??= this.#check().finally(() => (this.#probe = undefined));
    return this.#probe;
  }

  async #check(): Promise<boolean> {
    const nc = this.#nc;
    if (!this.up || !nc) return false;
    if (await this.#ping(nc)) return true;
    if (!this.up || nc !== this.#nc) return false;
    if (await this.#ping(nc)) return true;
    if (!this.up || nc !== this.#nc) return false;
    if (this.#abandon) {
      this.detach("the connection to NATS is silent");
      this.#abandon(nc);
    } else {
      await nc.reconnect();
    }
    return false;
  }

  async #ping(nc: NatsConnection): Promise<boolean> {
    return new Promise((resolve) => {
      const answer = (alive: boolean) => {
        clearTimeout(timer);
        this.#inflight.delete(broken);
        resolve(alive);
      };
      const broken = () => answer(false);
      const timer = setTimeout(broken, PROBE_MS);
      this.#inflight.add(broken);
      nc.flush().then(() => answer(true), broken);
    });
  }

  #current(): NatsConnection {
    if (this.closed) throw this.closed;
    if (!this.up || !this.#nc)
      throw new PresenceError("disconnected", "there is no connection to NATS");
    return this.#nc;
  }

  #subscribe(subscription: LinkSubscription): void {
    const nc = this.#nc;
    // A borrowed connection subscribes again by itself, save for what was refused.
    if (!nc || (!this.#abandon && subscription.live && !subscription.live.isClosed())) return;
    subscription.live = nc.subscribe(subscription.subject, {
      callback: (error, msg) => {
        if (!this.#subscriptions.has(subscription) || nc !== this.#nc) return;
        if (error) subscription.onRefused(translate(error, subscription.subject));
        else subscription.onMessage(msg);
      },
    });
  }
}

function unsubscribe(subscription: LinkSubscription): void {
  const { live } = subscription;
  subscription.live = undefined;
  if (live && !live.isClosed()) live.unsubscribe();
}

function parse(msg: Msg, subject: string): unknown {
  try {
    return msg.json();
  } catch (cause) {
    throw new PresenceError("malformed", `the answer on ${subject} is no JSON`, { subject, cause });
  }
}

/**
 * The error, or the cause of it, that has the name. Errors of NATS are told apart by name, as two
 * copies of nats-core may be loaded.
 */
export function causeNamed(error: unknown, name: string): Error | undefined {
  let at = error;
  for (let depth = 0; at instanceof Error && depth < 4; depth++) {
    if (at.name === name) return at;
    at = at.cause;
  }
  return undefined;
}

export function translate(error: unknown, subject: string): PresenceError {
  const named = (name: string) => causeNamed(error, name);
  const own = named("PresenceError");
  if (own) return own as PresenceError;
  const violation = named("PermissionViolationError") as
    (Error & { operation: string; subject: string }) | undefined;
  if (violation) {
    const operation = violation.operation === "publish" ? "publish" : "subscribe";
    const refused = violation.subject || subject;
    return new PresenceError("permission", `NATS does not grant ${operation} on "${refused}"`, {
      subject: refused,
      operation,
      cause: error,
    });
  }
  if (named("NoResponders")) {
    const unserved = `NATS answers, but no daemon serves ${subject}`;
    const message = `${unserved}, or the account lacks the import`;
    return new PresenceError("no_daemon", message, { subject, cause: error });
  }
  if (named("TimeoutError")) {
    return new PresenceError("no_answer", `no answer on ${subject}`, { subject, cause: error });
  }
  const reason = error instanceof Error ? error.message : String(error);
  return new PresenceError("disconnected", reason, { subject, cause: error });
}
