/** A real Chromium, and a page that opens its presence by what stands in its address. */

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { once } from "node:events";
import type { Browser, Page } from "puppeteer-core";
import puppeteer from "puppeteer-core";

const BUNDLE = readFileSync(new URL("../../../dist/presence.browser.js", import.meta.url));

/** `open` gets the options in the fragment; the page shows its presence as `window.presence`. */
const PAGE = `<!doctype html><meta charset="utf-8"><title>presence</title>
<p><a href="/elsewhere">elsewhere</a></p>
<script type="module">
import { LoginGone, open } from "/presence.browser.js";
const options = JSON.parse(decodeURIComponent(location.hash.slice(1)));
window.states = [];
window.persisted = 0;
addEventListener("pageshow", (event) => { if (event.persisted) window.persisted++; });
const logger = { warn: (text) => { window.warning = text; }, debug() {} };
if (options.tokenUrl) {
  options.auth = { as: options.as, token: async () => {
    const response = await fetch(options.tokenUrl);
    if (response.status === 401) throw new LoginGone();
    if (!response.ok) throw new Error("no token: " + response.status);
    return response.text();
  } };
}
try {
  const presence = await open({ idleAfterMs: 1e9, spreadMs: 100, logger, ...options });
  window.presence = presence;
  window.states.push(presence.connection.state.status);
  presence.connection.subscribe(() => window.states.push(presence.connection.state.status));
} catch (error) {
  window.failure = { kind: error.kind, message: error.message };
}
</script>`;

export interface Served {
  url(options: object): string;
  close(): void;
}

/**
 * Serves the page, with a content policy if one is given, and tokens from `token`: `undefined` is
 * an endpoint that is down, `null` a session that is over.
 */
export async function serve(
  policy?: string,
  token?: () => string | null | undefined,
): Promise<Served> {
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url ?? "/", "http://localhost");
    if (policy) response.setHeader("Content-Security-Policy", policy);
    if (pathname === "/presence.browser.js") {
      response.setHeader("Content-Type", "text/javascript").end(BUNDLE);
    } else if (pathname === "/token") {
      const text = token?.();
      response.writeHead(text === undefined ? 503 : text === null ? 401 : 200).end(text);
    } else {
      response.setHeader("Content-Type", "text/html");
      response.end(pathname === "/elsewhere" ? "<!doctype html><title>elsewhere</title>" : PAGE);
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  return {
    url: (options) => `http://localhost:${port}/#${encodeURIComponent(JSON.stringify(options))}`,
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}

export function launch(...args: string[]): Promise<Browser> {
  return puppeteer.launch({
    executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium",
    // Puppeteer forbids browsers to slow hidden pages, which is what is to be seen here.
    ignoreDefaultArgs: [
      "--disable-background-timer-throttling",
      "--disable-backgrounding-occluded-windows",
      "--disable-renderer-backgrounding",
      "--disable-features=Translate,AcceptCHFrame,MediaRouter,OptimizationHints,RenderDocument," +
        "ProcessPerSiteUpToMainFrameThreshold,IsolateSandboxedIframes",
    ],
    args: ["--no-sandbox", "--disable-gpu", ...args],
  });
}

/** Opens the page of a user whose tokens come from `token`, and returns what stops serving it. */
export async function openWithToken(
  browser: Pick<Browser, "newPage">,
  options: { url: string; user: string },
  token: () => string | null | undefined,
): Promise<[Page, () => void]> {
  const served = await serve(undefined, token);
  const page = await browser.newPage();
  await page.goto(served.url({ ...options, tokenUrl: "/token" }));
  return [page, () => served.close()];
}

/** Opens the page, and waits until it is online. */
export async function online(browser: Browser, url: string): Promise<Page> {
  const page = await browser.newPage();
  await page.goto(url);
  await isOnline(page);
  return page;
}

export async function isOnline(page: Page, timeout = 10_000): Promise<void> {
  await page.waitForFunction(
    () => (globalThis as unknown as PageGlobals).presence?.connection.state.status === "online",
    { timeout, polling: 20 },
  );
}

/** The objects that the page puts on `window`. */
export interface PageGlobals {
  presence?: import("../../src/browser/index.js").BrowserPresence;
  states: string[];
  persisted: number;
  warning?: string;
  failure?: { kind: string; message: string };
  watch?: import("../../src/index.js").UsersWatch | undefined;
  changes?: string[];
}
