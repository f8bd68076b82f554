/** nats-server with the configuration as it is shipped, its block for the login, and the login. */

import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { execFileSync, spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { NatsConnection } from "@nats-io/nats-core";
import { nkeyAuthenticator } from "@nats-io/nats-core";
import { createAccount } from "@nats-io/nkeys";
import { Stack, kill, until } from "./stack.js";
import { Witness } from "./witness.js";

// The seeds of the keys in config/nats-server.conf are public.
const SEEDS = {
  daemon: "SUAB2IHVIM7BHZ5FZSMNNQ5TG3R45UOEC7XVDWDQMJC7BF3CRPKRVN6JZM",
  service: "SUAEZ2BIFO2OWMYAA56ASWJ2F3RRZ6PTNN7H4DTBH3N3M4UBLSGSYT552I",
  login: "SUAC6DLIY4YM7BCHQ3ESNICISWVNZDVF4WVQFOHYTZ6XGJ7WWLAI33WXUQ",
  issuer: "SAAGT3RGNPT7ZF2AO4PZH6WPI3CYQPXUP64U7QUOL4H7RONTDWQAQ7VUSY",
};
const LOGIN = process.env["PRESENCE_LOGIN"] ?? "presence-login";

export class LoginStack {
  readonly stack: Stack;
  readonly #app = createAccount();
  readonly #foreign = createAccount();
  #login: ChildProcess | undefined;

  private constructor(stack: Stack) {
    this.stack = stack;
  }

  /** `liveness` is the section of the daemon's settings. */
  static async start(liveness: string): Promise<LoginStack> {
    const shipped = new URL("../../../../../config/nats-server.conf", import.meta.url);
    const settings = `
[nats]
nkey = "${SEEDS.daemon}"
inbox_prefix = "_INBOX_presenced"
${liveness}`;
    const config = enabled(readFileSync(shipped, "utf8"));
    const started = new LoginStack(await Stack.start({ config, settings }));
    await started.#startLogin();
    return started;
  }

  async stop(): Promise<void> {
    if (this.#login) await kill(this.#login);
    await this.stack.stop();
  }

  async #startLogin(): Promise<void> {
    const file = (name: string) => join(this.stack.dir, name);
    for (const name of ["login", "issuer"] as const) writeFileSync(file(name), SEEDS[name]);
    writeFileSync(file("app"), this.#app.getSeed());
    writeFileSync(file("foreign"), this.#foreign.getSeed());
    const args = ["serve", "--url", `nats://127.0.0.1:${this.stack.port}`, "--nkey", file("login")];
    args.push("--issuer", file("issuer"), "--app-key", this.#app.getPublicKey());
    const child = spawn(LOGIN, args, { stdio: ["ignore", "ignore", "pipe"] });
    this.#login = child;
    let log = "";
    child.stderr.on("data", (data: Buffer) => (log += data.toString()));
    await until(() => log.includes("ready") || child.exitCode !== null);
    assert.equal(child.exitCode, null, log);
  }

  token(user: string, options: { key?: string; lifetime?: number; sees?: string } = {}): string {
    const { key = "app", lifetime = 3600, sees } = options;
    const args = ["token", user, "--app-seed", join(this.stack.dir, key)];
    args.push("--lifetime", String(lifetime));
    if (sees) args.push("--sees", sees);
    return execFileSync(LOGIN, args, { encoding: "utf8" }).trim();
  }

  /** A connection of the role of services. */
  connect(): Promise<NatsConnection> {
    const authenticator = nkeyAuthenticator(new TextEncoder().encode(SEEDS.service));
    return this.stack.connect({ authenticator, inboxPrefix: "_INBOX_service" });
  }

  async witnessOf(user: string): Promise<Witness> {
    return Witness.of(await this.connect(), user);
  }
}

/** Takes the "#" away from the block of the login, as a person would. */
function enabled(config: string): string {
  const [head = "", rest = ""] = config.split("#authorization {");
  const end = rest.indexOf("\n#}\n");
  const block = `authorization {${rest.slice(0, end + 3)}`.replaceAll("\n#", "\n");
  return head + block + rest.slice(end + 3);
}
