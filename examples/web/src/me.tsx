/** One's own presence: a status with an end, availability, and what others may see. */

import type { AvailabilityChoice, Me as Own } from "@presenced/client";
import { useConnectionState, useIdle, useMe } from "@presenced/client/react";
import { useState } from "react";
import type { Profile } from "./app.js";
import type { DotKind } from "./icons.js";
import { Avatar, WORDS } from "./person.js";
import { CurrentStatus, StatusForm } from "./status_form.js";
import type { Change } from "./use_change.js";
import { useChange } from "./use_change.js";

/** The true state of oneself, which is not always the one that others see. */
export function ownKind(me: Own<Profile>): DotKind {
  return me.invisible ? "invisible" : me.availability;
}

export function Me() {
  const [me] = useMe<Profile>();
  const idle = useIdle();
  const { status } = useConnectionState();
  const [progress, change] = useChange();
  // Wide pages show the settings always (page.css).
  const [open, setOpen] = useState(false);
  if (!me) return <section className="card me" aria-label="You" aria-busy="true" />;
  const kind = ownKind(me);
  return (
    <section className="card me" aria-labelledby="own-name">
      <div className={status === "online" ? "own" : "own old"}>
        <Avatar id={me.id} name={me.name ?? me.id} kind={kind} large />
        <div className="own-text">
          <h2 id="own-name">{me.name ?? me.id}</h2>
          <p className={`availability availability-${kind}`} data-own={kind}>
            {WORDS[kind]}
            {idle && kind === "away" && <span className="quiet"> · no input for a while</span>}
          </p>
        </div>
        <button
          type="button"
          className="chip fold"
          aria-expanded={open}
          aria-controls="own-settings"
          onClick={() => setOpen(!open)}
        >
          {open ? "Done" : "Change"}
        </button>
      </div>
      {me.status && <CurrentStatus me={me} onClear={() => change({ status: null })} />}
      <div id="own-settings" className={open ? "settings" : "settings folded"}>
        <StatusForm change={change} />
        <AvailabilityChoices chosen={me.availability_choice ?? "auto"} change={change} />
        <div className="switches">
          <Switch
            label="Invisible"
            hint="Others see you as offline, from now on and after a reload."
            on={me.invisible}
            onSwitch={(invisible) => change({ invisible })}
          />
          <Switch
            label="Hide when I was last active"
            hint="Others do not see “5 minutes ago”."
            on={me.hide_last_active ?? false}
            onSwitch={(hide_last_active) => change({ hide_last_active })}
          />
        </div>
      </div>
      <p className={`progress progress-${progress.state}`} role="status">
        {progress.text}
      </p>
    </section>
  );
}

const CHOICES: [AvailabilityChoice, string][] = [
  ["auto", "Automatic"],
  ["away", "Away"],
  ["busy", "Busy"],
];

function AvailabilityChoices({ chosen, change }: { chosen: AvailabilityChoice; change: Change }) {
  return (
    <fieldset className="choices">
      <legend>Availability</legend>
      <div className="segments">
        {CHOICES.map(([choice, word]) => (
          <label key={choice} className="segment">
            <input
              type="radio"
              name="availability"
              value={choice}
              checked={choice === chosen}
              onChange={() => change({ availability: choice })}
            />
            <span>{word}</span>
          </label>
        ))}
      </div>
    </fieldset>
  );
}

interface SwitchProps {
  label: string;
  hint: string;
  on: boolean;
  onSwitch: (on: boolean) => void;
}

function Switch({ label, hint, on, onSwitch }: SwitchProps) {
  const id = label.toLowerCase().replaceAll(" ", "-");
  return (
    <div className="switch">
      <div>
        <label htmlFor={id}>{label}</label>
        <p id={`${id}-hint`} className="hint">
          {hint}
        </p>
      </div>
      <input
        id={id}
        type="checkbox"
        role="switch"
        checked={on}
        aria-describedby={`${id}-hint`}
        onChange={(event) => onSwitch(event.target.checked)}
      />
    </div>
  );
}
