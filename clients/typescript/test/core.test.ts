/** Connections, watches and queries on one daemon, over TCP. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Change } from "../src/index.js";
import { channelLoader } from "../src/core/channel_watch.js";
import { Door } from "../src/core/door.js";
import { Hub } from "../src/core/hub.js";
import { Link } from "../src/core/link.js";
import { ChannelsWatch, UsersWatch, forService, forUser } from "../src/index.js";
import { Stack, until } from "./support/stack.js";
import { Witness } from "./support/witness.js";

let stack: Stack;
before(async () => void (stack = await Stack.start()));
after(() => stack.stop());

test("a connection is online until it is closed, and its events are seen", async () => {
  const nc = await stack.connect();
  const witness = await Witness.of(await stack.connect(), "ann@example.com");
  const me = forUser<{ name: string }>(nc, "ann@example.com");
  const connection = await me.connect({ status: "hello", name: "Ann" });
  assert.equal(connection.state.status, "online");
  assert.equal(connection.me?.name, "Ann");
  const seen = await connection.update({ status: null });
  assert.equal(seen.status, null);
  await connection.close();
  await until(() => witness.online.at(-1) === false);
  assert.deepEqual(witness.online, [true, true, false]);
  assert.equal(connection.state.status, "closed");
});

test("a connection outlives its lease by beats, and joint changes are one request", async () => {
  const nc = await stack.connect();
  const witness = await Witness.of(await stack.connect(), "bob");
  const connection = await forUser(nc, "bob").connect();
  await Promise.all([1, 2, 3].map((n) => connection.update({ status: `s${n}` })));
  await new Promise((resolve) => setTimeout(resolve, 4500));
  assert.deepEqual(witness.events.map(({ online, status }) => [online, status]).at(-1), [
    true,
    "s3",
  ]);
  assert.ok(witness.events.length <= 3, "changes were merged");
  await connection.close();
});

test("a watch shows the picture, then each change with its kind", async () => {
  const me = forUser(await stack.connect(), "carl");
  const dora = forUser(await stack.connect(), "dora");
  const first = await dora.connect();
  await using watch = me.watch(["dora", "nobody"]);
  assert.equal(watch.get("dora"), undefined);
  await watch.live;
  assert.equal(watch.get("dora")?.online, true);
  assert.equal(watch.get("nobody"), null);
  assert.equal(watch.getSnapshot(), watch.getSnapshot());
  const kinds: unknown[] = [];
  void (async () => {
    for await (const change of watch) kinds.push("kind" in change ? change.kind : change.state);
  })();
  await first.update({ status: "tea" });
  await until(() => kinds.includes("status"));
  await first.close();
  await until(() => kinds.includes("left"));
  await forService(await stack.connect()).deleteUsers({ ids: ["dora"] });
  assert.deepEqual(kinds.slice(0, 2), ["status", "left"]);
});

test("a slow reader gets the newest state of each user, not all in between", async () => {
  const me = forUser(await stack.connect(), "eve");
  const service = forService(await stack.connect());
  await service.upsertUsers([{ id: "fay", status: "0" }]);
  const watch = me.watch(["fay"]);
  await watch.live;
  const reader = watch[Symbol.asyncIterator]();
  for (let n = 1; n <= 50; n++) await service.upsertUsers([{ id: "fay", status: String(n) }]);
  await until(() => watch.get("fay")?.status === "50");
  const change = (await reader.next()).value as Change | undefined;
  assert.ok(change && "kind" in change);
  assert.deepEqual(
    [change.kind, change.before?.status, change.user?.status],
    ["status", "0", "50"],
  );
  watch.close();
  assert.equal((await reader.next()).value && true, true, "the closing is told");
  assert.equal((await reader.next()).done, true);
});

test("watches of one user share a subscription and a query", async () => {
  const nc = await stack.connect();
  const spy = await stack.connect();
  let queries = 0;
  spy.subscribe("presence.v1.query_users.gus", { callback: () => void queries++ });
  await spy.flush();
  const me = forUser(nc, "gus");
  const first = me.watch(["x1", "x2"]);
  first.close();
  const second = me.watch(["x1", "x2"]);
  const third = me.watch(["x3"]);
  await Promise.all([second.live, third.live]);
  assert.equal(queries, 1);
});

test("what is watched right after the link came up is asked for once", async () => {
  const spy = await stack.connect();
  const asked: string[] = [];
  for (const operation of ["query_users", "watch_channel"]) {
    spy.subscribe(`presence.v1.${operation}.hub`, { callback: () => void asked.push(operation) });
  }
  await spy.flush();
  const service = forService(await stack.connect());
  await service.upsertChannel({ type: "messaging", id: "hub", members: ["hub", "y1"] });
  const spreadMs = 200;
  const me = forUser(await stack.connect(), "hub");
  const link = new Link();
  const hub = new Hub(new Door(link, "hub", { spreadMs }));
  link.attach(await stack.connect());
  const users = new UsersWatch(hub, ["y1"]);
  const channel = new ChannelsWatch(hub, channelLoader({ type: "messaging", id: "hub" }));
  await Promise.all([users.live, channel.live]);
  // The answer of a later question comes after that of the resync, if there is one.
  await new Promise((resolve) => setTimeout(resolve, spreadMs + 50));
  await me.queryChannels();
  // A channel is asked for again when its members are subscribed to.
  assert.deepEqual(asked.sort(), ["query_users", "watch_channel", "watch_channel"]);
  link.close();
});

test("a channel is watched without query_users, and beyond ten by pages", async () => {
  const service = forService(await stack.connect());
  const members = Array.from({ length: 25 }, (_, n) => `m${String(n).padStart(2, "0")}`);
  await service.upsertChannel({ type: "messaging", id: "big", data: { color: "green" }, members });
  const me = forUser(await stack.connect(), "m03");
  const first = me.watchChannel({ type: "messaging", id: "big" });
  await first.live;
  assert.deepEqual(
    [first.watched.length, first.truncated, first.notWatched.length],
    [10, true, 15],
  );
  const all = me.watchChannel({ type: "messaging", id: "big", users: "all" });
  await all.live;
  assert.deepEqual([all.watched.length, all.truncated, all.notWatched.length], [25, false, 0]);
  assert.equal(all.channel?.["color"], "green");
  const seat = await forUser(await stack.connect(), "m24").connect();
  await until(() => all.get("m24")?.online);
  await seat.close();
  const named = me.watchChannel({ type: "messaging", id: "big", users: members.slice(5, 18) });
  await named.live;
  assert.deepEqual(named.watched, members.slice(5, 18));
  const page = me.watchChannels({ filter: { color: "green" } });
  await page.live;
  assert.equal(page.channels.length, 1);
  const missing = me.watchChannel({ type: "messaging", id: "none" });
  await assert.rejects(missing.live, { code: "channel_not_found", kind: "refused" });
});

test("everyone is one watch, page after page, and newcomers are told", async () => {
  const service = forService(await stack.connect());
  await service.upsertUsers(Array.from({ length: 100 }, (_, n) => ({ id: `p${n}`, status: "x" })));
  await service.upsertUsers(Array.from({ length: 30 }, (_, n) => ({ id: `q${n}`, status: "y" })));
  const everyone = service.watchAll();
  await everyone.live;
  assert.equal(everyone.get("p99")?.status, "x");
  assert.equal(everyone.get("q29")?.status, "y");
  const newcomer = await forUser(await stack.connect(), "new comer").connect();
  await until(() => everyone.get("new comer")?.online);
  await newcomer.close();
  let found = 0;
  for await (const user of service.users({ status: "x" })) found += user.id.startsWith("p") ? 1 : 0;
  assert.equal(found, 100);
});

test("a refusal says code and field, and is not repeated", async () => {
  const me = forUser(await stack.connect(), "hal");
  await assert.rejects(me.queryUsers({ filter: { online: { $gt: true } } }), {
    name: "PresenceError",
    kind: "refused",
    code: "invalid_filter",
    retryable: false,
  });
  await assert.rejects(me.connect({ status: "x".repeat(2000) }), { kind: "refused" });
});

test("one connection too many is refused, not repeated, and the watches go on", async () => {
  const nc = await stack.connect();
  const me = forUser(nc, "many");
  const watch = me.watch(["many"]);
  await watch.live;
  const connections = await Promise.all(Array.from({ length: 50 }, () => me.connect()));
  const spy = await stack.connect();
  let tries = 0;
  spy.subscribe("presence.v1.connect.many", { callback: () => void tries++ });
  await spy.flush();
  await assert.rejects(me.connect(), { kind: "refused", code: "limit_exceeded" });
  await connections[0]?.update({ status: "still here" });
  await until(() => watch.get("many")?.status === "still here");
  assert.deepEqual([tries, watch.status], [1, "live"]);
  await Promise.all(connections.map((connection) => connection.close()));
});
