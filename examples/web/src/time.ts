/** Times as people say them. The texts follow the clock, everything else the events. */

import { useSyncExternalStore } from "react";

const TICK_MS = 15_000;
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const clock = new Intl.DateTimeFormat("en", {
  hour: "2-digit",
  minute: "2-digit",
  hourCycle: "h23",
});
const day = new Intl.DateTimeFormat("en", { day: "numeric", month: "short", year: "numeric" });

let now = Date.now();
let timer: ReturnType<typeof setInterval> | undefined;
const listeners = new Set<() => void>();

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  timer ??= setInterval(tick, TICK_MS);
  return () => {
    listeners.delete(listener);
    if (listeners.size) return;
    clearInterval(timer);
    timer = undefined;
  };
}

function tick(): void {
  now = Date.now();
  for (const listener of listeners) listener();
}

/** The time of the last tick: all texts of a page move together. */
export function useNow(): number {
  return useSyncExternalStore(subscribe, () => now);
}

/** `5 minutes ago`. A clock that is a little behind does not make it the future. */
export function ago(time: string, at: number): string {
  const seconds = Math.max(0, (at - Date.parse(time)) / 1000);
  if (seconds < 60) return "just now";
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return relative.format(-minutes, "minute");
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return relative.format(-hours, "hour");
  const days = Math.floor(hours / 24);
  return days < 7 ? relative.format(-days, "day") : day.format(Date.parse(time));
}

/** `16:30`, with the day where that is not today. */
export function clockTime(time: string | number, at: number): string {
  const date = new Date(time);
  const text = clock.format(date);
  return date.toDateString() === new Date(at).toDateString()
    ? text
    : `${day.format(date)}, ${text}`;
}
