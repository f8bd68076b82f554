/**
 * A page behind another tab, whose timers the browser slows down to one a minute. Chromium does so
 * after five minutes; here after ten seconds (and half a minute without a sound), with a lease as
 * much shorter. `HIDDEN_TEST=long` waits for the browser's own time, with the daemons' default
 * lease.
 */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Browser } from "puppeteer-core";
import type { PageGlobals, Served } from "../support/browser.js";
import { launch, online, serve } from "../support/browser.js";
import { Proxy } from "../support/proxy.js";
import { Stack, until } from "../support/stack.js";
import { Witness } from "../support/witness.js";

const LONG = process.env["HIDDEN_TEST"] === "long";
const SETTINGS = LONG
  ? ""
  : `
[liveness]
heartbeat_interval = "3s"
lease = "12s"
offline_grace = "1s"
`;
const INTERVAL_MS = LONG ? 20_000 : 3000;
const LAPSES_WITHIN_MS = LONG ? 10 * 60_000 : 120_000;

let stack: Stack;
let browser: Browser;
let pages: Served;
before(async () => {
  stack = await Stack.start({ settings: SETTINGS });
  pages = await serve();
  browser = await launch(
    ...(LONG ? [] : ["--enable-features=IntensiveWakeUpThrottling:grace_period_seconds/10"]),
  );
});
after(async () => {
  await browser.close();
  pages.close();
  await stack.stop();
});

test("hidden for long: online by the Worker's beats, and not without", async () => {
  const nc = await stack.connect();
  const [steady, naive] = [await Witness.of(nc, "steady"), await Witness.of(nc, "naive")];
  const url = `ws://127.0.0.1:${stack.wsPort}`;
  const proxy = await Proxy.to(stack.wsPort);
  const proxied = `ws://127.0.0.1:${proxy.port}`;
  const first = await online(browser, pages.url({ url: proxied, user: "steady" }));
  const second = await online(browser, pages.url({ url, user: "naive", worker: false }));
  const front = await browser.newPage();
  await front.bringToFront();
  for (const page of [first, second]) {
    assert.equal(await page.evaluate(() => document.visibilityState), "hidden");
  }
  await until(() => naive.online.includes(false), LAPSES_WITHIN_MS, "the lapse without a Worker");
  assert.deepEqual(steady.online, [true]);

  // A page that is still hidden dials again: its timers wait for a second, not for a minute, as each
  // is set by an event of the network.
  proxy.refuse();
  const refused = proxy.dials;
  await until(() => proxy.dials > refused);
  proxy.heal();
  await until(() => first.evaluate(isBack), 2 * INTERVAL_MS + 5000, "the link, while hidden");
  assert.deepEqual(steady.online, [true]);
  proxy.close();
});

function isBack(): boolean {
  const { presence } = globalThis as unknown as PageGlobals;
  return presence?.connection.state.status === "online";
}
