//! The state of the daemon: what it waits for during the start, and the problems that keep it from
//! serving later. Modules report here; systemd and probes over HTTP are served from here.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

/// The stage of a daemon's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Not serving yet; holds what it waits for.
    Starting(String),
    Serving,
    Leaving,
}

/// The state of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub stage: Stage,
    /// One line for each problem, by its place.
    pub problems: BTreeMap<String, String>,
}

impl Condition {
    /// Returns whether the daemon serves without a problem.
    pub fn is_ready(&self) -> bool {
        self.stage == Stage::Serving && self.problems.is_empty()
    }
}

impl fmt::Display for Condition {
    /// One line; problems take precedence over the stage.
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

/// Holds the state of the daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Health {
    condition: Arc<watch::Sender<Condition>>,
    answered: Arc<watch::Sender<()>>,
}

impl Health {
    /// A daemon that begins to start.
    pub fn new() -> Self {
        let stage = Stage::Starting("its settings".to_owned());
        let condition = watch::Sender::new(Condition { stage, problems: BTreeMap::new() });
        Self { condition: Arc::new(condition), answered: Arc::new(watch::Sender::new(())) }
    }

    /// The daemon is starting, and waits for `what`.
    pub fn starting(&self, what: impl Into<String>) {
        self.enter(Stage::Starting(what.into()));
    }

    /// The daemon serves from now on.
    pub fn serving(&self) {
        self.enter(Stage::Serving);
    }

    /// The daemon takes in no more requests.
    pub fn leaving(&self) {
        self.enter(Stage::Leaving);
    }

    /// Sets the problem of a place.
    pub fn report(&self, place: &str, problem: impl Into<String>) {
        let problem = problem.into();
        self.condition.send_if_modified(|condition| {
            let known = condition.problems.insert(place.to_owned(), problem.clone());
            known.as_ref() != Some(&problem)
        });
    }

    /// Removes the problem of a place.
    pub fn clear(&self, place: &str) {
        self.condition.send_if_modified(|condition| condition.problems.remove(place).is_some());
    }

    /// Every loop that serves has answered the watchdog.
    pub fn all_answered(&self) {
        self.answered.send_replace(());
    }

    /// Changes each time that every loop has answered the watchdog.
    pub fn answers(&self) -> watch::Receiver<()> {
        self.answered.subscribe()
    }

    /// Returns whether there is a problem.
    pub fn has_problems(&self) -> bool {
        !self.condition.borrow().problems.is_empty()
    }

    /// The current state, and its changes.
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
    fn a_daemon_is_ready_when_it_serves_without_a_problem() {
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
