/** The app's own server: static files, settings, and the session tokens of people. */

import { once } from "node:events";
import { readFile } from "node:fs/promises";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import { createServer } from "node:http";
import { extname } from "node:path";
import type { KeyPair } from "@nats-io/nkeys";

const FILES = new URL("../site/", import.meta.url);
const SESSION_S = 15 * 60;
const TYPES: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css",
  ".js": "text/javascript",
  ".map": "application/json",
  ".svg": "image/svg+xml",
};

export interface SiteOptions {
  settings: { url: string; user: string; channel: { type: string; id: string } };
  /** Signs the sessions. */
  app: KeyPair;
  port?: number;
  sessionSeconds?: number;
}

export async function serve(options: SiteOptions): Promise<{ url: string; close(): void }> {
  const server: Server = createServer((request, response) => {
    void answer(options, request, response);
  });
  server.listen(options.port ?? 0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  return {
    url: `http://localhost:${port}/`,
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}

async function answer(
  options: SiteOptions,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { pathname, searchParams } = new URL(request.url ?? "/", "http://localhost");
  const ws = options.settings.url;
  response.setHeader(
    "Content-Security-Policy",
    `default-src 'self'; connect-src 'self' ${ws}; worker-src blob:; ` +
      "style-src 'self' 'unsafe-inline'",
  );
  response.setHeader("Cache-Control", "no-cache");
  if (pathname === "/settings.json") {
    response.setHeader("Content-Type", "application/json").end(JSON.stringify(options.settings));
  } else if (pathname === "/token") {
    // An app takes the user from its own login; here everybody may be anybody.
    response
      .setHeader("Content-Type", "text/plain")
      .end(sessionOf(options, searchParams.get("user") ?? ""));
  } else {
    await file(pathname === "/" ? "/index.html" : pathname, response);
  }
}

async function file(pathname: string, response: ServerResponse): Promise<void> {
  const type = TYPES[extname(pathname)];
  // A parsed path has no ".." left: it stays inside the folder.
  const url = new URL(`.${pathname}`, FILES);
  const contents =
    type && url.href.startsWith(FILES.href)
      ? await readFile(url).catch(() => undefined)
      : undefined;
  if (!type || !contents) response.writeHead(404).end();
  else response.setHeader("Content-Type", type).end(contents);
}

/** A session token as the login expects it (docs/security.md). */
function sessionOf(
  { app, settings, sessionSeconds = SESSION_S }: SiteOptions,
  user: string,
): string {
  const { type, id } = settings.channel;
  const claims = {
    sub: user,
    exp: Math.floor(Date.now() / 1000) + sessionSeconds,
    sees_all: true,
    counts: [`${type}:${id}`],
  };
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${part({ typ: "JWT", alg: "ed25519-nkey" })}.${part(claims)}`;
  const signature = Buffer.from(app.sign(Buffer.from(signed))).toString("base64url");
  return `${signed}.${signature}`;
}
