//! The consumer that the feed follows, and what its messages say of themselves.

use serde::Deserialize;

pub(super) struct Consumer {
    pub(super) name: String,
    /// The number of messages that it has delivered.
    pub(super) delivered: u64,
}

/// The state of a consumer, as its server knows it.
#[derive(Deserialize)]
pub(super) struct Info {
    num_pending: u64,
    delivered: Delivered,
}

#[derive(Deserialize)]
struct Delivered {
    consumer_seq: u64,
}

impl Consumer {
    /// Returns whether its server has delivered all that it knows, and nothing was lost on the way.
    pub(super) fn has_delivered_all(&self, info: &Info) -> bool {
        info.num_pending == 0 && info.delivered.consumer_seq == self.delivered
    }
}

/// The metadata in the reply subject of a delivered message.
pub(super) struct Meta {
    pub(super) stream_seq: u64,
    pub(super) consumer_seq: u64,
    /// The time at which the stream stored it, in nanoseconds since 1970.
    pub(super) time_ns: i64,
    /// The number of entries left to deliver after this one.
    pub(super) pending: u64,
}

impl Meta {
    /// Parses `$JS.ACK.<stream>.<consumer>.<delivered>.<sseq>.<cseq>.<time>.<pending>`. Newer
    /// servers add a domain and an account before the stream, and may add a token at the end.
    pub(super) fn parse(reply: &str) -> Option<Self> {
        let tokens: Vec<_> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let from = match tokens.len() {
            7 => 3,
            9.. => 5,
            _ => return None,
        };
        Some(Self {
            stream_seq: tokens.get(from)?.parse().ok()?,
            consumer_seq: tokens.get(from + 1)?.parse().ok()?,
            time_ns: tokens.get(from + 2)?.parse().ok()?,
            pending: tokens.get(from + 3)?.parse().ok()?,
        })
    }
}
