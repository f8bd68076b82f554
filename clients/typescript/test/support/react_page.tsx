/** A page of 200 rows, rendered on the server and hydrated in the browser, in StrictMode. */

import { StrictMode, createElement as h } from "react";
import type { PresenceSource } from "../../src/index.js";
import {
  PresenceProvider,
  useConnectionState,
  useMe,
  useSelector,
  useUser,
  useUsers,
} from "../../src/react/index.js";

export const IDS = Array.from({ length: 200 }, (_, n) => `row${n}`);
export const renders: Record<string, number> = {};

function Row({ id }: { id: string }) {
  // eslint-disable-next-line react-hooks/immutability -- the count of renders is what is tested
  renders[id] = (renders[id] ?? 0) + 1;
  const user = useUser(id);
  return h(
    "li",
    { id },
    user === undefined ? "unknown" : user === null ? "nobody" : (user.status ?? "none"),
  );
}

function Head() {
  const { status } = useConnectionState();
  const [me] = useMe();
  const online = useSelector(({ user }) => IDS.filter((id) => user(id)?.online).length);
  const { live } = useUsers([IDS[0] ?? "", IDS[1] ?? ""]);
  return h(
    "p",
    { id: "head" },
    `${status} ${me?.id ?? "unknown"} ${online} ${live ? "live" : "not live"}`,
  );
}

export function App({ source }: { source: PresenceSource | null }) {
  const rows = IDS.map((id) => h(Row, { key: id, id }));
  return h(StrictMode, null, h(PresenceProvider, { value: source }, h(Head), h("ul", null, rows)));
}
