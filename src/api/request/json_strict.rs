//! JSON of requests: strict about ambiguity, tolerant of the texts that common writers emit.
//!
//! Half of a surrogate pair in an escape becomes U+FFFD, and a byte order mark is skipped. A value
//! that no operation can take, such as `NaN` or a repeated name, is a [`Flaw`] with its place. So a
//! batch refuses one operation for it and carries out the others.

use std::sync::Arc;

use serde_json::{Map, Number, Value};
use thiserror::Error;

/// The deepest nesting of objects and arrays.
const MAX_DEPTH: usize = 127;

/// The depth of the operations of a batch. Deeper containers keep their first flaw only.
const PART_DEPTH: usize = 3;

/// The bound on flaws that are kept: one for each operation of a batch, and one more.
const MAX_FLAWS: usize = 1001;

/// The character in place of half of a surrogate pair.
const REPLACEMENT: char = '\u{FFFD}';

/// A parsed text. `null` stands in the place of each flaw.
#[derive(Debug)]
pub struct Parsed {
    pub value: Value,
    pub flaws: Vec<Flaw>,
}

/// A well-delimited value that is refused.
#[derive(Debug)]
pub struct Flaw {
    /// The place, from the innermost step out.
    steps: Vec<Step>,
    /// The fault, as the rest of an error that begins with the place.
    pub what: &'static str,
}

#[derive(Debug, Clone)]
enum Step {
    Member(Arc<str>),
    Index(usize),
}

impl Flaw {
    /// The place in the notation of error replies, such as `ops[3].user.name`.
    pub fn path(&self) -> String {
        let mut path = String::new();
        for step in self.steps.iter().rev() {
            match step {
                Step::Member(name) if path.is_empty() => path.push_str(name),
                Step::Member(name) => path.extend([".", name]),
                Step::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        path
    }

    /// The index, if the flaw lies in an item of the top-level array `name`.
    pub fn index_in(&self, name: &str) -> Option<usize> {
        match self.steps.as_slice() {
            [.., Step::Index(index), Step::Member(array)] if **array == *name => Some(*index),
            _ => None,
        }
    }
}

/// The text is not JSON.
#[derive(Debug, Error)]
#[error("{expected} expected at byte {at}")]
pub struct SyntaxError {
    expected: &'static str,
    at: usize,
}

/// Some editors and serialisers begin a text with it.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Parses a whole text.
pub fn parse(text: &[u8]) -> Result<Parsed, SyntaxError> {
    let text = std::str::from_utf8(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text))
        .map_err(|error| SyntaxError { expected: "UTF-8", at: error.valid_up_to() })?;
    let mut reader = Reader { text, at: 0, depth: 0, flaws: Vec::new() };
    let value = reader.value()?;
    reader.skip_space();
    if reader.peek().is_some() {
        return reader.fail("the end");
    }
    Ok(Parsed { value, flaws: reader.flaws })
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    flaws: Vec<Flaw>,
}

impl Reader<'_> {
    fn value(&mut self) -> Result<Value, SyntaxError> {
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => self.string().map(Value::String),
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(b'n') => self.literal("null", Value::Null),
            Some(b'N') => self.not_a_number("NaN"),
            Some(b'I') => self.not_a_number("Infinity"),
            Some(b'-') if self.rest().starts_with("-I") => self.not_a_number("-Infinity"),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.fail("a value"),
        }
    }

    /// Reads an object or an array, unless it lies too deep.
    fn nested(
        &mut self,
        read: fn(&mut Self) -> Result<Value, SyntaxError>,
    ) -> Result<Value, SyntaxError> {
        if self.depth == MAX_DEPTH {
            self.skip_nested()?;
            return Ok(self.flaw("is nested too deep"));
        }
        self.depth += 1;
        let before = self.flaws.len();
        let value = read(self);
        if self.depth >= PART_DEPTH {
            self.flaws.truncate(before + 1);
        }
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Result<Value, SyntaxError> {
        let mut members = Map::new();
        self.at += 1;
        self.skip_space();
        if self.take(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return self.fail("a name");
            }
            let name = self.string()?;
            self.skip_space();
            if !self.take(b':') {
                return self.fail("`:`");
            }
            let before = self.flaws.len();
            let mut value = self.value()?;
            if members.contains_key(&name) {
                // Nothing says which of two values is meant.
                self.flaws.truncate(before);
                value = self.flaw("is given twice");
            }
            if self.flaws.len() > before {
                // One copy of the name for all of them: it may be as long as a request.
                self.locate(before, &Step::Member(name.as_str().into()));
            }
            members.insert(name, value);
            self.skip_space();
            if self.take(b'}') {
                return Ok(Value::Object(members));
            }
            if !self.take(b',') {
                return self.fail("`,` or `}`");
            }
        }
    }

    fn array(&mut self) -> Result<Value, SyntaxError> {
        let mut items = Vec::new();
        self.at += 1;
        self.skip_space();
        if self.take(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            let before = self.flaws.len();
            let item = self.value()?;
            self.locate(before, &Step::Index(items.len()));
            items.push(item);
            self.skip_space();
            if self.take(b']') {
                return Ok(Value::Array(items));
            }
            if !self.take(b',') {
                return self.fail("`,` or `]`");
            }
        }
    }

    fn number(&mut self) -> Result<Value, SyntaxError> {
        let from = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        match serde_json::from_str::<Number>(&self.text[from..self.at]) {
            Ok(number) => Ok(Value::Number(number)),
            Err(_) => Ok(self.flaw("is a number out of range")),
        }
    }

    fn digits(&mut self) -> Result<(), SyntaxError> {
        let count = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        self.at += count;
        if count == 0 { self.fail("a digit") } else { Ok(()) }
    }

    fn string(&mut self) -> Result<String, SyntaxError> {
        self.at += 1;
        let mut string = String::new();
        loop {
            let plain = self.rest().bytes().take_while(|byte| !ends_plain_text(*byte)).count();
            string.push_str(&self.rest()[..plain]);
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(string);
                }
                Some(b'\\') => string.push(self.escape()?),
                _ => return self.fail("`\"`"),
            }
        }
    }

    fn escape(&mut self) -> Result<char, SyntaxError> {
        self.at += 1;
        let character = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return self.fail("an escape"),
        };
        self.at += 1;
        Ok(character)
    }

    fn unicode_escape(&mut self) -> Result<char, SyntaxError> {
        self.at += 1;
        let first = self.code_unit()?;
        let after_first = self.at;
        if (0xD800..0xDC00).contains(&first) && self.rest().starts_with("\\u") {
            self.at += 2;
            let second = self.code_unit()?;
            if let Some(Ok(pair)) = char::decode_utf16([first, second]).next() {
                return Ok(pair);
            }
            self.at = after_first;
        }
        Ok(char::from_u32(first.into()).unwrap_or(REPLACEMENT))
    }

    /// Reads the four hexadecimal digits of an escape.
    fn code_unit(&mut self) -> Result<u16, SyntaxError> {
        let digits = self.rest().get(..4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        match digits.and_then(|digits| u16::from_str_radix(digits, 16).ok()) {
            Some(unit) => {
                self.at += 4;
                Ok(unit)
            }
            None => self.fail("four hexadecimal digits"),
        }
    }

    fn literal(&mut self, literal: &'static str, value: Value) -> Result<Value, SyntaxError> {
        if !self.rest().starts_with(literal) {
            return self.fail("a value");
        }
        self.at += literal.len();
        Ok(value)
    }

    /// Reads a number that JSON does not have and some languages write.
    fn not_a_number(&mut self, literal: &'static str) -> Result<Value, SyntaxError> {
        self.literal(literal, Value::Null)?;
        Ok(self.flaw("is not a finite number"))
    }

    /// Skips an object or an array that is refused anyway.
    fn skip_nested(&mut self) -> Result<(), SyntaxError> {
        let mut open = 0_usize;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.string()?;
                    continue;
                }
                Some(b'{' | b'[') => open += 1,
                Some(b'}' | b']') => open -= 1,
                Some(_) => {}
                None => return self.fail("`}` or `]`"),
            }
            self.at += 1;
            if open == 0 {
                return Ok(());
            }
        }
    }

    /// Records a flaw, and returns the value in its place.
    fn flaw(&mut self, what: &'static str) -> Value {
        if self.flaws.len() < MAX_FLAWS {
            self.flaws.push(Flaw { steps: Vec::new(), what });
        }
        Value::Null
    }

    /// Adds a step to the places of the flaws since `before`.
    fn locate(&mut self, before: usize, step: &Step) {
        for flaw in self.flaws.iter_mut().skip(before) {
            flaw.steps.push(step.clone());
        }
    }

    fn skip_space(&mut self) {
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        self.at += self.rest().bytes().take_while(is_space).count();
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn fail<T>(&self, expected: &'static str) -> Result<T, SyntaxError> {
        Err(SyntaxError { expected, at: self.at })
    }
}

fn ends_plain_text(byte: u8) -> bool {
    byte == b'"' || byte == b'\\' || byte < 0x20
}

#[cfg(test)]
mod tests;
