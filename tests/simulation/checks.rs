//! The invariants of all that is stored and announced.

use std::collections::BTreeMap;

use presenced::presence::entity::{DaemonId, Event, Stored};
use presenced::presence::id::Id;
use presenced::presence::user::{Record, shown};
use serde_json::Value;

use super::bucket::{Bucket, Message};
use super::client::GHOST;

/// A broken promise, and the user concerned.
#[derive(Debug)]
pub struct Broken {
    pub key: Id,
    pub what: String,
}

pub fn ensure(holds: bool, key: &Id, what: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken { key: key.clone(), what: what() }) }
}

/// The view that others have of an announcement, from a record or from the user of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    online: bool,
    status: Option<String>,
    availability: String,
    devices: Vec<String>,
}

#[derive(Debug, Default)]
pub struct Checks {
    /// The announced views, by bucket, user and version.
    announced: BTreeMap<(u32, Id, u64), Seen>,
    /// The last version that each daemon announced of each user.
    last: BTreeMap<(DaemonId, Id), u64>,
}

impl Checks {
    /// Checks a stored write: versions and times only grow, and a visible change has its version.
    pub fn stored(&self, bucket: &Bucket, message: &Message) -> Result<(), Broken> {
        let (key, history) = (&message.key, bucket.history(bucket.epoch, &message.key));
        let before = history.len().checked_sub(2).map(|index| &history[index]);
        let nothing = Stored::default();
        let (old, old_version) = before.map_or((&nothing, 0), |m| (&m.stored, m.version()));
        let version = message.version();
        // Once its marker has expired, no trace of a deleted user is left.
        let forgotten = before.is_some() && message.expected == 0 && version == 0;
        ensure(version >= old_version || forgotten, key, || {
            format!("version {old_version} fell to {version}")
        })?;
        if seen(old) != seen(&message.stored) {
            ensure(version > old_version, key, || {
                format!("a visible change kept version {version}")
            })?;
        }
        if key.as_str() == GHOST {
            ensure(version == 0 && !seen(&message.stored).online, key, || {
                "it was seen".to_owned()
            })?;
        }
        // One write may delete a record and create it again; by chance even with its `created_at`.
        if let (Some(old), Some(new)) = (old.record(), message.stored.record())
            && old.created_at == new.created_at
            && new.updated_at != new.created_at
        {
            let moved_back = new.updated_at < old.updated_at
                || new.last_active < old.last_active
                || new.shown_last_active < old.shown_last_active;
            ensure(!moved_back, key, || format!("a time moved backwards: {old:?} to {new:?}"))?;
        }
        Ok(())
    }

    /// Checks an announcement by a daemon, of its own change or of a failed daemon's.
    pub fn announced(
        &mut self,
        bucket: &Bucket,
        by: DaemonId,
        event: &Event,
        again: bool,
    ) -> Result<(), Broken> {
        let (user, version) = (&event.user, event.version);
        let body: Value = serde_json::from_slice(&event.body).expect("an event is JSON");
        let seen_as = Seen::in_event(&body["user"]);
        ensure(body["user"]["version"] == version, user, || "the header differs".to_owned())?;
        ensure(user.as_str() != GHOST, user, || "an event of the ghost".to_owned())?;
        // A daemon that has not yet detected a new bucket finds that the user is gone.
        let gone = bucket.epoch > 0 && seen_as == seen(&Stored::default());
        ensure(gone || was_stored(bucket, by, user, version, &seen_as), user, || {
            format!("version {version} was announced as {seen_as:?}, and never stored")
        })?;
        let last = self.last.insert((by, user.clone()), version).unwrap_or(0);
        // In a new bucket versions start again, and a daemon may follow it without a restart.
        let grows = last < version || (again && last == version) || bucket.epoch > 0;
        ensure(grows, user, || format!("{by} announced version {version} after version {last}"))?;
        let first = self.announced.entry((bucket.epoch, user.clone(), version));
        let first = first.or_insert_with(|| seen_as.clone()).clone();
        // Announcements of the old bucket's writes may coincide with versions of the new one.
        ensure(first == seen_as || bucket.epoch > 0, user, || {
            format!("version {version} was announced as {first:?} and as {seen_as:?}")
        })
    }

    /// Returns whether the newest announcement of a user shows what is stored.
    pub fn is_newest(&self, user: &Id, stored: &Stored<Record>) -> bool {
        let of_user = self.announced.iter().filter(|((_, of, _), _)| of == user);
        let newest = of_user.max_by_key(|((epoch, _, version), _)| (*version, *epoch));
        newest.is_none_or(|(_, newest)| *newest == seen(stored))
    }

    /// Returns whether the version in a user's record was announced, in this bucket or a former
    /// one.
    pub fn knows(&self, bucket: &Bucket, user: &Id, version: u64) -> bool {
        let is_known = |epoch| self.announced.contains_key(&(epoch, user.clone(), version));
        (0..=bucket.epoch).any(is_known)
    }

    /// A daemon follows a new bucket: versions start again.
    pub fn restart(&mut self, daemon: DaemonId) {
        self.last.retain(|(by, _), _| *by != daemon);
    }
}

/// Returns whether a version was stored, or was one of several visible changes in one write of that
/// daemon.
fn was_stored(bucket: &Bucket, by: DaemonId, user: &Id, version: u64, seen_as: &Seen) -> bool {
    (0..=bucket.epoch).any(|epoch| {
        let history = bucket.history(epoch, user);
        let at = history.partition_point(|message| message.version() < version);
        history.get(at).is_some_and(|message| {
            if message.version() == version {
                seen(&message.stored) == *seen_as
            } else {
                message.writer == by
            }
        })
    })
}

fn seen(stored: &Stored<Record>) -> Seen {
    let shown = shown(stored.record());
    Seen {
        online: shown.online,
        status: shown.status.map(str::to_owned),
        availability: shown.availability.name().to_owned(),
        devices: shown.devices.into_iter().map(str::to_owned).collect(),
    }
}

impl Seen {
    fn in_event(user: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Self {
            online: user["online"].as_bool().expect("`online` is there"),
            status: text(&user["status"]),
            availability: text(&user["availability"]).expect("`availability` is there"),
            devices: user["devices"].as_array().into_iter().flatten().filter_map(text).collect(),
        }
    }
}
