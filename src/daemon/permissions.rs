//! The permissions that the daemon needs on NATS, and the refusals of the server. Pure.

use std::fmt;

use crate::api::heartbeats;
use crate::api::transport::intake::QUEUE_GROUP;
use crate::api::transport::micro;
use crate::config::{INTERNAL, Settings};

/// The token that stands for a wildcard where a permission is probed.
const PERMISSION_NAME: &str = "permission";

/// The subjects of answers to requests from other accounts.
const SERVICE_REPLIES: &str = "_R_.>";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    Publish,
    Subscribe,
}

/// One entry of the `allow` lists of the daemon's user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permission {
    pub verb: Verb,
    pub subject: String,
    pub queue: Option<&'static str>,
}

impl fmt::Display for Permission {
    /// As it is written in the settings of the server.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.verb {
            Verb::Publish => "publish",
            Verb::Subscribe => "subscribe",
        };
        let Self { subject, queue, .. } = self;
        match queue {
            None => write!(f, "{verb} on \"{subject}\""),
            Some(queue) => write!(f, "{verb} on \"{subject} {queue}\""),
        }
    }
}

impl Permission {
    fn publish(subject: impl Into<String>) -> Self {
        Self { verb: Verb::Publish, subject: subject.into(), queue: None }
    }

    fn subscribe(subject: impl Into<String>) -> Self {
        Self { verb: Verb::Subscribe, subject: subject.into(), queue: None }
    }

    /// A subject by which it can be probed.
    pub fn sample(&self) -> String {
        let tokens = self.subject.split('.').map(|token| match token {
            "*" | ">" => PERMISSION_NAME,
            token => token,
        });
        tokens.collect::<Vec<_>>().join(".")
    }

    /// Returns whether it can be probed: an answer needs a request.
    pub fn can_be_probed(&self) -> bool {
        self.subject != SERVICE_REPLIES
    }

    fn covers(&self, violation: &Violation<'_>) -> bool {
        self.verb == violation.verb && covers(&self.subject, violation.subject)
    }
}

/// Returns whether a pattern matches a subject, or one that is narrower than it.
fn covers(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for expected in pattern.split('.') {
        match (expected, tokens.next()) {
            (">", Some(_)) => return true,
            (_, None) => return false,
            (expected, Some(token)) if expected == "*" || expected == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// The permissions that the daemon needs.
#[derive(Debug, Clone, Default)]
pub struct Permissions {
    /// Needed from the start on. The first one that covers a subject counts.
    pub always: Vec<Permission>,
    /// Needed where the bucket is missing, or with other settings.
    sometimes: Vec<Permission>,
    /// The subjects of replies to the daemon, if their prefix is the default of all clients.
    default_inbox: Option<String>,
}

impl Permissions {
    pub fn of(settings: &Settings) -> Self {
        let requests = settings.subjects.requests();
        let [trusted, own] = heartbeats::lanes(&requests);
        let stream = format!("KV_{}", settings.store.bucket);
        let api = &settings.nats.js_api;
        let write_subjects = match api.as_str() {
            "$JS.API" => format!("$KV.{}.>", settings.store.bucket),
            api => format!("{api}.$KV.{}.>", settings.store.bucket),
        };
        let mut always = vec![
            Permission::publish(format!("{}.*", settings.subjects.events)),
            Permission::publish(write_subjects),
            Permission::publish(format!("{api}.STREAM.INFO.{stream}")),
            Permission::publish(format!("{api}.STREAM.MSG.GET.{stream}")),
            Permission::publish(format!("{api}.CONSUMER.CREATE.{stream}.*")),
            Permission::publish(format!("{api}.CONSUMER.INFO.{stream}.*")),
            Permission::publish(format!("{api}.CONSUMER.DELETE.{stream}.*")),
            Permission::publish("$JS.FC.>"),
            Permission::publish(format!("{INTERNAL}.>")),
            Permission::subscribe(format!("{}.>", settings.nats.inbox_prefix)),
            Permission::subscribe(format!("{INTERNAL}.>")),
        ];
        always.extend(heartbeats::probe_lanes(&requests).map(Permission::publish));
        always.extend([trusted, own].map(Permission::subscribe));
        always.push(Permission {
            queue: Some(QUEUE_GROUP),
            ..Permission::subscribe(format!("{requests}.>"))
        });
        always.extend(micro::subjects("*").map(Permission::subscribe));
        let mut sometimes = vec![Permission::publish(format!("{api}.STREAM.CREATE.{stream}"))];
        let counts = format!("{}.*.*", settings.subjects.channel_events);
        let for_counts = [Permission::publish(&counts), Permission::subscribe(&counts)];
        if settings.channel_types.values().any(|each| each.occupancy_interval.is_some()) {
            always.extend(for_counts);
        } else {
            sometimes.extend(for_counts);
        }
        let default_inbox = (settings.nats.inbox_prefix == Settings::default().nats.inbox_prefix)
            .then(|| format!("{}.>", settings.nats.inbox_prefix));
        Self { always, sometimes, default_inbox }
    }

    /// The change to make where a permission is missing.
    pub fn advice(&self, missing: &Permission) -> String {
        let grant = format!("grant {missing} to its user");
        if missing.verb == Verb::Subscribe && self.default_inbox.as_ref() == Some(&missing.subject)
        {
            return format!("{grant}, or set `nats.inbox_prefix` to the inbox prefix of its role");
        }
        grant
    }

    /// The change to make where so many are missing that the login is hardly a daemon's.
    pub fn other_role(&self, missing: usize) -> Option<String> {
        let needed = self.always.len();
        (2 * missing > needed).then(|| {
            format!(
                "{missing} of its {needed} permissions are missing, so this login is likely that \
                 of another role: log in as the daemon's user"
            )
        })
    }

    /// The permission whose lack explains `violation`.
    ///
    /// Clients choose the subjects of their answers, so a refused answer is no fault of the
    /// daemon's user, unless it goes to another account.
    pub fn missing(&self, violation: &Violation<'_>) -> Option<Permission> {
        let mut needed = self.always.iter().chain(&self.sometimes);
        let found = needed.find(|each| each.covers(violation)).cloned();
        let answers = Permission::publish(SERVICE_REPLIES);
        found.or_else(|| answers.covers(violation).then_some(answers))
    }
}

/// A refusal of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation<'a> {
    pub verb: Verb,
    pub subject: &'a str,
}

impl<'a> Violation<'a> {
    /// Parses the server's text, such as `Permissions Violation for Publish to "a.b"`, which more
    /// text may follow. The server gives no other form.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (_, rest) = text.split_once("Permissions Violation for ")?;
        let (verb, rest) = match rest.split_once(" to \"")? {
            ("Publish", rest) => (Verb::Publish, rest),
            ("Subscription", rest) => (Verb::Subscribe, rest),
            _ => return None,
        };
        let (subject, _) = rest.split_once('"')?;
        Some(Self { verb, subject })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn permissions() -> Permissions {
        let mut settings = Settings::default();
        settings.nats.inbox_prefix = "_INBOX_presenced".to_owned();
        Permissions::of(&settings)
    }

    fn missing(text: &str) -> Option<String> {
        permissions().missing(&Violation::parse(text)?).map(|missing| missing.to_string())
    }

    #[test]
    fn a_refusal_names_the_permission_that_is_missing() {
        for (refusal, needed) in [
            ("Publish to \"$KV.presence.user.john\"", "publish on \"$KV.presence.>\""),
            ("Publish to \"user.presence.changed.a\"", "publish on \"user.presence.changed.*\""),
            (
                "Publish to \"$JS.API.CONSUMER.CREATE.KV_presence.x\"",
                "publish on \"$JS.API.CONSUMER.CREATE.KV_presence.*\"",
            ),
            (
                "Publish to \"$JS.API.STREAM.CREATE.KV_presence\"",
                "publish on \"$JS.API.STREAM.CREATE.KV_presence\"",
            ),
            ("Publish to \"presence.internal.v1.beacon\"", "publish on \"presence.internal.v1.>\""),
            ("Publish to \"_R_.a.b\"", "publish on \"_R_.>\""),
            (
                "Subscription to \"presence.v1.>\" using queue \"presenced\"",
                "subscribe on \"presence.v1.> presenced\"",
            ),
            (
                "Subscription to \"presence.v1.>\" (sid \"7\")",
                "subscribe on \"presence.v1.> presenced\"",
            ),
            (
                "Subscription to \"presence.v1.heartbeat.*\"",
                "subscribe on \"presence.v1.heartbeat.*\"",
            ),
            (
                "Subscription to \"$SRV.PING.presence.00ff\"",
                "subscribe on \"$SRV.PING.presence.*\"",
            ),
            ("Subscription to \"_INBOX_presenced.a.>\"", "subscribe on \"_INBOX_presenced.>\""),
        ] {
            let text = format!("Permissions Violation for {refusal}");
            assert_eq!(missing(&text).as_deref(), Some(needed), "{refusal}");
        }
    }

    #[test]
    fn a_refused_answer_is_no_missing_permission() {
        assert_eq!(missing("Permissions Violation for Publish to \"orders.new\""), None);
        assert_eq!(missing("Permissions Violation for Publish to \"_INBOX.a.b\""), None);
        assert_eq!(Violation::parse("Authorization Violation"), None);
    }

    #[test]
    fn each_can_be_probed_by_a_subject_that_it_covers() {
        for each in permissions().always {
            let violation = Violation { verb: each.verb, subject: &each.sample() };
            assert_eq!(permissions().missing(&violation), Some(each.clone()), "{each}");
            assert!(each.can_be_probed());
        }
    }

    /// The strings in the `allow` list for `verb` of the daemon's user.
    fn granted(verb: &str) -> BTreeSet<String> {
        let file = include_str!("../../config/nats-server.conf");
        let (_, user) = file.split_once("nkey: $DAEMON_KEY").unwrap();
        let (_, list) = user.split_once(&format!("{verb}: {{ allow: [")).unwrap();
        let (list, _) = list.split_once(']').unwrap();
        let lines = list.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        lines.filter(|line| !line.is_empty()).map(|line| format!("{verb} on {line}")).collect()
    }

    #[test]
    fn the_shipped_settings_grant_what_is_needed_and_no_more() {
        let Permissions { always, sometimes, .. } = permissions();
        let needed = always.iter().chain(&sometimes).map(ToString::to_string);
        let needed: BTreeSet<_> =
            needed.chain([format!("publish on \"{SERVICE_REPLIES}\"")]).collect();
        let granted: BTreeSet<_> =
            granted("publish").into_iter().chain(granted("subscribe")).collect();
        assert_eq!(granted, needed);
    }
}
