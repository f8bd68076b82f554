/** Everyone: one wildcard subscription, and the picture page by page. */

import { pause } from "./door.js";
import { isPresenceError, retryDelayMs } from "./errors.js";
import type { Hub } from "./hub.js";
import { json } from "./hub.js";
import { idOf } from "./token.js";
import type { Fields, PublicUser } from "./types.js";
import { Watch } from "./watch.js";

export class EveryoneWatch<F extends object = Fields> extends Watch<F> {
  protected override readonly covering = true;
  readonly #stop: () => void;
  #loading = false;
  #again = false;
  #loaded = false;

  /** @internal */
  constructor(hub: Hub) {
    super(hub);
    const { events, link } = hub.door;
    this.#stop = link.subscribe(
      `${events}.*`,
      (msg) => {
        const id = idOf(msg.subject.slice(events.length + 1));
        if (id === undefined) hub.foreign++;
        else {
          this.include(id, false);
          hub.onEvent(id, json(msg));
        }
      },
      (error) => this.fail(error),
    );
    this.load();
  }

  protected override complete(): boolean {
    return this.#loaded;
  }

  protected override load(): void {
    this.#again = true;
    if (!this.#loading) void this.#run();
  }

  protected override onEnd(): void {
    super.onEnd();
    this.#stop();
  }

  async #run(): Promise<void> {
    this.#loading = true;
    const { link } = this.hub.door;
    for (let failedTries = 0; this.#again && link.up && this.status !== "closed";) {
      this.#again = false;
      try {
        await this.#loadPages();
        this.#loaded = true;
        this.settle();
      } catch (error) {
        if (!isPresenceError(error)) throw error;
        if (!error.retryable) this.fail(error);
        else if (link.up) {
          await pause(retryDelayMs(error, ++failedTries));
          this.#again = true;
        }
      }
    }
    this.#loading = false;
  }

  async #loadPages(): Promise<void> {
    const startedAt = this.hub.mark();
    const seen = new Set<string>();
    for (let last: string | undefined; ;) {
      const askedAt = this.hub.mark();
      const answer = await this.hub.door.onceFitting<{ users: PublicUser[]; more?: boolean }>(
        "query_users",
        "limit",
        { ...(last !== undefined && { filter: { id: { $gt: last } } }), presence: true },
      );
      const users = new Map(answer.users.map((user) => [user.id, user]));
      for (const id of users.keys()) {
        seen.add(id);
        this.include(id, false);
      }
      this.hub.onAnswer(users.keys(), users, askedAt);
      last = answer.users.at(-1)?.id;
      if (last === undefined || answer.more === false) break;
    }
    const absent = [...this.ids].filter((id) => !seen.has(id));
    this.hub.onAnswer(absent, new Map(), startedAt);
  }
}
