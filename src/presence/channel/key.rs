//! The key of a channel: its type and its id, together `type:id`.

use std::fmt;
use std::sync::Arc;

use crate::presence::id::{Id, push_token};
use crate::presence::refusal::{Code, Refusal};

/// A channel's type and id. Cheap to clone; ordered as its `cid`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelKey {
    cid: Arc<str>,
    /// The place of the colon.
    colon: usize,
}

impl ChannelKey {
    /// Joins the two; a type has no colon, so that a `cid` has one reading. `field` is where the
    /// type stands in the request.
    pub fn new(kind: &Id, id: &Id, field: &str) -> Result<Self, Refusal> {
        if kind.as_str().contains(':') {
            let message = format!("`{field}` contains a colon; a channel type has none");
            return Err(Refusal::new(Code::InvalidId, message).field(field));
        }
        Ok(Self::join(kind.as_str(), id.as_str()))
    }

    /// Reads `type:id`.
    pub fn from_cid(cid: &str) -> Option<Self> {
        let (kind, id) = cid.split_once(':')?;
        let (kind, id) = (Id::parse(kind, "type").ok()?, Id::parse(id, "id").ok()?);
        Some(Self::join(kind.as_str(), id.as_str()))
    }

    pub fn cid(&self) -> &str {
        &self.cid
    }

    pub fn kind(&self) -> &str {
        &self.cid[..self.colon]
    }

    pub fn id(&self) -> &str {
        &self.cid[self.colon + 1..]
    }

    /// The two tokens of its key in the bucket.
    pub fn tokens(&self) -> String {
        let mut tokens = String::with_capacity(self.cid.len());
        push_token(&mut tokens, self.kind());
        tokens.push('.');
        push_token(&mut tokens, self.id());
        tokens
    }

    /// Reads [`tokens`](Self::tokens).
    pub fn from_tokens(tokens: &str) -> Option<Self> {
        let (kind, id) = tokens.split_once('.')?;
        Self::new(&Id::from_token(kind)?, &Id::from_token(id)?, "type").ok()
    }

    fn join(kind: &str, id: &str) -> Self {
        Self { cid: format!("{kind}:{id}").into(), colon: kind.len() }
    }
}

impl fmt::Debug for ChannelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cid.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cid_has_one_reading() {
        let key = ChannelKey::from_cid("messaging:a:b").unwrap();
        assert_eq!((key.kind(), key.id()), ("messaging", "a:b"));
        assert_eq!(key.tokens(), "messaging.a=3Ab");
        assert_eq!(ChannelKey::from_tokens("messaging.a=3Ab"), Some(key));
        for cid in ["", "a", ":a", "a:"] {
            assert_eq!(ChannelKey::from_cid(cid), None, "{cid}");
        }
        assert_eq!(ChannelKey::from_tokens("a=3Ab.c"), None);
    }
}
