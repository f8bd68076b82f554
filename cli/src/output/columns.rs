//! The columns of users, channels and daemons.

use serde_json::Value;

use super::table::{Paint, Table, Tone};
use super::text::{Times, parse};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    User,
    Channel,
    Daemon,
}

impl Kind {
    /// The id of a record.
    pub fn id(self, record: &Value) -> String {
        let field = if self == Self::Channel { "cid" } else { "id" };
        record[field].as_str().unwrap_or_default().to_owned()
    }

    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::User => &[
                "id",
                "online",
                "status",
                "availability",
                "devices",
                "last_active",
                "offline_since",
                "status_expires_at",
                "created_at",
                "updated_at",
                "version",
            ],
            Self::Channel => {
                &["cid", "type", "id", "member_count", "last_message_at", "created_at"]
            }
            Self::Daemon => {
                &["id", "version", "host", "started", "deaf", "lag_ms", "requests", "errors"]
            }
        }
    }

    /// The fields of the contract, and behind them all others that occur.
    pub fn all_fields(self, records: &[Value]) -> Vec<String> {
        let mut fields: Vec<String> = self.fields().iter().map(|field| field.to_string()).collect();
        let known = fields.len();
        for record in records.iter().filter_map(Value::as_object) {
            for field in record.keys() {
                if !fields.contains(field) {
                    fields.push(field.clone());
                }
            }
        }
        fields[known..].sort();
        fields
    }

    pub fn table(self, records: &[Value], times: &Times, paint: &Paint) -> Table {
        match self {
            Self::User => users(records, times, paint),
            Self::Channel => channels(records, times),
            Self::Daemon => daemons(records, times),
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The mark of a user, told apart without colours too.
pub fn mark(user: &Value) -> (&'static str, Option<Tone>) {
    match (user["online"].as_bool(), user["availability"].as_str()) {
        (Some(true), Some("away")) => ("◐", Some(Tone::Warning)),
        (Some(true), Some("busy")) => ("⊖", Some(Tone::Bad)),
        (Some(true), _) => ("●", Some(Tone::Good)),
        _ => ("○", Some(Tone::Faint)),
    }
}

fn users(records: &[Value], times: &Times, _paint: &Paint) -> Table {
    let mut table = Table::new(&["", "USER", "AVAILABILITY", "STATUS", "LAST ACTIVE"]);
    for user in records {
        let (mark, tone) = mark(user);
        let availability = text(&user["availability"]);
        let seen = match user["online"] == true {
            true => &user["last_active"],
            false if user["offline_since"].is_null() => &user["last_active"],
            false => &user["offline_since"],
        };
        let cells = [
            mark.to_owned(),
            text(&user["id"]),
            availability,
            text(&user["status"]),
            times.ago(seen),
        ];
        table.row(cells, tone);
    }
    table
}

fn channels(records: &[Value], times: &Times) -> Table {
    let mut table = Table::new(&["CHANNEL", "MEMBERS", "ONLINE", "LAST MESSAGE"]);
    for channel in records {
        let cells = [
            text(&channel["cid"]),
            text(&channel["member_count"]),
            text(&channel["online_count"]),
            times.ago(&channel["last_message_at"]),
        ];
        table.row(cells, None);
    }
    table
}

fn daemons(records: &[Value], times: &Times) -> Table {
    let mut table = Table::new(&["DAEMON", "VERSION", "HOST", "STARTED", "STATE", "LAG"]);
    for daemon in records {
        let (state, tone) = match daemon["deaf"].as_bool() {
            Some(true) => ("deaf", Some(Tone::Warning)),
            Some(false) => ("hearing", Some(Tone::Good)),
            None => ("", None),
        };
        let lag = daemon["lag_ms"].as_u64().map(|lag| format!("{lag} ms")).unwrap_or_default();
        let cells = [
            text(&daemon["id"]),
            text(&daemon["version"]),
            text(&daemon["host"]),
            times.ago(&daemon["started"]),
            state.to_owned(),
            lag,
        ];
        table.row(cells, tone);
    }
    table
}

/// One record in full, a field a line.
pub fn one(kind: Kind, record: &Value, times: &Times) -> Table {
    let mut table = Table::pairs();
    for field in kind.all_fields(std::slice::from_ref(record)) {
        let Some(value) = record.get(&field) else { continue };
        let shown = match parse(value) {
            Some(at) => format!("{} ({})", times.full(at), times.ago(value)),
            None => text(value),
        };
        table.row([field, shown], None);
    }
    table
}
