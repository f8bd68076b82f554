// Keeps the weight of what a page loads: our part, without NATS and React, bundled, minified and
// zipped. README.md (*Size*) has the limits, and why they are not lower.
import { build } from "esbuild";
import { gzipSync } from "node:zlib";

const PARTS = [
  { what: "a page: open", code: 'export { open } from "./dist/browser/index.js"', limit: 12_200 },
  { what: "a page's React hooks", code: 'export * from "./dist/react/index.js"', limit: 1300 },
  { what: "a user's door: forUser", code: 'export { forUser } from "./dist/index.js"', limit: 9800 },
];

for (const { what, code, limit } of PARTS) {
  const { outputFiles } = await build({
    stdin: { contents: code, resolveDir: process.cwd() },
    bundle: true,
    minify: true,
    write: false,
    format: "esm",
    target: "es2022",
    external: ["@nats-io/nats-core", "react"],
  });
  const size = gzipSync(outputFiles[0].contents, { level: 9 }).length;
  console.log(`${what}: ${size} bytes of ${limit}`);
  if (size > limit) process.exitCode = 1;
}
