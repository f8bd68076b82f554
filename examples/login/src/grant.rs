//! The user of a session, and exactly what its client may do at NATS.

use serde::{Deserialize, Serialize};

/// The content of the app's session token. The app signs it when a person logs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The user.
    pub sub: String,
    /// The time at which the session ends, in seconds since 1970.
    pub exp: u64,
    /// The users whose events the user may hear, besides its own.
    #[serde(default)]
    pub sees: Vec<String>,
    /// Whether the user may hear and query everyone, in place of a list.
    #[serde(default)]
    pub sees_all: bool,
    /// The channels (`type:id`) of which the user may hear how many members are online.
    #[serde(default)]
    pub counts: Vec<String>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Permissions {
    #[serde(rename = "pub")]
    pub publish: Allow,
    #[serde(rename = "sub")]
    pub subscribe: Allow,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Allow {
    pub allow: Vec<String>,
}

const OPERATIONS: [&str; 7] = [
    "connect",
    "update_connection",
    "heartbeat",
    "disconnect",
    "upsert_users",
    "watch_channel",
    "query_channels",
];
const OPERATIONS_ON_ALL: [&str; 2] = ["query_users", "count_users"];

/// The permissions of one user's own client, confined to subjects that end in its token.
pub fn permissions(session: &Session) -> Permissions {
    let me = token(&session.sub);
    let more = OPERATIONS_ON_ALL.iter().filter(|_| session.sees_all);
    let publish =
        OPERATIONS.iter().chain(more).map(|op| format!("presence.v1.{op}.{me}")).collect();
    let mut subscribe = vec![format!("_INBOX_{me}.>")];
    if session.sees_all {
        subscribe.push("user.presence.changed.*".into());
    } else {
        let seen = std::iter::once(&session.sub).chain(&session.sees);
        subscribe.extend(seen.map(|id| format!("user.presence.changed.{}", token(id))));
    }
    let counts = session.counts.iter().filter_map(|cid| cid.split_once(':'));
    subscribe.extend(
        counts.map(|(kind, id)| format!("channel.presence.changed.{}.{}", token(kind), token(id))),
    );
    Permissions { publish: Allow { allow: publish }, subscribe: Allow { allow: subscribe } }
}

/// An id as one subject token: all but `[A-Za-z0-9_-]` becomes `=XX`.
pub fn token(id: &str) -> String {
    id.bytes().fold(String::new(), |mut token, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => token.push(byte.into()),
            _ => token.push_str(&format!("={byte:02X}")),
        }
        token
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(sees_all: bool) -> Session {
        Session { sub: "a@b.c".into(), exp: 0, sees: vec!["jack".into()], sees_all, counts: vec![] }
    }

    #[test]
    fn a_client_is_confined_to_its_user_and_to_whom_it_sees() {
        let Permissions { publish, subscribe } = permissions(&session(false));
        assert!(publish.allow.iter().all(|subject| subject.ends_with(".a=40b=2Ec")));
        assert!(!publish.allow.iter().any(|subject| subject.contains("query_users")));
        let events =
            ["_INBOX_a=40b=2Ec.>", "user.presence.changed.a=40b=2Ec", "user.presence.changed.jack"];
        assert_eq!(subscribe.allow, events);
    }

    #[test]
    fn a_client_hears_the_counts_of_channels_that_are_named() {
        let counts = vec!["messaging:a.b".into(), "nonsense".into()];
        let Permissions { subscribe, .. } = permissions(&Session { counts, ..session(false) });
        assert_eq!(subscribe.allow[3..], ["channel.presence.changed.messaging.a=2Eb"]);
    }

    #[test]
    fn a_client_that_sees_all_may_query_too() {
        let Permissions { publish, subscribe } = permissions(&session(true));
        assert!(publish.allow.contains(&"presence.v1.query_users.a=40b=2Ec".to_owned()));
        assert_eq!(subscribe.allow[1..], ["user.presence.changed.*"]);
    }
}
