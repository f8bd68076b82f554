// Keeps the weight of what a page loads: our part, without NATS and React, minified and zipped.
import { build } from "esbuild";
import { gzipSync } from "node:zlib";

const LIMITS = { "dist/browser/index.js": 11_776, "dist/react/index.js": 2048 };
for (const [entry, limit] of Object.entries(LIMITS)) {
  const { outputFiles } = await build({
    entryPoints: [entry],
    bundle: true,
    minify: true,
    write: false,
    format: "esm",
    target: "es2022",
    external: ["@nats-io/nats-core", "react"],
  });
  const size = gzipSync(outputFiles[0].contents, { level: 9 }).length;
  console.log(`${entry}: ${size} bytes of ${limit}`);
  if (size > limit) process.exitCode = 1;
}
