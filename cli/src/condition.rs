//! Filters as people type them: `team=red`, `last_active>2026-01-01T00:00:00Z`, or JSON.

use serde_json::{Map, Value, json};

use crate::failure::Failure;

/// Fields that are texts, whatever their values look like.
const TEXTS: [&str; 11] = [
    "id",
    "cid",
    "type",
    "status",
    "availability",
    "last_active",
    "offline_since",
    "created_at",
    "updated_at",
    "last_message_at",
    "status_expires_at",
];
/// Fields that are lists: a value is one of them.
const LISTS: [&str; 2] = ["members", "devices"];
/// The longer ones first.
const OPERATORS: [(&str, &str); 7] = [
    ("!=", "$ne"),
    (">=", "$gte"),
    ("<=", "$lte"),
    ("=", "$eq"),
    (">", "$gt"),
    ("<", "$lt"),
    ("~", "$autocomplete"),
];

pub const HELP: &str = "A JSON filter, or conditions that all hold: field=value, !=, >, >=, <, <=, \
    and ~ for the beginning of a word; field=[\"a\",\"b\"] for any of these, field=null for none";

/// The filter of all conditions together.
pub fn filter(conditions: &[String]) -> Result<Value, Failure> {
    let mut parts = conditions.iter().map(|text| condition(text)).collect::<Result<Vec<_>, _>>()?;
    Ok(match parts.len() {
        0 => json!({}),
        1 => parts.remove(0),
        _ => json!({ "$and": parts }),
    })
}

fn condition(text: &str) -> Result<Value, Failure> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str::<Map<String, Value>>(text)
            .map(Value::Object)
            .map_err(|error| Failure::usage(format!("the filter {text}: {error}")));
    }
    let found = OPERATORS.iter().filter_map(|(sign, name)| Some((text.find(sign)?, sign, name)));
    let Some((at, sign, name)) = found.min_by_key(|(at, sign, _)| (*at, 2 - sign.len())) else {
        let message = format!("{text:?} is no condition: write field=value, or a JSON filter");
        return Err(Failure::usage(message));
    };
    let (field, value) = (text[..at].trim(), text[at + sign.len()..].trim());
    if field.is_empty() {
        return Err(Failure::usage(format!("{text:?} names no field")));
    }
    Ok(json!({ field: operation(field, name, value) }))
}

fn operation(field: &str, name: &str, text: &str) -> Value {
    let value = value(field, text);
    match (name, value) {
        ("$eq", Value::Null) => json!({"$exists": false}),
        ("$ne", Value::Null) => json!({"$exists": true}),
        ("$eq", value @ Value::Array(_)) => json!({"$in": value}),
        ("$ne", value @ Value::Array(_)) => json!({"$nin": value}),
        ("$eq", value) if LISTS.contains(&field) => json!({"$contains": value}),
        ("$autocomplete", _) => json!({"$autocomplete": text}),
        (name, value) => json!({name: value}),
    }
}

/// JSON where it is JSON, else text.
fn value(field: &str, text: &str) -> Value {
    let parsed = json_or_text(text);
    match parsed {
        Value::Bool(_) | Value::Number(_) if TEXTS.contains(&field) || LISTS.contains(&field) => {
            text.into()
        }
        parsed => parsed,
    }
}

pub fn json_or_text(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// An order: `field` or `-field`, with commas between them, or JSON.
pub fn sort(text: &str) -> Result<Value, Failure> {
    if text.starts_with(['{', '[']) {
        return serde_json::from_str(text)
            .map_err(|error| Failure::usage(format!("the order {text}: {error}")));
    }
    let keys = text.split(',').map(|key| match key.trim().strip_prefix('-') {
        Some(field) => json!({ field: -1 }),
        None => json!({ key.trim(): 1 }),
    });
    Ok(keys.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Value {
        filter(&[text.to_owned()]).unwrap()
    }

    #[test]
    fn conditions_become_filters() {
        assert_eq!(of("team=red"), json!({"team": {"$eq": "red"}}));
        assert_eq!(of("level>=7"), json!({"level": {"$gte": 7}}));
        assert_eq!(of("level != 7"), json!({"level": {"$ne": 7}}));
        assert_eq!(of("id=42"), json!({"id": {"$eq": "42"}}));
        assert_eq!(of("id=[\"a\",\"b\"]"), json!({"id": {"$in": ["a", "b"]}}));
        assert_eq!(of("name~jo"), json!({"name": {"$autocomplete": "jo"}}));
        assert_eq!(of("members=john"), json!({"members": {"$contains": "john"}}));
        assert_eq!(of("team=null"), json!({"team": {"$exists": false}}));
        assert_eq!(of("note=a>b"), json!({"note": {"$eq": "a>b"}}));
        assert_eq!(of(r#"{"online":true}"#), json!({"online": true}));
        assert!(filter(&["team".to_owned()]).is_err());
        assert!(filter(&["{".to_owned()]).is_err());
    }

    #[test]
    fn several_conditions_all_hold() {
        let both = filter(&["a=1".to_owned(), "b=2".to_owned()]).unwrap();
        assert_eq!(both, json!({"$and": [{"a": {"$eq": 1}}, {"b": {"$eq": 2}}]}));
    }

    #[test]
    fn an_order_names_fields() {
        assert_eq!(sort("-last_active,id").unwrap(), json!([{"last_active": -1}, {"id": 1}]));
    }
}
