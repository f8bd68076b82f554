/** One error type with a kind for each thing that a caller acts on. */

export type ErrorKind =
  /** The request is wrong or not allowed: a repeat changes nothing. */
  | "refused"
  /** `contended`, `overloaded` or `unavailable` until the deadline. */
  | "busy"
  /** NATS answers, but no daemon serves the subject. */
  | "no_daemon"
  | "no_answer"
  /** NATS refuses a subject. */
  | "permission"
  | "disconnected"
  | "closed"
  /** An answer that is no JSON of the contract. */
  | "malformed"
  /** The login is gone, and a fresh token did not help. */
  | "login";

export interface ErrorInfo {
  code?: string;
  field?: string;
  limit?: number;
  retryAfterMs?: number;
  subject?: string;
  operation?: "publish" | "subscribe";
  details?: Record<string, unknown>;
  cause?: unknown;
  mayHaveApplied?: boolean;
}

/** Copies of this package may be loaded side by side: compare `name`, not `instanceof`. */
export class PresenceError extends Error {
  override readonly name = "PresenceError";
  readonly kind: ErrorKind;
  declare readonly code?: string;
  declare readonly field?: string;
  declare readonly limit?: number;
  declare readonly retryAfterMs?: number;
  /** The subject that NATS refused, or on which nothing answered. */
  declare readonly subject?: string;
  declare readonly operation?: "publish" | "subscribe";
  declare readonly details: Record<string, unknown>;
  /** Whether the request, or an earlier try of it, may have taken effect although it failed. */
  declare readonly mayHaveApplied: boolean;

  constructor(kind: ErrorKind, message: string, { cause, ...info }: ErrorInfo = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.kind = kind;
    Object.assign(this, { details: {}, mayHaveApplied: DOUBTFUL.includes(kind), ...info });
  }

  /** Whether a later repeat of the same request can succeed. */
  get retryable(): boolean {
    return RETRYABLE.includes(this.kind);
  }
}

const RETRYABLE: ErrorKind[] = ["busy", "no_daemon", "no_answer", "disconnected"];
const DOUBTFUL: ErrorKind[] = ["busy", "no_answer", "disconnected", "malformed"];

export function isPresenceError(error: unknown): error is PresenceError {
  return error instanceof Error && error.name === "PresenceError";
}

/** Whether what failed thus is refused for good, such as heartbeats without their permission. */
export function isFinal(error: PresenceError): boolean {
  return !error.retryable && !error.mayHaveApplied;
}

/** Whether the answer to the request would have been larger than NATS takes. */
export function isTooLarge(error: unknown): boolean {
  return isPresenceError(error) && error.code === "too_large";
}

const BUSY: Record<string, number> = { contended: 409, overloaded: 429, unavailable: 503 };

/**
 * Reads the body of an error reply, `{"error":{"code","message","details"}}`. A code that this
 * version does not know is told by the status of the header.
 */
export function errorOfReply(body: unknown, status?: number): PresenceError | undefined {
  if (typeof body !== "object" || body === null || !("error" in body)) return undefined;
  const {
    code = "",
    message,
    details = {},
  } = body.error as {
    code?: string;
    message?: string;
    details?: Record<string, unknown>;
  };
  const known = status ?? BUSY[code] ?? 400;
  const { field, limit, retry_after_ms } = details as {
    field?: string;
    limit?: number;
    retry_after_ms?: number;
  };
  const kind = known === 409 || known === 429 || known >= 500 ? "busy" : "refused";
  return new PresenceError(kind, message ?? code, {
    code,
    details,
    ...(field !== undefined && { field }),
    ...(limit !== undefined && { limit }),
    ...(Number.isFinite(retry_after_ms) && { retryAfterMs: retry_after_ms as number }),
    mayHaveApplied: known === 409 || known >= 500,
  });
}

/** The same error, of an operation of which an earlier try may have taken effect. */
export function afterDoubtfulTry(error: PresenceError): PresenceError {
  return new PresenceError(error.kind, error.message, {
    ...error,
    cause: error.cause,
    mayHaveApplied: true,
  });
}

/** From which range the wait after so many failed tries is drawn, in milliseconds. */
export function retryRangeMs(error: PresenceError, failedTries: number): [number, number] {
  if (error.kind === "no_daemon") return [100, 1000];
  const ceiling = Math.min(10_000, 200 * 2 ** Math.min(failedTries - 1, 10));
  const floor = error.retryAfterMs ?? 0;
  return [floor, Math.max(ceiling, floor)];
}

/** Full jitter between 0.2 and 10 s, and never before `retry_after_ms`. */
export function retryDelayMs(error: PresenceError, failedTries: number): number {
  const [least, most] = retryRangeMs(error, failedTries);
  return least + Math.random() * (most - least);
}
