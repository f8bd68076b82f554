/**
 * The page of `examples/web`, started as `make demo-web` does, with people who stay as they are.
 */

import type { ChildProcess } from "node:child_process";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Browser, Page } from "puppeteer-core";
import { until } from "./stack.js";

const DEMO = fileURLToPath(
  new URL("../../../../../examples/web/dist/demo/main.js", import.meta.url),
);

export class Example {
  readonly process: ChildProcess;
  url = "";
  #log = "";

  private constructor() {
    this.process = spawn(process.execPath, [DEMO], {
      stdio: ["ignore", "pipe", "pipe", "ipc"],
      env: { ...process.env, DEMO: "quiet" },
    });
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream?.on("data", (data: Buffer) => (this.#log += data.toString()));
    }
  }

  static async start(): Promise<Example> {
    const example = new Example();
    const ended = () => example.process.exitCode !== null;
    await until(() => example.#log.includes("Ctrl-C") || ended(), 60_000, "the demo's address");
    if (ended()) throw new Error(example.#log);
    example.url = /http:\S+/.exec(example.#log)?.[0] ?? "";
    return example;
  }

  /** The processes that the demo started. */
  children(): number[] {
    const { pid } = this.process;
    return readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8")
      .trim()
      .split(/\s+/)
      .map(Number);
  }

  async wsUrl(): Promise<string> {
    const settings = (await (await fetch(`${this.url}settings.json`)).json()) as { url: string };
    return settings.url;
  }

  async open(
    browser: Browser,
    look: { user?: string; width?: number; dark?: boolean; url?: string } = {},
  ) {
    const page = await browser.newPage();
    const { width = 1280, dark = false } = look;
    await page.setViewport({ width, height: 860 });
    await page.emulateMediaFeatures([
      { name: "prefers-color-scheme", value: dark ? "dark" : "light" },
    ]);
    if (look.url !== undefined) await redirect(page, look.url);
    await page.goto(look.user ? `${this.url}?user=${look.user}` : this.url);
    await page.waitForSelector(".person");
    await page.waitForSelector(".pill-live");
    return page;
  }
}

/** Tells the page another address of NATS. */
async function redirect(page: Page, url: string): Promise<void> {
  await page.setBypassCSP(true);
  await page.setRequestInterception(true);
  page.on("request", (request) => {
    void (async () => {
      if (!request.url().endsWith("/settings.json")) return request.continue();
      const settings = (await (await fetch(request.url())).json()) as object;
      return request.respond({
        contentType: "application/json",
        body: JSON.stringify({ ...settings, url }),
      });
    })();
  });
}
