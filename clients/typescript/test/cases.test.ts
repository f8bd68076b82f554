/** The cases that every client passes (`clients/cases`). */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { headers } from "@nats-io/nats-core";
import type { Answer } from "../src/core/link.js";
import { resultOf } from "../src/core/door.js";
import {
  PresenceError,
  afterDoubtfulTry,
  isPresenceError,
  retryRangeMs,
} from "../src/core/errors.js";
import { translate } from "../src/core/link.js";
import type { Known } from "../src/core/view.js";
import { View, userOfEvent } from "../src/core/view.js";
import type { Filter, Patch, PublicUser } from "../src/index.js";
import { forService, forUser, idOf, tokenOf } from "../src/index.js";
import { Stack, until } from "./support/stack.js";

const DIR = new URL("../../../cases/", import.meta.url);
const read = <T>(name: string): T => JSON.parse(readFileSync(new URL(name, DIR), "utf8")) as T;

describe("tokens", () => {
  const cases = read<{
    valid: { name: string; id: string; token: string }[];
    invalid_ids: { name: string; id: string }[];
    invalid_tokens: { name: string; token: string }[];
  }>("tokens.json");
  for (const { name, id, token } of cases.valid) {
    test(name, () => {
      assert.equal(tokenOf(id), token);
      assert.equal(idOf(token), id);
    });
  }
  for (const { name, id } of cases.invalid_ids) {
    test(`${name} is no id`, () => assert.throws(() => tokenOf(id), { code: "invalid_id" }));
  }
  for (const { name, token } of cases.invalid_tokens) {
    test(`${name} is no token`, () => assert.equal(idOf(token), undefined));
  }
});

interface MergeStep {
  query?: string;
  users?: string[];
  answer?: string;
  found?: PublicUser[];
  failed?: string;
  event?: { token: string; payload: string };
  view: Record<string, PublicUser | null>;
  changed: string[];
}

describe("merge", () => {
  for (const { name, steps } of read<{ cases: { name: string; steps: MergeStep[] }[] }>(
    "merge.json",
  ).cases) {
    test(name, () => {
      const views = new Map<string, View>();
      const queries = new Map<string, { users: string[]; askedAt: number }>();
      let tick = 0;
      steps.forEach((step, at) => {
        const before = new Map([...views].map(([id, view]): [string, Known] => [id, view.user]));
        if (step.query !== undefined) {
          const users = step.users ?? [];
          queries.set(step.query, { users, askedAt: ++tick });
          for (const id of users) if (!views.has(id)) views.set(id, new View());
        } else if (step.answer !== undefined) {
          const { users, askedAt } = queries.get(step.answer) ?? { users: [], askedAt: 0 };
          for (const id of users) {
            const user = step.found?.find((found) => found.id === id);
            if (user) views.get(id)?.onAnswer(user, askedAt);
            else views.get(id)?.onAbsent(askedAt);
          }
        } else if (step.event) {
          const id = idOf(step.event.token) ?? "";
          const user = userOfEvent(id, parsed(step.event.payload));
          if (user) views.get(id)?.onEvent(user, ++tick);
        }
        const shown = Object.fromEntries(
          [...views]
            .filter(([, view]) => view.user !== undefined)
            .map(([id, view]) => [id, view.user]),
        );
        assert.deepEqual(shown, step.view, `view after step ${at}`);
        const changed = [...views]
          .filter(([id, view]) => view.user !== before.get(id))
          .map(([id]) => id);
        assert.deepEqual(changed.sort(), step.changed, `changes of step ${at}`);
      });
    });
  }
});

interface Outcome {
  reply?: { status: number | null; error: object };
  event?: "no_responders" | "timeout" | "link_lost" | "permission";
  body?: string;
}

/** The error of one try, made from what the NATS library would hand over. */
function errorOf(outcome: Outcome): PresenceError {
  try {
    if (outcome.event === "link_lost") throw new PresenceError("disconnected", "cut");
    if (outcome.event) {
      const names = {
        no_responders: "NoResponders",
        timeout: "TimeoutError",
        permission: "PermissionViolationError",
      };
      const cause = Object.assign(new Error(outcome.event), {
        name: names[outcome.event],
        operation: "publish",
      });
      throw translate(new Error("request", { cause }), "subject");
    }
    const hdrs = headers();
    if (outcome.reply?.status) hdrs.set("Nats-Service-Error-Code", String(outcome.reply.status));
    const answer: Answer = outcome.reply
      ? {
          body: { error: outcome.reply.error },
          status: Number(hdrs.get("Nats-Service-Error-Code")) || undefined,
        }
      : { body: parsed(outcome.body ?? ""), status: undefined };
    resultOf(answer, "subject");
  } catch (error) {
    if (isPresenceError(error)) return error;
    throw error;
  }
  throw new Error("no error");
}

describe("retries", () => {
  const cases = read<{
    outcomes: ({ name: string; outcome: Outcome } & Expected)[];
    backoff: { name: string; failed_tries: number; wait_ms: [number, number] }[];
    sequences: ({ name: string; outcomes: Outcome[] } & Expected)[];
  }>("retries.json");
  interface Expected {
    kind: string;
    code?: string;
    retry?: boolean;
    may_have_applied: boolean;
    wait_ms?: [number, number];
  }
  const check = (error: PresenceError, expected: Expected) => {
    assert.equal(error.kind, expected.kind);
    assert.equal(error.code, expected.code);
    assert.equal(error.mayHaveApplied, expected.may_have_applied);
    if (expected.retry !== undefined) assert.equal(error.retryable, expected.retry);
    if (expected.wait_ms) assert.deepEqual(retryRangeMs(error, 1), expected.wait_ms);
  };
  for (const each of cases.outcomes) test(each.name, () => check(errorOf(each.outcome), each));
  for (const { name, failed_tries, wait_ms } of cases.backoff) {
    test(name, () =>
      assert.deepEqual(retryRangeMs(new PresenceError("busy", ""), failed_tries), wait_ms),
    );
  }
  for (const each of cases.sequences) {
    test(each.name, () => {
      const errors = each.outcomes.map(errorOf);
      const last = errors.reduce((before, error) =>
        before.mayHaveApplied ? afterDoubtfulTry(error) : error,
      );
      check(last, each);
    });
  }
});

describe("filters", () => {
  const cases = read<{
    users: (Patch & { id: string })[];
    online: string[];
    cases: { name: string; json: Filter; matches: string[] }[];
    invalid: { json: Filter; code: string; field?: string }[];
  }>("filters.json");
  let stack: Stack;
  before(async () => void (stack = await Stack.start()));
  after(() => stack.stop());
  test("each finds its users", async () => {
    const nc = await stack.connect();
    const service = forService(nc);
    await service.upsertUsers(cases.users);
    for (const id of cases.online) await forUser(nc, id).connect();
    await until(
      async () => (await service.queryUsers({ filter: { online: true } })).items.length === 2,
    );
    for (const { name, json, matches } of cases.cases) {
      const { items } = await service.queryUsers({ filter: json, limit: 100 });
      assert.deepEqual(items.map(({ id }) => id).sort(), matches, name);
    }
    for (const { json, code, field } of cases.invalid) {
      const refused = { kind: "refused", code, ...(field !== undefined && { field }) };
      await assert.rejects(service.queryUsers({ filter: json }), refused, JSON.stringify(json));
    }
  });
});

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
