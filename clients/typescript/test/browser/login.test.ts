/** The login (`examples/login`) end to end, with the server's configuration as it is shipped. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Browser } from "puppeteer-core";
import { forService } from "../../src/index.js";
import type { PageGlobals } from "../support/browser.js";
import { isOnline, launch, openWithToken } from "../support/browser.js";
import { LoginStack } from "../support/login.js";
import { until } from "../support/stack.js";

const LIVENESS = `
[liveness]
heartbeat_interval = "500ms"
lease = "4s"
offline_grace = "2s"
`;

let login: LoginStack;
let browser: Browser;
before(async () => {
  login = await LoginStack.start(LIVENESS);
  browser = await launch();
});
after(async () => {
  await browser.close();
  await login.stop();
});

const pageOf = (user: string, token: () => string | null | undefined) =>
  openWithToken(browser, { url: `ws://127.0.0.1:${login.stack.wsPort}`, user }, token);

test("a session is let in, as its user, with no more than its permissions", async () => {
  const service = forService(await login.connect());
  await service.upsertUsers([{ id: "jack" }, { id: "jill" }]);
  await service.upsertChannel({ type: "messaging", id: "c", members: ["ann", "jack", "jill"] });
  const [page, close] = await pageOf("ann", () => login.token("ann", { sees: "jack" }));
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
  ["expired", () => login.token("eve", { lifetime: -5 })],
  ["foreign", () => login.token("eve", { key: "foreign" })],
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
  const witness = await login.witnessOf("victim");
  const [page, close] = await pageOf("victim", () => login.token("eve"));
  await page.waitForFunction(() => (globalThis as unknown as PageGlobals).failure, {
    timeout: 20_000,
  });
  assert.deepEqual(witness.online, []);
  await page.close();
  close();
});

test("a token is renewed ahead of its end, with the endpoint down: no gap is seen", async () => {
  const witness = await login.witnessOf("bob");
  let served = 0;
  let down = false;
  const began = performance.now();
  const [page, close] = await pageOf("bob", () => {
    if (down) return undefined;
    served++;
    return login.token("bob", { lifetime: 5 });
  });
  await isOnline(page);
  down = true;
  await page.waitForFunction(() => {
    const { status, error } = (globalThis as unknown as PageGlobals).presence?.connection.state ?? {};
    return status === "interrupted" && error?.kind === "login" && error.message.includes("503");
  });
  await until(() => performance.now() - began > 6500);
  down = false;
  await until(() => served >= 3, 15_000);
  await isOnline(page);
  assert.deepEqual(witness.online, [true]);
  await page.close();
  close();
});

test("an endpoint that is down for longer than a lease: gone, and back as it returns", async () => {
  const witness = await login.witnessOf("dan");
  let down = false;
  const [page, close] = await pageOf("dan", () =>
    down ? undefined : login.token("dan", { lifetime: 5 }),
  );
  await isOnline(page);
  down = true;
  await until(() => witness.online.at(-1) === false, 20_000);
  const state = await page.evaluate(() => {
    const { status, error } = (globalThis as unknown as PageGlobals).presence?.connection.state ?? {};
    return [status, error?.kind];
  });
  assert.deepEqual(state, ["interrupted", "login"]);
  down = false;
  await until(() => witness.online.at(-1) === true, 15_000);
  assert.deepEqual(witness.online, [true, false, true]);
  await page.close();
  close();
});

for (const [name, next] of [
  ["refused from now on", () => login.token("carl", { key: "foreign" })],
  ["over, as the app says", () => null],
] as const) {
  test(`a session that is ${name} closes the presence, and the user leaves`, async () => {
    const witness = await login.witnessOf("carl");
    let revoked = false;
    const [page, close] = await pageOf("carl", () =>
      revoked ? next() : login.token("carl", { lifetime: 5 }),
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
