/** Changes of oneself, and how the last of them went. */

import type { Patch } from "@presenced/client";
import { useConnectionState, useMe } from "@presenced/client/react";
import { useCallback, useRef, useState } from "react";
import type { Profile } from "./app.js";

export type Change = (patch: Patch<Profile>) => void;

export interface Progress {
  state: "idle" | "waiting" | "saved" | "failed";
  text: string;
}

export function useChange(): [Progress, Change] {
  const [, update] = useMe<Profile>();
  const { status } = useConnectionState();
  const [progress, setProgress] = useState<Progress>({ state: "idle", text: "" });
  const newest = useRef(0);
  const change = useCallback(
    (patch: Patch<Profile>) => {
      const mine = ++newest.current;
      const tell = (next: Progress) => mine === newest.current && setProgress(next);
      tell({ state: "waiting", text: "" });
      update(patch).then(
        () => tell({ state: "saved", text: "Saved" }),
        (error: Error) => tell({ state: "failed", text: `Not saved: ${error.message}` }),
      );
    },
    [update],
  );
  if (progress.state === "waiting" && status !== "online") {
    return [{ state: "waiting", text: "Saved as soon as the connection is back" }, change];
  }
  return [progress, change];
}
