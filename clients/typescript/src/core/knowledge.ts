/**
 * What a door knows of one user. All its sessions, updates and watches share it, so that a record
 * that is gone is made again as it was, whichever of the door set or learnt it last. Sans-IO.
 */

import type { Fields, Me, Patch } from "./types.js";

/** Is told of the user's own view, and of the mark of the door at which it was known. */
export type Holder = (me: Me, at: number) => void;

export class Knowledge {
  /** The user's own view by the newest answer, at the user's own door. */
  me: Me | undefined;
  /** Who shares this. It goes with the last of them. */
  readonly holders = new Set<Holder>();
  readonly #keepsMe: boolean;
  /** In the order of what was acknowledged and answered. */
  #fields: Patch = {};
  /** Answers to questions before it are older than this. */
  #at = 0;

  constructor(keepsMe: boolean) {
    this.#keepsMe = keepsMe;
  }

  /** A change was acknowledged at the mark, and maybe answered by the user's own view. */
  onWrite(patch: Patch, me: Me | undefined, at: number): void {
    this.#fields = merged(this.#fields, patch);
    this.#at = at;
    if (me) this.onView(me, at);
  }

  /** The user's own view, in the answer to the question of the mark. */
  onView(me: Me, at: number): void {
    if (at < this.#at) return;
    this.#at = at;
    this.#fields.invisible = me.invisible;
    this.#fields.availability = me.availability_choice ?? "auto";
    if (!this.#keepsMe) return;
    this.me = me;
    for (const holder of [...this.holders]) holder(me, at);
  }

  /** The fields that make the user again as it was, beside those of a patch. */
  toKeep(defaults: Patch, patch: Patch): Patch {
    const kept = merged(defaults, this.#fields);
    const end = kept.status_expires_at;
    if (end && Date.parse(end) <= Date.now()) {
      delete kept.status;
      delete kept.status_expires_at;
    }
    if (!kept.invisible) delete kept.invisible;
    if (kept.availability === "auto") delete kept.availability;
    for (const [field, value] of Object.entries(kept)) {
      if (value === null || field in patch) delete kept[field];
    }
    return kept;
  }
}

/** Two patches as one. A status that comes without an end has none. */
export function merged<F extends object = Fields>(older: Patch<F>, newer: Patch<F>): Patch<F> {
  const both = { ...older, ...newer };
  if ("status" in newer && !("status_expires_at" in newer)) delete both.status_expires_at;
  return both;
}
