/** NATS, daemons and the login, on free ports, with keys and a store that live as long as they. */

import type { ChildProcess } from "node:child_process";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { KeyPair } from "@nats-io/nkeys";
import { createAccount, createUser } from "@nats-io/nkeys";

const CONFIG = new URL("../../../../config/nats-server.conf", import.meta.url);
const STOP_MS = 5000;

const settings = (seed: string) => `
[nats]
nkey = "${seed}"
inbox_prefix = "_INBOX_presenced"
[users]
announced_fields = ["name", "title"]
[channel_types.team]
occupancy_interval = "500ms"
`;

export class Servers {
  readonly dir = mkdtempSync(join(tmpdir(), "presence-demo-"));
  /** The app's key: it signs the sessions of people. */
  readonly app = createAccount();
  readonly service = createUser();
  port = 0;
  wsPort = 0;
  readonly #children: ChildProcess[] = [];

  static async start(): Promise<Servers> {
    const servers = new Servers();
    try {
      await servers.#start();
    } catch (error) {
      await servers.stop();
      throw error;
    }
    return servers;
  }

  /** The last that was started is stopped first. */
  async stop(): Promise<void> {
    for (const child of this.#children.reverse()) await end(child);
    rmSync(this.dir, { recursive: true, force: true });
  }

  async #start(): Promise<void> {
    const keys = { daemon: createUser(), login: createUser(), issuer: createAccount() };
    this.port = await freePort();
    this.wsPort = await freePort();
    const config = readFileSync(CONFIG, "utf8");
    const nats = this.#file("nats.conf", this.#configOf(config, keys));
    await this.#run(process.env["NATS_SERVER"] ?? "nats-server", ["-c", nats], "Server is ready");

    const daemon = this.#file("presenced.toml", settings(seedOf(keys.daemon)));
    for (let n = 0; n < 2; n++) {
      const env = { PRESENCED_NATS__URL: `nats://127.0.0.1:${this.port}` };
      await this.#run(
        process.env["PRESENCED"] ?? "presenced",
        ["run", "--config", daemon],
        "ready",
        env,
      );
    }

    const args = [
      "serve",
      "--url",
      `nats://127.0.0.1:${this.port}`,
      "--app-key",
      this.app.getPublicKey(),
    ];
    args.push("--nkey", this.#file("login.nk", seedOf(keys.login)));
    args.push("--issuer", this.#file("issuer.nk", seedOf(keys.issuer)));
    await this.#run(process.env["PRESENCE_LOGIN"] ?? "presence-login", args, "ready");
  }

  /** The shipped configuration with the login turned on, and other keys and addresses. */
  #configOf(config: string, keys: Record<"daemon" | "login" | "issuer", KeyPair>): string {
    const [head = "", rest = ""] = config.split("#authorization {");
    const end = rest.indexOf("\n#}\n") + 3;
    const login = `authorization {${rest.slice(0, end)}`.replaceAll("\n#", "\n");
    return (head + login + rest.slice(end))
      .replace('listen: "127.0.0.1:4222"', `listen: "127.0.0.1:${this.port}"`)
      .replace('listen: "127.0.0.1:8080"', `listen: "127.0.0.1:${this.wsPort}"`)
      .replace("/var/lib/nats", join(this.dir, "store"))
      .replace(/issuer: "A\w+"/, `issuer: "${keys.issuer.getPublicKey()}"`)
      .replace(/^DAEMON_KEY = .*$/m, `DAEMON_KEY = "${keys.daemon.getPublicKey()}"`)
      .replace(/^LOGIN_KEY = .*$/m, `LOGIN_KEY = "${keys.login.getPublicKey()}"`)
      .replace(/^SERVICE_KEY = .*$/m, `SERVICE_KEY = "${this.service.getPublicKey()}"`);
  }

  #file(name: string, text: string): string {
    const path = join(this.dir, name);
    writeFileSync(path, text, { mode: 0o600 });
    return path;
  }

  /** Starts a program, and waits for a line of its log. */
  async #run(
    program: string,
    args: string[],
    ready: string,
    env: Record<string, string> = {},
  ): Promise<void> {
    // A group of its own: Ctrl-C reaches this process alone, which stops the others in order.
    const child = spawn(program, args, {
      stdio: ["ignore", "ignore", "pipe"],
      env: { ...process.env, ...env },
      detached: true,
    });
    this.#children.push(child);
    let log = "";
    await new Promise<void>((resolve, reject) => {
      child.stderr.on("data", (data: Buffer) => {
        log = (log + data.toString()).slice(-10_000);
        if (log.includes(ready)) resolve();
      });
      child.once("error", reject);
      child.once("exit", (code) => reject(new Error(`${program} ended with ${code}:\n${log}`)));
    });
  }
}

function seedOf(key: KeyPair): string {
  return new TextDecoder().decode(key.getSeed());
}

async function end(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, "exit");
  child.kill("SIGINT");
  const late = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
  await exited;
  clearTimeout(late);
}

async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}
