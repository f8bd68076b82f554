/**
 * A gateway's lease: seats by batches, one heartbeat, and what is done when the daemons disagree.
 */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Seat } from "../src/index.js";
import { forService } from "../src/index.js";
import { Stack, kill, until } from "./support/stack.js";
import { Witness } from "./support/witness.js";

let stack: Stack;
before(async () => void (stack = await Stack.start()));
after(() => stack.stop());

test("five hundred seats are one lease, and its end is the end of all", async () => {
  const service = forService(await stack.connect());
  const lease = service.lease("gw");
  const users = Array.from({ length: 500 }, (_, n) => `s${n}`);
  const seats: Seat[] = await Promise.all(users.map((user) => lease.connect(user)));
  assert.equal(lease.held, 500);
  const online = async () => {
    let count = 0;
    for await (const user of service.users({ online: true })) if (user.id.startsWith("s")) count++;
    return count;
  };
  await until(async () => (await online()) === 500);
  await seats[0]?.update({ status: "moved" });
  await seats[1]?.close();
  assert.equal(lease.held, 499);
  await until(async () => (await online()) === 499);
  await lease.close();
  await until(async () => (await online()) === 0);
});

test("an error of one seat is that seat's", async () => {
  const lease = forService(await stack.connect()).lease("gw");
  const results = await Promise.allSettled([
    lease.connect("fine"),
    lease.connect("loud", { status: "x".repeat(2000) }),
  ]);
  assert.equal(results[0]?.status, "fulfilled");
  assert.equal(
    results[1]?.status === "rejected" && (results[1].reason as Error).name,
    "PresenceError",
  );
  assert.equal(lease.held, 1);
  await lease.close();
});

test("a lease that the daemons lost is made again by a new name, and its users stay", async () => {
  const nc = await stack.connect();
  const witness = await Witness.of(await stack.connect(), "staying");
  const lease = forService(nc).lease("gw");
  await lease.connect("staying");
  const { name } = lease;
  nc.publish("presence.v1.disconnect", JSON.stringify({ lease: name }));
  await until(() => lease.name !== name && lease.held === 1, 10_000);
  await new Promise((resolve) => setTimeout(resolve, 1500));
  assert.deepEqual(witness.online, [true]);
  await lease.close();
});

test("seats that the daemons lost are connected again after two answers", async () => {
  const nc = await stack.connect();
  const lease = forService(nc).lease("gw");
  const lost = await lease.connect("lost");
  await lease.connect("kept");
  const spy = await stack.connect();
  const again: string[] = [];
  spy.subscribe("presence.v1.batch", { callback: (_error, msg) => void again.push(msg.string()) });
  await spy.flush();
  nc.publish("presence.v1.disconnect", JSON.stringify({ user_id: "lost", connection_id: lost.id }));
  await until(() => again.some((batch) => batch.includes(lost.id)));
  await until(() => lease.held === 2);
  await lease.close();
});

test("a connection that nobody here knows is left behind with the old lease", async () => {
  const nc = await stack.connect();
  const lease = forService(nc).lease("gw");
  await lease.connect("mine");
  const { name } = lease;
  const witness = await Witness.of(await stack.connect(), "stranger");
  const connect = { user: { id: "stranger" }, connection_id: "forged", lease: name };
  await nc.request("presence.v1.connect", JSON.stringify(connect));
  await until(() => lease.name !== name, 10_000);
  await until(() => witness.online.at(-1) === false, 10_000);
  assert.equal(lease.held, 1);
  await lease.close();
});

test("a seat that closes while the daemon dies with its connect is disconnected", async () => {
  const settings = '[liveness]\nlease = "60s"\nheartbeat_interval = "20s"\noffline_grace = "0s"';
  const slow = await Stack.start({ daemons: 0, settings });
  try {
    const nc = await slow.connect();
    const taken: Uint8Array[] = [];
    // In place of a daemon that stores what it takes, and dies before it answers.
    const dying = nc.subscribe("presence.v1.batch", {
      queue: "presenced",
      callback: (_error, msg) => void taken.push(msg.data),
    });
    await nc.flush();
    const lease = forService(await slow.connect()).lease("gw");
    const closing = new AbortController();
    const connecting = lease.connect("brief", {}, { signal: closing.signal });
    await until(() => taken.length > 0);
    closing.abort();
    dying.unsubscribe();
    await slow.startDaemon();
    await nc.request("presence.v1.batch", taken[0], { timeout: 5000 });
    const online = async () => {
      for await (const user of forService(nc).users({ id: "brief" })) return user.online;
      return undefined;
    };
    assert.equal(await online(), true);
    await assert.rejects(connecting, { kind: "closed" });
    await until(async () => (await online()) === false, 15_000);
    await lease.close();
  } finally {
    await slow.stop();
  }
});

test("daemons and NATS are away for longer than a lease: nobody flickers", async () => {
  const nc = await stack.connect();
  const witness = await Witness.of(await stack.connect(), "w3");
  const lease = forService(nc, { spreadMs: 50 }).lease("gw");
  await Promise.all(Array.from({ length: 30 }, (_, n) => lease.connect(`w${n}`)));
  const [daemon] = stack.daemons;
  if (daemon) await kill(daemon);
  if (stack.server) await kill(stack.server);
  await new Promise((resolve) => setTimeout(resolve, 2500));
  await stack.startServer();
  await stack.startDaemon();
  await until(() => lease.held === 30, 15_000);
  assert.deepEqual(witness.online, [true]);
  await lease.close();
});

test("close waits for the batches under way: nobody is seated behind it", async () => {
  const settings = '[liveness]\nlease = "60s"\nheartbeat_interval = "20s"\noffline_grace = "0s"';
  const slow = await Stack.start({ settings });
  try {
    const nc = await slow.connect();
    const taken: string[] = [];
    nc.subscribe("slow.v1.*", {
      callback: (_error, msg) => {
        taken.push(msg.subject);
        void (async () => {
          if (msg.subject.endsWith(".batch")) await new Promise((done) => setTimeout(done, 700));
          const answer = await nc.request(msg.subject.replace("slow", "presence"), msg.data);
          msg.respond(answer.data);
        })();
      },
    });
    await nc.flush();
    const lease = forService(await slow.connect(), { prefix: "slow" }).lease("gw");
    const connecting = lease.connect("late");
    await until(() => taken.length > 0);
    const closing = lease.close();
    assert.equal(lease.close(), closing);
    await assert.rejects(connecting, { kind: "closed" });
    await closing;
    assert.deepEqual(taken, ["slow.v1.batch", "slow.v1.disconnect"]);
    await until(async () => {
      const { items } = await forService(nc).queryUsers({ filter: { id: "late" } });
      return items[0]?.online === false;
    }, 3000);
  } finally {
    await slow.stop();
  }
});
