/** Of oneself a watch shows the own view: others see less, and their events are no picture of it. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Watch } from "../src/index.js";
import { forService, forUser } from "../src/index.js";
import { FAST, Stack, until } from "./support/stack.js";

const NATS = `
authorization { users: [
  { user: "all", password: "x" }
  { user: "john", password: "x", permissions: {
    publish: { deny: ["presence.v1.query_users.john"] } } }
] }`;

let stack: Stack;
before(async () => {
  const daemonUrl = (port: number) => `nats://all:x@127.0.0.1:${port}`;
  stack = await Stack.start({ nats: NATS, daemonUrl, settings: FAST });
});
after(() => stack.stop());

async function door(user: string, login = "all") {
  return forUser(await stack.connect({ user: login, pass: "x" }), user, { spreadMs: 10 });
}

/** What a watch ever showed of `online`. */
function seenOnline(watch: Watch, id: string): Set<boolean | undefined> {
  const seen = new Set<boolean | undefined>();
  watch.subscribe(() => seen.add(watch.get(id)?.online));
  return seen;
}

test("who is hidden by another device stays online to itself", async () => {
  const [me, elsewhere] = [await door("jane"), await door("jane")];
  const connection = await me.connect();
  const watch = me.watch(["jane"]);
  await watch.live;
  const seen = seenOnline(watch, "jane");
  await elsewhere.update({ invisible: true });
  await until(() => watch.get("jane")?.["invisible"]);
  assert.equal(connection.me?.invisible, true);
  await elsewhere.update({ status: "hidden" });
  await until(() => watch.get("jane")?.status === "hidden");
  assert.deepEqual([...seen], [true]);
  assert.equal(me.counters.missed, 0);
  await connection.close();
});

test("an answer with the own view is shown at once", async () => {
  const me = await door("jim");
  const connection = await me.connect();
  const watch = me.watch(["jim"]);
  assert.equal(watch.get("jim")?.online, true);
  await watch.live;
  await connection.update({ invisible: true });
  assert.deepEqual(
    [watch.get("jim")?.["invisible"], watch.get("jim")?.online],
    [true, true],
  );
  await me.update({ hide_last_active: true });
  assert.equal(watch.get("jim")?.["hide_last_active"], true);
  await connection.close();
});

test("what no event tells of a hidden user is asked for", async () => {
  const [me, elsewhere] = [await door("joe"), await door("joe")];
  const connection = await elsewhere.connect({ invisible: true });
  const watch = me.watch(["joe"]);
  await watch.live;
  assert.equal(watch.get("joe")?.online, true);
  await connection.close();
  await until(() => watch.get("joe")?.online === false, 15_000);
  watch.close();
});

test("without query_users the own view of answers stays shown", async () => {
  const [me, elsewhere] = [await door("john", "john"), await door("john")];
  const connection = await me.connect({ invisible: true });
  const watch = me.watch(["john"]);
  await watch.live;
  const seen = seenOnline(watch, "john");
  await elsewhere.update({ status: "from elsewhere" });
  await connection.update({ mood: "own" });
  await until(() => watch.get("john")?.["mood"] === "own");
  assert.equal(watch.get("john")?.status, "from elsewhere");
  assert.deepEqual([...seen], [true]);
  assert.equal(watch.status, "live");
  await connection.close();
});

test("without query_users a channel is asked for the own view", async () => {
  const service = forService(await stack.connect({ user: "all", pass: "x" }));
  const channel = { type: "messaging", id: "own" };
  await service.upsertChannel({ ...channel, members: ["john"] });
  const [me, elsewhere] = [await door("john", "john"), await door("john")];
  const connection = await elsewhere.connect({ invisible: false });
  const watch = me.watchChannel(channel);
  await watch.live;
  const seen = seenOnline(watch, "john");
  await elsewhere.update({ invisible: true });
  await until(() => watch.get("john")?.["invisible"]);
  assert.deepEqual([...seen], [true]);
  assert.equal(watch.status, "live");
  watch.close();
  await connection.close();
});
