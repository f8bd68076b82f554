/** A dozen lively people: they come and go, change their minds, and look away. */

import type { Lease, Patch, Seat, ServiceDoor } from "@presenced/client";

export type Profile = { name: string; title: string };

const DEVICES = ["desktop", "mobile", "tablet"];
const PEOPLE: [id: string, name: string, title: string][] = [
  ["ada", "Ada Lovelace", "Analysis"],
  ["alan", "Alan Turing", "Research"],
  ["barbara", "Barbara Liskov", "Languages"],
  ["donald", "Donald Knuth", "Typesetting"],
  ["edsger", "Edsger Dijkstra", "Algorithms"],
  ["frances", "Frances Allen", "Compilers"],
  ["grace", "Grace Hopper", "Compilers"],
  ["hedy", "Hedy Lamarr", "Radio"],
  ["katherine", "Katherine Johnson", "Flight"],
  ["ken", "Ken Thompson", "Systems"],
  ["margaret", "Margaret Hamilton", "Guidance"],
  ["radia", "Radia Perlman", "Networks"],
];
const STATUSES = [
  "Reviewing the new parser",
  "In a meeting",
  "Writing the release notes",
  "Out for a walk",
  "Pairing with Grace",
  "On call",
  "Having lunch",
  "Deep in a proof, back later",
];
const STEP_MS = 1500;

export const VIEWER = { id: "robin", name: "Robin Vega", title: "Product" };

class Person {
  #seat: Seat<Profile> | undefined;
  readonly #lease: Lease<Profile>;
  readonly #id: string;

  constructor(lease: Lease<Profile>, id: string) {
    this.#lease = lease;
    this.#id = id;
  }

  async come(patch: Patch<Profile> = {}): Promise<void> {
    this.#seat = await this.#lease.connect(this.#id, patch, { device: oneOf(DEVICES) });
  }

  async go(): Promise<void> {
    const seat = this.#seat;
    this.#seat = undefined;
    await seat?.close();
  }

  /** One small thing that people do. */
  async act(): Promise<void> {
    const seat = this.#seat;
    if (!seat) return this.come();
    const dice = Math.random();
    if (dice < 0.15) await this.go();
    else if (dice < 0.5) {
      const end = new Date(Date.now() + oneOf([10, 30, 60]) * 60_000).toISOString();
      await seat.update({ status: oneOf(STATUSES), status_expires_at: end });
    } else if (dice < 0.6) await seat.update({ status: null });
    else if (dice < 0.8)
      await seat.update({ availability: oneOf(["auto", "auto", "busy", "away"]) });
    else seat.setIdle(Math.random() < 0.5);
  }
}

/** Makes the people and their channel. `stop` ends what they do. */
export async function bringPeople(
  service: ServiceDoor<Profile>,
  channel: { type: string; id: string },
  lively = true,
): Promise<() => void> {
  const users = PEOPLE.map(([id, name, title]) => ({ id, name, title }));
  await service.upsertUsers([...users, VIEWER]);
  await service.upsertChannel({ ...channel, members: [...users, VIEWER].map(({ id }) => id) });
  const lease = service.lease("demo");
  const people = PEOPLE.map(([id]) => new Person(lease, id));
  const first = ["busy", "auto", "away"] as const;
  await Promise.all(
    people.slice(0, 9).map((person, n) =>
      person.come({
        availability: first[n] ?? "auto",
        ...(n % 2 === 0 && {
          status: STATUSES[n % STATUSES.length] as string,
          status_expires_at: new Date(Date.now() + (n + 1) * 20 * 60_000).toISOString(),
        }),
      }),
    ),
  );
  // The others were here, so that it can be said when.
  const others = people.slice(9);
  await Promise.all(others.map((person) => person.come()));
  await Promise.all(others.map((person) => person.go()));
  if (!lively) return () => lease.abandon();
  const timer = setInterval(
    () =>
      void oneOf(people)
        .act()
        .catch(() => undefined),
    STEP_MS,
  );
  return () => {
    clearInterval(timer);
    lease.abandon();
  };
}

function oneOf<T>(things: readonly T[]): T {
  return things[Math.floor(Math.random() * things.length)] as T;
}
