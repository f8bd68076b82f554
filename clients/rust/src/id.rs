//! Identifiers, and the one subject token that stands for each.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::error::Error;

/// The longest identifier, in bytes of UTF-8.
pub const MAX_BYTES: usize = 255;

/// An identifier of a user, connection, lease or channel: 1 to 255 bytes of UTF-8 without control
/// characters. Case counts, and nothing is trimmed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(Arc<str>);

impl Id {
    /// Accepts `text` if it is an identifier.
    ///
    /// ```
    /// use presenced_client::Id;
    /// assert_eq!(Id::parse("alice@example.com")?.token(), "alice=40example=2Ecom");
    /// assert!(Id::parse("").is_err());
    /// # Ok::<(), presenced_client::Error>(())
    /// ```
    pub fn parse(text: impl AsRef<str>) -> Result<Self, Error> {
        let text = text.as_ref();
        if text.is_empty() || text.len() > MAX_BYTES || text.chars().any(char::is_control) {
            return Err(Error::invalid_id(text));
        }
        Ok(Self(text.into()))
    }

    /// 128 random bits in hexadecimal digits, after `prefix`.
    pub(crate) fn random(prefix: &str) -> Self {
        Self(format!("{prefix}{:032x}", random()).into())
    }

    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The subject token: bytes in `[A-Za-z0-9_-]` stand for themselves, others become `=XX`.
    pub fn token(&self) -> String {
        let mut token = String::with_capacity(self.0.len());
        for byte in self.0.bytes() {
            if stands_for_itself(byte) {
                token.push(byte as char);
            } else {
                token.push_str(&format!("={byte:02X}"));
            }
        }
        token
    }

    /// Reads a token. `None` unless it is the canonical encoding of an identifier.
    pub fn from_token(token: &str) -> Option<Self> {
        let mut bytes = Vec::with_capacity(token.len());
        let mut rest = token.bytes();
        while let Some(byte) = rest.next() {
            match byte {
                b'=' => {
                    let byte = hex(rest.next()?)? << 4 | hex(rest.next()?)?;
                    if stands_for_itself(byte) {
                        return None;
                    }
                    bytes.push(byte);
                }
                _ if stands_for_itself(byte) => bytes.push(byte),
                _ => return None,
            }
        }
        Self::parse(String::from_utf8(bytes).ok()?).ok()
    }
}

/// 128 bits of the system's random numbers: no two processes draw the same, however alike they
/// began.
pub(crate) fn random() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has a source of random numbers");
    u128::from_ne_bytes(bytes)
}

fn stands_for_itself(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Id {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Id {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl serde::Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}
