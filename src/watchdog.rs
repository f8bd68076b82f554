//! A check that the loops that serve still run. Each is pinged and answers in the same `select!` in
//! which it does its work: a loop that hangs, or has ended, does not answer.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::health::Health;

/// The interval at which the loops are pinged.
const PING_INTERVAL: Duration = Duration::from_millis(250);

/// Ticks of [`PING_INTERVAL`] after which a loop that has not answered counts as hung: ten seconds.
/// They are counted, so that a process that was stopped does not take its loops for hung.
const MAX_SILENT_TICKS: u32 = 40;

/// The key under which hung loops are reported.
const PROBLEM_KEY: &str = "loops";

/// The interval at which a loop that waits checks whether it is exempt.
const EXEMPT_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// One ping of one loop.
#[derive(Debug)]
pub struct Ping(oneshot::Sender<()>);

impl Ping {
    pub fn answer(self) {
        // The watchdog may have ended.
        let _ = self.0.send(());
    }
}

/// The pings of one loop.
#[derive(Debug)]
pub struct WatchdogTap(mpsc::UnboundedReceiver<Ping>);

impl WatchdogTap {
    /// The next ping. Cancel safe; pending for ever once the daemon leaves.
    pub async fn next(&mut self) -> Ping {
        match self.0.recv().await {
            Some(ping) => ping,
            None => std::future::pending().await,
        }
    }

    /// Does `work`, which may have to wait for NATS. Pings are answered meanwhile only while the
    /// loop is `exempt`.
    pub async fn during<T>(
        &mut self,
        exempt: impl Fn() -> bool,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = pin!(work);
        let mut unanswered = Vec::new();
        loop {
            tokio::select! {
                biased;
                done = &mut work => {
                    unanswered.into_iter().for_each(Ping::answer);
                    return done;
                }
                ping = self.next() => unanswered.push(ping),
                () = async { sleep(EXEMPT_POLL_INTERVAL).await }, if !unanswered.is_empty() => {
                    if exempt() {
                        unanswered.drain(..).for_each(Ping::answer);
                    }
                }
            }
        }
    }
}

/// The loops of a daemon.
#[derive(Debug, Default)]
pub struct Watchdog(Vec<(&'static str, mpsc::UnboundedSender<Ping>)>);

impl Watchdog {
    /// Adds a loop, which answers at the returned tap.
    pub fn register(&mut self, name: &'static str) -> WatchdogTap {
        let (pinger, pings) = mpsc::unbounded_channel();
        self.0.push((name, pinger));
        WatchdogTap(pings)
    }

    /// Pings the loops periodically. Reports in `health` that all have answered, or the loops that
    /// do not.
    pub async fn run(self, health: Health) {
        let mut ticks = interval(PING_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut logged = BTreeSet::new();
        loop {
            ticks.tick().await;
            let mut silent: BTreeSet<_> = self.0.iter().map(|(name, _)| *name).collect();
            let mut answers = self.ping_all();
            let mut waited = 0;
            loop {
                tokio::select! {
                    biased;
                    answer = answers.next() => match answer {
                        Some((name, true)) => {
                            silent.remove(name);
                        }
                        // That loop has ended, and stays silent.
                        Some((_, false)) => {}
                        None => break,
                    },
                    _ = ticks.tick() => {
                        waited += 1;
                        if waited == MAX_SILENT_TICKS {
                            report_silent(&health, &silent, &mut logged);
                        }
                    }
                }
            }
            if silent.is_empty() {
                health.clear(PROBLEM_KEY);
                health.all_answered();
                logged.clear();
            } else {
                report_silent(&health, &silent, &mut logged);
            }
        }
    }

    fn ping_all(&self) -> FuturesUnordered<impl Future<Output = (&'static str, bool)> + use<>> {
        let ping = |(name, pinger): &(&'static str, mpsc::UnboundedSender<Ping>)| {
            let (answer, answered) = oneshot::channel();
            // Without a receiver the ping is dropped, which completes `answered` with an error.
            let _ = pinger.send(Ping(answer));
            let name = *name;
            async move { (name, answered.await.is_ok()) }
        };
        self.0.iter().map(ping).collect()
    }
}

fn report_silent(
    health: &Health,
    silent: &BTreeSet<&'static str>,
    logged: &mut BTreeSet<&'static str>,
) {
    if silent == logged {
        return;
    }
    let names = silent.iter().copied().collect::<Vec<_>>().join(", ");
    tracing::error!(loops = names, "a part of the daemon hangs; restart the daemon");
    health.report(PROBLEM_KEY, format!("{names} does not answer"));
    logged.clone_from(silent);
}

#[cfg(test)]
#[path = "watchdog_tests.rs"]
mod tests;
