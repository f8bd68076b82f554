//! Whether the loops that serve still turn. Each is called by name and must answer itself, in the
//! same `select!` in which it does its work: a loop that hangs, or has ended, does not answer.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::health::Health;

/// How often the roll is called.
const EVERY: Duration = Duration::from_millis(250);

/// After so many ticks of [`EVERY`] a loop that has not answered is said to hang: ten seconds. They
/// are counted, so that a process that was stopped does not take its loops for hanging.
const PATIENCE: u32 = 40;

/// Where what the roll call finds is noted in the health.
const PLACE: &str = "loops";

/// How often a loop that is kept waiting looks whether that is excused.
const LOOK: Duration = Duration::from_millis(100);

/// One call for one loop.
#[derive(Debug)]
pub struct Call(oneshot::Sender<()>);

impl Call {
    pub fn answer(self) {
        // Whoever called may have left.
        let _ = self.0.send(());
    }
}

/// The calls for one loop.
#[derive(Debug)]
pub struct Calls(mpsc::UnboundedReceiver<Call>);

impl Calls {
    /// The next call; there is none any more when the daemon leaves. Loses nothing when dropped.
    pub async fn next(&mut self) -> Call {
        match self.0.recv().await {
            Some(call) => call,
            None => std::future::pending().await,
        }
    }

    /// Does `work`, which may have to wait for NATS; calls are answered meanwhile for as long as
    /// that is `excused`.
    pub async fn during<T>(
        &mut self,
        excused: impl Fn() -> bool,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = pin!(work);
        let mut unanswered = Vec::new();
        loop {
            tokio::select! {
                biased;
                done = &mut work => {
                    unanswered.into_iter().for_each(Call::answer);
                    return done;
                }
                call = self.next() => unanswered.push(call),
                () = async { sleep(LOOK).await }, if !unanswered.is_empty() => {
                    if excused() {
                        unanswered.drain(..).for_each(Call::answer);
                    }
                }
            }
        }
    }
}

/// The loops of a daemon.
#[derive(Debug, Default)]
pub struct RollCall(Vec<(&'static str, mpsc::UnboundedSender<Call>)>);

impl RollCall {
    /// Adds a loop; whoever runs it takes the calls along.
    pub fn enrol(&mut self, name: &'static str) -> Calls {
        let (caller, calls) = mpsc::unbounded_channel();
        self.0.push((name, caller));
        Calls(calls)
    }

    /// Calls the roll again and again, and notes in `health` when all have answered, or which
    /// do not.
    pub async fn run(self, health: Health) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = BTreeSet::new();
        loop {
            ticks.tick().await;
            let mut silent: BTreeSet<_> = self.0.iter().map(|(name, _)| *name).collect();
            let mut answers = self.call();
            let mut waited = 0;
            loop {
                tokio::select! {
                    biased;
                    answer = answers.next() => match answer {
                        Some((name, true)) => {
                            silent.remove(name);
                        }
                        // That loop is no more, and stays silent.
                        Some((_, false)) => {}
                        None => break,
                    },
                    _ = ticks.tick() => {
                        waited += 1;
                        if waited == PATIENCE {
                            complain(&health, &silent, &mut told);
                        }
                    }
                }
            }
            if silent.is_empty() {
                health.recovered(PLACE);
                health.all_answered();
                told.clear();
            } else {
                complain(&health, &silent, &mut told);
            }
        }
    }

    fn call(&self) -> FuturesUnordered<impl Future<Output = (&'static str, bool)> + use<>> {
        let call = |(name, caller): &(&'static str, mpsc::UnboundedSender<Call>)| {
            let (answer, answered) = oneshot::channel();
            // Where nobody is left to hear it, the call is lost, and that is its answer.
            let _ = caller.send(Call(answer));
            let name = *name;
            async move { (name, answered.await.is_ok()) }
        };
        self.0.iter().map(call).collect()
    }
}

fn complain(health: &Health, silent: &BTreeSet<&'static str>, told: &mut BTreeSet<&'static str>) {
    if silent == told {
        return;
    }
    let names = silent.iter().copied().collect::<Vec<_>>().join(", ");
    tracing::error!(loops = names, "a part of the daemon hangs; it has to be started again");
    health.suffers(PLACE, format!("{names} does not answer"));
    told.clone_from(silent);
}

#[cfg(test)]
#[path = "roll_call_tests.rs"]
mod tests;
