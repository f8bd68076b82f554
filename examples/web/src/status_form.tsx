/** A status, and when it ends. */

import type { Me } from "@presenced/client";
import type { FormEvent } from "react";
import { useState } from "react";
import type { Profile } from "./app.js";
import { ClockIcon } from "./icons.js";
import { clockTime, useNow } from "./time.js";
import type { Change } from "./use_change.js";

const MINUTE_MS = 60_000;
type End = "30" | "60" | "240" | "today" | "never";
const ENDS: [End, string][] = [
  ["30", "in 30 minutes"],
  ["60", "in 1 hour"],
  ["240", "in 4 hours"],
  ["today", "at midnight"],
  ["never", "never"],
];
const SUGGESTIONS: [string, End][] = [
  ["Lunch", "60"],
  ["In a meeting", "30"],
  ["Focusing", "240"],
];

export function StatusForm({ change }: { change: Change }) {
  const [text, setText] = useState("");
  const [end, setEnd] = useState<End>("60");
  const send = (status: string, until: End) => {
    const at = endOf(until, Date.now());
    change({ status, ...(at !== undefined && { status_expires_at: new Date(at).toISOString() }) });
    setText("");
  };
  const onSubmit = (event: FormEvent) => {
    event.preventDefault();
    if (text.trim()) send(text.trim(), end);
  };
  return (
    <div className="status-editor">
      <form onSubmit={onSubmit}>
        <label className="field">
          <span>Status</span>
          <input
            value={text}
            maxLength={100}
            placeholder="What are you up to?"
            autoComplete="off"
            onChange={(event) => setText(event.target.value)}
          />
        </label>
        <div className="field-row">
          <label className="field">
            <span>Ends</span>
            <select value={end} onChange={(event) => setEnd(event.target.value as End)}>
              {ENDS.map(([value, words]) => (
                <option key={value} value={value}>
                  {words}
                </option>
              ))}
            </select>
          </label>
          <button className="button" disabled={!text.trim()}>
            Set
          </button>
        </div>
      </form>
      <ul className="suggestions" aria-label="Suggestions">
        {SUGGESTIONS.map(([status, until]) => (
          <li key={status}>
            <button type="button" className="chip" onClick={() => send(status, until)}>
              {status}
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}

export function CurrentStatus({ me, onClear }: { me: Me<Profile>; onClear: () => void }) {
  const now = useNow();
  return (
    <div className="current">
      <p>
        <span className="status-text">{me.status}</span>
        {me.status_expires_at && (
          <span className="until">
            <ClockIcon />
            until{" "}
            <time dateTime={me.status_expires_at}>{clockTime(me.status_expires_at, now)}</time>
          </span>
        )}
      </p>
      <button type="button" className="chip" onClick={onClear}>
        Clear<span className="visually-hidden"> the status</span>
      </button>
    </div>
  );
}

function endOf(end: End, now: number): number | undefined {
  if (end === "never") return undefined;
  if (end === "today") return new Date(now).setHours(24, 0, 0, 0);
  return now + Number(end) * MINUTE_MS;
}
