/** One person: an avatar with a dot, and a row of the list. */

import type { User } from "@presenced/client";
import { memo } from "react";
import type { Profile } from "./app.js";
import { ClockIcon, DeviceIcon, Dot } from "./icons.js";
import type { DotKind } from "./icons.js";
import { ago, clockTime, useNow } from "./time.js";

export const WORDS: Record<DotKind, string> = {
  active: "Active",
  away: "Away",
  busy: "Busy",
  offline: "Offline",
  invisible: "Invisible",
  unknown: "Unknown",
};

export function Avatar({
  id,
  name,
  kind,
  large,
}: {
  id: string;
  name: string;
  kind: DotKind;
  large?: boolean;
}) {
  const hue = [...id].reduce((sum, char) => (sum * 31 + (char.codePointAt(0) ?? 0)) % 360, 7);
  const initials = name
    .split(/\s+/)
    .slice(0, 2)
    .map((word) => [...word][0]?.toUpperCase())
    .join("");
  return (
    <span
      className={large ? "avatar avatar-large" : "avatar"}
      style={{ "--hue": hue } as React.CSSProperties}
    >
      <span className="initials" aria-hidden>
        {initials}
      </span>
      <Dot kind={kind} />
    </span>
  );
}

export interface PersonProps {
  id: string;
  /** `undefined` while unknown, or where it may not be known. */
  user: User<Profile> | undefined;
  kind: DotKind;
  own: boolean;
}

/** Rendered when this person changes, and when the clock moves its text. */
export const Person = memo(function Person({ id, user, kind, own }: PersonProps) {
  const name = user?.name ?? id;
  const dimmed = kind === "offline" || kind === "unknown";
  return (
    <li className={dimmed ? "person dimmed" : "person"} data-user={id}>
      <Avatar id={id} name={name} kind={kind} />
      <div className="who">
        <p className="name">
          {name}
          {own && <span className="tag">You</span>}
        </p>
        <Status user={user} />
      </div>
      <div className="facts">
        <p className={`availability availability-${kind}`}>{WORDS[kind]}</p>
        {user && kind !== "offline" ? (
          <Devices kinds={user.devices ?? []} />
        ) : (
          <LastSeen user={user} />
        )}
      </div>
    </li>
  );
});

function Status({ user }: { user: User<Profile> | undefined }) {
  const now = useNow();
  if (!user?.status) return <p className="status">{user?.title ?? ""}</p>;
  return (
    <p className="status">
      <span className="status-text">{user.status}</span>
      {user.status_expires_at && (
        <span className="until">
          <ClockIcon />
          until{" "}
          <time dateTime={user.status_expires_at}>{clockTime(user.status_expires_at, now)}</time>
        </span>
      )}
    </p>
  );
}

function Devices({ kinds }: { kinds: readonly string[] }) {
  if (!kinds.length) return null;
  return (
    <ul className="devices" aria-label="Devices">
      {kinds.map((kind) => (
        <li key={kind} title={kind}>
          <DeviceIcon kind={kind} />
          <span className="visually-hidden">{kind}</span>
        </li>
      ))}
    </ul>
  );
}

function LastSeen({ user }: { user: User<Profile> | undefined }) {
  const now = useNow();
  const seen = user?.last_active ?? user?.offline_since;
  if (!seen) return null;
  return (
    <p className="seen">
      <span className="visually-hidden">Last active </span>
      <time dateTime={seen} title={new Date(seen).toLocaleString()}>
        {ago(seen, now)}
      </time>
    </p>
  );
}
