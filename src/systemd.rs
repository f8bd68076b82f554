//! The state of the daemon for systemd, where the service asks for it: `sd_notify(3)`.
//!
//! All messages go through one task, which may wait: a socket that is not read holds up nothing
//! else. A message that is sent late describes the state at that time.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdDatagram};
use std::time::Duration;

use sd_notify::{NotifyState, watchdog_enabled};
use tokio::net::UnixDatagram;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::health::{Condition, Health, Stage};

/// The time that the last message may take when the daemon ends.
const LAST_NOTICE_TIMEOUT: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReloadStep {
    Reloading,
    Reloaded,
}

/// Announces reloads.
#[derive(Debug, Clone)]
pub struct ReloadNotice(mpsc::UnboundedSender<ReloadStep>);

impl ReloadNotice {
    /// The settings are about to be read again.
    pub fn reloading(&self) {
        self.send(ReloadStep::Reloading);
    }

    /// The settings are in force.
    pub fn reloaded(&self) {
        self.send(ReloadStep::Reloaded);
    }

    fn send(&self, step: ReloadStep) {
        // Without systemd there is no receiver.
        let _ = self.0.send(step);
    }
}

/// Notifies systemd of the state of the daemon.
#[derive(Debug)]
pub struct SdNotifier {
    socket: Option<UnixDatagram>,
    /// The interval at which the watchdog is fed: a quarter of its timeout.
    feed_interval: Option<Duration>,
    condition: watch::Receiver<Condition>,
    answers: watch::Receiver<()>,
    reloads: mpsc::UnboundedReceiver<ReloadStep>,
}

impl SdNotifier {
    /// A notifier of this process, by its environment.
    pub fn new(health: &Health) -> (Self, ReloadNotice) {
        let address = env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty());
        let socket = address.and_then(|address| match connect(&address) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(?address, %error, "systemd cannot be notified");
                None
            }
        });
        let (sender, reloads) = mpsc::unbounded_channel();
        let notifier = Self {
            socket,
            feed_interval: watchdog_enabled().map(|watchdog_timeout| watchdog_timeout / 4),
            condition: health.watch(),
            answers: health.answers(),
            reloads,
        };
        (notifier, ReloadNotice(sender))
    }

    /// Runs `program`, and notifies systemd until it ends. Systemd cannot hold the program up.
    pub async fn run_beside<T>(self, program: impl Future<Output = T>) -> T {
        let Self { socket: Some(socket), feed_interval, condition, answers, reloads } = self else {
            return program.await;
        };
        let mut socket = NotifySocket {
            socket,
            feed_interval,
            condition,
            ready_sent: false,
            reloading_sent: false,
        };
        let mut program = std::pin::pin!(program);
        let outcome = tokio::select! {
            outcome = &mut program => outcome,
            () = socket.follow(answers, reloads) => program.await,
        };
        // The state in which the program ended.
        let sent = timeout(LAST_NOTICE_TIMEOUT, socket.send_condition());
        if !matches!(sent.await, Ok(Ok(()))) {
            tracing::debug!("systemd was not notified of the end of the daemon");
        }
        outcome
    }
}

/// `@` stands for the zero byte with which the name of an abstract socket begins.
fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let socket = StdDatagram::unbound()?;
    match address.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(address)?,
    }
    socket.set_nonblocking(true)?;
    UnixDatagram::from_std(socket)
}

struct NotifySocket {
    socket: UnixDatagram,
    feed_interval: Option<Duration>,
    condition: watch::Receiver<Condition>,
    /// Whether systemd knows that the daemon serves.
    ready_sent: bool,
    /// Whether systemd knows of a reload that is under way.
    reloading_sent: bool,
}

impl NotifySocket {
    /// Sends each change. Ends only when the socket fails.
    async fn follow(
        &mut self,
        mut answers: watch::Receiver<()>,
        mut reloads: mpsc::UnboundedReceiver<ReloadStep>,
    ) {
        let mut fed_at: Option<Instant> = None;
        let mut sent = self.send_condition().await;
        while sent.is_ok() {
            sent = tokio::select! {
                Some(step) = reloads.recv() => self.send_reload(step).await,
                Ok(()) = self.condition.changed() => self.send_condition().await,
                Ok(()) = answers.changed() => match self.feed_interval {
                    Some(interval)
                        if self.ready_sent
                            && fed_at.is_none_or(|fed_at| fed_at.elapsed() >= interval) =>
                    {
                        fed_at = Some(Instant::now());
                        self.send(&[NotifyState::Watchdog]).await
                    }
                    _ => Ok(()),
                },
                else => return,
            };
        }
        if let Err(error) = sent {
            tracing::warn!(%error, "systemd cannot be notified any more");
        }
    }

    async fn send_condition(&mut self) -> io::Result<()> {
        let condition = self.condition.borrow_and_update().clone();
        let status = status_line(&condition);
        let status = NotifyState::Status(&status);
        match condition.stage {
            Stage::Serving if !self.ready_sent => {
                self.ready_sent = true;
                self.send(&[NotifyState::Ready, status]).await
            }
            Stage::Leaving => self.send(&[NotifyState::Stopping, status]).await,
            _ => self.send(&[status]).await,
        }
    }

    /// A reload during the start stays unannounced: its `READY=1` would be taken for the end of the
    /// start.
    async fn send_reload(&mut self, step: ReloadStep) -> io::Result<()> {
        match step {
            ReloadStep::Reloading if self.ready_sent => {
                self.reloading_sent = true;
                // Systemd compares it with its own clock.
                let now = NotifyState::monotonic_usec_now()?;
                self.send(&[NotifyState::Reloading, now]).await
            }
            ReloadStep::Reloaded if std::mem::take(&mut self.reloading_sent) => {
                let status = status_line(&self.condition.borrow());
                self.send(&[NotifyState::Ready, NotifyState::Status(&status)]).await
            }
            _ => Ok(()),
        }
    }

    async fn send(&self, states: &[NotifyState<'_>]) -> io::Result<()> {
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        self.socket.send(message.as_bytes()).await.map(|_| ())
    }
}

/// The condition as one line: the text of a server may hold line breaks, after which systemd would
/// read another state.
fn status_line(condition: &Condition) -> String {
    condition.to_string().replace(char::is_control, " ")
}

#[cfg(test)]
#[path = "systemd_tests.rs"]
mod tests;
