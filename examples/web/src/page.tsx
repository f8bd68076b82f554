/** Opens the presence of the person whose session this is, and shows the page. */

import { open } from "@presenced/client/browser";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./app.js";
import type { Opening, Profile, Settings } from "./app.js";

const root = createRoot(document.getElementById("root") as HTMLElement);
const show = (opening: Opening) =>
  root.render(
    <StrictMode>
      <App {...opening} />
    </StrictMode>,
  );

show({ presence: null });
try {
  const settings = await get("settings.json").then(
    (response) => response.json() as Promise<Settings>,
  );
  const user = new URLSearchParams(location.search).get("user") ?? settings.user;
  const presence = await open<Profile>({
    url: settings.url,
    user,
    auth: {
      token: () =>
        get(`token?user=${encodeURIComponent(user)}`).then((response) => response.text()),
    },
    device: matchMedia("(pointer: coarse)").matches ? "mobile" : "desktop",
  });
  show({ presence, channel: settings.channel });
} catch (error) {
  show({ presence: null, failure: error instanceof Error ? error.message : String(error) });
}

async function get(path: string): Promise<Response> {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path.split("?")[0]} is not served: ${response.status}`);
  return response;
}
