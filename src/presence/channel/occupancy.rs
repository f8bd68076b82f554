//! The counts of members online that are announced, kept incrementally. Pure: the time comes in as
//! a value.
//!
//! Every daemon counts all channels and hears all announcements, its own among them: what was heard
//! is what was announced. The first in rendezvous order announces a count that differs from it; the
//! others do so a while later, if it still differs.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::key::ChannelKey;
use crate::presence::id::Id;
use crate::presence::json;
use crate::presence::time::Time;

/// An announcement that is not heard for this long, and for an interval, was lost, in milliseconds.
const LOST_AFTER_MS: u64 = 2000;

/// The time beyond an interval for which a channel without members is remembered, in milliseconds.
/// Its last announcement is made by then, also if the daemon whose turn it is has to be found dead
/// first.
const KEEP_MS: u64 = 10_000;

/// The number of members of a channel, and of those whom others see online.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub online: usize,
    pub members: usize,
}

/// The last announcement of a channel.
#[derive(Debug, Clone, Copy)]
struct Announced {
    /// `None` if it is unknown what was announced.
    counts: Option<Counts>,
    version: u64,
    at_ms: Option<u64>,
    /// Whether it may not be the last one: nothing was heard since this daemon began to listen, or
    /// something may have been missed.
    assumed: bool,
}

impl Default for Announced {
    /// A channel that is not there has no members.
    fn default() -> Self {
        Self { counts: Some(Counts::default()), version: 0, at_ms: None, assumed: false }
    }
}

#[derive(Debug, Default)]
struct Channel {
    members: HashSet<Id>,
    online: usize,
    announced: Announced,
    /// The newest version that this daemon sent.
    sent: u64,
    /// The time at which the first daemon announces the counts, which differ from what was
    /// announced.
    due_ms: Option<u64>,
    /// The time at which this daemon looks at it: its place in the queue, while `due_ms` is set.
    look_ms: u64,
    /// Whether it is due only because it is unknown what was announced, and not as it changed.
    is_unsure: bool,
    interval_ms: u64,
    /// The time until which it is remembered without members.
    keep_until_ms: u64,
}

impl Channel {
    fn counts(&self) -> Counts {
        Counts { online: self.online, members: self.members.len() }
    }

    /// Sets when the counts are announced, if they are.
    fn schedule(&mut self, key: &ChannelKey, due_ms: Option<u64>, queue: &mut Queue) {
        if self.due_ms.take().is_some() {
            queue.part(self.is_unsure).remove(&(self.look_ms, key.clone()));
        }
        if let Some(due_ms) = due_ms {
            (self.due_ms, self.look_ms) = (Some(due_ms), due_ms);
            queue.part(self.is_unsure).insert((due_ms, key.clone()));
        } else {
            self.is_unsure = false;
        }
    }

    /// The counts may have changed: they no longer wait behind those that did not.
    fn hurry(&mut self, key: &ChannelKey, queue: &mut Queue) {
        if std::mem::take(&mut self.is_unsure) && self.due_ms.is_some() {
            let entry = (self.look_ms, key.clone());
            queue.unsure.remove(&entry);
            queue.changed.insert(entry);
        }
    }
}

/// The channels whose counts are to be announced, by the time to look at them, so that each has its
/// turn.
#[derive(Debug, Default)]
struct Queue {
    /// Those whose counts differ from what was announced.
    changed: BTreeSet<(u64, ChannelKey)>,
    /// Those of which it is unknown what was announced. They wait for the others: after a lone
    /// start they are all channels.
    unsure: BTreeSet<(u64, ChannelKey)>,
}

impl Queue {
    fn part(&mut self, is_unsure: bool) -> &mut BTreeSet<(u64, ChannelKey)> {
        if is_unsure { &mut self.unsure } else { &mut self.changed }
    }

    fn clear(&mut self) {
        self.changed.clear();
        self.unsure.clear();
    }

    /// The channels to look at by now.
    fn due(&self, now_ms: u64) -> impl Iterator<Item = &(u64, ChannelKey)> {
        let by_now = move |entry: &&(u64, ChannelKey)| entry.0 <= now_ms;
        let changed = self.changed.iter().take_while(by_now);
        changed.chain(self.unsure.iter().take_while(by_now))
    }
}

#[derive(Debug, Default)]
struct Member {
    online: bool,
    channels: Vec<ChannelKey>,
}

/// The counts of a channel that are to be announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    pub key: ChannelKey,
    pub counts: Counts,
    /// The version of the announcement before it.
    pub after: u64,
}

/// The counts of the channels whose types announce them.
#[derive(Debug, Default)]
pub struct Occupancy {
    channels: HashMap<ChannelKey, Channel>,
    members: HashMap<Id, Member>,
    queue: Queue,
    /// The channels that have lost their members, by the time until which they are remembered.
    emptied: BTreeSet<(u64, ChannelKey)>,
}

impl Occupancy {
    /// Takes the members of a channel, of which none are left when it is deleted. `is_online`
    /// tells how others see a user who was no member of any channel.
    pub fn on_members(
        &mut self,
        key: &ChannelKey,
        members: &[Id],
        interval_ms: u64,
        is_online: impl Fn(&Id) -> bool,
        now_ms: u64,
    ) {
        let channel = self.channels.entry(key.clone()).or_default();
        channel.interval_ms = interval_ms;
        let after: HashSet<Id> = members.iter().cloned().collect();
        for left in channel.members.difference(&after) {
            let Some(member) = self.members.get_mut(left) else { continue };
            channel.online -= usize::from(member.online);
            member.channels.retain(|known| known != key);
            if member.channels.is_empty() {
                self.members.remove(left);
            }
        }
        for joined in after.difference(&channel.members) {
            let member = self.members.entry(joined.clone()).or_insert_with(|| Member {
                online: is_online(joined),
                channels: Vec::with_capacity(1),
            });
            channel.online += usize::from(member.online);
            member.channels.push(key.clone());
        }
        channel.members = after;
        channel.hurry(key, &mut self.queue);
        self.compare(key, now_ms);
    }

    /// Others see a user come or go.
    pub fn on_user(&mut self, user: &Id, online: bool, now_ms: u64) {
        let Some(member) = self.members.get_mut(user).filter(|member| member.online != online)
        else {
            return;
        };
        member.online = online;
        for key in member.channels.clone() {
            if let Some(channel) = self.channels.get_mut(&key) {
                channel.online = channel.online + usize::from(online) - usize::from(!online);
                channel.hurry(&key, &mut self.queue);
            }
            self.compare(&key, now_ms);
        }
    }

    /// Hears an announcement of this daemon or of another one, perhaps of a channel that the
    /// replica does not have yet.
    pub fn on_announced(
        &mut self,
        key: &ChannelKey,
        interval_ms: u64,
        counts: Counts,
        version: u64,
        now_ms: u64,
    ) {
        let channel = self.channels.entry(key.clone()).or_default();
        channel.interval_ms = interval_ms;
        let known = channel.announced;
        if version > known.version {
            let (counts, at_ms) = (Some(counts), Some(now_ms));
            channel.announced = Announced { counts, version, at_ms, assumed: false };
            channel.schedule(key, None, &mut self.queue);
        } else if version == known.version && known.counts != Some(counts) {
            // Two daemons at once: it is unknown which of them a receiver heard first.
            channel.announced.counts = None;
        }
        self.compare(key, now_ms);
    }

    /// This daemon sends an announcement, which counts as made once it is heard.
    pub fn on_sent(&mut self, key: &ChannelKey, version: u64, now_ms: u64) {
        let Some(channel) = self.channels.get_mut(key) else { return };
        channel.sent = version;
        let lost_ms = now_ms + channel.interval_ms.max(LOST_AFTER_MS);
        channel.schedule(key, Some(lost_ms), &mut self.queue);
    }

    /// Takes the present counts for announced: the daemons that are there have done so.
    pub fn assume_announced(&mut self) {
        for channel in self.channels.values_mut() {
            let counts = Some(channel.counts());
            channel.announced = Announced { counts, assumed: true, ..channel.announced };
            (channel.due_ms, channel.is_unsure) = (None, false);
        }
        self.queue.clear();
    }

    /// Announcements may have been missed.
    pub fn on_missed(&mut self) {
        self.channels.values_mut().for_each(|channel| channel.announced.assumed = true);
    }

    /// A daemon is gone, or none was there before this one: what was only assumed to be announced
    /// is announced.
    pub fn announce_assumed(&mut self, now_ms: u64) {
        let assumed = self.channels.iter_mut().filter(|(_, channel)| channel.announced.assumed);
        let keys: Vec<_> = assumed
            .map(|(key, channel)| {
                channel.announced.counts = None;
                channel.announced.assumed = false;
                channel.is_unsure = channel.due_ms.is_none();
                key.clone()
            })
            .collect();
        for key in keys {
            self.compare(&key, now_ms);
        }
    }

    /// The announcements to be made now. Each is of a count that differs, no earlier than an
    /// interval after the last announcement and `wait_ms` after its time. At most `limit` are
    /// returned at once: those first that have been due for longest, and those last of which only the
    /// last announcement is unknown.
    pub fn due(
        &mut self,
        now_ms: u64,
        limit: usize,
        wait_ms: impl Fn(&ChannelKey) -> u64,
    ) -> Vec<Announcement> {
        let (mut due, mut later) = (Vec::new(), Vec::new());
        for (look_ms, key) in self.queue.due(now_ms) {
            if due.len() >= limit {
                break;
            }
            let Some(channel) = self.channels.get(key) else { continue };
            let turn_ms = channel.due_ms.unwrap_or(*look_ms) + wait_ms(key);
            if turn_ms > now_ms {
                later.push((key.clone(), turn_ms));
            } else {
                let after = channel.announced.version.max(channel.sent);
                let counts = channel.counts();
                due.push(Announcement { key: key.clone(), counts, after });
            }
        }
        for (key, turn_ms) in later {
            let Some(channel) = self.channels.get_mut(&key) else { continue };
            let part = self.queue.part(channel.is_unsure);
            part.remove(&(channel.look_ms, key.clone()));
            channel.look_ms = turn_ms;
            part.insert((turn_ms, key));
        }
        due
    }

    /// Forgets channels that have had no members for long. `stream` is JetStream's clock: the next
    /// version of a channel that is made again is greater than those before.
    pub fn forget(&mut self, now_ms: u64, stream: Time) {
        while self.emptied.first().is_some_and(|(at_ms, _)| *at_ms <= now_ms) {
            let Some((_, key)) = self.emptied.pop_first() else { return };
            let Some(channel) = self.channels.get_mut(&key) else { continue };
            let is_needed = !channel.members.is_empty() || channel.due_ms.is_some();
            if is_needed || channel.keep_until_ms > now_ms {
                continue;
            }
            if channel.announced.version.max(channel.sent) < u64::try_from(stream.0).unwrap_or(0) {
                self.channels.remove(&key);
            } else {
                channel.keep_until_ms = now_ms + KEEP_MS;
                self.emptied.insert((channel.keep_until_ms, key));
            }
        }
    }

    /// The number of channels that are counted.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Notes whether the counts of a channel differ from what was announced, and how long a channel
    /// without members is remembered.
    fn compare(&mut self, key: &ChannelKey, now_ms: u64) {
        let Some(channel) = self.channels.get_mut(key) else { return };
        let differs = channel.announced.counts != Some(channel.counts());
        if differs && channel.due_ms.is_none() {
            let next_ms = channel.announced.at_ms.map_or(0, |at_ms| at_ms + channel.interval_ms);
            channel.schedule(key, Some(now_ms.max(next_ms)), &mut self.queue);
        } else if !differs {
            channel.schedule(key, None, &mut self.queue);
        }
        if !differs && channel.members.is_empty() {
            channel.keep_until_ms = now_ms + channel.interval_ms + KEEP_MS;
            self.emptied.insert((channel.keep_until_ms, key.clone()));
        }
    }
}

impl Announcement {
    /// `docs/protocol.md`, *Event*: the version of an announcement made at `now`.
    pub fn version(&self, now: Time) -> u64 {
        self.after.saturating_add(1).max(u64::try_from(now.0).unwrap_or(0))
    }

    /// The JSON body.
    pub fn body(&self, version: u64, now: Time) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        json::push(&mut out, "{\"type\":\"channel.presence.changed\",\"created_at\":");
        json::push_optional_time(&mut out, Some(now));
        json::push(&mut out, ",\"channel\":{\"type\":");
        json::push_str(&mut out, self.key.kind());
        json::push(&mut out, ",\"id\":");
        json::push_str(&mut out, self.key.id());
        json::push(&mut out, ",\"cid\":");
        json::push_str(&mut out, self.key.cid());
        json::push(&mut out, ",\"online_count\":");
        json::push_number(&mut out, self.counts.online as u64);
        json::push(&mut out, ",\"member_count\":");
        json::push_number(&mut out, self.counts.members as u64);
        json::push(&mut out, ",\"version\":");
        json::push_number(&mut out, version);
        json::push(&mut out, "}}");
        out
    }
}

#[cfg(test)]
mod tests;
