//! Whether writes are stored. Where they are not, the reason is logged and reported in the health.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::health::Health;
use crate::presence::time::{Now, Time};

/// Where writes that are not stored are reported.
const PROBLEM_KEY: &str = "writes";

/// How often a lasting reason is logged again, and how long after the last refused write it counts,
/// in milliseconds. Another write shows what holds by then.
const REPEAT_MS: u64 = 30_000;

/// Writes without any acknowledgement for this long are reported, in milliseconds.
const UNACKED_MS: u64 = 2000;

/// What became of the newest writes.
#[derive(Debug)]
pub struct WriteHealth {
    health: Health,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when writes have been sent and none of them was answered.
    waiting: Option<Now>,
    /// Why writes are not stored, and when that was last seen.
    problem: Option<(Arc<str>, u64)>,
    /// The reason that was logged last, and when.
    logged: Option<(Arc<str>, u64)>,
}

impl WriteHealth {
    pub fn new(health: Health) -> Self {
        Self { health, state: Mutex::default() }
    }

    /// A write is sent.
    pub fn on_sent(&self, now: Now) {
        self.state().waiting.get_or_insert(now);
    }

    /// A write was stored.
    pub fn on_stored(&self) {
        let mut state = self.state();
        state.waiting = None;
        if state.problem.take().is_some() {
            self.health.clear(PROBLEM_KEY);
            tracing::info!("writes are stored again");
            state.logged = None;
        }
    }

    /// JetStream answered a write and did not store it, which says nothing about other writes.
    pub fn on_answered(&self) {
        self.state().waiting = None;
    }

    /// JetStream does not store writes, for this reason.
    pub fn on_refused(&self, reason: &Arc<str>, now: Now) {
        let mut state = self.state();
        state.waiting = None;
        self.report(&mut state, reason, now);
    }

    /// Time has passed.
    pub fn on_tick(&self, now: Now) {
        let mut state = self.state();
        if let Some(since) = state.waiting.filter(|since| since.mono_ms + UNACKED_MS <= now.mono_ms)
        {
            let Time(since_ms) = since.wall;
            let reason = format!("not acknowledged since {}", Time(since_ms - since_ms % 1000));
            self.report(&mut state, &reason.into(), now);
            if since.mono_ms + REPEAT_MS <= now.mono_ms {
                state.waiting = None;
            }
        }
        if state.problem.as_ref().is_some_and(|(_, at_ms)| at_ms + REPEAT_MS <= now.mono_ms) {
            state.problem = None;
            self.health.clear(PROBLEM_KEY);
        }
    }

    /// The writes under way are without an answer because the connection was lost.
    pub fn on_reconnected(&self) {
        self.state().waiting = None;
    }

    fn report(&self, state: &mut State, reason: &Arc<str>, now: Now) {
        state.problem = Some((Arc::clone(reason), now.mono_ms));
        self.health.report(PROBLEM_KEY, format!("they are not stored: {reason}"));
        let is_logged =
            |(logged, at_ms): &(Arc<str>, u64)| logged == reason && now.mono_ms < at_ms + REPEAT_MS;
        let is_explained = state.waiting.is_some() && self.has_other_problem();
        if !is_explained && !state.logged.as_ref().is_some_and(is_logged) {
            tracing::error!(%reason, "writes are not stored; they are tried again");
            state.logged = Some((Arc::clone(reason), now.mono_ms));
        }
    }

    /// Whether something else is reported, which may be why no answers come. It has its own line in
    /// the log.
    fn has_other_problem(&self) -> bool {
        self.health.watch().borrow().problems.keys().any(|place| place != PROBLEM_KEY)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_ms: u64) -> Now {
        Now::local(mono_ms, Time(1_700_000_000_000))
    }

    #[test]
    fn a_refusal_counts_until_a_write_is_stored_or_none_is_refused_any_more() {
        let health = Health::new();
        let writes = WriteHealth::new(health.clone());
        writes.on_refused(&"no space".into(), at(0));
        assert!(health.has_problems());
        writes.on_tick(at(REPEAT_MS - 1));
        assert!(health.has_problems());
        writes.on_stored();
        assert!(!health.has_problems());
        writes.on_refused(&"no space".into(), at(0));
        writes.on_tick(at(REPEAT_MS));
        assert!(!health.has_problems());
    }

    #[test]
    fn writes_that_nobody_answers_are_reported_with_their_time() {
        let health = Health::new();
        let writes = WriteHealth::new(health.clone());
        writes.on_sent(at(0));
        writes.on_answered();
        writes.on_tick(at(UNACKED_MS));
        assert!(!health.has_problems());
        writes.on_sent(at(0));
        writes.on_sent(at(UNACKED_MS - 1));
        writes.on_tick(at(UNACKED_MS));
        let said = health.watch().borrow().to_string();
        assert!(said.contains("not acknowledged since 2023-11-14T22:13:20"), "{said}");
        writes.on_stored();
        assert!(!health.has_problems());
    }
}
