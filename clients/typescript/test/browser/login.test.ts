/** The login (`examples/login`) end to end, with the server's configuration as it is shipped. */

import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { execFileSync, spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { nkeyAuthenticator } from "@nats-io/nats-core";
import { createAccount } from "@nats-io/nkeys";
import type { Browser, Page } from "puppeteer-core";
import { forService } from "../../src/index.js";
import type { PageGlobals } from "../support/browser.js";
import { isOnline, launch, serve } from "../support/browser.js";
import { Stack, kill, until } from "../support/stack.js";
import { Witness } from "../support/witness.js";

// The seeds of the keys in config/nats-server.conf are public.
const SEEDS = {
  daemon: "SUAB2IHVIM7BHZ5FZSMNNQ5TG3R45UOEC7XVDWDQMJC7BF3CRPKRVN6JZM",
  service: "SUAEZ2BIFO2OWMYAA56ASWJ2F3RRZ6PTNN7H4DTBH3N3M4UBLSGSYT552I",
  login: "SUAC6DLIY4YM7BCHQ3ESNICISWVNZDVF4WVQFOHYTZ6XGJ7WWLAI33WXUQ",
  issuer: "SAAGT3RGNPT7ZF2AO4PZH6WPI3CYQPXUP64U7QUOL4H7RONTDWQAQ7VUSY",
};
const SETTINGS = `
[nats]
nkey = "${SEEDS.daemon}"
inbox_prefix = "_INBOX_presenced"
[liveness]
heartbeat_interval = "500ms"
lease = "4s"
offline_grace = "2s"
`;
const LOGIN = process.env["PRESENCE_LOGIN"] ?? "presence-login";
const app = createAccount();
const foreign = createAccount();

let stack: Stack;
let browser: Browser;
let login: ChildProcess;
before(async () => {
  const config = readFileSync(
    new URL("../../../../../config/nats-server.conf", import.meta.url),
    "utf8",
  );
  stack = await Stack.start({ config: enabled(config), settings: SETTINGS });
  for (const name of ["login", "issuer"] as const)
    writeFileSync(join(stack.dir, name), SEEDS[name]);
  writeFileSync(join(stack.dir, "app"), app.getSeed());
  writeFileSync(join(stack.dir, "foreign"), foreign.getSeed());
  login = await startLogin();
  browser = await launch();
});
after(async () => {
  await browser.close();
  await kill(login);
  await stack.stop();
});

/** Takes the "#" away from the block of the login, as a person would. */
function enabled(config: string): string {
  const [head = "", rest = ""] = config.split("#authorization {");
  const end = rest.indexOf("\n#}\n");
  const block = `authorization {${rest.slice(0, end + 3)}`.replaceAll("\n#", "\n");
  return head + block + rest.slice(end + 3);
}

async function startLogin(): Promise<ChildProcess> {
  const file = (name: string) => join(stack.dir, name);
  const args = ["serve", "--url", `nats://127.0.0.1:${stack.port}`, "--nkey", file("login")];
  args.push("--issuer", file("issuer"), "--app-key", app.getPublicKey());
  const child = spawn(LOGIN, args, { stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  child.stderr.on("data", (data: Buffer) => (log += data.toString()));
  await until(() => log.includes("ready") || child.exitCode !== null);
  assert.equal(child.exitCode, null, log);
  return child;
}

function token(
  user: string,
  options: { key?: string; lifetime?: number; sees?: string } = {},
): string {
  const { key = "app", lifetime = 3600, sees } = options;
  const args = ["token", user, "--app-seed", join(stack.dir, key), "--lifetime", String(lifetime)];
  if (sees) args.push("--sees", sees);
  return execFileSync(LOGIN, args, { encoding: "utf8" }).trim();
}

/** Opens a page whose tokens come from `next`; says how it went. */
async function pageOf(
  user: string,
  next: () => string | null | undefined,
): Promise<[Page, () => void]> {
  const served = await serve(undefined, next);
  const page = await browser.newPage();
  await page.goto(served.url({ url: `ws://127.0.0.1:${stack.wsPort}`, user, tokenUrl: "/token" }));
  return [page, () => served.close()];
}

async function witnessOf(user: string): Promise<Witness> {
  const authenticator = nkeyAuthenticator(new TextEncoder().encode(SEEDS.service));
  return Witness.of(await stack.connect({ authenticator, inboxPrefix: "_INBOX_service" }), user);
}

test("a session is let in, as its user, with no more than its permissions", async () => {
  const authenticator = nkeyAuthenticator(new TextEncoder().encode(SEEDS.service));
  const service = forService(await stack.connect({ authenticator, inboxPrefix: "_INBOX_service" }));
  await service.upsertUsers([{ id: "jack" }, { id: "jill" }]);
  await service.upsertChannel({ type: "messaging", id: "c", members: ["ann", "jack", "jill"] });
  const [page, close] = await pageOf("ann", () => token("ann", { sees: "jack" }));
  await isOnline(page);
  const seen = await page.evaluate(async () => {
    const { presence } = globalThis as unknown as PageGlobals;
    const watch = presence?.watchChannel({ type: "messaging", id: "c" });
    await watch?.live;
    const denied = [...(watch?.getSnapshot().denied.values() ?? [])].map(({ subject }) => subject);
    const byId = presence?.watch(["jack2"]);
    const error = await byId?.live.then(
      () => undefined,
      (reason: { subject: string }) => reason.subject,
    );
    return { jack: watch?.get("jack")?.online, denied, error };
  });
  assert.deepEqual(seen, {
    jack: false,
    denied: ["user.presence.changed.jill"],
    error: "user.presence.changed.jack2",
  });
  await page.close();
  close();
});

for (const [name, make] of [
  ["wrong", () => "nonsense"],
  ["expired", () => token("eve", { lifetime: -5 })],
  ["foreign", () => token("eve", { key: "foreign" })],
] as const) {
  test(`a token that is ${name} is refused, and the page says so`, async () => {
    const [page, close] = await pageOf("eve", make);
    await page.waitForFunction(() => (globalThis as unknown as PageGlobals).failure);
    const failure = await page.evaluate(() => (globalThis as unknown as PageGlobals).failure);
    assert.equal(failure?.kind, "login");
    assert.match(failure.message, /refuses the login/);
    await page.close();
    close();
  });
}

test("another user's token opens nothing of this user's", async () => {
  const witness = await witnessOf("victim");
  const [page, close] = await pageOf("victim", () => token("eve"));
  await page.waitForFunction(() => (globalThis as unknown as PageGlobals).failure, {
    timeout: 20_000,
  });
  assert.deepEqual(witness.online, []);
  await page.close();
  close();
});

test("a token is renewed ahead of its end, with the endpoint down: no gap is seen", async () => {
  const witness = await witnessOf("bob");
  let served = 0;
  let down = false;
  const [page, close] = await pageOf("bob", () => {
    if (down) return undefined;
    served++;
    return token("bob", { lifetime: 5 });
  });
  await isOnline(page);
  down = true;
  await new Promise((resolve) => setTimeout(resolve, 6500));
  down = false;
  await until(() => served >= 3, 15_000);
  await isOnline(page);
  assert.deepEqual(witness.online, [true]);
  await page.close();
  close();
});

for (const [name, next] of [
  ["refused from now on", () => token("carl", { key: "foreign" })],
  ["over, as the app says", () => null],
] as const) {
  test(`a session that is ${name} closes the presence, and the user leaves`, async () => {
    const witness = await witnessOf("carl");
    let revoked = false;
    const [page, close] = await pageOf("carl", () =>
      revoked ? next() : token("carl", { lifetime: 5 }),
    );
    await isOnline(page);
    revoked = true;
    await page.waitForFunction(
      () => (globalThis as unknown as PageGlobals).presence?.connection.state.status === "closed",
    );
    const error = await page.evaluate(() => {
      const { error } = (globalThis as unknown as PageGlobals).presence?.connection.state ?? {};
      return { kind: error?.kind, message: error?.message };
    });
    assert.equal(error.kind, "login");
    assert.match(error.message ?? "", /login/);
    await until(() => witness.online.at(-1) === false, 15_000);
    await page.close();
    close();
  });
}
