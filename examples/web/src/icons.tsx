/** Drawings. Each is decoration beside a text, or has one of its own. */

const common = {
  viewBox: "0 0 24 24",
  fill: "none",
  stroke: "currentColor",
  strokeWidth: 2,
  strokeLinecap: "round",
  strokeLinejoin: "round",
  "aria-hidden": true,
} as const;

export function Logo() {
  return (
    <svg className="logo" viewBox="0 0 32 32" aria-hidden>
      <rect width="32" height="32" rx="9" fill="var(--accent)" />
      <circle cx="13" cy="13" r="6" fill="#fff" />
      <circle cx="23" cy="22" r="5" fill="#34d399" stroke="var(--accent)" strokeWidth="2" />
    </svg>
  );
}

const DEVICES: Record<string, string> = {
  desktop: "M3 5h18v11H3zM9 20h6M12 16v4",
  mobile: "M7 3h10v18H7zM11 18h2",
  tablet: "M5 3h14v18H5zM11 18h2",
};

/** The kind of a device; one that is not known here is drawn as a plug. */
export function DeviceIcon({ kind }: { kind: string }) {
  return (
    <svg className="icon" {...common}>
      <path d={DEVICES[kind] ?? "M9 3v5M15 3v5M7 8h10v4a5 5 0 0 1-10 0zM12 17v4"} />
    </svg>
  );
}

export function ClockIcon() {
  return (
    <svg className="icon" {...common}>
      <circle cx="12" cy="12" r="9" />
      <path d="M12 7v5l3 2" />
    </svg>
  );
}

export type DotKind = "active" | "away" | "busy" | "offline" | "invisible" | "unknown";

/** The dot of an avatar. Its shape differs as well as its colour. */
export function Dot({ kind }: { kind: DotKind }) {
  return (
    <svg className={`dot dot-${kind}`} viewBox="0 0 16 16" aria-hidden>
      <circle className="dot-edge" cx="8" cy="8" r="8" />
      <circle className="dot-fill" cx="8" cy="8" r="5.5" />
      {kind === "away" && <path className="dot-mark" d="M8 5v3.2l2 1.3" />}
      {kind === "busy" && <path className="dot-mark" d="M5.5 8h5" />}
      {(kind === "offline" || kind === "invisible") && (
        <circle className="dot-hole" cx="8" cy="8" r="2.8" />
      )}
    </svg>
  );
}
