/** A link over the app's own connection, which is followed by its status, and stays open. */

import type { NatsConnection } from "@nats-io/nats-core";
import { PresenceError } from "./errors.js";
import { Link } from "./link.js";

export function borrow(nc: NatsConnection): Link {
  const link = new Link();
  link.attach(nc);
  void follow(link, nc);
  return link;
}

async function follow(link: Link, nc: NatsConnection): Promise<void> {
  for await (const { type } of nc.status()) {
    if (type === "disconnect" || type === "staleConnection") link.detach();
    else if (type === "reconnect") {
      // A repeated status finds the link up already.
      if (!link.up) link.attach(nc);
    } else if (type === "slowConsumer") {
      for (const listener of [...link.listeners]) listener.lossy?.();
    } else if (type === "close") break;
  }
  link.close(
    new PresenceError("closed", "the NATS connection is closed", { cause: await nc.closed() }),
  );
}
