/** The page of `examples/web`: what it shows, its flows, and that everybody can use it. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { after, afterEach, before, test } from "node:test";
import axe from "axe-core";
import type { Browser, Page } from "puppeteer-core";
import { launch } from "../support/browser.js";
import { Example } from "../support/example.js";
import { Proxy } from "../support/proxy.js";

let example: Example;
let browser: Browser;
before(async () => {
  example = await Example.start();
  browser = await launch();
});
after(async () => {
  await browser.close();
  example.process.kill();
});
afterEach(async () => {
  for (const page of (await browser.pages()).slice(1)) await page.close();
});

const textOf = (page: Page, selector: string) =>
  page.$eval(selector, (element) => element.textContent ?? "");

async function shows(page: Page, selector: string, text: string): Promise<void> {
  await page.waitForFunction(
    (where, what) => document.querySelector(where)?.textContent?.includes(what),
    { polling: 20, timeout: 10_000 },
    selector,
    text,
  );
}

/** Nothing that axe-core objects to, best practices and contrast included. */
async function assertAccessible(page: Page, what: string): Promise<void> {
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() =>
    (globalThis as unknown as { axe: typeof axe }).axe.run(),
  );
  const found = violations.map(
    ({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`,
  );
  assert.deepEqual(found, [], what);
}

async function picture(page: Page, name: string): Promise<void> {
  const folder = process.env["SCREENSHOTS"];
  if (folder) await page.screenshot({ path: `${folder}/${name}.png`, fullPage: true });
}

test("people have a dot, availability, devices, status and the time they left", async () => {
  const page = await example.open(browser);
  await shows(page, ".count", "10 of 13 online");
  const ada = await textOf(page, "[data-user=ada]");
  assert.match(
    ada,
    /Ada Lovelace.*Reviewing the new parser.*until.*\d\d:\d\d.*Busy.*(desktop|mobile|tablet)/,
  );
  assert.ok(await page.$("[data-user=ada] .dot-busy"));
  assert.ok(await page.$("[data-user=barbara] .dot-away"));
  assert.match(
    await textOf(page, "[data-user=ken]"),
    /Offline.*Last active (just now|\d+ minutes? ago)/,
  );
  assert.match(await textOf(page, "[data-user=robin]"), /Robin Vega.*You.*Active.*desktop/);
});

for (const dark of [false, true]) {
  for (const width of [1280, 390]) {
    const scheme = dark ? "dark" : "light";
    test(`axe-core finds nothing, ${scheme} at ${width} px, with a status and stale`, async () => {
      const proxy = await Proxy.to(Number(new URL(await example.wsUrl()).port));
      const page = await example.open(browser, {
        width,
        dark,
        url: `ws://127.0.0.1:${proxy.port}`,
      });
      await picture(page, `live-${width}-${scheme}`);
      if (width === 390) await page.click(".fold");
      await page.$$eval(".suggestions button", (buttons) => buttons[1]?.click());
      await shows(page, ".current", "In a meeting");
      await assertAccessible(page, "with a status");
      await picture(page, `status-${width}-${scheme}`);
      proxy.refuse();
      await shows(page, ".pill", "Stale");
      assert.ok(await page.$(".me .old"), "one's own dot claims nothing either");
      await assertAccessible(page, "stale");
      await picture(page, `stale-${width}-${scheme}`);
      proxy.heal();
      await shows(page, ".pill", "Live");
      await page.$$eval(".current button", (buttons) => buttons[0]?.click());
      await page.waitForFunction(() => !document.querySelector(".current"));
      proxy.close();
    });
  }
}

test("status with an end, away, busy, invisible: by keyboard, and others see each", async () => {
  const other = await example.open(browser, { user: "ada" });
  const othersSee = (text: string) => shows(other, "[data-user=robin]", text);
  const page = await example.open(browser);
  const focused = () =>
    page.evaluate(
      () => document.activeElement?.getAttribute("value") ?? document.activeElement?.id,
    );

  await page.keyboard.press("Tab");
  await page.keyboard.type("writing tests");
  await page.keyboard.press("Enter");
  await othersSee("writing tests");
  await shows(page, "[data-user=robin]", "until");

  await page.focus(".suggestions li:last-child button");
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "auto");
  await page.keyboard.press("ArrowRight");
  await othersSee("Away");
  await shows(page, "[data-own]", "Away");
  await page.keyboard.press("ArrowRight");
  await othersSee("Busy");
  assert.equal(await focused(), "busy");

  await page.keyboard.press("Tab");
  assert.equal(await focused(), "invisible");
  await page.keyboard.press("Space");
  await othersSee("Offline");
  await shows(page, "[data-own]", "Invisible");
  await page.keyboard.press("Space");
  await othersSee("Busy");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Space");
  await shows(page, ".progress", "Saved");
  await page.keyboard.press("Space");

  await page.focus(".current button");
  await page.keyboard.press("Enter");
  await othersSee("Product");
  await page.focus("input[value=busy]");
  await page.keyboard.press("ArrowLeft");
  await page.keyboard.press("ArrowLeft");
  await othersSee("Active");
});

test("every control can be reached by Tab, and shows where the focus is", async () => {
  const page = await example.open(browser);
  const controls = await page.$$eval("button, input, select", (all) => all.length);
  const reached = new Set<string>();
  for (let n = 0; n < controls + 2; n++) {
    await page.keyboard.press("Tab");
    const outline = await page.evaluate(() => {
      const at = document.activeElement as HTMLInputElement | null;
      if (!at || at === document.body) return undefined;
      const drawn = at.type === "radio" ? (at.nextElementSibling ?? at) : at;
      const { outlineStyle, outlineWidth } = getComputedStyle(drawn);
      return [at.outerHTML, outlineStyle !== "none" && parseFloat(outlineWidth) >= 2] as const;
    });
    if (!outline) break;
    reached.add(outline[0]);
    assert.ok(outline[1], `no outline on ${outline[0]}`);
  }
  // Of three radio buttons Tab reaches one; a button that is folded away on wide pages, and one
  // that cannot be pressed, it does not.
  assert.equal(reached.size, controls - 4);
});

test("the state says offline and live, and a change made meanwhile is sent", async () => {
  const page = await example.open(browser);
  await page.setOfflineMode(true);
  await shows(page, ".pill", "Offline");
  await shows(page, ".notice", "as they were at");
  await page.$$eval(".suggestions button", (buttons) => buttons[0]?.click());
  await shows(page, ".progress", "as soon as the connection is back");
  await picture(page, "offline-1280-light");
  await page.setOfflineMode(false);
  await shows(page, ".pill", "Live");
  await shows(page, ".current", "Lunch");
  assert.equal(await page.$(".notice"), null);
  await page.click(".current button");
  await page.waitForFunction(() => !document.querySelector(".current"));
});

test("someone comes and goes: the row, the group and the count follow", async () => {
  const page = await example.open(browser);
  const ken = await example.open(browser, { user: "ken" });
  await shows(page, "[data-user=ken]", "Active");
  await shows(page, ".count", "11 of 13 online");
  await ken.close();
  await shows(page, "[data-user=ken]", "just now");
  await shows(page, ".count", "10 of 13 online");
});

test("a login that is refused is told, with a way on", async () => {
  const page = await browser.newPage();
  await page.setRequestInterception(true);
  page.on("request", (request) => {
    if (new URL(request.url()).pathname === "/token") void request.respond({ body: "nonsense" });
    else void request.continue();
  });
  await page.goto(example.url);
  await shows(page, "[role=alert]", "could not be opened");
  await shows(page, "[role=alert]", "NATS refuses the login");
  assert.ok(await page.$("[role=alert] button"));
  await assertAccessible(page, "refused");
  await picture(page, "refused-1280-light");
});

test("on phones nothing is cut off, and what can be pressed is large enough", async () => {
  const page = await example.open(browser, { width: 390 });
  await page.click(".fold");
  for (const width of [390, 320]) {
    await page.setViewport({ width, height: 700 });
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), width);
  }
  const small = await page.$$eval("button, select, input:not([role=switch])", (all) =>
    all.filter((one) => one.getBoundingClientRect().height < 44).map((one) => one.outerHTML),
  );
  assert.deepEqual(small, []);
});

test("who wants less movement gets none", async () => {
  const proxy = await Proxy.to(Number(new URL(await example.wsUrl()).port));
  const page = await example.open(browser, { url: `ws://127.0.0.1:${proxy.port}` });
  await page.emulateMediaFeatures([{ name: "prefers-reduced-motion", value: "reduce" }]);
  // The light of a stale picture pulses otherwise.
  proxy.refuse();
  await shows(page, ".pill", "Stale");
  const moving = await page.evaluate(() => {
    const all = [...document.querySelectorAll("*")].map((one) => getComputedStyle(one));
    return all.filter(
      ({ animationName, transitionDuration: ms }) => animationName !== "none" || ms !== "0s",
    ).length;
  });
  assert.equal(moving, 0);
  proxy.close();
});

test("Ctrl-C ends all that the demo started", async () => {
  const children = example.children();
  assert.equal(children.length, 4, "nats-server, two daemons, the login");
  example.process.kill("SIGINT");
  const [code] = (await once(example.process, "exit")) as [number];
  assert.equal(code, 0);
  for (const pid of children) assert.throws(() => process.kill(pid, 0), { code: "ESRCH" });
});
