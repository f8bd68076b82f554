//! The repair of keys of which the store lost what others have seen.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::Keyspace;
use crate::presence::entity::{Entity, Stored};
use crate::presence::refusal::Code;

/// The longest time for one attempt to repair a key, in milliseconds.
const REPAIR_TIMEOUT_MS: u64 = 5000;

/// The pause after an attempt that failed.
const REPAIR_PAUSE: Duration = Duration::from_millis(100);

/// Keys of which the store lost what was known, and what that was.
pub(super) type Lost<E> = Vec<(<E as Entity>::Key, Stored<<E as Entity>::Record>)>;

impl<E: Entity> Keyspace<E> {
    /// Notes a key of which the store lost what was known.
    pub(super) fn note_lost(&self, key: E::Key, lost: Stored<E::Record>) {
        self.lost().push((key, lost));
        self.context.repairs.notify_one();
    }

    /// Takes the keys of which the store lost what was known.
    pub(in crate::store) fn take_lost(&self) -> Lost<E> {
        std::mem::take(&mut *self.lost())
    }

    pub(in crate::store) fn has_lost(&self) -> bool {
        !self.lost().is_empty()
    }

    /// Gives a key of which the store lost what was known the version that others have seen, and
    /// tells them what is left. Tries until that is stored, or can never be.
    pub(in crate::store) async fn repair(self: &Arc<Self>, key: E::Key, lost: Stored<E::Record>) {
        loop {
            let found = self.with_stored(&key, |found| {
                let nothing = Stored::default();
                E::repair(&lost, found.map_or(&nothing, |(found, _)| found))
            });
            let Some(command) = found else { return };
            let deadline_ms = self.context.now().mono_ms + REPAIR_TIMEOUT_MS;
            match self.command(key.clone(), command, deadline_ms).await {
                Ok(Err(refusal)) if matches!(refusal.code, Code::Unavailable | Code::Contended) => {
                    tracing::debug!(?refusal, "a key could not be repaired yet");
                    tokio::time::sleep(REPAIR_PAUSE).await;
                }
                Ok(Err(refusal)) => {
                    tracing::error!(reason = refusal.message, "a record cannot be repaired");
                    return;
                }
                // It is done, or the daemon stops.
                Ok(Ok(_)) | Err(_) => return,
            }
        }
    }

    fn lost(&self) -> MutexGuard<'_, Lost<E>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
