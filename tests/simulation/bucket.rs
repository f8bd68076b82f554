//! A model of the bucket: JetStream KV with a history of one.

use std::sync::Arc;

use std::collections::BTreeMap;
use std::rc::Rc;

use presenced::presence::entity::{DaemonId, Entity, Stored};
use presenced::presence::id::Id;
use presenced::presence::user::{Record, Users};
use presenced::store::stripe::{Content, Entry};

/// A stored write.
#[derive(Debug)]
pub struct Message {
    pub seq: u64,
    /// The sequence that it expected; 0 if a marker there had expired.
    pub expected: u64,
    pub key: Id,
    pub content: Content,
    pub writer: DaemonId,
    pub stored: Stored<Record>,
}

impl Message {
    pub fn entry(&self) -> Entry {
        Entry {
            rev: self.seq,
            base: Some(self.expected),
            content: self.content.clone(),
            writer: Some(self.writer),
            expires: false,
        }
    }

    pub fn version(&self) -> u64 {
        Users::version(&self.stored)
    }
}

/// A write in flight to the bucket.
#[derive(Debug, Clone)]
pub struct Write {
    pub from: DaemonId,
    /// The bucket that its sender followed.
    pub epoch: u32,
    pub number: u64,
    pub key: Id,
    pub expected: u64,
    pub content: Content,
}

#[derive(Debug, Default)]
pub struct Bucket {
    /// The number of times that it was deleted and created again, or lost its newest messages.
    pub epoch: u32,
    /// The last sequence that survived the last loss; sequences above it mean other messages.
    survived: u64,
    pub last_seq: u64,
    /// Until this time the stream has no leader.
    pub leaderless_until_ms: u64,
    live: BTreeMap<u64, Rc<Message>>,
    by_key: BTreeMap<Id, u64>,
    /// All that was stored since the bucket was created, as far as it survived, and not expired.
    log: Vec<Rc<Message>>,
    /// All that was ever stored, by bucket and key.
    history: BTreeMap<(u32, Id), Vec<Rc<Message>>>,
}

impl Bucket {
    /// Stores a write if the key's last sequence is the expected one.
    pub fn write(&mut self, write: &Write) -> Option<Rc<Message>> {
        let last = self.by_key.get(&write.key).copied().unwrap_or(0);
        // Sequences of a former bucket may coincide with those of the new one. Only chance protects
        // from that, and with the short sequences of a simulation chance would not suffice.
        let coincidence = write.epoch != self.epoch && write.expected > self.survived;
        if last != write.expected || coincidence {
            return None;
        }
        self.last_seq += 1;
        let stored = match &write.content {
            Content::Put(text) => match Users::decode(text) {
                Ok(record) => Stored::Present(Arc::new(record)),
                Err(_) => Stored::Unreadable,
            },
            Content::Purge { version, changed_by } => {
                Stored::Absent { version: *version, changed_by: *changed_by }
            }
        };
        let message = Rc::new(Message {
            seq: self.last_seq,
            expected: write.expected,
            key: write.key.clone(),
            content: write.content.clone(),
            writer: write.from,
            stored,
        });
        self.live.remove(&last);
        self.live.insert(message.seq, Rc::clone(&message));
        self.by_key.insert(write.key.clone(), message.seq);
        let history = self.history.entry((self.epoch, write.key.clone())).or_default();
        history.push(Rc::clone(&message));
        self.log.push(Rc::clone(&message));
        Some(message)
    }

    /// The message stored under a key now.
    pub fn last(&self, key: &Id) -> Option<&Rc<Message>> {
        self.by_key.get(key).and_then(|seq| self.live.get(seq))
    }

    /// The entries that a consumer at `seq` gets next.
    pub fn after(&self, seq: u64) -> impl Iterator<Item = &Rc<Message>> {
        self.live.range(seq + 1..).map(|(_, message)| message)
    }

    /// Forgets an expired marker.
    pub fn expire(&mut self, epoch: u32, seq: u64) {
        if epoch == self.epoch
            && let Some(message) = self.live.remove(&seq)
        {
            self.by_key.remove(&message.key);
            // The messages that it superseded do not come back either.
            self.log.retain(|old| old.key != message.key || old.seq > seq);
        }
    }

    /// Deletes the bucket and creates it again.
    pub fn replace(&mut self) {
        self.lose_tail(usize::MAX);
        self.last_seq = 0;
    }

    /// Loses its newest messages, and goes on from the one before them.
    pub fn lose_tail(&mut self, count: usize) {
        self.epoch += 1;
        self.log.truncate(self.log.len().saturating_sub(count));
        self.last_seq = self.log.last().map_or(0, |message| message.seq);
        self.survived = self.last_seq;
        self.live.clear();
        self.by_key.clear();
        for message in &self.log {
            if let Some(older) = self.by_key.insert(message.key.clone(), message.seq) {
                self.live.remove(&older);
            }
            self.live.insert(message.seq, Rc::clone(message));
            let history = self.history.entry((self.epoch, message.key.clone())).or_default();
            history.push(Rc::clone(message));
        }
    }

    /// Purges a key, and leaves nothing behind.
    pub fn purge(&mut self, key: &Id) {
        let last_seq = self.last_seq;
        self.log.retain(|message| message.key != *key);
        self.lose_tail(0);
        (self.last_seq, self.survived) = (last_seq, last_seq);
    }

    /// All that was stored under a key in the bucket of that epoch, oldest first.
    pub fn history(&self, epoch: u32, key: &Id) -> &[Rc<Message>] {
        self.history.get(&(epoch, key.clone())).map_or(&[], Vec::as_slice)
    }
}
