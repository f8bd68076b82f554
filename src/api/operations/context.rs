//! The circumstances of one request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::reply::too_large;
use crate::api::request::door::Door;
use crate::api::request::operation::Operation;
use crate::presence::refusal::Refusal;
use crate::service::Service;

/// The times of one request, on the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub arrived_ms: u64,
    pub deadline_ms: u64,
}

/// The users in the answer to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsersShown {
    All,
    WithoutCustom,
    None,
}

impl UsersShown {
    pub fn with_custom(self) -> bool {
        self == Self::All
    }
}

/// The circumstances in which an operation runs.
#[derive(Debug)]
pub struct Context {
    pub service: Arc<Service>,
    pub operation: Operation,
    pub door: Door,
    /// The prefix of event subjects.
    pub event_prefix: Arc<str>,
    /// When the request arrived, on the monotonic clock.
    pub arrived_ms: u64,
    /// The deadline of the request, on the monotonic clock.
    pub deadline_ms: u64,
    /// The largest answer that the server takes, in bytes.
    pub max_answer: usize,
    /// The users that the answer to a write shows.
    pub shows: UsersShown,
    invisible: AtomicBool,
}

impl Context {
    pub fn new(
        service: Arc<Service>,
        operation: Operation,
        door: Door,
        event_prefix: Arc<str>,
        times: Times,
        max_answer: usize,
    ) -> Self {
        let invisible = AtomicBool::new(false);
        let Times { arrived_ms, deadline_ms } = times;
        Self {
            service,
            operation,
            door,
            event_prefix,
            arrived_ms,
            deadline_ms,
            max_answer,
            shows: UsersShown::All,
            invisible,
        }
    }

    /// The context of one operation of a batch.
    pub fn of_part(&self, shows: UsersShown) -> Self {
        let part = Self::new(
            Arc::clone(&self.service),
            self.operation,
            self.door.clone(),
            Arc::clone(&self.event_prefix),
            Times { arrived_ms: self.arrived_ms, deadline_ms: self.deadline_ms },
            self.max_answer,
        );
        Self { shows, ..part }
    }

    /// Refuses an answer that the server would not take.
    pub fn has_room_for(&self, bytes: usize) -> Result<(), Refusal> {
        if bytes <= self.max_answer {
            Ok(())
        } else {
            Err(too_large(self.operation, bytes, self.max_answer))
        }
    }

    /// Notes that the request concerns invisible users only, so that the statistics of the service
    /// must not move with it.
    pub fn set_invisible(&self, invisible: bool) {
        self.invisible.store(invisible, Ordering::Relaxed);
    }

    /// Whether the request concerns invisible users only.
    pub fn is_invisible(&self) -> bool {
        self.invisible.load(Ordering::Relaxed)
    }
}
