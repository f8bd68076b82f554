/**
 * Connections to NATS, one after the other. Each is disposable: a silent one is left behind, as the
 * closing handshake of a dead WebSocket takes a browser a minute.
 */

import type { NatsConnection } from "@nats-io/nats-core";
import { wsconnect } from "@nats-io/nats-core";
import { PresenceError, isPresenceError } from "../core/errors.js";
import { Link, causeNamed } from "../core/link.js";
import type { Auth } from "./token.js";
import { TokenSource } from "./token.js";

const DIAL_TIMEOUT_MS = 5000;
/**
 * A browser makes one handshake with an address after the other, so that a silent one keeps the
 * next waiting. It gets three times as long as the slowest that was made, and at least this long.
 */
const HANDSHAKE_MS = 1500;
/** So many silent dials follow each other without a pause: about as long as a lease. */
const DIALS_AT_ONCE = 40;
/** One dial in so many gets the whole time, for a link that has become slow. */
const PATIENT_EVERY = 16;

export interface DialerOptions {
  url: string | string[];
  auth: Auth | undefined;
  inboxPrefix: string;
  log: (message: string, error?: unknown) => void;
  /** The login may end soon: the daemons should hear of the user before. */
  onEndNear: () => void;
}

export class Dialer {
  readonly link: Link;
  readonly #options: DialerOptions;
  readonly #tokens: TokenSource;
  #nc: NatsConnection | undefined;
  #lost: (() => void) | undefined;
  #wake: (() => void) | undefined;
  #refresh: ReturnType<typeof setTimeout> | undefined;
  #paused = false;
  #failures = 0;
  #refusals = 0;
  #handshakeMs: number | undefined;
  #silent = false;
  /** Settles with the first attempt, whatever comes of it. */
  readonly attempted: Promise<void>;
  #onAttempted!: () => void;

  constructor(options: DialerOptions) {
    this.#options = options;
    this.#tokens = new TokenSource(options.auth);
    this.link = new Link((nc) => this.#abandon(nc));
    this.attempted = new Promise((resolve) => (this.#onAttempted = resolve));
    void this.#run();
  }

  /** Tries at once, if it waits. */
  now(): void {
    this.#failures = 0;
    this.#wake?.();
  }

  /** Closes the connection and dials no more until `resume`. */
  pause(): void {
    this.#paused = true;
    this.#drop("the page is away");
  }

  resume(): void {
    this.#paused = false;
    this.now();
  }

  close(error?: PresenceError): void {
    clearTimeout(this.#refresh);
    this.link.close(error);
    this.#drop("closed");
    this.#wake?.();
  }

  async #run(): Promise<void> {
    while (!this.link.closed) {
      if (this.#paused) await this.#sleep();
      else {
        try {
          await this.#dial(this.#refusals > 0);
          this.#failures = this.#refusals = 0;
          this.#onAttempted();
          await new Promise<void>((resolve) => (this.#lost = resolve));
        } catch (error) {
          this.#onFailure(error);
          // A refused login is tried once more at once, with a fresh token.
          if (this.#refusals === 1 && !this.link.closed) continue;
          this.#onAttempted();
          const silent = this.#silent || causeNamed(error, "TimeoutError");
          if (!this.link.closed && !(silent && this.#failures < DIALS_AT_ONCE)) await this.#sleep(this.#backoffMs());
        }
      }
    }
    this.#onAttempted();
  }

  async #dial(fresh: boolean): Promise<void> {
    const authenticator = await this.#tokens.authenticator(fresh).catch((cause: unknown) => {
      throw new PresenceError("login", `no token: ${messageOf(cause)}`, { cause });
    });
    this.#silent = false;
    const nc = await wsconnect({
      servers: this.#options.url,
      reconnect: false,
      timeout: DIAL_TIMEOUT_MS,
      inboxPrefix: this.#options.inboxPrefix,
      noAsyncTraces: true,
      ignoreClusterUpdates: true,
      wsFactory: (url) =>
        Promise.resolve({ socket: this.#handshake(url), encrypted: url.startsWith("wss:") }),
      ...(authenticator && { authenticator }),
    });
    if (this.link.closed || this.#paused) {
      void nc.close();
      return;
    }
    const former = this.#nc;
    if (former) {
      this.link.detach("the login is renewed");
      void former.close();
    }
    this.#nc = nc;
    void nc.closed().then((error) => {
      if (nc !== this.#nc) return;
      this.#nc = undefined;
      if (isLoginError(error)) this.#refusals = 1;
      this.link.detach(undefined, error);
      this.#lost?.();
    });
    this.link.attach(nc);
    this.#planRefresh();
  }

  #handshake(url: string): WebSocket {
    const known = this.#handshakeMs;
    const patient = known === undefined || this.#failures % PATIENT_EVERY === PATIENT_EVERY - 1;
    const limit = patient ? DIAL_TIMEOUT_MS : Math.max(HANDSHAKE_MS, 3 * known);
    const began = performance.now();
    const socket = new WebSocket(url);
    const timer = setTimeout(() => {
      this.#silent = true;
      socket.close();
    }, limit);
    socket.addEventListener("open", () => {
      this.#handshakeMs = Math.max(known ?? 0, performance.now() - began);
    });
    for (const type of ["open", "close"]) socket.addEventListener(type, () => clearTimeout(timer));
    return socket;
  }

  #planRefresh(): void {
    clearTimeout(this.#refresh);
    const { refreshAt } = this.#tokens;
    if (refreshAt === Infinity) return;
    const ms = Math.min(Math.max(0, refreshAt - Date.now()), 2 ** 31 - 1);
    this.#refresh = setTimeout(() => void this.#renew(), ms);
  }

  /** Fetches the next token and changes over to it; the present connection serves meanwhile. */
  async #renew(): Promise<void> {
    if (this.link.closed || this.#paused || !this.link.up) return;
    try {
      await this.#dial(true);
      this.#failures = 0;
    } catch (error) {
      if (isGone(error)) this.#onFailure(error);
      else {
        this.#options.log("the next token did not come; tried again", error);
        this.#options.onEndNear();
        this.#failures++;
        this.#tokens.postpone(this.#backoffMs());
        this.#planRefresh();
      }
    }
  }

  #onFailure(error: unknown): void {
    this.#failures++;
    if (isLoginError(error)) this.#refusals++;
    this.#options.log("NATS is not reached; tried again", error);
    this.link.report(
      isPresenceError(error)
        ? error
        : new PresenceError("disconnected", `NATS is not reached: ${messageOf(error)}`, {
            cause: error,
          }),
    );
    if (isGone(error) || this.#refusals > 1) {
      const message = isGone(error)
        ? "the app's login is gone"
        : "NATS refuses the login, with a fresh token too";
      this.close(new PresenceError("login", message, { cause: error }));
    }
  }

  #backoffMs(): number {
    return Math.max(
      500 * Math.random(),
      Math.random() * Math.min(10_000, 500 * 2 ** this.#failures),
    );
  }

  #sleep(ms?: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = ms === undefined ? undefined : setTimeout(done, ms);
      this.#wake = done;
      function done() {
        clearTimeout(timer);
        resolve();
      }
    });
  }

  #abandon(nc: NatsConnection): void {
    if (nc === this.#nc) this.#drop("the connection to NATS is silent");
  }

  #drop(why: string): void {
    const nc = this.#nc;
    this.#nc = undefined;
    this.link.detach(why);
    void nc?.close();
    this.#lost?.();
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function isLoginError(error: unknown): boolean {
  return ["AuthorizationError", "UserAuthenticationExpiredError"].some((name) =>
    causeNamed(error, name),
  );
}

function isGone(error: unknown): boolean {
  return !!causeNamed(error, "LoginGone");
}
