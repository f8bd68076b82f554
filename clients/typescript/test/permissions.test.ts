/** Permissions that are missing are named, and the others go on. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { forService, forUser } from "../src/index.js";
import { FAST, Stack, until } from "./support/stack.js";

const NATS = `
authorization { users: [
  { user: "all", password: "x" }
  { user: "john", password: "x", permissions: {
    publish: { allow: ["presence.v1.connect.john", "presence.v1.heartbeat.john",
      "presence.v1.disconnect.john", "presence.v1.watch_channel.john",
      "presence.v1.query_users.john"] }
    subscribe: { allow: ["_INBOX.>", "user.presence.changed.john",
      "user.presence.changed.jack"] } } }
  { user: "narrow", password: "x", permissions: {
    publish: { allow: ["presence.v1.watch_channel.narrow"] }
    subscribe: { allow: ["_INBOX.>", "user.presence.changed.jack"] } } }
] }`;

let stack: Stack;
before(async () => {
  const daemonUrl = (port: number) => `nats://all:x@127.0.0.1:${port}`;
  const settings = `${FAST}[channel_types.counted]\noccupancy_interval = "100ms"\n`;
  stack = await Stack.start({ nats: NATS, daemonUrl, settings });
});
after(() => stack.stop());

test("a refused subscription makes its user unknown, and the rest of the watch live", async () => {
  const service = forService(await stack.connect({ user: "all", pass: "x" }));
  await service.upsertUsers([{ id: "jack" }, { id: "jill" }]);
  const me = forUser(await stack.connect({ user: "john", pass: "x" }), "john");
  const watch = me.watch(["jack", "jill"]);
  await watch.live;
  assert.equal(watch.get("jack")?.online, false);
  assert.equal(watch.get("jill"), undefined);
  const denied = watch.getSnapshot().denied.get("jill");
  assert.deepEqual([denied?.kind, denied?.subject], ["permission", "user.presence.changed.jill"]);
  await service.upsertUsers([{ id: "jack", status: "on" }]);
  await until(() => watch.get("jack")?.status === "on");
});

test("a watch of which all is refused rejects, and names the permission", async () => {
  const nc = await stack.connect({ user: "john", pass: "x" });
  const watch = forUser(nc, "john").watch(["jill"]);
  await assert.rejects(watch.live, { kind: "permission", subject: "user.presence.changed.jill" });
  assert.equal(watch.status, "denied");
});

test("a refused query names the subject at once, and channels work without it", async () => {
  const service = forService(await stack.connect({ user: "all", pass: "x" }));
  await service.upsertChannel({ type: "messaging", id: "c", members: ["jack", "narrow"] });
  const me = forUser(await stack.connect({ user: "narrow", pass: "x" }), "narrow");
  const byId = me.watch(["jack"]);
  await assert.rejects(byId.live, {
    kind: "permission",
    subject: "presence.v1.query_users.narrow",
  });
  const channel = me.watchChannel({ type: "messaging", id: "c" });
  await channel.live;
  assert.equal(channel.get("jack")?.id, "jack");
  assert.ok(channel.getSnapshot().denied.has("narrow"));
  await assert.rejects(me.connect(), { kind: "permission", subject: "presence.v1.connect.narrow" });
});

test("a count that may not be heard is shown as it was answered, and says so", async () => {
  const all = await stack.connect({ user: "all", pass: "x" });
  const ref = { type: "counted", id: "c", onlineCount: true };
  await forService(all).upsertChannel({ type: "counted", id: "c", members: ["jack", "narrow"] });
  const narrow = forUser(await stack.connect({ user: "narrow", pass: "x" }), "narrow").watchChannel(
    ref,
  );
  const hearing = forUser(all, "narrow").watchChannel(ref);
  await Promise.all([narrow.live, hearing.live]);
  await until(() => narrow.countDenied);
  assert.equal(narrow.countDenied?.subject, "channel.presence.changed.counted.c");
  const seat = await forUser(all, "jack").connect();
  await until(() => hearing.channel?.online_count === 1);
  assert.equal(hearing.countDenied, undefined);
  assert.equal(narrow.get("jack")?.online, true);
  await seat.close();
});

test("heartbeats that NATS refuses from now on end a connection, and a lease with its seats", async () => {
  const user = (subjects: string) => `authorization { users: [
    { user: "all", password: "x" }
    { user: "app", password: "x", permissions: { publish: { ${subjects} } } }
  ] }`;
  const daemonUrl = (port: number) => `nats://all:x@127.0.0.1:${port}`;
  const own = await Stack.start({ nats: user('allow: ["presence.>"]'), daemonUrl });
  try {
    const nc = await own.connect({ user: "app", pass: "x" });
    const lease = forService(nc).lease("gw");
    const seat = await lease.connect("sitter");
    const connection = await forUser(nc, "own").connect();
    await own.reload(user('allow: ["presence.>"], deny: ["presence.v1.heartbeat.>"]'));
    await until(() => connection.state.status === "closed");
    const { kind, subject } = connection.state.error ?? {};
    assert.deepEqual([kind, subject], ["permission", "presence.v1.heartbeat.own"]);
    assert.equal(seat.state.status, "online");
    await own.reload(user('allow: ["presence.>"], deny: ["presence.v1.heartbeat"]'));
    await until(() => lease.state.status === "closed");
    const error = await lease.closed();
    assert.deepEqual([error?.kind, error?.subject], ["permission", "presence.v1.heartbeat"]);
    assert.deepEqual(lease.state, { status: "closed", error });
    assert.deepEqual([seat.state.status, seat.state.error], ["closed", error]);
    await assert.rejects(lease.connect("late"), { kind: "closed" });
  } finally {
    await own.stop();
  }
});

test("idleness that may not be told is tried once for each change, and shown as an error", async () => {
  const spy = await stack.connect({ user: "all", pass: "x" });
  const nc = await stack.connect({ user: "john", pass: "x" });
  const refused: string[] = [];
  void (async () => {
    for await (const status of nc.status()) {
      if (status.type === "error") refused.push(status.error.message);
    }
  })();
  const connection = await forUser(nc, "john").connect();
  connection.setIdle(true);
  const error = await until(() => connection.state.error);
  assert.deepEqual(
    [error.kind, error.subject],
    ["permission", "presence.v1.update_connection.john"],
  );
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(refused.length, 1);
  assert.equal(connection.state.status, "online");
  await connection.close();
  await spy.close();
});
