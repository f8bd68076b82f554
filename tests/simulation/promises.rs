//! The promises to clients: every request is answered once and in time, takes effect in time or not
//! at all, and its effect lasts.

use presenced::presence::entity::{DaemonId, Entity, Stored};
use presenced::presence::id::Id;
use presenced::presence::refusal::{Code, Refusal};
use presenced::presence::user::{Outcome, Users};
use presenced::store::stripe::{Answer, Content};
use serde_json::Value as Json;

use super::checks::{Broken, ensure};
use super::client::Action;
use super::ledger::{Fate, OpId, Register, Value};
use super::world::World;

impl World {
    /// Checks the answer to a command.
    pub fn answered(
        &mut self,
        id: DaemonId,
        number: OpId,
        result: Result<Answer<Outcome>, Refusal>,
    ) -> Result<(), Broken> {
        let user = self.ledger.entry(number).op.user.clone();
        self.note(Some(&user), || match &result {
            Ok(Answer { rev, .. }) => format!("{id} answers #{number} at {rev}"),
            Err(refusal) => format!("{id} answers #{number} {:?}", refusal.code),
        });
        let unanswered = &mut self.daemons.get_mut(&id).expect("it is alive").unanswered;
        ensure(unanswered.remove(&number), &user, || format!("#{number} was answered twice"))?;
        match result {
            Ok(answer) => {
                self.ledger.settle(number, Fate::Done { at_ms: self.net.now_ms });
                match (&self.ledger.entry(number).op.action, &answer.outcome) {
                    (Action::Lapse(_), Outcome::Disconnected { count: 1, .. }) => {
                        self.counts.lapses += 1;
                    }
                    (_, Outcome::StatusExpired(true)) => self.counts.expiries += 1,
                    (
                        Action::UpdateConnection { .. },
                        Outcome::ConnectionUpdated { known: true, .. },
                    ) => {
                        self.counts.updates += 1;
                    }
                    (Action::Erase, Outcome::Deleted(true)) => self.counts.erased += 1,
                    (Action::Forget(_), Outcome::Deleted(true)) => self.counts.forgotten += 1,
                    _ => {}
                }
                if let Outcome::Connected { me, .. } | Outcome::Upserted { me } = &answer.outcome {
                    self.check_view(id, number, &user, me)?;
                }
                self.check_rev(id, number, &user, answer.rev)
            }
            Err(refusal) if matches!(refusal.code, Code::Unavailable | Code::Contended) => {
                let op = &self.ledger.entry(number).op;
                if let Action::Repair { lost } = &op.action {
                    let (user, lost) = (op.user.clone(), (**lost).clone());
                    self.repair(id, user, lost);
                }
                Ok(())
            }
            Err(_) => {
                self.ledger.settle(number, Fate::Refused);
                Ok(())
            }
        }
    }

    /// Checks that the view in an answer is neither older than the request nor invented.
    fn check_view(&self, id: DaemonId, number: OpId, user: &Id, me: &[u8]) -> Result<(), Broken> {
        let me: Json = serde_json::from_slice(me).expect("an answer is JSON");
        let entry = self.ledger.entry(number);
        let effects = entry.op.effects(number);
        for register in Register::all() {
            let Some(value) = value_in(&me, register) else { continue };
            let right = match effects.iter().find(|(of, _)| *of == register) {
                Some((_, set)) => *set == value,
                None => {
                    let (from, to) = (entry.began_ms, self.net.now_ms);
                    self.ledger.may_be(user, register, value, from, to)
                }
            };
            ensure(right, user, || format!("#{number} was answered with {register:?} {value:?}"))?;
        }
        let version = me["version"].as_u64().expect("a version");
        let history = self.bucket.history(self.bucket.epoch, user);
        let made = history.iter().find(|message| message.version() == version);
        let silent = made.is_some_and(|message| {
            version > 0 && message.writer == id && !self.checks.knows(&self.bucket, user, version)
        });
        ensure(!silent || self.bucket.epoch > 0, user, || {
            format!("#{number} was answered with version {version} before it was announced")
        })
    }

    /// Checks that a read at the revision of the answer finds the effect of the request, or a newer
    /// one.
    fn check_rev(&self, id: DaemonId, number: OpId, user: &Id, rev: u64) -> Result<(), Broken> {
        if self.bucket.epoch > 0 {
            return Ok(());
        }
        let history = self.bucket.history(self.bucket.epoch, user);
        let record = history.iter().rev().find(|m| m.seq <= rev).and_then(|m| m.stored.record());
        let now_ms = self.net.now_ms;
        for (register, set) in self.ledger.entry(number).op.effects(number) {
            let value = register.of(record);
            ensure(self.ledger.may_be_at_rev(number, register, set, value, now_ms), user, || {
                format!("{id} says that #{number} is at {rev}: {register:?} {set:?}, is {value:?}")
            })?;
        }
        Ok(())
    }

    /// Checks that a tick leaves no request unanswered after its deadline.
    pub fn check_answers_in_time(&self, id: DaemonId) -> Result<(), Broken> {
        let Some(daemon) = self.daemons.get(&id) else { return Ok(()) };
        let now = daemon.now(self.net.now_ms);
        for number in &daemon.unanswered {
            let user = &self.ledger.entry(*number).op.user;
            ensure(daemon.deadlines[number] > now.mono_ms, user, || {
                format!("{id} has not answered #{number} in time")
            })?;
        }
        Ok(())
    }

    /// Checks that a write contains no change after its deadline.
    pub fn check_written_in_time(
        &self,
        id: DaemonId,
        key: &Id,
        expected: u64,
        content: &Content,
    ) -> Result<(), Broken> {
        let daemon = &self.daemons[&id];
        let (Content::Put(text), true) = (content, daemon.epoch == self.bucket.epoch) else {
            return Ok(());
        };
        let record = Users::decode(text).expect("a daemon writes what it can read");
        let history = self.bucket.history(self.bucket.epoch, key);
        let base = history.iter().find(|m| m.seq == expected).and_then(|m| m.stored.record());
        let now = daemon.now(self.net.now_ms);
        for register in Register::all() {
            let value = register.of(Some(&record));
            if let Value::By(number) = value
                && value != register.of(base)
                && let Some(deadline_ms) = daemon.deadlines.get(&number)
            {
                ensure(*deadline_ms > now.mono_ms, key, || {
                    format!("{id} writes #{number} after its deadline")
                })?;
            }
        }
        Ok(())
    }

    /// Checks, when all faults are over, that the bucket keeps the promises and all replicas agree.
    pub fn check_the_end(&self) -> Result<(), Broken> {
        let now_ms = self.net.now_ms;
        for user in &self.users {
            let last = self.bucket.last(user);
            let nothing = Stored::default();
            let stored = last.map_or(&nothing, |message| &message.stored);
            for register in Register::all() {
                let value = register.of(stored.record());
                ensure(self.ledger.may_be(user, register, value, now_ms, now_ms), user, || {
                    format!("in the end {register:?} is {value:?}")
                })?;
            }
            let leaving = stored.record().is_some_and(|r| !r.leaving.is_empty());
            ensure(!leaving, user, || "in the end a grace has not ended".to_owned())?;
            let version = Users::version(stored);
            // A daemon that crashed while the stream was read again takes what it knew with it.
            let lost = self.bucket.epoch > 0 && self.counts.crashes > 0;
            let excused = self.net.weather.wild || lost || version == 0;
            ensure(excused || self.checks.knows(&self.bucket, user, version), user, || {
                format!("in the end version {version} was never announced")
            })?;
            // A daemon that crashed may have been the only one that knew what was lost.
            let excused = self.counts.crashes > 0;
            ensure(excused || self.checks.is_newest(user, stored), user, || {
                format!("in the end others were told something newer than {stored:?}")
            })?;
            for daemon in self.daemons.values() {
                let known = daemon.machine.known(user);
                let agrees = match &known {
                    None => last.is_none(),
                    Some((known, rev)) => match last {
                        Some(message) => message.seq == *rev && message.stored == *known,
                        None => known.record().is_none(),
                    },
                };
                ensure(agrees, user, || {
                    format!("in the end {} knows {known:?}, and stored is {last:?}", daemon.id)
                })?;
                let idle = daemon.machine.busy() == 0 && daemon.unanswered.is_empty();
                ensure(idle, user, || format!("in the end {} is busy", daemon.id))?;
            }
        }
        Ok(())
    }
}

/// The value of a register in an answer; connections are not part of it.
fn value_in(me: &Json, register: Register) -> Option<Value> {
    let by = |number: Option<u64>| number.map_or(Value::Absent, Value::By);
    match register {
        Register::Custom(client) => Some(by(me[format!("f{client}")].as_u64())),
        Register::Status => Some(by(me["status"].as_str().and_then(|text| text.parse().ok()))),
        Register::Invisible if me["invisible"] == true => Some(Value::Invisible),
        Register::Invisible => Some(Value::Absent),
        Register::Connection(_) => None,
    }
}
