/**
 * What the daemons' default intervals promise, in real time: a heartbeat every 20 s, a lease of
 * 60 s. The tests wait most of the time, and run side by side.
 */

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { Browser, Page } from "puppeteer-core";
import { forService } from "../../src/index.js";
import type { PageGlobals } from "../support/browser.js";
import { isOnline, launch, openWithToken } from "../support/browser.js";
import { LoginStack } from "../support/login.js";
import { Proxy } from "../support/proxy.js";
import { until } from "../support/stack.js";
import { Witness } from "../support/witness.js";

const MINUTE_MS = 60_000;
/** For a machine that is busy with other things. */
const BUSY_MS = 2000;
const NOTICED_WITHIN_MS = 25_000 + BUSY_MS;
const BACK_WITHIN_MS = 2000 + BUSY_MS;
type G = PageGlobals;

let login: LoginStack;
let browser: Browser;
before(async () => {
  login = await LoginStack.start("");
  browser = await launch();
});
after(async () => {
  await browser.close();
  await login.stop();
});

/** A window of its own: a page behind another would be slowed down. */
const newWindow = () => browser.createBrowserContext();

const statusOf = (page: Page) =>
  page.evaluate(() => (globalThis as unknown as G).presence?.connection.state.status);

async function shows(page: Page, what: () => boolean, timeout: number): Promise<void> {
  await page.waitForFunction(what, { polling: 20, timeout });
}

describe("in real time", { concurrency: true }, () => {
  test("the token's endpoint is down for a minute: no gap is seen", async () => {
    const witness = await login.witnessOf("tom");
    let down = false;
    let refused = 0;
    const url = `ws://127.0.0.1:${login.stack.wsPort}`;
    const [page, close] = await openWithToken(await newWindow(), { url, user: "tom" }, () => {
      if (!down) return login.token("tom", { lifetime: 20 });
      refused++;
      return undefined;
    });
    await isOnline(page);
    down = true;
    const began = performance.now();
    await until(() => refused > 0, MINUTE_MS, "the renewal ahead of the end");
    assert.equal(await statusOf(page), "online", "the old token serves until its end");
    await shows(
      page,
      () => {
        const { status, error } = (globalThis as unknown as G).presence?.connection.state ?? {};
        return status === "interrupted" && error?.kind === "login";
      },
      MINUTE_MS,
    );
    await until(() => performance.now() - began > MINUTE_MS, MINUTE_MS + 1000);
    down = false;
    await isOnline(page, 15_000);
    assert.deepEqual(witness.online, [true]);
    await page.close();
    await until(() => witness.online.at(-1) === false, 15_000);
    close();
  });

  test("a silent link is stale within 25 s, back within 2 s, and nothing is missed", async () => {
    const proxy = await Proxy.to(login.stack.wsPort);
    const nc = await login.connect();
    const service = forService(nc);
    const seen = Array.from({ length: 10 }, (_, n) => `seen${n}`);
    await service.upsertUsers(seen.map((id) => ({ id, status: "before" })));
    await service.upsertChannel({ type: "messaging", id: "rt", members: ["una", ...seen] });
    const witness = await login.witnessOf("una");
    const counted = await Promise.all(seen.map((id) => Witness.of(nc, id)));
    const url = `ws://127.0.0.1:${proxy.port}`;
    const token = () => login.token("una", { sees: seen.join() });
    const [page, close] = await openWithToken(await newWindow(), { url, user: "una" }, token);
    await isOnline(page);
    await page.evaluate(async (users) => {
      const own = globalThis as unknown as G;
      const watch = own.presence?.watchChannel({ type: "messaging", id: "rt", users });
      own.watch = watch as unknown as NonNullable<G["watch"]>;
      await watch?.live;
    }, seen);

    proxy.blackHole();
    const noticed = shows(
      page,
      () => {
        const { watch, presence } = globalThis as unknown as G;
        return watch?.status === "stale" && presence?.connection.state.status === "interrupted";
      },
      NOTICED_WITHIN_MS,
    );
    for (let n = 0; n < 50; n++) {
      await service.upsertUsers([{ id: seen[n % 10] ?? "", status: `s${n}` }]);
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    await noticed;
    const old = await page.evaluate(() => (globalThis as unknown as G).watch?.get("seen0")?.status);
    assert.equal(old, "before", "the old picture stays");

    proxy.heal();
    await shows(
      page,
      () => {
        const { watch, presence } = globalThis as unknown as G;
        return watch?.status === "live" && presence?.connection.state.status === "online";
      },
      BACK_WITHIN_MS,
    );
    const versions = await page.evaluate(
      (ids) => ids.map((id) => (globalThis as unknown as G).watch?.get(id)?.version),
      seen,
    );
    await until(() => counted.every(({ events }) => events.length === 5), 5000, "five events each");
    assert.deepEqual(
      versions,
      counted.map(({ events }) => events.at(-1)?.version),
    );
    assert.deepEqual(witness.online, [true]);
    await page.close();
    close();
    proxy.close();
  });
});
