/**
 * The whole page: a header with the state of the connection, oneself, and the people of a channel.
 */

import type { PresenceSource } from "@presenced/client";
import { PresenceProvider } from "@presenced/client/react";
import { ConnectionNotice, ConnectionPill } from "./connection.js";
import { Logo } from "./icons.js";
import { Me } from "./me.js";
import { People } from "./people.js";

/** The app's own fields of a user. */
export type Profile = { name: string; title: string };

/** The settings from the site: the address of NATS, the user, and the channel to show. */
export interface Settings {
  url: string;
  user: string;
  channel: { type: string; id: string };
}

export interface Opening {
  presence: PresenceSource<Profile> | null;
  channel?: Settings["channel"];
  failure?: string;
}

export function App({ presence, channel, failure }: Opening) {
  return (
    <PresenceProvider value={presence}>
      <header className="bar">
        <div className="bar-inner">
          <h1>
            <Logo />
            Who is here
          </h1>
          {failure === undefined && <ConnectionPill />}
        </div>
      </header>
      <main>
        {failure === undefined ? (
          <>
            <ConnectionNotice />
            <Me />
            {channel ? (
              <People {...channel} />
            ) : (
              <section className="card people" aria-busy="true" />
            )}
          </>
        ) : (
          <div className="notice offline" role="alert">
            <div>
              <strong>The presence could not be opened</strong>
              <p>{failure}</p>
            </div>
            <button className="button" onClick={() => location.reload()}>
              Try again
            </button>
          </div>
        )}
      </main>
    </PresenceProvider>
  );
}
