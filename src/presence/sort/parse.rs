//! Reads sorts. Every error names the path of the mistake.

use serde_json::{Map, Value};

use super::super::field::{Field, Kind};
use super::super::number::Number;
use super::super::refusal::{Code, Refusal};
use super::{Direction, Key, Sort};

/// The maximum number of keys of a sort (`docs/protocol.md`, *Sorting*).
pub const MAX_KEYS: usize = 5;
const FORMS: &str = "takes {\"id\":-1}, [{\"id\":-1},…] or [{\"field\":\"id\",\"direction\":-1},…]";

pub(super) fn sort(kind: Kind, json: Option<&Value>) -> Result<Sort, Refusal> {
    let mut keys = Keys { kind, keys: Vec::new() };
    match json {
        None | Some(Value::Null) => {}
        Some(Value::Object(named)) => keys.named(named, "")?,
        Some(Value::Array(entries)) => {
            for (at, entry) in entries.iter().enumerate() {
                keys.entry(entry, &format!("[{at}]"))?;
            }
        }
        Some(_) => return Err(invalid("sort", FORMS)),
    }
    if keys.keys.is_empty() {
        return Ok(Sort::default_of(kind));
    }
    Ok(Sort::of(kind, keys.keys))
}

struct Keys {
    kind: Kind,
    /// In the order written.
    keys: Vec<Key>,
}

impl Keys {
    /// An element of an array: one key in two fields, or keys by their names.
    fn entry(&mut self, json: &Value, path: &str) -> Result<(), Refusal> {
        let pairs = json.as_object().ok_or_else(|| invalid(path, FORMS))?;
        // A number beside `field` is the direction of a custom field that is called so.
        match pairs.get("field") {
            Some(Value::String(field)) => self.spelled(field, pairs, path),
            _ => self.named(pairs, &format!("{path}.")),
        }
    }

    /// `{"id":-1,…}`
    fn named(&mut self, pairs: &Map<String, Value>, prefix: &str) -> Result<(), Refusal> {
        for (name, value) in pairs {
            let path = format!("{prefix}{name}");
            let direction = direction(value, &path)?;
            self.push(name, direction, &path)?;
        }
        Ok(())
    }

    /// `{"field":"id","direction":-1}`
    fn spelled(
        &mut self,
        field: &str,
        pairs: &Map<String, Value>,
        path: &str,
    ) -> Result<(), Refusal> {
        let mut way = Direction::Ascending;
        for (name, value) in pairs {
            let path = format!("{path}.{name}");
            match name.as_str() {
                "field" => {}
                "direction" => way = direction(value, &path)?,
                _ => return Err(invalid(&path, "is unknown beside `field` and `direction`")),
            }
        }
        self.push(field, way, &format!("{path}.field"))
    }

    fn push(&mut self, name: &str, direction: Direction, path: &str) -> Result<(), Refusal> {
        let field = match Field::named(self.kind, name) {
            None | Some(Field::Members | Field::Devices | Field::Invisible) => {
                return Err(invalid(path, no_field(self.kind)));
            }
            Some(field) => field,
        };
        if self.keys.iter().any(|key| key.field == field) {
            return Err(invalid(path, "is sorted by twice"));
        }
        if self.keys.len() == MAX_KEYS {
            let flaw = format!("is one key too many; a sort has at most {MAX_KEYS}");
            return Err(invalid(path, &flaw).limit(MAX_KEYS as u64));
        }
        self.keys.push(Key { field, direction });
        Ok(())
    }
}

fn direction(value: &Value, path: &str) -> Result<Direction, Refusal> {
    let number = value.as_number().map(Number::from);
    if number == Some(Number::from(1_i64)) {
        Ok(Direction::Ascending)
    } else if number == Some(Number::from(-1_i64)) {
        Ok(Direction::Descending)
    } else {
        Err(invalid(path, "takes the direction 1 (ascending) or -1 (descending)"))
    }
}

fn no_field(kind: Kind) -> &'static str {
    match kind {
        Kind::Users => {
            "is no field to sort users by; accepted are id, online, availability, \
             status, last_active, offline_since, created_at, updated_at and custom fields"
        }
        Kind::Channels => {
            "is no field to sort channels by; accepted are id, cid, type, member_count, \
             last_message_at, created_at, updated_at and custom fields"
        }
    }
}

fn invalid(path: &str, flaw: &str) -> Refusal {
    Refusal::at(Code::InvalidSort, path, flaw)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(json: &str) -> Vec<(String, Direction)> {
        let json = serde_json::from_str(json).unwrap();
        let sort = Sort::parse(Kind::Users, Some(&json)).unwrap();
        let keys = sort.keys.iter().chain([&sort.tie]);
        keys.map(|key| (key.field.name().to_owned(), key.direction)).collect()
    }

    fn refused(kind: Kind, json: &str) -> String {
        let refusal = Sort::parse(kind, Some(&serde_json::from_str(json).unwrap())).unwrap_err();
        assert_eq!(refusal.code, Code::InvalidSort, "{json}");
        let field = refusal.details["field"].as_str().unwrap().to_owned();
        assert!(refusal.message.contains(&format!("`{field}`")), "{}", refusal.message);
        field
    }

    #[test]
    fn keys_count_in_the_order_written_in_all_three_forms() {
        use Direction::*;
        let keys = [("status", Descending), ("age", Ascending), ("id", Descending)];
        let keys = keys.map(|(name, direction)| (name.to_owned(), direction));
        for json in [
            r#"{"status":-1,"age":1,"id":-1}"#,
            r#" [{"status":-1},{"age":1.0},{"id":-1}]"#,
            r#"[{"status":-1,"age":1},{"id":-1}]"#,
            r#"[{"field":"status","direction":-1},{"field":"age"},{"direction":-1,"field":"id"}]"#,
        ] {
            assert_eq!(parsed(json), keys, "{json}");
        }
    }

    #[test]
    fn no_keys_are_the_default() {
        for kind in [Kind::Users, Kind::Channels] {
            for json in [None, Some("null"), Some("{}"), Some("[]"), Some(" [{}] ")] {
                let json = json.map(|json| serde_json::from_str(json).unwrap());
                let sort = Sort::parse(kind, json.as_ref()).unwrap();
                assert_eq!(sort, Sort::default_of(kind), "{json:?}");
            }
        }
    }

    #[test]
    fn custom_fields_may_be_called_field_and_direction() {
        assert_eq!(parsed(r#"[{"field":1,"direction":-1}]"#)[1].0, "direction");
        assert_eq!(parsed(r#"{"direction":-1}"#)[0].0, "direction");
    }

    #[test]
    fn a_mistake_is_named_by_its_path() {
        for (json, path) in [
            ("1", "sort"),
            (r#""id""#, "sort"),
            ("[1]", "[0]"),
            (r#"[{"id":1},"status"]"#, "[1]"),
            (r#"{"id":2}"#, "id"),
            (r#"{"id":0}"#, "id"),
            (r#"{"id":"asc"}"#, "id"),
            (r#"{"id":null}"#, "id"),
            (r#"{"id":true}"#, "id"),
            (r#"{"id":{"a":1}}"#, "id"),
            (r#"{"field":"id"}"#, "field"),
            (r#"[{"id":1},{"id":-1}]"#, "[1].id"),
            (r#"[{"id":1},{"field":"id"}]"#, "[1].field"),
            (r#"[{"field":"id","direction":2}]"#, "[0].direction"),
            (r#"[{"field":"id","order":1}]"#, "[0].order"),
            (r#"[{"field":"version"}]"#, "[0].field"),
            (r#"{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1}"#, "f"),
            (r#"{"":1}"#, ""),
            (r#"{"$natural":1}"#, "$natural"),
            (r#"{"version":1}"#, "version"),
            (r#"{"invisible":1}"#, "invisible"),
        ] {
            assert_eq!(refused(Kind::Users, json), path, "{json}");
        }
        for name in ["members", "presence", "presence_disabled"] {
            assert_eq!(refused(Kind::Channels, &format!("{{\"{name}\":1}}")), name);
        }
    }

    #[test]
    fn five_keys_are_accepted_and_the_error_has_the_limit() {
        assert_eq!(parsed(r#"{"a":1,"b":1,"c":1,"d":1,"e":1}"#).len(), 6);
        let six = serde_json::json!({"a":1,"b":1,"c":1,"d":1,"e":1,"id":1});
        assert_eq!(Sort::parse(Kind::Users, Some(&six)).unwrap_err().details["limit"], 5);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in r#"[\[\]{}":,a-z0-9$ -]{0,40}"#) {
            if let Ok(json) = serde_json::from_str(&text) {
                let _ = Sort::parse(Kind::Users, Some(&json));
                let _ = Sort::parse(Kind::Channels, Some(&json));
            }
        }
    }
}
