//! Text and times for people.

use chrono::{DateTime, Local, SecondsFormat, Utc};
use serde_json::Value;

/// Returns whether a terminal would obey it: control characters, and marks that turn directions.
fn is_obeyed(c: char) -> bool {
    c.is_control() && c != '\n' || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Text without what a terminal would obey.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_obeyed(c) { '\u{FFFD}' } else { c }).collect()
}

/// JSON with escapes in the place of what a terminal would obey. Such characters are in strings
/// only, so the values stay the same.
pub fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if is_obeyed(c) {
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            text.push(c);
        }
    }
    text
}

/// The form of shown times.
#[derive(Clone, Copy)]
pub struct Times {
    pub now: DateTime<Utc>,
    pub utc: bool,
}

impl Times {
    /// "5 minutes ago".
    pub fn ago(&self, value: &Value) -> String {
        let Some(at) = parse(value) else { return String::new() };
        let seconds = (self.now - at).num_seconds();
        if (-1..5).contains(&seconds) {
            return "just now".to_owned();
        }
        let amount = amount(seconds.unsigned_abs());
        if seconds < 0 { format!("in {amount}") } else { format!("{amount} ago") }
    }

    /// Date and time, local or in UTC.
    pub fn full(&self, at: DateTime<Utc>) -> String {
        if self.utc {
            at.to_rfc3339_opts(SecondsFormat::Millis, true)
        } else {
            at.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S%.3f %:z").to_string()
        }
    }

    /// The time of day.
    pub fn clock(&self, at: DateTime<Utc>) -> String {
        let form = "%H:%M:%S";
        if self.utc {
            at.format(form).to_string()
        } else {
            at.with_timezone(&Local).format(form).to_string()
        }
    }
}

pub fn parse(value: &Value) -> Option<DateTime<Utc>> {
    let at = DateTime::parse_from_rfc3339(value.as_str()?).ok()?;
    Some(at.with_timezone(&Utc))
}

fn amount(seconds: u64) -> String {
    let units = [("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1)];
    let (unit, size) = units.into_iter().find(|(_, size)| seconds >= *size).unwrap_or(units[3]);
    let count = seconds / size;
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_terminal_is_told_nothing_by_a_status() {
        assert_eq!(printable("a\u{1b}[2Jb\r\u{202E}c"), "a\u{FFFD}[2Jb\u{FFFD}\u{FFFD}c");
        assert_eq!(printable("grüße 🎉"), "grüße 🎉");
        let json = Value::from("a\u{9b}\u{202E}b").to_string();
        assert_eq!(escaped(&json), r#""a\u009b\u202eb""#);
        assert_eq!(serde_json::from_str::<Value>(&escaped(&json)).unwrap(), "a\u{9b}\u{202E}b");
    }

    #[test]
    fn times_are_shown_by_how_long_ago_they_are() {
        let now: DateTime<Utc> = "2026-01-07T12:00:00Z".parse().unwrap();
        let times = Times { now, utc: true };
        let ago = |seconds| times.ago(&json!((now - TimeDelta::seconds(seconds)).to_rfc3339()));
        assert_eq!(ago(1), "just now");
        assert_eq!(ago(59), "59 seconds ago");
        assert_eq!(ago(60), "1 minute ago");
        assert_eq!(ago(7200), "2 hours ago");
        assert_eq!(ago(-90_000), "in 1 day");
        assert_eq!(times.ago(&Value::Null), "");
        assert_eq!(times.full(now), "2026-01-07T12:00:00.000Z");
    }
}
