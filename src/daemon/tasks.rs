//! The tasks of a daemon: started, watched, ended together.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::watchdog::Watchdog;

/// The tasks of a daemon.
#[derive(Default)]
pub(super) struct Tasks {
    pub(super) tracker: TaskTracker,
    /// Cancelled to end them.
    pub(super) stop: CancellationToken,
    /// Those that serve.
    pub(super) watchdog: Watchdog,
}

impl Tasks {
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(self.stop.clone().run_until_cancelled_owned(task));
    }
}
