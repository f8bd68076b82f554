/** The app's token, and when the next has to be fetched. */

import type { Authenticator } from "@nats-io/nats-core";
import { jwtAuthenticator, tokenAuthenticator } from "@nats-io/nats-core";

export type Auth =
  | {
      /**
       * Fetches a token that is valid now. Throw an error named `LoginGone` to end the presence.
       */
      token: () => Promise<string>;
      /**
       * `jwt`: a NATS user JWT (bearer). `token`, the default: `auth_token`, for an auth callout.
       */
      as?: "jwt" | "token";
    }
  | { authenticator: Authenticator };

export class LoginGone extends Error {
  override readonly name = "LoginGone";
}

const REFRESH_AT = 0.8;

export class TokenSource {
  readonly #auth: Auth | undefined;
  #token: string | undefined;
  /** When the token ends, and when it is refreshed, in milliseconds since 1970. */
  #endsAt = Infinity;
  refreshAt = Infinity;

  constructor(auth: Auth | undefined) {
    this.#auth = auth;
  }

  /** Fetches a new token where there is none, or the old one is at its end or was refused. */
  async authenticator(fresh: boolean): Promise<Authenticator | undefined> {
    const auth = this.#auth;
    if (!auth) return undefined;
    if ("authenticator" in auth) return auth.authenticator;
    if (fresh || this.#token === undefined || Date.now() >= this.#endsAt) {
      const fetchedAt = Date.now();
      const token = await auth.token();
      this.#token = token;
      this.#endsAt = expiryOf(token);
      const endsIn = this.#endsAt - fetchedAt;
      this.refreshAt = endsIn > 0 ? fetchedAt + REFRESH_AT * endsIn : Infinity;
    }
    return auth.as === "jwt" ? jwtAuthenticator(this.#token) : tokenAuthenticator(this.#token);
  }

  /** Does not try again before `ms` have passed. */
  postpone(ms: number): void {
    this.refreshAt = Date.now() + ms;
  }
}

/** The `exp` of a JSON web token; a token of another make names no end. */
export function expiryOf(token: string): number {
  try {
    const claims = (token.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/");
    const { exp } = JSON.parse(atob(claims)) as { exp?: unknown };
    return typeof exp === "number" ? exp * 1000 : Infinity;
  } catch {
    return Infinity;
  }
}
