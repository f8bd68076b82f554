// The views of the page: the overview, searches, and a user. Each view returns elements.

import { ago, ask, h, s, table } from "./dom.js";

const MARKS = { active: "●", away: "◐", busy: "⊖", offline: "○" };

/** Online or not, by form, colour and word. */
export function availability(user) {
  const name = user.online ? user.availability ?? "active" : "offline";
  return h("span", { class: `mark ${name}` },
    h("span", { "aria-hidden": "true" }, MARKS[name] ?? "●"), ` ${name}`);
}

const userLink = (id) => h("a", { href: `#/user/${encodeURIComponent(id)}` }, id);

const tile = (name, value) => h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, value));

/** The number of users online over the last hour. */
function chart(points) {
  if (points.length < 2) return h("p", {}, "The line begins in some seconds.");
  const width = 600;
  const height = 120;
  const [first, last] = [points[0][0], points.at(-1)[0]];
  const counts = points.map(([, count]) => count);
  const [low, high] = [Math.min(...counts), Math.max(...counts)];
  const x = (at) => ((at - first) / Math.max(last - first, 1)) * width;
  const y = (count) => height - 6 - ((count - low) / Math.max(high - low, 1)) * (height - 12);
  const line = points.map(([at, count]) => `${x(at).toFixed(1)},${y(count).toFixed(1)}`).join(" ");
  const minutes = Math.max(1, Math.round((last - first) / 60000));
  const text = `Online over ${minutes} min: ${low} to ${high}, now ${counts.at(-1)}`;
  return h("figure", {},
    s("svg", {
      viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": text,
      preserveAspectRatio: "none",
    },
      s("polyline", { points: line, class: "line" })),
    h("figcaption", {}, text));
}

export const changeRow = (event) => h("li", {},
  ago(event.created_at), " ", userLink(event.user.id), " ", availability(event.user), " ",
  h("span", { class: "status" }, event.user.status ?? ""));

function daemons(list) {
  const rows = list.map((daemon) => h("tr", {},
    h("th", { scope: "row" }, daemon.id),
    h("td", {}, daemon.version ?? ""),
    h("td", {}, daemon.host ?? ""),
    h("td", {}, ago(daemon.started)),
    h("td", {},
      h("span", { class: `mark ${daemon.deaf ? "away" : "active"}` },
        daemon.deaf ? "deaf" : "hearing")),
    h("td", {}, daemon.lag_ms === undefined ? "" : `${daemon.lag_ms} ms`)));
  return table("Daemons", ["Daemon", "Version", "Host", "Started", "State", "Lag"], rows);
}

const PLAYS = (player) => [
  player.invisible ? ["show", "Show"] : ["hide", "Hide"],
  player.connected ? ["leave", "Leave"] : ["return", "Come back"],
  player.asleep ? ["wake", "Wake"] : ["sleep", "Sleep"],
];

/** Lively users to play with. */
function demo(players, again) {
  const play = (id, action) => async () => {
    await ask("/api/demo", { id, action });
    again();
  };
  return h("section", { "aria-labelledby": "play" },
    h("h2", { id: "play" }, "Play"),
    players.map((player) => h("p", {}, userLink(player.id), " ",
      PLAYS(player).map(([action, name]) =>
        h("button", { type: "button", onclick: play(player.id, action) },
          `${name} ${player.id}`)))));
}

export function overview(data, again) {
  const alerts = [...data.alerts];
  if (data.problem) alerts.unshift({ level: "critical", text: data.problem });
  return [
    h("h1", {}, "Overview"),
    h("dl", { class: "tiles" },
      tile("online", data.online_now ?? "?"), tile("users", data.known ?? "?"),
      tile("channels", data.channels ?? "?"),
      tile("changes a second", data.rate.toFixed(1))),
    alerts.length > 0 && h("ul", { class: "alerts", "aria-label": "Alerts" },
      alerts.map((alert) =>
        h("li", { class: alert.level }, h("strong", {}, alert.level), ` ${alert.text}`))),
    chart(data.online),
    data.demo && demo(data.demo, again),
    h("section", { "aria-labelledby": "changes" },
      h("h2", { id: "changes" }, "Changes"),
      h("ul", { class: "changes", id: "feed" }, data.changes.slice(0, 30).map(changeRow))),
    daemons(data.daemons),
  ];
}

/** A search, and what it found. */
export async function search(kind, query, go) {
  const box = h("input", {
    id: "q", name: "q", type: "search", value: query, autocomplete: "off", spellcheck: "false",
    placeholder: kind === "users" ? "online=true and team=red" : "members=john",
  });
  const onsubmit = (event) => { event.preventDefault(); go(box.value); };
  const form = h("form", { role: "search", onsubmit },
    h("label", { for: "q" }, "Filter"),
    box,
    h("button", { type: "submit" }, "Search"),
    h("p", { class: "hint" },
      "field=value, !=, >, >=, <, <=, ~ for the beginning of a word, with “and” between them; "
      + "or a JSON filter."));
  const title = h("h1", {}, kind === "users" ? "Users" : "Channels");
  try {
    const found = await ask(`/api/${kind}?q=${encodeURIComponent(query)}`);
    return [title, form, kind === "users" ? users(found) : channels(found)];
  } catch (error) {
    return [title, form, h("p", { class: "error", role: "alert" }, error.message)];
  }
}

function users(found) {
  const rows = found.users.map((user) => h("tr", {},
    h("th", { scope: "row" }, userLink(user.id)),
    h("td", {}, availability(user)),
    h("td", { class: "status" }, user.status ?? ""),
    h("td", {}, ago(user.last_active))));
  const shown = found.users.length === found.count
    ? `${found.count} users`
    : `${found.users.length} of ${found.count} users`;
  return table(shown, ["User", "Availability", "Status", "Last active"], rows);
}

function channels(found) {
  const rows = found.channels.map((channel) => h("tr", {},
    h("th", { scope: "row" }, channel.cid),
    h("td", {}, `${channel.online_count} of ${channel.member_count}`),
    h("td", {}, channel.members.slice(0, 10).map((member) => [userLink(member.user_id), " "])),
    h("td", {}, ago(channel.last_message_at))));
  return table(`${found.channels.length} channels${found.more ? " of more" : ""}`,
    ["Channel", "Online", "First members", "Last message"], rows);
}

/** When each connection was heard, and when it lapses, beside now. */
function timeline(connections) {
  const heard = connections.filter((each) => each.last_heard && each.lapses_at);
  if (heard.length === 0) return null;
  const now = Date.now();
  const begin = Math.min(now, ...heard.map((each) => Date.parse(each.last_heard)));
  const end = Math.max(now, ...heard.map((each) => Date.parse(each.lapses_at)));
  const x = (at) => 10 + ((at - begin) / Math.max(end - begin, 1)) * 580;
  const height = 24 + heard.length * 26;
  const bars = heard.map((each, row) => {
    const [from, to] = [x(Date.parse(each.last_heard)), x(Date.parse(each.lapses_at))];
    return s("g", {},
      s("rect", {
        x: from, y: 22 + row * 26, width: Math.max(to - from, 2), height: 16, rx: 3, class: "lease",
      }),
      s("text", { x: from + 6, y: 34 + row * 26, class: "label" },
        each.connection_id.slice(0, 40)));
  });
  const clock = (time) => new Date(time).toLocaleTimeString();
  const text = heard.map((each) =>
    `${each.connection_id}: heard ${clock(each.last_heard)}, lapses ${clock(each.lapses_at)}`);
  return h("figure", {},
    s("svg", { viewBox: `0 0 600 ${height}`, role: "img", "aria-label": text.join("; ") },
      bars,
      s("line", { x1: x(now), x2: x(now), y1: 16, y2: height, class: "now" }),
      s("text", { x: Math.min(x(now), 570), y: 12, class: "label" }, "now")),
    h("figcaption", {}, "From when each connection was last heard to when it lapses"));
}

/** A user, why it is shown so, and what may be changed. */
export async function user(id, again) {
  const title = h("h1", {}, id);
  let found;
  try {
    found = await ask(`/api/user?id=${encodeURIComponent(id)}`);
  } catch (error) {
    return [title, h("p", { class: "error", role: "alert" }, error.message)];
  }
  const { user, explain, write } = found;
  const fields = Object.entries(user ?? {}).map(([name, value]) =>
    [h("dt", {}, name), h("dd", {}, typeof value === "string" ? value : JSON.stringify(value))]);
  const rows = explain.connections.map((each) => h("tr", {},
    h("th", { scope: "row" }, each.connection_id),
    h("td", {}, each.device ?? "–"), h("td", {}, each.lease ?? "its own"),
    h("td", {}, ago(each.last_heard)), h("td", {}, ago(each.lapses_at)), h("td", {}, each.acts)));
  return [
    title,
    h("p", {}, availability(user ?? { online: false }), " – ", explain.shown.why),
    explain.deaf
      && h("p", { class: "error" }, `The daemon that answers ends no lease: ${explain.deaf}`),
    timeline(explain.connections),
    table("Connections",
      ["Connection", "Device", "Lease", "Last heard", "Lapses", "Who acts"], rows),
    write && edit(id, user, explain, again),
    h("h2", {}, "As others see it"),
    h("dl", { class: "fields" }, fields),
  ];
}

function edit(id, user, explain, again) {
  const problem = h("p", { class: "error", role: "alert" });
  const send = (path, body) => async () => {
    try {
      await ask(path, body());
      again();
    } catch (error) {
      problem.textContent = error.message;
    }
  };
  const status = h("input", { id: "status", value: user?.status ?? "", maxlength: "1024" });
  const invisible = explain.record?.invisible === true;
  const change = (fields) => send("/api/set", () => ({ id, ...fields() }));
  const remove = send("/api/delete", () => ({ id }));
  const setStatus = change(() => ({ status: status.value || null }));
  return h("form", { onsubmit: (event) => { event.preventDefault(); setStatus(); } },
    h("h2", {}, "Change"),
    h("label", { for: "status" }, "Status"), status,
    h("button", { type: "submit" }, "Set"),
    h("button", { type: "button", onclick: change(() => ({ invisible: !invisible })) },
      invisible ? "Show" : "Hide"),
    h("button",
      { type: "button", class: "danger", onclick: () => confirm(`Delete ${id}?`) && remove() },
      "Delete"),
    problem);
}
