// Elements made of text: nothing that comes from the service is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

/** An element of HTML. Attributes that begin with `on` are listeners. */
export const h = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);

/** An element of SVG. */
export const s = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

/** A table with a caption, in a box that scrolls by itself where it is too wide. */
export function table(caption, heads, rows) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {},
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, rows)));
}

const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

/** A time as how long ago it is, with the full time as its title. */
export function ago(text) {
  if (!text) return "–";
  const at = new Date(text);
  const seconds = (at - Date.now()) / 1000;
  const [unit, size] = UNITS.find(([, size]) => Math.abs(seconds) >= size) ?? UNITS[3];
  const shown = relative.format(Math.trunc(seconds / size), unit);
  return h("time", { datetime: text, title: at.toLocaleString() }, shown);
}

/** Asks the program that serves this page. Its errors are thrown with their messages. */
export async function ask(path, body) {
  const request = body === undefined ? {} :
    { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, request);
  const text = await response.text();
  if (response.ok) return JSON.parse(text);
  let message = text.trim();
  try { message = JSON.parse(text).error; } catch { /* It is plain text. */ }
  throw new Error(message);
}
