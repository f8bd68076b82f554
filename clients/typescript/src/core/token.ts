/** Ids as subject tokens (`docs/protocol.md`, *Basics*). */

import { PresenceError } from "./errors.js";

const encoder = new TextEncoder();

/** Encodes an id as one token: bytes outside `[A-Za-z0-9_-]` become `=XX`. */
export function tokenOf(id: string, field = "id"): string {
  const bytes = encoder.encode(id);
  let token = "";
  for (const byte of bytes) {
    const char = String.fromCharCode(byte);
    token += /[A-Za-z0-9_-]/.test(char)
      ? char
      : "=" + byte.toString(16).toUpperCase().padStart(2, "0");
  }
  // eslint-disable-next-line no-control-regex
  if (bytes.length < 1 || bytes.length > 255 || /[\u0000-\u001f\u007f-\u009f]/.test(id)) {
    throw new PresenceError(
      "refused",
      `${field} has to be 1 to 255 bytes without control characters`,
      {
        code: "invalid_id",
        field,
      },
    );
  }
  return token;
}

/** The id of a token, or `undefined` where the token is not the canonical encoding of an id. */
export function idOf(token: string): string | undefined {
  // eslint-disable-next-line no-control-regex
  if (/[^\u0000-\u007f]/.test(token)) return undefined;
  const bytes: number[] = [];
  for (let at = 0; at < token.length; at++) {
    if (token[at] !== "=") bytes.push(token.charCodeAt(at));
    else {
      bytes.push(parseInt(token.slice(at + 1, at + 3), 16));
      at += 2;
    }
  }
  try {
    const id = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(
      Uint8Array.from(bytes),
    );
    return tokenOf(id) === token ? id : undefined;
  } catch {
    return undefined;
  }
}

/** A connection id or the tail of a lease name: 128 random bits as hex. */
export function randomId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");
}
