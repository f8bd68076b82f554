/**
 * The snippets of README.md compile as they stand, against the built package and those that they
 * import; the stores of other frameworks run, and follow a watch.
 */

import assert from "node:assert/strict";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { before, test } from "node:test";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import type { WatchSnapshot } from "../src/index.js";
import { fakePresence } from "../src/testing/index.js";
import { until } from "./support/stack.js";

const ROOT = new URL("../../", import.meta.url);
const FOLDER = new URL("build/readme/", ROOT);

interface Snippet {
  name: string;
  text: string;
}

/** Fenced TypeScript, and the script of the page without a build. */
function snippets(): Snippet[] {
  const readme = readFileSync(new URL("README.md", ROOT), "utf8");
  const fences = [...readme.matchAll(/^```(tsx?|html)\n(.*?)^```$/gms)];
  return fences.map(([, language, body = ""], n) => {
    const script = /<script type="module">\n(.*)<\/script>/s.exec(body)?.[1] ?? body;
    const text = script.replace("./presence.browser.js", "@presenced/client/browser");
    // Each is a module of its own.
    return { name: `${n}.${language === "tsx" ? "tsx" : "ts"}`, text: `${text}\nexport {};\n` };
  });
}

before(() => {
  rmSync(FOLDER, { recursive: true, force: true });
  mkdirSync(FOLDER, { recursive: true });
});

test("each snippet compiles", () => {
  const files = snippets().map(({ name, text }) => {
    const path = fileURLToPath(new URL(name, FOLDER));
    writeFileSync(path, text);
    return path;
  });
  assert.ok(files.length >= 9, `${files.length} snippets`);
  const modules = fileURLToPath(new URL("test/support/readme_modules.d.ts", ROOT));
  const program = ts.createProgram([...files, modules], {
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    lib: ["lib.es2022.d.ts", "lib.esnext.disposable.d.ts", "lib.dom.d.ts", "lib.dom.iterable.d.ts"],
    jsx: ts.JsxEmit.ReactJSX,
    strict: true,
    exactOptionalPropertyTypes: true,
    skipLibCheck: true,
    noEmit: true,
    types: ["node"],
  });
  const faults = ts.getPreEmitDiagnostics(program).map(({ file, start = 0, messageText }) => {
    const line = file?.getLineAndCharacterOfPosition(start).line ?? 0;
    const text = file?.text.split("\n")[line]?.trim();
    const message = ts.flattenDiagnosticMessageText(messageText, "\n  ");
    return `${file?.fileName.split("/").at(-1)}: ${text}\n  ${message}`;
  });
  assert.deepEqual(faults, []);
});

const STORES: Record<string, { shows: string; read: (store: unknown) => Promise<unknown> }> = {
  vue: { shows: "people", read: (store) => Promise.resolve((store as { value: unknown }).value) },
  "svelte/store": {
    shows: "people",
    read: async (store) => (await import("svelte/store")).get(store as never),
  },
  zustand: {
    shows: "usePeople",
    read: (store) => Promise.resolve((store as { getState(): unknown }).getState()),
  },
};

for (const [module, { shows, read }] of Object.entries(STORES)) {
  test(`the store of ${module} follows a watch`, async () => {
    const fake = fakePresence({ john: { online: true } });
    const watch = fake.watch(["john"]);
    await watch.live;
    Object.assign(globalThis, { watch });
    const snippet = snippets().find(({ text }) => text.includes(`from "${module}"`));
    const path = new URL(`${module.replace("/", "_")}.mjs`, FOLDER);
    const compiled = ts.transpile(`${snippet?.text}\nexport { ${shows} };`, {
      target: ts.ScriptTarget.ES2022,
      module: ts.ModuleKind.ESNext,
    });
    writeFileSync(path, compiled);
    const { [shows]: store } = (await import(path.href)) as Record<string, unknown>;
    const statusOf = async () =>
      ((await read(store)) as WatchSnapshot).users.get("john")?.status;
    assert.equal(await statusOf(), null);
    fake.set("john", { status: "hi" });
    await until(async () => (await statusOf()) === "hi");
    fake.close();
  });
}
