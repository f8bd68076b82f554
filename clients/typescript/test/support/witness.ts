/** A second client that counts the events of one user; one that is repeated counts once. */

import type { NatsConnection } from "@nats-io/nats-core";
import { tokenOf } from "../../src/index.js";

export interface SeenEvent {
  online: boolean;
  status: string | null;
  availability: string;
  version: number;
  at: number;
}

export class Witness {
  readonly events: SeenEvent[] = [];

  static async of(nc: NatsConnection, user: string): Promise<Witness> {
    const witness = new Witness();
    nc.subscribe(`user.presence.changed.${tokenOf(user)}`, {
      callback: (_error, msg) => {
        const { user: seen } = msg.json<{ user: Omit<SeenEvent, "at"> }>();
        // After the end of a daemon its successor may repeat the newest event.
        if (seen.version <= (witness.events.at(-1)?.version ?? -1)) return;
        witness.events.push({ ...seen, at: performance.now() });
      },
    });
    await nc.flush();
    return witness;
  }

  /** The steps of `online`, one for each event. */
  get online(): boolean[] {
    return this.events.map((event) => event.online);
  }
}
