/** The life of pages in a real Chromium; events are counted by a second client. */

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import type { Browser } from "puppeteer-core";
import { forService } from "../../src/index.js";
import type { PageGlobals, Served } from "../support/browser.js";
import { isOnline, launch, online, serve } from "../support/browser.js";
import { Proxy } from "../support/proxy.js";
import { Stack, until } from "../support/stack.js";
import { Witness } from "../support/witness.js";

const SETTINGS = `
[liveness]
heartbeat_interval = "1s"
lease = "4s"
offline_grace = "2s"
`;
const GRACE_MS = 2000;
const LEASE_MS = 4000;

let stack: Stack;
let browser: Browser;
let pages: Served;
let users = 0;
before(async () => {
  stack = await Stack.start({ settings: SETTINGS });
  pages = await serve();
  browser = await launch();
});
after(async () => {
  await browser.close();
  pages.close();
  await stack.stop();
});
afterEach(async () => {
  for (const page of (await browser.pages()).slice(1)) await page.close();
});

async function newUser(
  port = stack.wsPort,
): Promise<{ user: string; url: string; witness: Witness }> {
  const user = `user${users++}`;
  const witness = await Witness.of(await stack.connect(), user);
  return { user, url: pages.url({ url: `ws://127.0.0.1:${port}`, user }), witness };
}

const settled = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
type G = PageGlobals;

test("twenty fast reloads are seen by nobody, and the close is, after the grace", async (test) => {
  // The daemons' own settings: on a busy machine some reloads take as long as the grace of others.
  const graceMs = 5000;
  const own = await Stack.start({ settings: "" });
  test.after(() => own.stop());
  const witness = await Witness.of(await own.connect(), "reloader");
  const url = `ws://127.0.0.1:${own.wsPort}`;
  const page = await online(browser, pages.url({ url, user: "reloader" }));
  for (let n = 1; n <= 20; n++) {
    await page.reload({ waitUntil: "domcontentloaded" });
    // Most are reloaded before they are connected; without any connect the grace would end.
    if (n % 4 === 0) await isOnline(page);
  }
  await settled(graceMs + 1000);
  assert.deepEqual(witness.online, [true]);
  const closed = performance.now();
  await page.close();
  await until(() => witness.online.length === 2, graceMs + 2000);
  const took = (witness.events[1]?.at ?? 0) - closed;
  assert.ok(took > graceMs - 200 && took < graceMs + 1500, `offline after ${Math.round(took)} ms`);
});

test("navigation and back are seen by nobody; the page from the cache has a new id", async () => {
  const { url, witness } = await newUser();
  const page = await online(browser, url);
  const id = await page.evaluate(() => (globalThis as unknown as G).presence?.connection.id);
  await page.click("a");
  await page.waitForFunction(() => document.title === "elsewhere");
  await page.goBack({ waitUntil: "domcontentloaded" });
  await isOnline(page);
  assert.equal(
    await page.evaluate(() => (globalThis as unknown as G).persisted),
    1,
    "it came from the cache",
  );
  const again = await page.evaluate(() => (globalThis as unknown as G).presence?.connection.id);
  assert.notEqual(again, id);
  await settled(GRACE_MS + 1000);
  assert.deepEqual(witness.online, [true]);
  await page.click("a");
  await until(() => witness.online.length === 2, GRACE_MS + 2000);
});

test("a duplicated tab is one user, who is there until both are closed", async () => {
  const { url, witness } = await newUser();
  const first = await online(browser, url);
  const second = await online(browser, url);
  await first.close();
  await settled(GRACE_MS + LEASE_MS + 1000);
  assert.deepEqual(witness.online, [true]);
  await second.close();
  await until(() => witness.online.length === 2, GRACE_MS + 2000);
});

test("frozen for longer than a lease: gone, and back by itself when it wakes", async () => {
  const { url, witness } = await newUser();
  const page = await online(browser, url);
  const session = await page.createCDPSession();
  await session.send("Page.setWebLifecycleState", { state: "frozen" });
  await until(() => witness.online.at(-1) === false, LEASE_MS + 5000);
  await session.send("Page.setWebLifecycleState", { state: "active" });
  await until(() => witness.online.at(-1) === true, 5000);
  assert.deepEqual(witness.online, [true, false, true]);
});

test("a black-holed link is noticed: stale first, then live without a loss", async () => {
  const proxy = await Proxy.to(stack.wsPort);
  const { url } = await newUser(proxy.port);
  const service = forService(await stack.connect());
  await service.upsertUsers([{ id: "jack", status: "before" }]);
  const page = await online(browser, url);
  await page.evaluate(async () => {
    const own = globalThis as unknown as G;
    own.watch = own.presence?.watch(["jack"]);
    await own.watch?.live;
  });
  proxy.blackHole();
  await page.waitForFunction(() => (globalThis as unknown as G).watch?.status === "stale", {
    timeout: 8000,
  });
  await service.upsertUsers([{ id: "jack", status: "meanwhile" }]);
  // The link stays silent for longer than a dial is waited for.
  const { dials } = proxy;
  await until(() => proxy.dials > dials + 6, 20_000, "dials into the silence");
  proxy.heal();
  await page.waitForFunction(
    () => {
      const { watch } = globalThis as unknown as G;
      return watch?.status === "live" && watch.get("jack")?.status === "meanwhile";
    },
    // Two seconds by design, and as much for a busy machine. A dial that waits for the whole of the
    // one before, which the silence swallowed, takes longer.
    { timeout: 4000 },
  );
  await page.close();
  proxy.close();
});

test("offline by the browser's own switch, and back", async () => {
  const { url, witness } = await newUser();
  const page = await online(browser, url);
  await page.setOfflineMode(true);
  await page.waitForFunction(() => !navigator.onLine);
  await settled(500);
  await page.setOfflineMode(false);
  await isOnline(page);
  await settled(LEASE_MS + GRACE_MS);
  assert.deepEqual(witness.online, [true]);
  assert.equal(
    await page.evaluate(() => (globalThis as unknown as G).presence?.connection.state.status),
    "online",
  );
});

test("active wins over idle, and a third person sees the events of the contract", async () => {
  const { user, url, witness } = await newUser();
  const third = await online(browser, (await newUser()).url);
  await third.evaluate(async (id) => {
    const own = globalThis as unknown as G;
    own.watch = own.presence?.watch([id]);
    await own.watch?.live;
    own.changes = [];
    void (async () => {
      for await (const change of own.watch ?? [])
        if ("kind" in change) own.changes?.push(change.kind);
    })();
  }, user);
  const changes = () => third.evaluate(() => (globalThis as unknown as G).changes?.join());
  const idle = pages.url({
    url: `ws://127.0.0.1:${stack.wsPort}`,
    user,
    idleAfterMs: 300,
    device: "tablet",
  });
  const first = await online(browser, url);
  const second = await online(browser, idle);
  await second.waitForFunction(() => (globalThis as unknown as G).presence?.connection.state.idle);
  // The devices changed, the availability did not: one of the pages is active.
  await until(() => witness.events.length === 2);
  await first.close();
  await until(() => witness.events.at(-1)?.availability === "away", GRACE_MS + 3000);
  await second.close();
  await until(() => witness.online.at(-1) === false, GRACE_MS + 3000);
  await until(async () => (await changes()) === "came,fields,availability,left");
  assert.deepEqual(
    witness.events.map(({ availability }) => availability),
    ["active", "active", "away", "offline"],
  );
});

test("invisible on one page hides both", async () => {
  const { url, witness } = await newUser();
  const first = await online(browser, url);
  const second = await online(browser, url);
  await first.evaluate(() =>
    (globalThis as unknown as G).presence?.connection.update({ invisible: true }).then(() => 0),
  );
  await until(() => witness.online.length === 2);
  await second.reload();
  await isOnline(second);
  await settled(1500);
  assert.deepEqual(witness.online, [true, false]);
});

test("a policy without blob: is told, and the page's own timers serve", async () => {
  const policy =
    "default-src 'self'; script-src 'self' 'unsafe-inline'; connect-src *; worker-src 'none'";
  const strict = await serve(policy);
  const { user } = await newUser();
  const page = await online(browser, strict.url({ url: `ws://127.0.0.1:${stack.wsPort}`, user }));
  await page.waitForFunction(() => (globalThis as unknown as G).warning?.includes("worker-src"));
  const witness = await Witness.of(await stack.connect(), user);
  await settled(LEASE_MS + 2000);
  assert.deepEqual(witness.online, [], "it beats");
  await page.close();
  strict.close();
});

test("leaving when hidden for a while is a choice, and coming back is at once", async () => {
  const { user, witness } = await newUser();
  const url = pages.url({
    url: `ws://127.0.0.1:${stack.wsPort}`,
    user,
    hidden: "leave",
    leaveAfterMs: 500,
  });
  const page = await online(browser, url);
  const other = await browser.newPage();
  await other.bringToFront();
  await until(() => witness.online.at(-1) === false, GRACE_MS + 5000);
  await page.bringToFront();
  await until(() => witness.online.at(-1) === true, 3000);
  assert.deepEqual(witness.online, [true, false, true]);
});
