//! Identifiers, and the one token that stands for each in a subject or a key
//! (`docs/protocol.md`, *Basics*).

use std::borrow::Borrow;
use std::cell::RefCell;
use std::fmt;

use arcstr::ArcStr;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::refusal::{Code, Refusal};

/// The longest identifier, in bytes of UTF-8.
pub const MAX_BYTES: usize = 255;

/// The number of shared ids that a thread remembers.
const RECENT_IDS: usize = 512;

/// A hash of a text that is the same in every daemon: FNV-1a.
pub fn stable_hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

thread_local! {
    /// The last shared id at each place of a small hash table.
    static RECENT: RefCell<[Option<Id>; RECENT_IDS]> =
        const { RefCell::new([const { None }; RECENT_IDS]) };
}

/// An identifier of a user, connection, lease, channel type or channel: 1 to 255 bytes of UTF-8
/// without control characters. Case-sensitive, not trimmed. A clone shares the text: record, agenda
/// and index hold one copy of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(ArcStr);

impl Id {
    /// Accepts `text` if it is an identifier; `field` is what the error names.
    pub fn parse(text: &str, field: &str) -> Result<Self, Refusal> {
        match flaw(text) {
            None => Ok(Self(text.into())),
            Some(flaw) => Err(Refusal::new(
                Code::InvalidId,
                format!(
                    "`{field}` {flaw}; an id is 1 to {MAX_BYTES} bytes of UTF-8 without control \
                     characters"
                ),
            )
            .field(field)),
        }
    }

    /// [`parse`](Id::parse) for ids that many records have in common, such as leases: shares the
    /// text of an equal id that was parsed lately.
    pub fn parse_shared(text: &str, field: &str) -> Result<Self, Refusal> {
        let place = text
            .bytes()
            .fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(byte)))
            % RECENT_IDS;
        RECENT.with_borrow_mut(|recent| match &recent[place] {
            Some(id) if id.0 == text => Ok(id.clone()),
            _ => {
                let id = Self::parse(text, field)?;
                recent[place] = Some(id.clone());
                Ok(id)
            }
        })
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The canonical token of this id: bytes in `[A-Za-z0-9_-]` stand for themselves, every other
    /// byte becomes `=XX`.
    pub fn token(&self) -> String {
        let mut token = String::with_capacity(self.0.len());
        push_token(&mut token, &self.0);
        token
    }

    /// Reads a token. `None` unless it is the canonical encoding of an id.
    pub fn from_token(token: &str) -> Option<Self> {
        let mut bytes = Vec::with_capacity(token.len());
        let mut rest = token.bytes();
        while let Some(byte) = rest.next() {
            if stands_for_itself(byte) {
                bytes.push(byte);
            } else if byte == b'=' {
                let byte = hex(rest.next()?)? << 4 | hex(rest.next()?)?;
                if stands_for_itself(byte) {
                    return None;
                }
                bytes.push(byte);
            } else {
                return None;
            }
        }
        let text = String::from_utf8(bytes).ok()?;
        flaw(&text).is_none().then(|| Self(text.into()))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an id")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Id, E> {
                Id::parse(text, "id").map_err(|refusal| E::custom(refusal.message))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl AsRef<str> for Id {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Serialises an optional id that many records share ([`Id::parse_shared`]).
pub mod shared {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use super::Id;
    use crate::presence::stored::Text;

    pub fn serialize<S: Serializer>(id: &Option<Id>, serializer: S) -> Result<S::Ok, S::Error> {
        id.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Id>, D::Error> {
        let text = Option::<Text<'de>>::deserialize(deserializer)?;
        let parse = |Text(text): Text<'de>| Id::parse_shared(&text, "id");
        text.map(parse).transpose().map_err(|refusal| de::Error::custom(refusal.message))
    }
}

/// A borrowed identifier: a lookup copies nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRef<'a>(&'a str);

impl<'a> IdRef<'a> {
    /// Accepts what [`Id::parse`] does.
    pub fn new(text: &'a str) -> Option<Self> {
        flaw(text).is_none().then_some(Self(text))
    }

    pub fn to_id(self) -> Id {
        Id(self.0.into())
    }
}

impl<'a> From<&'a Id> for IdRef<'a> {
    fn from(id: &'a Id) -> Self {
        Self(&id.0)
    }
}

impl AsRef<str> for IdRef<'_> {
    fn as_ref(&self) -> &str {
        self.0
    }
}

impl Borrow<str> for Id {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Appends the token of `id` to `out`.
pub fn push_token(out: &mut String, id: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in id.bytes() {
        if stands_for_itself(byte) {
            out.push(char::from(byte));
        } else {
            out.push('=');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

/// The subject below `prefix` that ends in the tokens of these ids.
pub fn subject<'a>(prefix: &str, ids: impl IntoIterator<Item = &'a str>) -> String {
    let mut subject = prefix.to_owned();
    for id in ids {
        subject.push('.');
        push_token(&mut subject, id);
    }
    subject
}

fn flaw(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("is empty")
    } else if text.len() > MAX_BYTES {
        Some("is too long")
    } else if has_control(text) {
        Some("contains a control character")
    } else {
        None
    }
}

fn has_control(text: &str) -> bool {
    // Nearly all are ASCII, and that is seen faster byte by byte.
    if text.is_ascii() {
        text.bytes().any(|byte| byte.is_ascii_control())
    } else {
        text.chars().any(char::is_control)
    }
}

fn stands_for_itself(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// The value of an upper-case hexadecimal digit.
fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_token_of_an_address_is_that_of_the_protocol() {
        let id = Id::parse("alice@example.com", "id").unwrap();
        assert_eq!(id.token(), "alice=40example=2Ecom");
        assert_eq!(Id::from_token("alice=40example=2Ecom"), Some(id));
    }

    #[test]
    fn a_token_that_is_not_canonical_is_none() {
        for token in ["", "a.b", "=4", "=4g", "=41", "a=2e", "=FF", "=00", "é", "=C2=85", "a b"] {
            assert_eq!(Id::from_token(token), None, "{token}");
        }
    }

    #[test]
    fn an_id_has_1_to_255_bytes_and_no_control_characters() {
        assert!(Id::parse(&"x".repeat(255), "id").is_ok());
        for bad in ["", "a\u{0}b", "a\nb", "\u{85}", &"x".repeat(256), &"😀".repeat(64)] {
            let refusal = Id::parse(bad, "user.id").unwrap_err();
            assert_eq!(refusal.code, Code::InvalidId);
            assert_eq!(refusal.details["field"], "user.id");
        }
    }

    proptest! {
        #[test]
        fn every_id_survives_its_token_and_the_token_is_one_safe_token(text in "\\PC{1,60}") {
            if let Ok(id) = Id::parse(&text, "id") {
                let token = id.token();
                prop_assert!(token.bytes().all(|b| stands_for_itself(b) || b == b'='));
                prop_assert_eq!(Id::from_token(&token), Some(id));
            }
        }

        #[test]
        fn a_token_that_is_accepted_is_the_only_one_of_its_id(token in "[A-Za-z0-9_=-]{1,20}") {
            if let Some(id) = Id::from_token(&token) {
                prop_assert_eq!(id.token(), token);
            }
        }
    }
}
