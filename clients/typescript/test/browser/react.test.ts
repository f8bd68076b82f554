/** The hooks in a real page: server rendering, StrictMode, and how often rows render. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { build } from "esbuild";
import type { Browser } from "puppeteer-core";
import { createElement as h } from "react";
import { renderToString } from "react-dom/server";
import { forService } from "../../src/index.js";
import { launch } from "../support/browser.js";
import { App, IDS } from "../support/react_page.js";
import { Stack, until } from "../support/stack.js";

let stack: Stack;
let browser: Browser;
before(async () => {
  // The daemons' own intervals: a page that renders for longer than one takes that for a sleep.
  stack = await Stack.start({ settings: "" });
  browser = await launch();
});
after(async () => {
  await browser.close();
  await stack.stop();
});

test("200 rows: hydrated, asked for once, and one change renders one row", async (test) => {
  const service = forService(await stack.connect());
  for (let at = 0; at < 200; at += 100) {
    await service.upsertUsers(IDS.slice(at, at + 100).map((id) => ({ id, status: "first" })));
  }
  const spy = await stack.connect();
  const asked: string[] = [];
  spy.subscribe("presence.v1.query_users.viewer", {
    callback: (_error, msg) =>
      void asked.push(...msg.json<{ filter: { id: { $in: string[] } } }>().filter.id.$in),
  });
  await spy.flush();

  const script = new URL("../support/react_client.js", import.meta.url).pathname;
  const bundle = await build({
    entryPoints: [script],
    bundle: true,
    write: false,
    format: "esm",
    target: "es2022",
  });
  const server = createServer((request, response) => {
    if (request.url === "/client.js") {
      response.setHeader("Content-Type", "text/javascript").end(bundle.outputFiles[0]?.contents);
    } else {
      const html = renderToString(h(App, { source: null }));
      response.setHeader("Content-Type", "text/html");
      const script = `<script type="module" src="/client.js"></script>`;
      response.end(`<!doctype html><div id="root">${html}</div>${script}`);
    }
  });
  test.after(() => {
    server.closeAllConnections();
    server.close();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };

  const page = await browser.newPage();
  const options = { url: `ws://127.0.0.1:${stack.wsPort}`, user: "viewer", auditMs: null };
  await page.goto(`http://127.0.0.1:${port}/#${encodeURIComponent(JSON.stringify(options))}`);
  await page.waitForFunction(() => document.getElementById("row199")?.textContent === "first");
  await page.waitForFunction(
    () => document.getElementById("head")?.textContent === "online viewer 0 live",
  );
  assert.deepEqual(asked.sort(), [...IDS].sort(), "each user is asked for once, in StrictMode too");

  type Page = { renders: Record<string, number>; complaints: string[] };
  const counts = () => page.evaluate(() => ({ ...(globalThis as unknown as Page).renders }));
  const before = await counts();
  await service.upsertUsers([{ id: "row7", status: "second" }]);
  await page.waitForFunction(() => document.getElementById("row7")?.textContent === "second");
  const now = await counts();
  const rendered = Object.keys(now).filter((id) => now[id] !== before[id]);
  assert.deepEqual(rendered, ["row7"]);
  assert.deepEqual(await page.evaluate(() => (globalThis as unknown as Page).complaints), []);

  await page.close();
  await until(
    async () => !(await service.queryUsers({ filter: { id: "viewer" } })).items[0]?.online,
  );
});
