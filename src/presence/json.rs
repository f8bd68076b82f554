//! Writes JSON without a tree in between: answers and events are made by the thousand.

use serde::Serialize;

use super::time::Time;

/// Appends `text` as a JSON string.
pub fn push_str(out: &mut Vec<u8>, text: &str) {
    // Neither writing to memory nor a string can fail.
    let written = serde_json::to_writer(out, text);
    debug_assert!(written.is_ok(), "{written:?}");
}

/// The number of bytes that [`push_str`] appends.
pub fn str_bytes(text: &str) -> usize {
    let bytes = |byte: u8| match byte {
        b'"' | b'\\' | 0x08 | 0x09 | 0x0A | 0x0C | 0x0D => 2,
        0..0x20 => 6,
        _ => 1,
    };
    2 + text.bytes().map(bytes).sum::<usize>()
}

/// Appends `number` in decimal digits.
pub fn push_number(out: &mut Vec<u8>, number: impl Serialize) {
    let written = serde_json::to_writer(out, &number);
    debug_assert!(written.is_ok(), "{written:?}");
}

pub fn push_bool(out: &mut Vec<u8>, value: bool) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

/// Appends `text` as a JSON string, or `null`.
pub fn push_optional_str(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => push_str(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

/// Appends `time` as a quoted RFC 3339 time, or `null`.
pub fn push_optional_time(out: &mut Vec<u8>, time: Option<Time>) {
    match time {
        Some(time) => {
            out.push(b'"');
            time.push(out);
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
}

/// Appends `items` as a JSON array, each written by `push`.
pub fn push_array<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut push: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push(out, item);
    }
    out.push(b']');
}

/// Appends `text`, a fixed piece of JSON.
pub fn push(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_ascii_character_has_the_length_that_is_counted() {
        for byte in 0..0x80_u8 {
            let (mut out, text) = (Vec::new(), char::from(byte).to_string());
            push_str(&mut out, &text);
            assert_eq!(out.len(), str_bytes(&text), "{byte:#x}");
        }
    }

    proptest! {
        #[test]
        fn a_string_reads_back(text in any::<String>()) {
            let mut out = Vec::new();
            push_str(&mut out, &text);
            prop_assert_eq!(out.len(), str_bytes(&text));
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn a_number_reads_back(number in any::<i64>(), unsigned in any::<u64>()) {
            let mut out = Vec::new();
            push_number(&mut out, number);
            prop_assert_eq!(serde_json::from_slice::<i64>(&out).unwrap(), number);
            out.clear();
            push_number(&mut out, unsigned);
            prop_assert_eq!(serde_json::from_slice::<u64>(&out).unwrap(), unsigned);
        }
    }
}
