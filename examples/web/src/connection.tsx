/** Whether what is shown is true now: live, stale or offline, in words and colours. */

import type { ConnectionSnapshot } from "@presenced/client";
import { useConnectionState } from "@presenced/client/react";
import { useSyncExternalStore } from "react";
import { clockTime, useNow } from "./time.js";

export type Link = "connecting" | "live" | "stale" | "offline";

const WORDS: Record<Link, string> = {
  connecting: "Connecting",
  live: "Live",
  stale: "Stale",
  offline: "Offline",
};

function subscribeToNetwork(listener: () => void): () => void {
  addEventListener("online", listener);
  addEventListener("offline", listener);
  return () => {
    removeEventListener("online", listener);
    removeEventListener("offline", listener);
  };
}

/** Stale is a link that is being mended; offline one that cannot be, as it is. */
export function useLink(): [Link, ConnectionSnapshot] {
  const state = useConnectionState();
  const network = useSyncExternalStore(subscribeToNetwork, () => navigator.onLine);
  const { status } = state;
  if (status === "closed" || (!network && status !== "online")) return ["offline", state];
  if (status === "online") return ["live", state];
  return [status === "interrupted" ? "stale" : "connecting", state];
}

export function ConnectionPill() {
  const [link] = useLink();
  return (
    <p className={`pill pill-${link}`} role="status">
      <span className="pill-light" aria-hidden />
      <span className="visually-hidden">Connection: </span>
      {WORDS[link]}
    </p>
  );
}

/** The meaning of a link that is not live, and the remedy. */
export function ConnectionNotice() {
  const [link, { since, error, status }] = useLink();
  const now = useNow();
  if (link === "live" || link === "connecting") return null;
  if (status === "closed") {
    const login = error?.kind === "login";
    return (
      <div className="notice offline" role="alert">
        <div>
          <strong>{login ? "Your login has ended" : "The connection is closed"}</strong>
          <p>{error?.message ?? "Others see you as offline."}</p>
        </div>
        <button className="button" onClick={() => location.reload()}>
          {login ? "Log in again" : "Connect again"}
        </button>
      </div>
    );
  }
  return (
    <div className={`notice ${link}`} role="status">
      <div>
        <strong>
          {link === "offline" ? "This device is offline" : "The connection is interrupted"}
        </strong>
        <p>
          You see everyone as they were at {clockTime(since, now)}. It comes back by itself, and
          nothing is missed.
        </p>
      </div>
    </div>
  );
}
