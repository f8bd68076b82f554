/** What a door knows of a user makes it again as it was, whichever of the door set or learnt it. */

import assert from "node:assert/strict";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { ServiceDoor, UserDoor } from "../src/index.js";
import { forService, forUser } from "../src/index.js";
import { Stack, kill, until } from "./support/stack.js";
import { Witness } from "./support/witness.js";

let stack: Stack;
before(async () => {
  stack = await Stack.start();
});
after(() => stack.stop());

type Hide = (user: string, me: UserDoor, service: ServiceDoor) => Promise<void>;

const WAYS: Record<string, Hide> = {
  "by the door": async (_, me) => {
    const connection = await me.connect({ status: "a" });
    await me.update({ invisible: true });
    assert.equal(connection.me?.invisible, true);
  },
  "by another connection": async (_, me) => {
    const [first, second] = [await me.connect(), await me.connect()];
    await second.update({ invisible: true });
    assert.equal(first.me?.invisible, true);
  },
  "by another seat": async (user, _, service) => {
    const lease = service.lease("gw");
    await lease.connect(user);
    await (await lease.connect(user)).update({ invisible: true });
  },
  "by a seat of another lease": async (user, _, service) => {
    await service.lease("gw").connect(user);
    await (await service.lease("gw").connect(user)).update({ invisible: true });
  },
  "by the service": async (user, _, service) => {
    await service.lease("gw").connect(user);
    await service.upsertUsers([{ id: "other" }, { id: user, invisible: true }]);
  },
  "before the seat": async (user, me, service) => {
    await me.update({ invisible: true });
    await service.lease("gw").connect(user);
  },
};

for (const [how, hide] of Object.entries(WAYS)) {
  test(`who is hidden ${how} stays so over a deletion`, async () => {
    const user = how.replaceAll(" ", "-");
    const service = forService(await stack.connect());
    await hide(user, forUser(await stack.connect(), user), service);
    const other = forService(await stack.connect());
    const connections = async () =>
      ((await other.explain(user).catch(() => ({}))) as { connections?: unknown[] }).connections
        ?.length;
    const number = await connections();
    assert.ok(number);
    const witness = await Witness.of(await stack.connect(), user);
    await other.deleteUsers({ ids: [user] });
    await until(async () => (await connections()) === number);
    const { items } = await other.queryUsers({ filter: { id: user } });
    assert.deepEqual(
      items.map(({ online }) => online),
      [false],
    );
    assert.ok(!witness.online.includes(true));
  });
}

test("a door forgets a user with the last seat", async () => {
  const service = forService(await stack.connect());
  const lease = service.lease("gw");
  const [first, second] = [
    await lease.connect("guest", { status: "known" }),
    await lease.connect("guest"),
  ];
  const statusOfNext = async () => {
    await service.deleteUsers({ ids: ["guest"] });
    const seat = await lease.connect("guest");
    const { items } = await service.queryUsers({ filter: { id: "guest" } });
    await seat.close();
    return items[0]?.status;
  };
  await first.close();
  assert.equal(await statusOfNext(), "known");
  await second.close();
  assert.equal(await statusOfNext(), null);
  await lease.close();
});

test("the newest of a door survives the loss of the store", async () => {
  const lost = await Stack.start();
  try {
    const sam = forUser(await lost.connect(), "sam", { spreadMs: 10 });
    const end = new Date(Date.now() + 3_600_000).toISOString();
    const first = await sam.connect({ status: "old", status_expires_at: end });
    const second = await sam.connect();
    await second.update({ status: "new", availability: "busy" });
    await sam.update({ status: "newest" });
    assert.equal(first.me?.status, "newest");
    const service = forService(await lost.connect(), { spreadMs: 10 });
    await service.lease("gw").connect("jill", { status: "old", availability: "busy" });
    await service.upsertUsers([{ id: "jill", status: "newest", availability: "auto" }]);
    if (lost.server) await kill(lost.server);
    await rm(join(lost.dir, "store"), { recursive: true });
    await lost.startServer();
    const users = async () =>
      (await service.queryUsers({ filter: { id: { $in: ["jill", "sam"] } } })).items;
    await until(async () => (await users()).filter(({ online }) => online).length === 2, 30_000);
    assert.deepEqual(
      (await users()).map((user) => [user.status, user.status_expires_at, user.availability]),
      [
        ["newest", undefined, "active"],
        ["newest", undefined, "busy"],
      ],
    );
  } finally {
    await lost.stop();
  }
});
