// One file with nats-core inside, for pages without a build: dist/presence.browser.js.
import { build } from "esbuild";

await build({
  entryPoints: ["dist/browser/index.js"],
  outfile: "dist/presence.browser.js",
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  platform: "browser",
  sourcemap: true,
});
