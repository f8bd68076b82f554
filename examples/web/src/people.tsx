/** The people of a channel: those who are here, then the others. */

import type { User } from "@presenced/client";
import type { ChannelView } from "@presenced/client/react";
import { useChannel, useMe } from "@presenced/client/react";
import type { Profile } from "./app.js";
import type { DotKind } from "./icons.js";
import { ownKind } from "./me.js";
import { Person } from "./person.js";
import type { PersonProps } from "./person.js";

export function People({ type, id }: { type: string; id: string }) {
  const view = useChannel<Profile>({ type, id, users: "all", onlineCount: true });
  const [me] = useMe<Profile>();
  if (view.status === "denied" && !view.channel) return <Denied view={view} />;
  const people = peopleOf(view, me);
  const here = people.filter(({ kind }) => kind !== "offline" && kind !== "unknown");
  const away = people.filter(({ kind }) => kind === "offline" || kind === "unknown");
  const { channel } = view;
  return (
    <section
      className={view.live ? "card people" : "card people old"}
      aria-labelledby="channel"
      aria-busy={!channel}
    >
      <div className="card-head">
        <h2 id="channel">
          <span className="hash" aria-hidden>
            #
          </span>
          {id}
        </h2>
        {channel && (
          <p className="count" data-online={channel.online_count}>
            <strong>{channel.online_count}</strong> of {channel.member_count} online
          </p>
        )}
      </div>
      {channel ? (
        <>
          <Group title="Here" people={here} />
          <Group title="Not here" people={away} />
          {view.truncated && <p className="hint">{view.notWatched.length} more are not shown.</p>}
        </>
      ) : (
        <Skeleton />
      )}
    </section>
  );
}

function peopleOf(
  view: ChannelView<Profile>,
  me: ReturnType<typeof useMe<Profile>>[0],
): PersonProps[] {
  const ids = view.channel?.members.map(({ user_id }) => user_id) ?? [];
  const people = ids.map((id): PersonProps => {
    // Of oneself the page shows what is so, not what others see.
    if (id === me?.id) return { id, user: me, kind: ownKind(me), own: true };
    const user = view.users.get(id) ?? undefined;
    return { id, user, kind: kindOf(view.users.get(id)), own: false };
  });
  const name = ({ id, user }: PersonProps) => user?.name ?? id;
  return people.sort((a, b) => name(a).localeCompare(name(b), "en"));
}

function kindOf(user: User<Profile> | null | undefined): DotKind {
  return user === undefined ? "unknown" : (user?.availability ?? "offline");
}

function Group({ title, people }: { title: string; people: PersonProps[] }) {
  if (!people.length) return null;
  return (
    <>
      <h3 className="group">
        {title} <span className="number">{people.length}</span>
      </h3>
      <ul className="list">
        {people.map((person) => (
          <Person key={person.id} {...person} />
        ))}
      </ul>
    </>
  );
}

function Denied({ view }: { view: ChannelView<Profile> }) {
  return (
    <section className="card people" aria-labelledby="channel">
      <div className="card-head">
        <h2 id="channel">People</h2>
      </div>
      <p className="hint" role="alert">
        This channel cannot be shown. {view.error?.message}
      </p>
    </section>
  );
}

function Skeleton() {
  return (
    <div className="skeleton" aria-hidden>
      {Array.from({ length: 6 }, (_, n) => (
        <div key={n} className="skeleton-row" />
      ))}
    </div>
  );
}
