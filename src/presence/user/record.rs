//! The private record of a user. Only the projection decides what of it anyone sees.

use serde::{Deserialize, Serialize};

use super::availability::{Availability, Choice};
use super::connection::{Connection, ConnectionGen, Device, Leaving};
use crate::presence::custom::Custom;
use crate::presence::entity::DaemonId;
use crate::presence::id::Id;
use crate::presence::time::Time;

/// All that is known of a user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub created_at: Time,
    /// When `status` or a custom field last changed its value.
    pub updated_at: Time,
    /// Grows with every visible change of announced fields.
    #[serde(skip)]
    pub version: u64,
    /// Which daemon made the change that `version` counts.
    #[serde(skip)]
    pub changed_by: Option<DaemonId>,
    /// When the user was last active, in truth.
    pub last_active: Option<Time>,
    /// The `last_active` that others see: frozen while the user is invisible.
    pub shown_last_active: Option<Time>,
    /// When the user last went offline, in truth; kept while it is online.
    pub offline_since: Option<Time>,
    /// When the user last went offline for others; kept while it is online.
    pub shown_offline_since: Option<Time>,
    /// When the user last changed a setting by itself: how it wants to be seen, or the end of its
    /// status. Nothing else may tell that it is there.
    pub settings_at: Option<Time>,
    pub invisible: bool,
    /// Whether others see neither `last_active` nor `offline_since`.
    pub hide_last_active: bool,
    pub choice: Choice,
    pub status: Option<Box<str>>,
    /// When the status ends; `None` without a status.
    pub status_expires_at: Option<Time>,
    pub custom: Custom,
    /// The live connections.
    pub connections: Vec<Connection>,
    /// The connections that ended and count for a grace; none while the user is invisible.
    pub leaving: Vec<Leaving>,
    /// The number of connects so far. A connection takes its generation from here, so that a
    /// connection made again differs from its predecessor.
    pub generation: u64,
    /// Members of the stored object that this version does not know, kept as they are.
    pub unknown: Option<Box<str>>,
}

/// The summary of a set of connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reachability<'a> {
    pub online: bool,
    pub availability: Availability,
    /// The kinds of devices, each once, sorted.
    pub devices: Vec<&'a str>,
}

impl Record {
    /// A user that was just made, at `now`, in the place of one that left `version` behind. Its
    /// generations are counted from there, or an end that was meant for the one before could fit.
    pub fn new(now: Time, version: u64) -> Self {
        Self {
            created_at: now,
            updated_at: now,
            version,
            changed_by: None,
            last_active: None,
            shown_last_active: None,
            offline_since: None,
            shown_offline_since: None,
            settings_at: None,
            invisible: false,
            hide_last_active: false,
            choice: Choice::Auto,
            status: None,
            status_expires_at: None,
            custom: Custom::default(),
            connections: Vec::new(),
            leaving: Vec::new(),
            generation: version,
            unknown: None,
        }
    }

    /// Whether the user is online in truth.
    pub fn is_online(&self) -> bool {
        !self.connections.is_empty() || !self.leaving.is_empty()
    }

    /// The summary of all connections, leaving ones too.
    pub fn reachability(&self) -> Reachability<'_> {
        let live = self.connections.iter().map(|each| (each.device.as_ref(), each.idle));
        let leaving = self.leaving.iter().map(|each| (each.device.as_ref(), each.idle));
        self.reached_by(live.chain(leaving))
    }

    /// The summary of the live connections except that at `without`.
    pub fn live_reachability(&self, without: Option<usize>) -> Reachability<'_> {
        let live = self.connections.iter().enumerate();
        let counted = live.filter(|(index, _)| Some(*index) != without);
        self.reached_by(counted.map(|(_, each)| (each.device.as_ref(), each.idle)))
    }

    fn reached_by<'a>(
        &self,
        connections: impl Iterator<Item = (Option<&'a Device>, bool)>,
    ) -> Reachability<'a> {
        let (mut online, mut all_idle, mut devices) = (false, true, Vec::new());
        for (device, idle) in connections {
            online = true;
            all_idle &= idle;
            devices.extend(device.map(Device::as_str));
        }
        if !online {
            return Reachability::default();
        }
        devices.sort_unstable();
        devices.dedup();
        Reachability { online, availability: Availability::of(self.choice, all_idle), devices }
    }

    /// Makes a user who is offline go offline no earlier than it was last active. An older daemon
    /// moves `last_active` only, and a daemon's clock may be behind that of another.
    pub fn settle_offline(&mut self) {
        if !self.is_online() {
            self.offline_since = self.offline_since.max(self.last_active);
        }
        if !self.is_shown_online() {
            self.shown_offline_since = self.shown_offline_since.max(self.shown_last_active);
        }
    }

    /// The `last_active` to refresh while connected: the visible one, or the private one while the
    /// user is invisible. Invisible time must not move the visible refreshes.
    pub fn refreshed_last_active(&self) -> Option<Time> {
        if self.invisible { self.last_active } else { self.shown_last_active }
    }

    /// When something last happened to the user, in truth. A time more than an hour ahead of `now`
    /// came from a broken clock, and counts as absent.
    pub fn touched(&self, now: Time) -> Time {
        let changes = [Some(self.created_at), Some(self.updated_at)];
        let times = [self.last_active, self.shown_last_active];
        let ends = [self.offline_since, self.shown_offline_since];
        let all = changes.into_iter().chain(times).chain(ends).chain([self.settings_at]).flatten();
        all.filter(|time| time.counts_at(now)).max().unwrap_or(now)
    }

    /// The connections that hang on a shared lease.
    pub fn generations_on(&self, lease: &Id) -> Vec<ConnectionGen> {
        let held = self.connections.iter().filter(|each| each.lease.as_ref() == Some(lease));
        let connection_gen = |each: &Connection| ConnectionGen {
            connection: each.id.clone(),
            generation: each.generation,
        };
        held.map(connection_gen).collect()
    }
}
