/**
 * Connections to NATS, one after the other. Each is disposable: a silent one is left behind, as the
 * closing handshake of a dead WebSocket takes a browser a minute.
 */

import type { NatsConnection, WsConnectionOptions } from "@nats-io/nats-core";
import { wsconnect } from "@nats-io/nats-core";
import { PresenceError } from "../core/errors.js";
import { Link, causeNamed } from "../core/link.js";
import type { Auth } from "./token.js";
import { TokenSource } from "./token.js";

const DIAL_TIMEOUT_MS = 5000;
/** On a dead link an attempt is silent until its end: others are begun meanwhile. */
const ATTEMPT_EVERY_MS = 1000;
/** So many silent rounds follow each other without a pause: about as long as a lease. */
const ROUNDS_AT_ONCE = 12;

export interface DialerOptions {
  url: string | string[];
  auth: Auth | undefined;
  inboxPrefix: string;
  log: (message: string, error?: unknown) => void;
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
          const silent = causeNamed(error, "TimeoutError") && this.#failures < ROUNDS_AT_ONCE;
          if (!this.link.closed && !silent) await this.#sleep(this.#backoffMs());
        }
      }
    }
    this.#onAttempted();
  }

  async #dial(fresh: boolean): Promise<void> {
    const authenticator = await this.#tokens.authenticator(fresh);
    const nc = await firstOf({
      servers: this.#options.url,
      reconnect: false,
      timeout: DIAL_TIMEOUT_MS,
      inboxPrefix: this.#options.inboxPrefix,
      noAsyncTraces: true,
      ignoreClusterUpdates: true,
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

/** The first connection that is made while the first attempt has not failed. */
function firstOf(options: WsConnectionOptions): Promise<NatsConnection> {
  return new Promise((resolve, reject) => {
    let settled = false;
    const settle = () => {
      const first = !settled;
      settled = true;
      clearInterval(timer);
      return first;
    };
    const attempt = () =>
      wsconnect(options).then((nc) => (settle() ? resolve(nc) : void nc.close()));
    const timer = setInterval(() => void attempt().catch(() => undefined), ATTEMPT_EVERY_MS);
    attempt().catch((error: Error) => settle() && reject(error));
  });
}

function isLoginError(error: unknown): boolean {
  return ["AuthorizationError", "UserAuthenticationExpiredError"].some((name) =>
    causeNamed(error, name),
  );
}

function isGone(error: unknown): boolean {
  return !!causeNamed(error, "LoginGone");
}
