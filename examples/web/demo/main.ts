/**
 * The page with people in it: NATS, two daemons, the login, the site, and a dozen lively users.
 *   PORT           of the page; a free one by default
 *   DEMO=quiet     people who come, and then do nothing
 */

import { nkeyAuthenticator } from "@nats-io/nats-core";
import { connect } from "@nats-io/transport-node";
import { forService } from "@presenced/client";
import type { Profile } from "./people.js";
import { VIEWER, bringPeople } from "./people.js";
import { Servers } from "./servers.js";
import { serve } from "./site.js";

const CHANNEL = { type: "team", id: "general" };

const servers = await Servers.start();
const stopped = new Promise<void>((resolve) => {
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => resolve());
  // The end of a test that started it.
  process.once("disconnect", () => resolve());
});
try {
  const nc = await connect({
    servers: `127.0.0.1:${servers.port}`,
    authenticator: nkeyAuthenticator(servers.service.getSeed()),
    inboxPrefix: "_INBOX_service",
    maxReconnectAttempts: -1,
  });
  const leave = await bringPeople(
    forService<Profile>(nc),
    CHANNEL,
    process.env["DEMO"] !== "quiet",
  );
  const site = await serve({
    settings: { url: `ws://127.0.0.1:${servers.wsPort}`, user: VIEWER.id, channel: CHANNEL },
    app: servers.app,
    port: Number(process.env["PORT"] ?? 0),
  });
  console.log(`Who is here:  ${site.url}
As another:   ${site.url}?user=ada
Ctrl-C ends it.`);
  await stopped;
  site.close();
  leave();
  await nc.close();
} finally {
  await servers.stop();
  if (process.connected) process.disconnect();
}
