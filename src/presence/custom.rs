//! Custom fields of a user or a channel, kept as one canonical piece of JSON text.
//!
//! The form is canonical: compact, names sorted. So equal fields are equal text, and the text of
//! the fields of a million users is all that they cost.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::field::Kind;

/// Custom fields as a JSON object (`{"a":1,"b":"x"}`); nothing if there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Custom(Option<Box<str>>);

/// A change of custom fields: a value to set, or `None` to remove the field.
pub type Changes = Vec<(Box<str>, Option<Value>)>;

impl Custom {
    /// Makes the fields from values.
    pub fn from_values(mut values: BTreeMap<String, Value>) -> Self {
        if values.is_empty() {
            return Self(None);
        }
        values.values_mut().for_each(Value::sort_all_objects);
        let text = serde_json::to_string(&values).unwrap_or_default();
        Self(Some(text.into()))
    }

    /// Makes the fields from stored ones. A name that is reserved by now names no custom field,
    /// even if it did when it was stored.
    pub fn from_stored(mut values: BTreeMap<String, Value>, kind: Kind) -> Self {
        values.retain(|name, _| !kind.reserved().contains(&name.as_str()));
        Self::from_values(values)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The members, without braces; empty if there are none.
    pub fn as_members(&self) -> &str {
        self.0.as_deref().map_or("", |object| &object[1..object.len() - 1])
    }

    /// All fields as values.
    pub fn values(&self) -> BTreeMap<String, Value> {
        self.0.as_deref().and_then(|o| serde_json::from_str(o).ok()).unwrap_or_default()
    }

    /// The JSON text of one field, found without reading the others.
    pub fn text(&self, name: &str) -> Option<&str> {
        struct Find<'a>(&'a str);
        impl<'de> Visitor<'de> for Find<'_> {
            type Value = Option<&'de RawValue>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut found = None;
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    if name == self.0 {
                        found = Some(map.next_value()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(found)
            }
        }
        let mut object = serde_json::Deserializer::from_str(self.0.as_deref()?);
        object.deserialize_map(Find(name)).ok().flatten().map(RawValue::get)
    }

    /// The fields after `changes`; `None` if no value changes.
    pub fn changed(&self, changes: &Changes) -> Option<Self> {
        if changes.is_empty() {
            return None;
        }
        let mut values = self.values();
        for (name, value) in changes {
            match value {
                Some(value) => values.insert(name.to_string(), value.clone()),
                None => values.remove(&**name),
            };
        }
        let next = Self::from_values(values);
        (next != *self).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn equal_fields_are_equal_text_whatever_their_order() {
        let empty = Custom::default();
        let one = empty
            .changed(&vec![("b".into(), Some(json!({"y":1,"x":2}))), ("a".into(), Some(json!(1)))])
            .unwrap();
        assert_eq!(one.as_members(), r#""a":1,"b":{"x":2,"y":1}"#);
        assert_eq!(one.text("b"), Some(r#"{"x":2,"y":1}"#));
        assert_eq!(one.text("c"), None);
        assert_eq!(one.changed(&vec![("b".into(), Some(json!({"x":2,"y":1})))]), None);
        assert_eq!(one.changed(&vec![("c".into(), None)]), None);
        assert!(one.changed(&vec![("a".into(), None), ("b".into(), None)]).unwrap().is_empty());
    }
}
