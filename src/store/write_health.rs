//! Whether writes are stored. Where they are not, the reason is logged and reported in the health.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::health::Health;
use crate::presence::time::{Now, Time};

/// The key under which writes that are not stored are reported.
const PROBLEM_KEY: &str = "writes";

/// The time after which a lasting reason is logged again, and for which the last refused write
/// counts, in milliseconds. Another write shows what holds by then.
const REPEAT_MS: u64 = 30_000;

/// The time without a refused write after which one that was stored ends a problem, in
/// milliseconds. Near a full bucket small writes are stored while larger ones are refused.
const CALM_MS: u64 = 3000;

/// Writes without any acknowledgement for this long are reported, in milliseconds.
const UNACKED_MS: u64 = 2000;

/// The cause of writes without an acknowledgement, for the log.
const UNACKED: &str = "not acknowledged";

/// The results of the newest writes.
#[derive(Debug)]
pub struct WriteHealth {
    health: Health,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The time from which writes have been sent and none of them was answered.
    waiting: Option<Now>,
    problem: Option<Problem>,
    /// The causes that were logged in the last [`REPEAT_MS`], and when.
    logged: Vec<(Arc<str>, u64)>,
    /// Whether the log says that writes are not stored, and not yet that they are again.
    is_logged: bool,
}

/// Writes are not stored.
#[derive(Debug, Clone, Copy)]
struct Problem {
    seen_ms: u64,
    /// Whether a write was stored since then.
    is_over: bool,
}

impl WriteHealth {
    pub fn new(health: Health) -> Self {
        Self { health, state: Mutex::default() }
    }

    /// A write leaves for the server.
    pub fn on_sent(&self, now: Now) {
        self.state().waiting.get_or_insert(now);
    }

    /// A write was stored.
    pub fn on_stored(&self) {
        let mut state = self.state();
        state.waiting = None;
        if let Some(problem) = &mut state.problem {
            problem.is_over = true;
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
        self.report(&mut state, reason, reason, now);
    }

    /// Time has passed.
    pub fn on_tick(&self, now: Now) {
        let mut state = self.state();
        if let Some(since) = state.waiting.filter(|since| since.mono_ms + UNACKED_MS <= now.mono_ms)
        {
            let Time(since_ms) = since.wall;
            let reason = format!("{UNACKED} since {}", Time(since_ms - since_ms % 1000));
            self.report(&mut state, &UNACKED.into(), &reason, now);
            if since.mono_ms + REPEAT_MS <= now.mono_ms {
                state.waiting = None;
            }
        }
        let is_gone = |problem: &Problem| {
            let lasts_ms = if problem.is_over { CALM_MS } else { REPEAT_MS };
            problem.seen_ms + lasts_ms <= now.mono_ms
        };
        if let Some(problem) = state.problem.take_if(|problem| is_gone(problem)) {
            self.health.clear(PROBLEM_KEY);
            if problem.is_over && std::mem::take(&mut state.is_logged) {
                tracing::info!("writes are stored again");
            }
        }
    }

    /// The writes under way are without an answer because the connection was lost.
    pub fn on_reconnected(&self) {
        self.state().waiting = None;
    }

    fn report(&self, state: &mut State, cause: &Arc<str>, reason: &str, now: Now) {
        state.problem = Some(Problem { seen_ms: now.mono_ms, is_over: false });
        self.health.report(PROBLEM_KEY, format!("they are not stored: {reason}"));
        state.logged.retain(|(_, at_ms)| now.mono_ms < at_ms + REPEAT_MS);
        let is_explained = state.waiting.is_some() && self.has_other_problem();
        if !is_explained && state.logged.iter().all(|(logged, _)| logged != cause) {
            tracing::error!(reason, "writes are not stored; they are tried again");
            state.logged.push((Arc::clone(cause), now.mono_ms));
            state.is_logged = true;
        }
    }

    /// Returns whether something else is reported, which may be why no answers come. It has its own
    /// line in the log.
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
        writes.on_tick(at(REPEAT_MS - 1));
        assert!(!health.has_problems());
        writes.on_refused(&"no space".into(), at(0));
        writes.on_tick(at(REPEAT_MS));
        assert!(!health.has_problems());
    }

    #[test]
    fn near_a_full_bucket_the_state_does_not_flap_and_each_cause_is_logged_once() {
        let health = Health::new();
        let writes = WriteHealth::new(health.clone());
        for at_ms in (0..REPEAT_MS).step_by(500) {
            writes.on_refused(&"no space".into(), at(at_ms));
            writes.on_refused(&"no leader".into(), at(at_ms));
            writes.on_stored();
            writes.on_tick(at(at_ms + 250));
            assert!(health.has_problems(), "at {at_ms}");
            assert_eq!(writes.state().logged.len(), 2);
            assert!(writes.state().logged.iter().all(|(_, logged_ms)| *logged_ms == 0));
        }
        writes.on_tick(at(REPEAT_MS - 500 + CALM_MS));
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
        let shown = health.watch().borrow().to_string();
        assert!(shown.contains("not acknowledged since 2023-11-14T22:13:20"), "{shown}");
        writes.on_stored();
        writes.on_tick(at(UNACKED_MS + CALM_MS));
        assert!(!health.has_problems());
    }
}
