// The page of `presencectl web` as a person meets it: in Chromium, with a keyboard, on a phone, in
// the dark.
//   NATS_SERVER, PRESENCED, PRESENCECTL, CHROMIUM   the programs
//   SCREENSHOTS                                     a folder for pictures of each view

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { mkdtempSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import puppeteer from "puppeteer-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core"), "utf8");
const { NATS_SERVER, PRESENCED, PRESENCECTL, CHROMIUM, SCREENSHOTS } = process.env;
const folder = mkdtempSync(join(tmpdir(), "presencectl-page-"));
const processes = [];
let server;
let url;
let browser;
/** The ids of two of the lively users. */
let ann;
let bob;

const run = (...args) =>
  promisify(execFile)(PRESENCECTL, args, { env: { ...process.env, NATS_URL: server } });

function start(program, args, env = {}) {
  const child = spawn(program, args, {
    env: { PATH: process.env.PATH, HOME: folder, ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
  processes.push(child);
  return child;
}

const freePort = () =>
  new Promise((resolve) => {
    const listener = createServer().listen(0, "127.0.0.1", () => {
      const { port } = listener.address();
      listener.close(() => resolve(port));
    });
  });

before(async () => {
  const port = await freePort();
  server = `nats://127.0.0.1:${port}`;
  start(PRESENCED, ["dev", "--ephemeral", "--port", String(port), "--nats-server", NATS_SERVER]);
  for (let tries = 0; ; tries += 1) {
    const served = await run("daemons").then(
      () => true,
      () => false,
    );
    if (served) break;
    assert.ok(tries < 100, "a daemon serves");
  }
  await run(
    "set",
    "jack",
    "--status",
    "<img src=x onerror=\"document.title='owned'\">",
    "-f",
    "team=red",
  );
  await run("set", "<script>alert(1)</script>");
  const web = start(PRESENCECTL, ["web", "--write", "--demo"], { NATS_URL: server });
  url = await new Promise((resolve) =>
    createInterface({ input: web.stdout }).once("line", resolve),
  );
  const { stdout } = await run("who", "-o", "ids");
  [ann, bob] = ["ann", "bob"].map((name) => stdout.match(`demo-${name}-[0-9a-f]+`)[0]);
  await run("channel", "create", "team:red", "jack", ann);
  browser = await puppeteer.launch({
    executablePath: CHROMIUM,
    args: ["--no-sandbox", "--disable-gpu"],
  });
});

after(async () => {
  await browser?.close();
  for (const child of processes) child.kill("SIGINT");
});

/** A page at the address, with what its console reports. */
async function open({ hash = "#/", width = 1280, dark = false } = {}) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  page.problems = [];
  page.on("console", (message) => {
    if (["error", "warn"].includes(message.type())) page.problems.push(message.text());
  });
  page.on("pageerror", (error) => page.problems.push(error.message));
  await page.setViewport({ width, height: 900 });
  await page.emulateMediaFeatures([
    { name: "prefers-color-scheme", value: dark ? "dark" : "light" },
  ]);
  await page.goto(url);
  await page.evaluate((to) => {
    location.hash = to;
  }, hash);
  await page.waitForSelector("h1");
  return page;
}

const shows = (page, text) =>
  page.waitForFunction((part) => document.body.innerText.includes(part), { timeout: 20_000 }, text);

/** The places of the views, and their titles. */
const VIEWS = {
  overview: () => ["#/", "Overview"],
  users: () => ["#/users", "Users"],
  user: () => [`#/user/${ann}`, ann],
  channels: () => ["#/channels", "Channels"],
};

for (const [name, view] of Object.entries(VIEWS)) {
  for (const width of [1280, 390]) {
    for (const dark of [false, true]) {
      test(`${name} at ${width} px, ${dark ? "dark" : "light"}, passes axe`, async () => {
        const [hash, title] = view();
        const page = await open({ hash, width, dark });
        await page.waitForFunction(
          (text) => document.querySelector("h1")?.textContent === text,
          {},
          title,
        );
        if (name === "overview") await page.waitForSelector("polyline");
        await page.evaluate(axe);
        const { violations } = await page.evaluate(() => globalThis.axe.run());
        const found = violations.map(
          ({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" ")}`,
        );
        assert.deepEqual(found, []);
        const scrolls = await page.evaluate(
          () => document.documentElement.scrollWidth > innerWidth,
        );
        assert.equal(scrolls, false, "the page does not scroll sideways");
        assert.deepEqual(page.problems, []);
        if (SCREENSHOTS) {
          const path = join(SCREENSHOTS, `${name}-${width}-${dark ? "dark" : "light"}.png`);
          await page.screenshot({ path, fullPage: true });
        }
        await page.browserContext().close();
      });
    }
  }
}

test("text of users is shown as text", async () => {
  for (const hash of [
    "#/users",
    "#/user/jack",
    "#/user/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
    "#/",
  ]) {
    const page = await open({ hash });
    if (hash !== "#/")
      await shows(page, hash === "#/user/jack" ? "<img src=x" : "<script>alert(1)");
    await run(
      "set",
      "jack",
      "-f",
      `n=${Math.random()}`,
      "--status",
      `<img src=x onerror=alert(1)> ${hash}`,
    );
    if (hash === "#/") await shows(page, "<img src=x onerror=alert(1)> #/");
    assert.equal(
      await page.evaluate(() => document.querySelectorAll("main img, main script").length),
      0,
    );
    assert.ok(!(await page.title()).includes("owned"));
    assert.deepEqual(page.problems, []);
    await page.browserContext().close();
  }
});

test("everything can be reached with the keyboard", async () => {
  const page = await open();
  const reached = [];
  for (let presses = 0; presses < 12; presses += 1) {
    await page.keyboard.press("Tab");
    reached.push(await page.evaluate(() => document.activeElement.textContent.trim().slice(0, 40)));
  }
  for (const name of ["Skip to the content", "Overview", "Users", "Channels", `Hide ${ann}`]) {
    assert.ok(reached.includes(name), `${name} is not among ${reached}`);
  }
  await page.keyboard.press("/");
  await page.waitForSelector("#q");
  await page.keyboard.press("/");
  await page.keyboard.type("team=red");
  await page.keyboard.press("Enter");
  await shows(page, "1 users");
  await page.browserContext().close();
});

test("a change comes by itself, and a person at the page changes a user", async () => {
  const page = await open();
  await run("set", "john", "--status", "just here");
  await shows(page, "just here");
  await page.evaluate(() => {
    location.hash = "#/user/john";
  });
  await page.waitForSelector("#status");
  await page.click("#status", { count: 3 });
  await page.keyboard.type("from the page");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() =>
    [...document.querySelectorAll("dd")].some((each) => each.textContent === "from the page"),
  );
  const { stdout } = await run("get", "john");
  assert.equal(JSON.parse(stdout).status, "from the page");
  await page.browserContext().close();
});

test("lively users hide at the press of a button", async () => {
  const page = await open();
  await page.waitForSelector("button");
  await page.evaluate(
    (text) =>
      [...document.querySelectorAll("button")].find((each) => each.textContent === text).click(),
    `Hide ${bob}`,
  );
  await shows(page, `Show ${bob}`);
  const { stdout } = await run("who", bob);
  assert.equal(JSON.parse(stdout).online, false);
  await page.browserContext().close();
});

test("a page of others is not let in", async () => {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  await page.goto(url);
  const own = new URL(url);
  const other = await context.newPage();
  await other.goto(`http://localhost:${own.port}/`);
  const status = await other.evaluate(async (address) => {
    try {
      return (await fetch(`${address}/api/users`, { credentials: "include" })).status;
    } catch {
      return "refused";
    }
  }, own.origin);
  assert.equal(status, "refused");
  const without = await context.newPage();
  const response = await without.goto(`http://localhost:${own.port}/api/users`);
  assert.equal(response.status(), 403);
  await context.close();
});
