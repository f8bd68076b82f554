// Which view is shown, and what keeps it up to date.

import { ask } from "./dom.js";
import { changeRow, overview, search, user } from "./views.js";

const REFRESH_MS = 5000;
const FEED = 30;
const main = document.getElementById("main");
const state = document.getElementById("state");
let shown = "";
let serial = 0;

/** The view of an address, and the address of the same view for other words. */
async function view(path, query) {
  if (path === "/users" || path === "/channels") {
    const kind = path.slice(1);
    return search(kind, query.get("q") ?? "", (text) => {
      location.hash = `#${path}?q=${encodeURIComponent(text)}`;
    });
  }
  if (path.startsWith("/user/")) return user(decodeURIComponent(path.slice(6)), show);
  return overview(await ask("/api/overview"), show);
}

/** Shows the view of the address. A view that a newer one has overtaken is dropped. */
async function show() {
  const mine = ++serial;
  const [path, query] = (location.hash.slice(1) || "/").split("?");
  try {
    const elements = await view(path, new URLSearchParams(query));
    if (mine !== serial) return;
    const focused = document.activeElement?.id;
    main.replaceChildren(...elements.filter(Boolean));
    document.title = `${main.querySelector("h1").textContent} – Presence`;
    for (const link of document.querySelectorAll("nav a")) {
      const own = link.getAttribute("href").slice(1);
      if (own === path) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (shown !== location.hash) {
      if (shown !== "") main.focus();
      shown = location.hash;
    } else if (focused) {
      document.getElementById(focused)?.focus();
    }
  } catch (error) {
    if (mine === serial) say(error.message, true);
  }
}

function say(text, bad = false) {
  if (state.textContent !== text) state.textContent = text;
  state.classList.toggle("bad", bad);
}

const changes = new EventSource("/api/changes");
changes.addEventListener("open", () => say("live"));
changes.addEventListener("error", () => say("presencectl does not answer", true));
changes.addEventListener("missed", (event) => say(`too fast: ${event.data} changes are not shown`));
changes.addEventListener("change", (event) => {
  const feed = document.getElementById("feed");
  if (!feed) return;
  feed.prepend(changeRow(JSON.parse(event.data)));
  while (feed.children.length > FEED) feed.lastChild.remove();
});

/** The overview and a user are kept up to date, unless someone is at work in them. */
setInterval(() => {
  const path = location.hash.slice(1) || "/";
  const writing = document.activeElement?.tagName === "INPUT";
  if ((path === "/" || path.startsWith("/user/")) && !writing && !document.hidden) show();
}, REFRESH_MS);

addEventListener("hashchange", show);
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input")) return;
  event.preventDefault();
  const box = document.getElementById("q");
  if (box) box.focus();
  else location.hash = "#/users";
});

show();
