/** The snippets of README.md compile as they stand, against the built package. */

import assert from "node:assert/strict";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const ROOT = new URL("../../", import.meta.url);
const FOLDER = new URL("build/readme/", ROOT);

/** Fenced TypeScript, and the script of the page without a build. */
function snippets(): { name: string; text: string }[] {
  const readme = readFileSync(new URL("README.md", ROOT), "utf8");
  const fences = [...readme.matchAll(/^```(tsx?|html)\n(.*?)^```$/gms)];
  return fences.map(([, language, body = ""], n) => {
    const script = /<script type="module">\n(.*)<\/script>/s.exec(body)?.[1] ?? body;
    const text = script.replace("./presence.browser.js", "@presenced/client/browser");
    // Each is a module of its own.
    return { name: `${n}.${language === "tsx" ? "tsx" : "ts"}`, text: `${text}\nexport {};\n` };
  });
}

test("each snippet compiles", () => {
  rmSync(FOLDER, { recursive: true, force: true });
  mkdirSync(FOLDER, { recursive: true });
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
