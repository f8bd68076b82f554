/** A TCP proxy whose link can be cut, or swallow everything in silence. */

import { once } from "node:events";
import type { Socket } from "node:net";
import { connect, createServer } from "node:net";

export class Proxy {
  readonly port: number;
  dials = 0;
  #hole = false;
  #refusing = false;
  readonly #sockets = new Set<Socket>();
  readonly #stop: () => void;

  private constructor(port: number, stop: () => void) {
    this.port = port;
    this.#stop = stop;
  }

  static async to(target: number): Promise<Proxy> {
    const server = createServer((client) => proxy.#relay(client, target));
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as { port: number };
    const proxy = new Proxy(port, () => server.close());
    return proxy;
  }

  /** Ends what is connected; new dials get through. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Swallows all bytes of both sides, of connections old and new, and closes nothing. */
  blackHole(): void {
    this.#hole = true;
  }

  refuse(): void {
    this.#refusing = true;
    this.cut();
  }

  /**
   * Lets new connections through; those that were swallowed stay dead, as behind a lost NAT entry.
   */
  heal(): void {
    this.#hole = false;
    this.#refusing = false;
  }

  close(): void {
    this.cut();
    this.#stop();
  }

  #relay(client: Socket, target: number): void {
    this.dials++;
    if (this.#refusing) {
      client.destroy();
      return;
    }
    const server = connect(target, "127.0.0.1");
    let dead = false;
    for (const [from, to] of [
      [client, server],
      [server, client],
    ] as const) {
      this.#sockets.add(from);
      from.on("data", (data) => {
        dead ||= this.#hole;
        if (!dead) to.write(data);
      });
      from.on("error", () => undefined);
      from.on("close", () => {
        this.#sockets.delete(from);
        if (!dead) to.destroy();
      });
    }
  }
}
