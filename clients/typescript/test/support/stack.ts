/** A real nats-server and real daemons on free ports, with stores of their own. */

import type { ChildProcess } from "node:child_process";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ConnectionOptions, NatsConnection } from "@nats-io/nats-core";
import { connect } from "@nats-io/transport-node";

export interface StackOptions {
  /** Sections of the daemon's settings. */
  settings?: string;
  /** Lines of the server's configuration, such as users and permissions. */
  nats?: string;
  /** A whole configuration in place of ours; addresses and the store are put in. */
  config?: string;
  daemons?: number;
  /** How daemons log in. */
  daemonUrl?: (port: number) => string;
}

export const FAST = `
[liveness]
heartbeat_interval = "500ms"
lease = "2s"
offline_grace = "700ms"
`;

export class Stack {
  readonly dir: string;
  readonly port: number;
  readonly wsPort: number;
  readonly daemons: ChildProcess[] = [];
  server: ChildProcess | undefined;
  readonly #options: StackOptions;
  readonly #connections: NatsConnection[] = [];

  private constructor(dir: string, port: number, wsPort: number, options: StackOptions) {
    this.dir = dir;
    this.port = port;
    this.wsPort = wsPort;
    this.#options = options;
  }

  static async start(options: StackOptions = {}): Promise<Stack> {
    const dir = await mkdtemp(join(tmpdir(), "presence-web-"));
    const stack = new Stack(dir, await freePort(), await freePort(), options);
    await stack.startServer();
    for (let n = 0; n < (options.daemons ?? 1); n++) await stack.startDaemon();
    return stack;
  }

  async startServer(): Promise<void> {
    const config = await this.#configure(this.#options.nats);
    const server = spawn(process.env["NATS_SERVER"] ?? "nats-server", ["-c", config], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    this.server = server;
    await lineOf(server, "Server is ready");
  }

  /** Has the server read its configuration again, with other lines of ours. */
  async reload(nats: string): Promise<void> {
    await this.#configure(nats);
    if (!this.server) throw new Error("the server is not running");
    const done = lineOf(this.server, "Reloaded server configuration");
    this.server.kill("SIGHUP");
    await done;
  }

  async #configure(nats = ""): Promise<string> {
    const config = join(this.dir, "nats.conf");
    const whole = this.#options.config
      ?.replace('listen: "127.0.0.1:4222"', `listen: "127.0.0.1:${this.port}"`)
      .replace('listen: "127.0.0.1:8080"', `listen: "127.0.0.1:${this.wsPort}"`)
      .replace("/var/lib/nats", join(this.dir, "store"));
    await writeFile(
      config,
      whole ??
        `listen: "127.0.0.1:${this.port}"
       websocket { listen: "127.0.0.1:${this.wsPort}", no_tls: true }
       jetstream { store_dir: "${join(this.dir, "store")}" }
       ${nats}`,
    );
    return config;
  }

  async startDaemon(): Promise<ChildProcess> {
    const settings = join(this.dir, "presenced.toml");
    await writeFile(settings, this.#options.settings ?? FAST);
    const url = this.#options.daemonUrl?.(this.port) ?? `nats://127.0.0.1:${this.port}`;
    const daemon = spawn(process.env["PRESENCED"] ?? "presenced", ["run", "--config", settings], {
      stdio: ["ignore", "ignore", "pipe"],
      env: { ...process.env, PRESENCED_NATS__URL: url },
    });
    this.daemons.push(daemon);
    await lineOf(daemon, "ready");
    return daemon;
  }

  /** A connection over TCP, closed with the stack. */
  async connect(options: ConnectionOptions = {}, port = this.port): Promise<NatsConnection> {
    const nc = await connect({
      servers: `127.0.0.1:${port}`,
      maxReconnectAttempts: -1,
      reconnectTimeWait: 100,
      ...options,
    });
    this.#connections.push(nc);
    return nc;
  }

  async stop(): Promise<void> {
    await Promise.all(this.#connections.map((nc) => nc.close()));
    for (const child of [...this.daemons, this.server]) if (child) await kill(child);
    await rm(this.dir, { recursive: true, force: true });
  }
}

export async function kill(child: ChildProcess, signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, "exit");
  child.kill(signal);
  await gone;
}

export async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}

function lineOf(child: ChildProcess, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    let log = "";
    child.stderr?.on("data", (data: Buffer) => {
      log = (log + data.toString()).slice(-20_000);
      if (log.includes(text)) resolve();
    });
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`ended with ${code}:\n${log}`)));
  });
}

/** Waits until the condition holds; fails with what it saw last. */
export async function until<T>(
  look: () => T | Promise<T>,
  timeoutMs = 10_000,
  what = "the condition",
): Promise<NonNullable<T>> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const seen = await look();
    if (seen) return seen;
    if (performance.now() > end)
      throw new Error(`${what} did not come within ${timeoutMs} ms: ${String(look)}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
