// Makes dist/site, static files for any web server, and dist/demo, which serves them with people
// in.
import { cp } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

// The client is linked from its folder, beside which it finds a React of its own: one is enough.
const shared = ["react", "react-dom"];
const alias = Object.fromEntries(shared.map((name) => [name, folderOf(name)]));

await cp("public", "dist/site", { recursive: true });
await build({
  entryPoints: ["src/page.tsx"],
  outdir: "dist/site",
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  define: { "process.env.NODE_ENV": '"production"' },
  alias,
  sourcemap: true,
});
await build({
  entryPoints: ["demo/main.ts"],
  outdir: "dist/demo",
  bundle: true,
  packages: "external",
  platform: "node",
  format: "esm",
  target: "node20",
});

function folderOf(name) {
  return fileURLToPath(new URL(`node_modules/${name}`, import.meta.url));
}
