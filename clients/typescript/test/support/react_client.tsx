/** The script of the React page. */

import { createElement as h } from "react";
import { hydrateRoot } from "react-dom/client";
import type { OpenOptions } from "../../src/browser/index.js";
import { open } from "../../src/browser/index.js";
import { App, renders } from "./react_page.js";

const page = globalThis as unknown as { renders: typeof renders; complaints: string[] };
page.renders = renders;
page.complaints = [];
console.error = (...words: unknown[]) => page.complaints.push(words.join(" "));
const root = hydrateRoot(document.getElementById("root") as HTMLElement, h(App, { source: null }), {
  onRecoverableError: (error) => page.complaints.push(String(error)),
});
const options = JSON.parse(decodeURIComponent(location.hash.slice(1))) as OpenOptions;
const presence = await open(options);
root.render(h(App, { source: presence }));
