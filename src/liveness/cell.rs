//! Whether all daemons that answer the same requests keep their records in the same stream, and
//! with the same settings. Pure: the time comes in as a value.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::build::Build;
use super::peers::FAILED_AFTER_MS;
use crate::presence::entity::DaemonId;

/// The arrangement of records in the bucket that this build knows.
pub const LAYOUT: u32 = 1;

/// A difference counts when it has lasted for this long, in milliseconds: daemons notice a bucket
/// that was made again one after another.
const CONFIRM_MS: u64 = 4000;

/// Daemons that started closer together than this count as equally old, in milliseconds.
const SAME_AGE_MS: u64 = 1000;

/// The properties that daemons of one cell have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// See [`LAYOUT`].
    pub layout: u32,
    /// The prefix of requests, and that of events.
    pub requests: String,
    pub events: String,
    /// The prefix of the announced counts, if this daemon announces any.
    #[serde(default)]
    pub counts: Option<String>,
    /// Bucket and creation time.
    pub stream: String,
    /// The domain of JetStream that has the stream, for people: daemons may come to one stream by
    /// different ways.
    #[serde(default)]
    pub domain: Option<String>,
    /// The settings that all should have, as text.
    pub settings: String,
}

/// A message of a daemon to those of all buckets.
#[derive(Debug, Serialize, Deserialize)]
pub struct Introduction {
    pub daemon: String,
    /// The time for which daemons of its stream have been there without a break, in milliseconds.
    pub up_ms: u64,
    #[serde(flatten)]
    pub build: Build,
    #[serde(flatten)]
    pub identity: Identity,
}

#[derive(Debug)]
struct Neighbour {
    /// The daemon, for the log.
    label: String,
    identity: Identity,
    heard_ms: u64,
    /// The time from which daemons of its stream have been there, on this daemon's monotonic clock.
    /// It may be before the clock's origin.
    since_ms: i64,
}

/// The daemons that keep their records in the stream of this one.
#[derive(Debug)]
struct Group {
    stream: String,
    /// As [`Neighbour::since_ms`].
    since_ms: i64,
}

/// The way in which another daemon does not fit to this one. `daemon` names it for the log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Misfit {
    #[error(
        "another daemon ({daemon}) keeps records in layout {layout}, and this build knows \
         {LAYOUT}: install the newer one"
    )]
    Layout { daemon: String, layout: u32 },
    #[error(
        "daemons of the prefix {requests} keep their records in two streams: this one in {own}, \
         others in {other} ({daemon})"
    )]
    Streams { daemon: String, requests: String, own: String, other: String },
    #[error(
        "daemons of one bucket have different settings: here {own}, elsewhere {other} ({daemon})"
    )]
    Settings { daemon: String, own: String, other: String },
    #[error(
        "`subjects.channel_events` is that of another cell too, whose requests go to {requests} \
         ({daemon}): the counts of channels of the same name contradict each other"
    )]
    Counts { daemon: String, requests: String },
}

/// The problems with the other daemons, seen from this one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// The reason why this daemon takes no requests.
    pub yields: Option<Misfit>,
    /// The reason why this daemon is not as it should be, though it takes requests.
    pub conflict: Option<Misfit>,
    /// Settings that differ among the daemons of one stream, or that two cells must not share.
    pub difference: Option<Misfit>,
}

/// The daemons that answer the same requests or keep their records in the same stream.
#[derive(Debug, Default)]
pub struct Cell {
    neighbours: BTreeMap<DaemonId, Neighbour>,
    group: Option<Group>,
    /// The start of a conflict, while there is one.
    since_ms: Option<u64>,
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

impl Identity {
    /// The stream, as people tell it from others.
    fn place(&self) -> String {
        let domain = self.domain.as_ref().map(|name| format!(" of the domain {name}"));
        format!("{}{}", self.stream, domain.unwrap_or_default())
    }
}

impl Cell {
    /// Another daemon introduced itself.
    pub fn on_introduction(&mut self, daemon: DaemonId, introduction: Introduction, now_ms: u64) {
        let Introduction { up_ms, build, identity, .. } = introduction;
        let since_ms = signed(now_ms) - signed(up_ms);
        let before = self.neighbours.get(&daemon);
        // Messages that were delayed make it look younger.
        let known_ms = before.filter(|known| known.identity.stream == identity.stream);
        let since_ms = known_ms.map_or(since_ms, |known| known.since_ms.min(since_ms));
        let label = format!("daemon {daemon}, {build}");
        let neighbour = Neighbour { label, identity, heard_ms: now_ms, since_ms };
        self.neighbours.insert(daemon, neighbour);
    }

    /// The time from which daemons of this daemon's stream have been there. This daemon started at
    /// `started_ms`. The age of a group outlives each of its daemons, as they are restarted one by
    /// one.
    fn group_since_ms(&mut self, own: &Identity, started_ms: u64) -> i64 {
        let group = self.group.take().filter(|group| group.stream == own.stream);
        let known_ms = group.map_or_else(|| signed(started_ms), |group| group.since_ms);
        let kin = self.neighbours.values().filter(|each| each.identity.stream == own.stream);
        let since_ms = kin.map(|each| each.since_ms).fold(known_ms, i64::min);
        self.group = Some(Group { stream: own.stream.clone(), since_ms });
        since_ms
    }

    /// The time for which daemons of this daemon's stream have been there, in milliseconds.
    pub fn group_up_ms(&mut self, own: &Identity, started_ms: u64, now_ms: u64) -> u64 {
        let up_ms = signed(now_ms) - self.group_since_ms(own, started_ms);
        u64::try_from(up_ms).unwrap_or(0)
    }

    /// Assesses the other daemons. This one started at `started_ms`.
    pub fn assess(&mut self, own: &Identity, started_ms: u64, now_ms: u64) -> Findings {
        self.neighbours.retain(|_, neighbour| neighbour.heard_ms + FAILED_AFTER_MS > now_ms);
        let since_ms = self.group_since_ms(own, started_ms);
        let mut findings = self.compare(own, since_ms);
        if findings.yields.is_none() && findings.conflict.is_none() {
            self.since_ms = None;
        } else if *self.since_ms.get_or_insert(now_ms) + CONFIRM_MS > now_ms {
            (findings.yields, findings.conflict) = (None, None);
        }
        findings
    }

    fn compare(&self, own: &Identity, own_ms: i64) -> Findings {
        let same_requests = |each: &&Neighbour| each.identity.requests == own.requests;
        let mut same = self.neighbours.values().filter(same_requests);
        if let Some(other) = same.find(|each| each.identity.layout != own.layout) {
            let (daemon, layout) = (other.label.clone(), other.identity.layout);
            let yields = Some(Misfit::Layout { daemon, layout });
            return Findings { yields, ..Findings::default() };
        }
        let neighbours = self.neighbours.values();
        let (kin, foreign): (Vec<_>, Vec<_>) =
            neighbours.partition(|each| each.identity.stream == own.stream);
        let oldest = foreign.iter().copied().filter(same_requests).min_by_key(|each| each.since_ms);
        let mut findings = match oldest {
            Some(oldest) => self.compare_streams(own, own_ms, oldest),
            None => Findings::default(),
        };
        let other_settings = kin.iter().find(|each| each.identity.settings != own.settings);
        let shares_counts =
            |each: &&&Neighbour| own.counts.is_some() && each.identity.counts == own.counts;
        let sharing = foreign.iter().find(|each| !same_requests(each) && shares_counts(each));
        findings.difference = match (other_settings, sharing) {
            (Some(other), _) => Some(Misfit::Settings {
                daemon: other.label.clone(),
                own: own.settings.clone(),
                other: other.identity.settings.clone(),
            }),
            (None, Some(other)) => Some(Misfit::Counts {
                daemon: other.label.clone(),
                requests: other.identity.requests.clone(),
            }),
            (None, None) => None,
        };
        findings
    }

    /// Compares this daemon with the oldest of the same requests and another stream: the younger
    /// group takes no requests.
    fn compare_streams(&self, own: &Identity, own_ms: i64, oldest: &Neighbour) -> Findings {
        let (stream, theirs_ms) = (&oldest.identity.stream, oldest.since_ms);
        // The same one for as long as it is there: which is the oldest may change.
        let mut neighbours = self.neighbours.values();
        let named = neighbours
            .find(|each| each.identity.stream == *stream && each.identity.requests == own.requests);
        let named = named.unwrap_or(oldest);
        let misfit = Some(Misfit::Streams {
            daemon: named.label.clone(),
            requests: own.requests.clone(),
            own: own.place(),
            other: named.identity.place(),
        });
        let is_younger = match own_ms.abs_diff(theirs_ms) < SAME_AGE_MS {
            true => own.stream > *stream,
            false => own_ms > theirs_ms,
        };
        if is_younger {
            Findings { yields: misfit, ..Findings::default() }
        } else {
            Findings { conflict: misfit, ..Findings::default() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(stream: &str, settings: &str) -> Identity {
        Identity {
            layout: LAYOUT,
            requests: "presence.v1".to_owned(),
            events: "e".to_owned(),
            counts: Some("c".to_owned()),
            stream: stream.to_owned(),
            domain: None,
            settings: settings.to_owned(),
        }
    }

    fn hear(cell: &mut Cell, identity: Identity, up_ms: u64, now_ms: u64) {
        let build = Build { host: "h".to_owned(), version: "1.2.3".to_owned() };
        let introduction = Introduction { daemon: String::new(), up_ms, build, identity };
        cell.on_introduction(DaemonId(up_ms), introduction, now_ms);
    }

    /// The findings when the others were heard for long enough.
    fn assessed(own: &Identity, started_ms: u64, others: &[(Identity, u64)]) -> Findings {
        let mut cell = Cell::default();
        let mut findings = Findings::default();
        for now_ms in [100_000, 100_000 + CONFIRM_MS] {
            for (identity, up_ms) in others {
                hear(&mut cell, identity.clone(), *up_ms, now_ms);
            }
            findings = cell.assess(own, started_ms, now_ms);
        }
        findings
    }

    #[test]
    fn the_younger_group_of_two_streams_yields() {
        let (own, other) = (identity("a", "s"), identity("b", "s"));
        let older = assessed(&own, 90_000, &[(other.clone(), 50_000)]);
        assert!(older.yields.is_some() && older.conflict.is_none());
        let younger = assessed(&own, 10_000, &[(other.clone(), 50_000)]);
        assert!(younger.yields.is_none() && younger.conflict.is_some());
        let with_kin = assessed(&own, 90_000, &[(other, 50_000), (own.clone(), 80_000)]);
        assert!(with_kin.yields.is_none(), "the group is as old as its oldest daemon");
    }

    #[test]
    fn streams_of_one_name_are_told_apart_by_their_domains() {
        let hub = Identity { domain: Some("hub".to_owned()), ..identity("KV_x (1)", "s") };
        let edge = Identity { domain: Some("edge".to_owned()), ..identity("KV_x (2)", "s") };
        let text = assessed(&hub, 90_000, &[(edge, 50_000)]).yields.unwrap().to_string();
        assert!(text.contains("this one in KV_x (1) of the domain hub, others in KV_x (2) of the"));
        let same = Identity { domain: None, ..hub.clone() };
        assert_eq!(assessed(&hub, 90_000, &[(same, 50_000)]), Findings::default());
    }

    #[test]
    fn a_group_stays_as_old_as_it_is_while_its_daemons_are_restarted() {
        let own = identity("a", "s");
        let mut restarted = Cell::default();
        hear(&mut restarted, own.clone(), 500_000, 600_000);
        assert_eq!(restarted.group_up_ms(&own, 599_000, 600_000), 500_000);
        assert_eq!(restarted.assess(&own, 599_000, 690_000), Findings::default());
        assert_eq!(restarted.group_up_ms(&own, 599_000, 700_000), 600_000, "the other is gone");
        let made_again = identity("a2", "s");
        assert_eq!(restarted.group_up_ms(&made_again, 599_000, 700_000), 101_000);
    }

    #[test]
    fn a_conflict_counts_when_it_lasts_and_ends_when_the_other_is_gone() {
        let (own, mut cell) = (identity("a", "s"), Cell::default());
        hear(&mut cell, identity("b", "s"), 50_000, 60_000);
        assert_eq!(cell.assess(&own, 59_000, 60_000), Findings::default());
        hear(&mut cell, identity("b", "s"), 50_000 + CONFIRM_MS, 60_000 + CONFIRM_MS);
        assert!(cell.assess(&own, 59_000, 60_000 + CONFIRM_MS).yields.is_some());
        assert_eq!(cell.assess(&own, 59_000, 70_000 + CONFIRM_MS), Findings::default());
    }

    #[test]
    fn an_unknown_layout_and_other_settings_are_reported() {
        let own = identity("a", "lease 60s");
        let newer = Identity { layout: 2, ..own.clone() };
        assert!(assessed(&own, 0, &[(newer, 1)]).yields.unwrap().to_string().contains("layout 2"));
        let findings = assessed(&own, 0, &[(identity("a", "lease 6s"), 1)]);
        let expected = format!(
            "daemons of one bucket have different settings: here lease 60s, elsewhere lease 6s \
             (daemon {}, version 1.2.3 on h)",
            DaemonId(1)
        );
        assert_eq!(findings.difference.unwrap().to_string(), expected);
    }

    #[test]
    fn two_cells_must_not_announce_counts_on_the_same_subjects() {
        let own = identity("a", "s");
        let other = Identity { requests: "other.v1".to_owned(), ..identity("b", "x") };
        for counts in [None, Some("other".to_owned())] {
            let apart = Identity { counts, ..other.clone() };
            assert_eq!(assessed(&own, 0, &[(apart, 1)]), Findings::default());
        }
        let findings = assessed(&own, 0, &[(other.clone(), 1)]);
        assert!(findings.difference.unwrap().to_string().contains("other.v1"));
        let silent = Identity { counts: None, ..own };
        let quiet = Identity { counts: None, ..other };
        assert_eq!(assessed(&silent, 0, &[(quiet, 1)]), Findings::default());
    }
}
