//! Whether the stream is still the one that was known.

use std::sync::Arc;
use std::time::Duration;

use super::{Feed, FeedError};
use crate::presence::time::Time;
use crate::store::bucket::{BucketError, Info};
use crate::store::known_stream::{KnownStream, Loss, Witness};
use crate::store::open;

/// The pause before a stream that seems to be another is asked once more.
const CONFIRM_INTERVAL: Duration = Duration::from_millis(250);

/// The key under which unsuitable settings of the stream are reported.
const SETTINGS_KEY: &str = "bucket settings";

impl Feed {
    /// Forgets what was known of the stream, and follows it from its first entry.
    pub(super) fn begin_again(&mut self, loss: &Loss) {
        tracing::warn!("the bucket is not what it was: {loss}; reading it again");
        self.store.begin_replay(loss);
        (self.bucket, self.loss) = (None, None);
        (self.position, self.gap) = (0, false);
        self.known_stream = KnownStream::new(Some(loss));
        self.others.clear();
    }

    /// Compares the stream with what was known of it.
    pub(super) async fn find_loss(&mut self, info: &Info) -> Result<Option<Loss>, FeedError> {
        let Some(bucket) = &self.bucket else { return Ok(None) };
        if *bucket != info.created {
            return Ok(Some(Loss::Replaced));
        }
        let mut loss = match self.loss.take() {
            Some(loss) => Some(loss),
            None => self.find_lost_tail(info.state.last_seq).await?,
        };
        if loss.is_none() {
            return Ok(None);
        }
        // A leader without a majority may be behind, and so may a new one for a moment.
        self.bounded(tokio::time::sleep(CONFIRM_INTERVAL)).await;
        let bucket = self.store.context.bucket.clone();
        let again = self.bounded(bucket.info()).await?;
        if !again.has_majority() {
            return Err(FeedError::NoMajority);
        }
        if matches!(loss, Some(Loss::Shorter { .. } | Loss::Other { .. })) {
            loss = self.find_lost_tail(again.state.last_seq).await?;
        }
        Ok(loss)
    }

    /// Checks whether the newest messages that were known are still in a stream that ends at
    /// `last`, or have made room for newer ones of their keys, which the feed will deliver.
    async fn find_lost_tail(&mut self, last: u64) -> Result<Option<Loss>, FeedError> {
        let known = self.known();
        if last < known {
            return Ok(Some(Loss::Shorter { known, last }));
        }
        let bucket = self.store.context.bucket.clone();
        let witnesses: Vec<_> = self.known_stream.witnesses().cloned().collect();
        let newest = witnesses.first().map(|witness| witness.seq);
        let mut same_to = witnesses.last().map_or(0, |witness| witness.seq.saturating_sub(1));
        for Witness { seq, time_ns, subject, expires_ms } in witnesses {
            match self.bounded(bucket.stored_at(seq)).await? {
                Some(at) if at == time_ns => {
                    same_to = seq;
                    break;
                }
                Some(_) => return Ok(Some(Loss::Other { seq })),
                None if expires_ms.is_some() => {}
                None => match self.bounded(bucket.last(&subject)).await {
                    Ok(newer) if newer.seq > self.position => {}
                    Ok(_) | Err(BucketError::NoKey) => return Ok(Some(Loss::Other { seq })),
                    Err(error) => return Err(error.into()),
                },
            }
        }
        if newest == Some(same_to) {
            return Ok(None);
        }
        // Of what was known behind that, nothing is left: what is there was never delivered.
        let first = self.bounded(bucket.first_from(same_to + 1)).await?;
        let unknown = first.filter(|seq| *seq <= self.position);
        Ok(unknown.map(|seq| Loss::Other { seq }))
    }

    /// The state of the stream; compares its clock and its settings with what they should be.
    pub(super) async fn ask_info(&mut self) -> Result<Info, BucketError> {
        let context = Arc::clone(&self.store.context);
        let asked = context.now();
        let info = self.bounded(context.bucket.info()).await?;
        let (answered, stream) = (context.now(), Time(info.ts.timestamp_millis()));
        let (health, metrics) = (&context.health, &context.metrics);
        context.clock_skew.compare(asked.wall, answered.wall, stream, health, metrics);
        context.stream_clock.compare(asked, answered, stream);
        context.told_lease.on_stream_time(stream, answered);
        let unusable = open::check(&context.bucket, &info).err().map(|reason| reason.to_string());
        if unusable != self.unusable {
            match &unusable {
                Some(reason) => {
                    tracing::error!(reason, "the bucket cannot be used as it is now");
                    health.report(SETTINGS_KEY, reason.clone());
                }
                None => {
                    tracing::info!("the bucket can be used again");
                    health.clear(SETTINGS_KEY);
                }
            }
            self.unusable = unusable;
        }
        Ok(info)
    }

    /// The last sequence that this daemon knows of.
    fn known(&self) -> u64 {
        self.position.max(self.store.context.acked_rev())
    }

    /// Compares the stream with what is known of it, as far as that is cheap.
    pub(super) async fn check_bucket(&mut self) -> Result<(), FeedError> {
        let known = self.known();
        match self.ask_info().await {
            Ok(info) => {
                let is_same = Some(&info.created) == self.bucket.as_ref();
                if !is_same || info.state.last_seq < known {
                    return Err(FeedError::Suspect);
                }
                if self.store.is_uncertain() {
                    // The connection is there, and the event that says so may be lost.
                    return Err(FeedError::Suspect);
                }
                if info.has_one_message_a_key() {
                    self.known_stream.on_info(info.state.last_seq, info.state.messages);
                }
                self.stream_ms = info.ts.timestamp_millis();
                self.compare()
            }
            Err(BucketError::Missing) => Err(FeedError::Suspect),
            // The next check decides; a silent consumer is detected as well.
            Err(_) => Ok(()),
        }
    }

    /// Compares the number of messages, if the feed is exactly where they were counted.
    pub(super) fn compare(&mut self) -> Result<(), FeedError> {
        if self.gap || self.store.is_replaying() {
            return Ok(());
        }
        self.loss = self.known_stream.compare(self.position, self.stream_ms);
        if self.loss.is_some() { Err(FeedError::Suspect) } else { Ok(()) }
    }
}
