/** Faults, and the guarantees under them: cuts, silence, restarts, refusals. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { forService, forUser } from "../src/index.js";
import { Proxy } from "./support/proxy.js";
import { FAST, Stack, kill, until } from "./support/stack.js";
import { Witness } from "./support/witness.js";

let stack: Stack;
let proxy: Proxy;
beforeEach(async () => {
  stack = await Stack.start();
  proxy = await Proxy.to(stack.port);
});
afterEach(async () => {
  await stack.stop();
  proxy.close();
});

test("cuts at random: the view at the end is that of a query, and nobody flickers", async () => {
  const service = forService(await stack.connect());
  const witness = await Witness.of(await stack.connect(), "me");
  const me = forUser(await stack.connect({}, proxy.port), "me", { spreadMs: 100 });
  const connection = await me.connect();
  const ids = Array.from({ length: 20 }, (_, n) => `u${n}`);
  const watch = me.watch(ids);
  await watch.live;
  const states = new Set<string>();
  watch.subscribe(() => states.add(watch.status));
  let highest = new Map<string, number>();
  watch.subscribe((changed) => {
    for (const id of changed) {
      const version = watch.get(id)?.version ?? 0;
      assert.ok(version >= (highest.get(id) ?? 0), "a version went back");
      highest = highest.set(id, version);
    }
  });
  for (let n = 0; n < 60; n++) {
    await service.upsertUsers([{ id: ids[n % 20] ?? "", status: `s${n}` }]);
    if (n % 12 === 5) proxy.cut();
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
  await until(() => watch.status === "live" && watch.get("u19")?.status === "s59");
  const { items } = await service.queryUsers({ filter: { id: { $in: ids } }, limit: 100 });
  for (const user of items) assert.deepEqual(watch.get(user.id), user);
  assert.ok(states.has("stale"));
  await until(() => connection.state.status === "online");
  assert.deepEqual(witness.online, [true]);
  await connection.close();
});

test("a black-holed link is noticed, left, and nothing is missed", async () => {
  const service = forService(await stack.connect());
  const nc = await stack.connect({ timeout: 1000 }, proxy.port);
  const me = forUser(nc, "me", { spreadMs: 100 });
  const connection = await me.connect();
  const watch = me.watch(["jack"]);
  await watch.live;
  const began = performance.now();
  proxy.blackHole();
  await until(() => watch.status === "stale", 7000);
  assert.ok(performance.now() - began < 500 + 2 * 2500 + 700, "two probes of 2.5 s after a beat");
  assert.equal(connection.state.status, "interrupted");
  await service.upsertUsers([{ id: "jack", status: "while you were away" }]);
  proxy.heal();
  await until(() => watch.get("jack")?.status === "while you were away", 5000);
  await until(() => connection.state.status === "online");
  await connection.close();
});

test("changes made while the link is down ride in the next connect", async () => {
  const witness = await Witness.of(await stack.connect(), "me");
  const me = forUser(await stack.connect({}, proxy.port), "me", { spreadMs: 10 });
  const connection = await me.connect();
  const { id } = connection;
  proxy.refuse();
  await until(() => connection.state.status === "interrupted");
  const both = Promise.all([
    connection.update({ status: "a" }),
    connection.update({ status: "b" }),
  ]);
  proxy.heal();
  assert.deepEqual(
    (await both).map(({ status }) => status),
    ["b", "b"],
  );
  assert.equal(connection.id, id);
  await until(() => witness.events.length === 2);
  assert.deepEqual(
    witness.events.map(({ status }) => status),
    [null, "b"],
  );
  await connection.close();
});

test("the only daemon is killed: no flicker, and its successor knows the connection", async () => {
  const witness = await Witness.of(await stack.connect(), "me");
  const me = forUser(await stack.connect(), "me");
  const connection = await me.connect();
  const [daemon] = stack.daemons;
  if (daemon) await kill(daemon);
  const error = await until(() => connection.state.error, 5000);
  assert.equal(error.kind, "no_daemon");
  await stack.startDaemon();
  await until(() => connection.state.status === "online" && !connection.state.error);
  assert.deepEqual(witness.online, [true]);
  assert.equal((await connection.update({ status: "back" })).status, "back");
  await connection.close();
});

test("NATS restarts: the picture is stale, and then live again", async () => {
  const me = forUser(await stack.connect(), "me", { spreadMs: 10 });
  const connection = await me.connect();
  const watch = me.watch(["me"]);
  await watch.live;
  if (stack.server) await kill(stack.server);
  await until(() => watch.status === "stale" && connection.state.status === "interrupted");
  assert.equal(watch.get("me")?.online, true, "the old picture stays");
  await stack.startServer();
  await until(() => watch.status === "live" && connection.state.status === "online", 20_000);
  await connection.close();
});

test("a user that was deleted is made again as it was: the beat comes back unknown", async () => {
  const service = forService(await stack.connect());
  const me = forUser(await stack.connect(), "me");
  const connection = await me.connect();
  const { id } = connection;
  const regained: unknown[] = [];
  connection.subscribe(() => regained.push(connection.state.regained));
  await service.deleteUsers({ ids: ["me"] });
  await until(() => regained.includes("recreated"));
  assert.equal(connection.id, id);
  await connection.close();
});

test("a message that is no event is dropped and counted", async () => {
  const nc = await stack.connect();
  const me = forUser(await stack.connect(), "me");
  await forService(nc).upsertUsers([{ id: "jack", status: "true" }]);
  const watch = me.watch(["jack"]);
  await watch.live;
  const user = { ...watch.get("jack"), status: "forged", version: 9e15 };
  nc.publish("user.presence.changed.jack", JSON.stringify({ users: [user] }));
  nc.publish("user.presence.changed.jack", "not JSON");
  const event = { type: "user.presence.changed", user: { ...user, id: "john" } };
  nc.publish("user.presence.changed.jack", JSON.stringify(event));
  await until(() => me.counters.foreign === 3);
  assert.equal(watch.get("jack")?.status, "true");
});

test("closing leaves the app's connection open, and no request behind", async () => {
  const nc = await stack.connect();
  const me = forUser(nc, "me");
  const connection = await me.connect();
  const watch = me.watch(["jack"]);
  await watch.live;
  await connection.close();
  me.close();
  assert.equal(watch.status, "closed");
  assert.equal(nc.isClosed(), false);
  await assert.rejects(me.queryUsers(), { kind: "closed" });
});

test("the audit finds a missed event and degrades the watch until a round finds none", async () => {
  const elsewhere = await Stack.start({ settings: `${FAST}\n[subjects]\nevents = "elsewhere"\n` });
  try {
    const service = forService(await elsewhere.connect(), { auditMs: 200, spreadMs: 50 });
    await service.upsertUsers([{ id: "jack", status: "one" }]);
    const watch = service.watch(["jack"]);
    await watch.live;
    assert.equal(watch.getSnapshot().degraded, undefined);
    await service.upsertUsers([{ id: "jack", status: "two" }]);
    await until(() => watch.getSnapshot().degraded !== undefined);
    assert.match(watch.getSnapshot().degraded ?? "", /permission/);
    await until(() => watch.status === "live" && watch.get("jack")?.status === "two");
    assert.equal(service.counters.missed, 1);
    await until(() => watch.getSnapshot().degraded === undefined);
    service.close();
  } finally {
    await elsewhere.stop();
  }
});

test("a member behind those that are shown is unknown until an event", async () => {
  const service = forService(await stack.connect());
  const members = Array.from({ length: 120 }, (_, n) => `u${String(n).padStart(3, "0")}`);
  const channel = { type: "messaging", id: "big" };
  await service.upsertChannel({ ...channel, members: members.slice(0, 100) });
  await service.upsertChannel({ ...channel, add_members: members.slice(100) });
  const me = forUser(await stack.connect(), "u000");
  const watch = me.watchChannel({ ...channel, users: ["u110", "u050"] });
  await watch.live;
  assert.equal(watch.get("u050"), null);
  assert.equal(watch.get("u110"), undefined);
  await service.upsertUsers([{ id: "u110", status: "here" }]);
  await until(() => watch.get("u110")?.status === "here");
  watch.close();
});

test("answers that would be too large are asked for in parts", async () => {
  const small = await Stack.start({ nats: "max_payload: 8192" });
  try {
    const service = forService(await small.connect());
    const members = Array.from({ length: 40 }, (_, n) => `u${String(n).padStart(2, "0")}`);
    await service.upsertChannel({ type: "messaging", id: "large", members });
    for (const id of members) await service.upsertUsers([{ id, about: "x".repeat(400) }]);
    const me = forUser(await small.connect(), "u00");
    const watches = [
      me.watch(members),
      service.watchAll(),
      me.watchChannel({ type: "messaging", id: "large" }),
      me.watchChannels({ filter: { id: "large" } }),
    ];
    for (const watch of watches) {
      await watch.live;
      assert.equal(watch.get("u00")?.id, "u00");
    }
    assert.equal(watches[0]?.getSnapshot().users.size, 40);
    assert.equal(watches[1]?.getSnapshot().users.size, 40);
  } finally {
    await small.stop();
  }
});

test("an invisible user whose record is deleted stays invisible through a change", async () => {
  const service = forService(await stack.connect());
  const witness = await Witness.of(await stack.connect(), "me");
  const me = forUser(await stack.connect(), "me");
  const lease = service.lease("gw");
  const seat = await lease.connect("sitter", { invisible: true });
  const connection = await me.connect({ invisible: true });
  await service.deleteUsers({ ids: ["me", "sitter"] });
  const now = await connection.update({ mood: "quiet" });
  assert.equal(now?.invisible, true);
  assert.equal(connection.state.regained, "recreated");
  await seat.update({ mood: "quiet" });
  const { items } = await service.queryUsers({ filter: { id: { $in: ["me", "sitter"] } } });
  assert.deepEqual(
    items.map((user) => [user.id, user.online, user["mood"]]),
    [
      ["me", false, "quiet"],
      ["sitter", false, "quiet"],
    ],
  );
  assert.ok(!witness.online.includes(true));
  await connection.close();
});
