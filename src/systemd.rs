//! What systemd is told of the daemon, if it started us and wants to hear: `sd_notify(3)`.
//!
//! Everything goes through one task, which may wait: a socket that nobody reads holds up nothing
//! else, and what is said when it is read again is how things are then.

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

/// How long the last steps may take when the daemon ends.
const LAST_NOTICE_TIMEOUT: Duration = Duration::from_millis(500);

/// What is said around a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReloadStep {
    Reloading,
    Reloaded,
}

/// Where a reload is announced.
#[derive(Debug, Clone)]
pub struct ReloadNotice(mpsc::UnboundedSender<ReloadStep>);

impl ReloadNotice {
    /// The settings are about to be read again.
    pub fn reloading(&self) {
        self.say(ReloadStep::Reloading);
    }

    /// They count.
    pub fn reloaded(&self) {
        self.say(ReloadStep::Reloaded);
    }

    fn say(&self, word: ReloadStep) {
        // Without systemd nobody listens.
        let _ = self.0.send(word);
    }
}

/// Tells systemd how the daemon is.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    /// How often a sign of life is due: a quarter of what systemd waits for.
    feed_every: Option<Duration>,
    condition: watch::Receiver<Condition>,
    answers: watch::Receiver<()>,
    steps: mpsc::UnboundedReceiver<ReloadStep>,
}

impl Notifier {
    /// A notifier of this process, by its environment.
    pub fn new(health: &Health) -> (Self, ReloadNotice) {
        let address = env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty());
        let socket = address.and_then(|address| match connect(&address) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(?address, %error, "systemd cannot be told how the daemon is");
                None
            }
        });
        let (sender, steps) = mpsc::unbounded_channel();
        let notifier = Self {
            socket,
            feed_every: watchdog_enabled().map(|patience| patience / 4),
            condition: health.watch(),
            answers: health.answers(),
            steps,
        };
        (notifier, ReloadNotice(sender))
    }

    /// Tells all that happens until `program` ends, and lets it go on whatever systemd does.
    pub async fn beside<T>(self, program: impl Future<Output = T>) -> T {
        let Self { socket: Some(socket), feed_every, condition, answers, steps } = self else {
            return program.await;
        };
        let mut notifier =
            SdNotifier { socket, feed_every, condition, ready: false, reloading: false };
        let mut program = std::pin::pin!(program);
        let outcome = tokio::select! {
            outcome = &mut program => outcome,
            () = notifier.tell(answers, steps) => program.await,
        };
        // What was on its way when the program ended.
        let said = timeout(LAST_NOTICE_TIMEOUT, notifier.condition());
        if !matches!(said.await, Ok(Ok(()))) {
            tracing::debug!("systemd was not told that the daemon ends");
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

struct SdNotifier {
    socket: UnixDatagram,
    feed_every: Option<Duration>,
    condition: watch::Receiver<Condition>,
    /// Whether it was said that the daemon serves.
    ready: bool,
    /// Whether it was said that it reads its settings again.
    reloading: bool,
}

impl SdNotifier {
    /// Ends only when systemd cannot be told anything any more.
    async fn tell(
        &mut self,
        mut answers: watch::Receiver<()>,
        mut steps: mpsc::UnboundedReceiver<ReloadStep>,
    ) {
        let mut fed: Option<Instant> = None;
        let mut said = self.condition().await;
        while said.is_ok() {
            said = tokio::select! {
                Some(word) = steps.recv() => self.word(word).await,
                Ok(()) = self.condition.changed() => self.condition().await,
                Ok(()) = answers.changed() => match self.feed_every {
                    Some(every) if self.ready && fed.is_none_or(|fed| fed.elapsed() >= every) => {
                        fed = Some(Instant::now());
                        self.say(&[NotifyState::Watchdog]).await
                    }
                    _ => Ok(()),
                },
                else => return,
            };
        }
        if let Err(error) = said {
            tracing::warn!(%error, "systemd cannot be told any more how the daemon is");
        }
    }

    /// Says how the daemon is.
    async fn condition(&mut self) -> io::Result<()> {
        let condition = self.condition.borrow_and_update().clone();
        let status = line(&condition);
        let status = NotifyState::Status(&status);
        match condition.stage {
            Stage::Serving if !self.ready => {
                self.ready = true;
                self.say(&[NotifyState::Ready, status]).await
            }
            Stage::Leaving => self.say(&[NotifyState::Stopping, status]).await,
            _ => self.say(&[status]).await,
        }
    }

    /// Says where a reload is. While the daemon starts it is not one for systemd: it is not ready
    /// before, and would be taken for it afterwards.
    async fn word(&mut self, word: ReloadStep) -> io::Result<()> {
        match word {
            ReloadStep::Reloading if self.ready => {
                self.reloading = true;
                // For systemd alone, which holds it against its own clock.
                let now = NotifyState::monotonic_usec_now()?;
                self.say(&[NotifyState::Reloading, now]).await
            }
            ReloadStep::Reloaded if std::mem::take(&mut self.reloading) => {
                let status = line(&self.condition.borrow());
                self.say(&[NotifyState::Ready, NotifyState::Status(&status)]).await
            }
            _ => Ok(()),
        }
    }

    async fn say(&self, states: &[NotifyState<'_>]) -> io::Result<()> {
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        self.socket.send(message.as_bytes()).await.map(|_| ())
    }
}

/// The condition as one line: what a server said may hold more, and would be taken for states.
fn line(condition: &Condition) -> String {
    condition.to_string().replace(char::is_control, " ")
}

#[cfg(test)]
#[path = "systemd_tests.rs"]
mod tests;
