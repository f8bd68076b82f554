//! How the daemon is: what it waits for at the start, and what keeps it from serving later. Noted
//! where it is found out; read by whoever tells others, such as systemd or a probe over HTTP.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

/// How far a daemon has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Not serving yet, and what it waits for.
    Starting(String),
    Serving,
    Leaving,
}

/// The state of a daemon as others should know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub stage: Stage,
    /// What it suffers from, by where that is, each in one line.
    pub problems: BTreeMap<String, String>,
}

impl Condition {
    /// Whether requests should be sent to it.
    pub fn is_ready(&self) -> bool {
        self.stage == Stage::Serving && self.problems.is_empty()
    }
}

impl fmt::Display for Condition {
    /// One line: problems come before what it would otherwise do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.problems.is_empty() {
            let all: Vec<_> =
                self.problems.iter().map(|(at, what)| format!("{at}: {what}")).collect();
            return f.write_str(&all.join("; "));
        }
        match &self.stage {
            Stage::Starting(what) => write!(f, "waiting for {what}"),
            Stage::Serving => f.write_str("serving"),
            Stage::Leaving => f.write_str("leaving"),
        }
    }
}

/// Where the state of the daemon is noted. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Health {
    condition: Arc<watch::Sender<Condition>>,
    answered: Arc<watch::Sender<()>>,
}

impl Health {
    /// A daemon that has only just begun to start.
    pub fn new() -> Self {
        let stage = Stage::Starting("its settings".to_owned());
        let condition = watch::Sender::new(Condition { stage, problems: BTreeMap::new() });
        Self { condition: Arc::new(condition), answered: Arc::new(watch::Sender::new(())) }
    }

    /// It is starting, and now waits for something.
    pub fn starting(&self, what: impl Into<String>) {
        self.enter(Stage::Starting(what.into()));
    }

    /// It serves from now on.
    pub fn serving(&self) {
        self.enter(Stage::Serving);
    }

    /// It takes nothing new from now on.
    pub fn leaving(&self) {
        self.enter(Stage::Leaving);
    }

    /// Something keeps it from serving as it should.
    pub fn report(&self, at: &str, what: impl Into<String>) {
        let what = what.into();
        self.condition.send_if_modified(|condition| {
            let known = condition.problems.insert(at.to_owned(), what.clone());
            known.as_ref() != Some(&what)
        });
    }

    /// That is over.
    pub fn clear(&self, at: &str) {
        self.condition.send_if_modified(|condition| condition.problems.remove(at).is_some());
    }

    /// Every loop that serves has just answered.
    pub fn all_answered(&self) {
        self.answered.send_replace(());
    }

    /// Changes each time that every loop has answered.
    pub fn answers(&self) -> watch::Receiver<()> {
        self.answered.subscribe()
    }

    /// Whether something is known that it suffers from.
    pub fn has_problems(&self) -> bool {
        !self.condition.borrow().problems.is_empty()
    }

    /// The state as it is, and as it changes.
    pub fn watch(&self) -> watch::Receiver<Condition> {
        self.condition.subscribe()
    }

    fn enter(&self, stage: Stage) {
        self.condition.send_if_modified(|condition| {
            let changes = condition.stage != stage;
            condition.stage = stage;
            changes
        });
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_ready_when_it_serves_and_suffers_from_nothing() {
        let health = Health::new();
        let condition = health.watch();
        let now = || (condition.borrow().is_ready(), condition.borrow().to_string());
        health.starting("NATS");
        assert_eq!(now(), (false, "waiting for NATS".to_owned()));
        health.serving();
        assert_eq!(now(), (true, "serving".to_owned()));
        health.report("store", "cut off");
        assert_eq!(now(), (false, "store: cut off".to_owned()));
        assert!(health.has_problems());
        health.clear("store");
        assert_eq!(now(), (true, "serving".to_owned()));
        assert!(!health.has_problems());
        health.leaving();
        assert_eq!(now(), (false, "leaving".to_owned()));
    }
}
