/** A connection of one user, kept alive by its own heartbeats. */

import type { Door } from "./door.js";
import { PresenceError, isFinal, isPresenceError } from "./errors.js";
import type { ConnectionSnapshot } from "./session.js";
import { Session } from "./session.js";
import type { Ticker } from "./ticker.js";
import { Beats } from "./ticker.js";
import type { ConnectOptions, Fields, HeartbeatTimes, Me, Patch } from "./types.js";

interface HeartbeatAnswer {
  unknown: unknown[];
  heartbeat?: HeartbeatTimes;
}

export class Connection<F extends object = Fields> implements AsyncDisposable {
  readonly #door: Door;
  readonly #session: Session<F>;
  readonly #beats: Beats;
  #ask = false;

  /** @internal */
  constructor(
    door: Door,
    user: string,
    patch: Patch<F>,
    options: ConnectOptions<F>,
    ticker: Ticker,
  ) {
    this.#door = door;
    this.#beats = new Beats(ticker, (woke) => this.beat(woke));
    this.#session = new Session<F>(
      door,
      user,
      (operation, body) => door.once(operation, body),
      patch,
      options,
    );
    this.#session.onJoined = ({ heartbeat }) => {
      this.#ask = true;
      if (heartbeat) this.#beats.start(heartbeat.interval_ms);
    };
    this.#session.onLeft = () => this.#beats.stop();
    this.#session.kick();
  }

  /** The id of this run. It changes after each disconnect, and never comes back. */
  get id(): string {
    return this.#session.connectionId;
  }

  get state(): ConnectionSnapshot<F> {
    return this.#session.snapshot;
  }

  /** The user as it sees itself: for oneself show this, not the event. */
  get me(): Me<F> | undefined {
    return this.#session.snapshot.me;
  }

  /** The same object until something changes. */
  readonly getSnapshot = (): ConnectionSnapshot<F> => this.#session.snapshot;

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#session.listeners.add(listener);
    return () => this.#session.listeners.delete(listener);
  };

  /** Changes the user. While the link is down the change waits, merged with others. */
  update = async (patch: Patch<F>): Promise<Me<F>> => (await this.#session.update(patch)) as Me<F>;

  /** Whether anybody sits before this connection; `away` shows when all of a user's are idle. */
  setIdle = (idle: boolean): void => this.#session.setIdle(idle);

  setDevice(device: string): void {
    this.#session.setDevice(device);
  }

  /** States from now on: the newest, if the reader is slow. Ends with `closed`. */
  async *states(): AsyncGenerator<ConnectionSnapshot<F>, void> {
    let seen: ConnectionSnapshot<F> | undefined;
    for (;;) {
      const state = this.state;
      if (state !== seen) {
        seen = state;
        yield state;
      } else if (state.status === "closed") return;
      else {
        await new Promise<void>((resolve) => {
          const stop = this.subscribe(() => {
            stop();
            resolve();
          });
        });
      }
    }
  }

  /** Resolves when online; rejects when the daemons refuse. */
  async online(): Promise<this> {
    for await (const { status, error } of this.states()) {
      if (status === "online") return this;
      if (status === "closed")
        throw error ?? new PresenceError("closed", "the connection is closed");
    }
    return this;
  }

  async close(): Promise<void> {
    await this.#session.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Leaves without waiting for an answer, for a page that is being left. */
  leave(): void {
    const spent = this.#session.pause();
    this.#beats.stop();
    if (!spent || !this.#door.link.up) return;
    const { user } = this.#session;
    this.#door.link.publish(this.#door.subject("disconnect"), { user_id: user, ...spent }, true);
  }

  /** Comes back after `leave`, by a new id. */
  resume(): void {
    this.#session.resume();
  }

  /** Ends without a word to the daemons: nobody would hear it. */
  abort(error: PresenceError): void {
    this.#session.abort(error);
  }

  /** One heartbeat; after a wake, or any other doubt, with a question for the answer. */
  beat(doubt = false): void {
    const { link } = this.#door;
    if (!this.#session.joined || !link.up) return;
    void link.check();
    const body = { user_id: this.#session.user, connection_id: this.id };
    if (this.#ask || doubt) void this.#askForAnswer(body);
    else {
      this.#ask = true;
      try {
        link.publish(this.#door.subject("heartbeat"), body);
      } catch {
        // The connection closed in this instant: the link says so itself.
      }
    }
  }

  async #askForAnswer(body: { connection_id: string }): Promise<void> {
    try {
      const answer = await this.#door.once<HeartbeatAnswer>("heartbeat", body);
      this.#ask = false;
      this.#session.report(undefined);
      if (body.connection_id !== this.id) return;
      if (answer.unknown.length) this.#session.onUnknown();
      else if (answer.heartbeat && this.#session.joined)
        this.#beats.start(answer.heartbeat.interval_ms);
    } catch (error) {
      // Asked again with the next beat, unless that is refused for good.
      this.#ask = true;
      if (!isPresenceError(error) || error.kind === "disconnected") return;
      if (isFinal(error)) this.#session.abort(error);
      else this.#session.report(error);
    }
  }
}
