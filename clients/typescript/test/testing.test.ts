/** The fake for apps' own tests behaves as a presence does. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { fakePresence } from "../src/testing/index.js";
import { until } from "./support/stack.js";

test("a fake presence shows, changes, goes stale, comes back, and denies", async () => {
  const fake = fakePresence<{ name: string }>({ john: { online: true, name: "John" }, jack: {} });
  const watch = fake.watch(["john", "jack", "nobody"]);
  await watch.live;
  assert.deepEqual(
    [watch.get("john")?.online, watch.get("jack")?.online, watch.get("nobody")],
    [true, false, null],
  );
  fake.set("jack", { online: true, status: "hi" });
  assert.deepEqual([watch.get("jack")?.status, watch.get("jack")?.availability], ["hi", "active"]);
  fake.goStale();
  assert.equal(watch.status, "stale");
  fake.goLive();
  await until(() => watch.status === "live");
  fake.deny("john");
  assert.equal(watch.get("john"), undefined);
  assert.equal(watch.getSnapshot().denied.get("john")?.kind, "permission");
  const channel = fake.watchChannel({
    type: "messaging",
    id: "1",
    data: { members: ["me", "jack"] },
  });
  await channel.live;
  assert.deepEqual(channel.watched, ["me", "jack"]);
  await until(() => fake.connection.getSnapshot().status === "online");
  assert.equal((await fake.connection.update({ status: "busy" })).status, "busy");
  fake.close();
  assert.equal(watch.status, "closed");
});
