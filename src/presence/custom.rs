//! Custom fields of a user or a channel, kept as one canonical piece of JSON text.
//!
//! Canonical: compact, names sorted, so that equal fields are equal text, and the text of the
//! fields of a million users is all that they cost.

use std::collections::BTreeMap;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// Custom fields as the members of a JSON object, without its braces (`"a":1,"b":"x"`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Custom(Option<Box<str>>);

/// A change of custom fields: a value to set, or `None` to remove the field.
pub type Changes = Vec<(Box<str>, Option<Value>)>;

impl Custom {
    /// Makes the fields from values.
    pub fn from_values(values: &BTreeMap<String, Value>) -> Self {
        if values.is_empty() {
            return Self(None);
        }
        let text = serde_json::to_string(values).unwrap_or_default();
        Self(Some(text[1..text.len() - 1].into()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The members, without braces; empty if there are none.
    pub fn as_members(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// All fields as values.
    pub fn values(&self) -> BTreeMap<String, Value> {
        serde_json::from_str(&self.as_object()).unwrap_or_default()
    }

    /// The value of one field, read without building the others.
    pub fn value(&self, name: &str) -> Option<Value> {
        struct Find<'a>(&'a str);
        impl<'de> Visitor<'de> for Find<'_> {
            type Value = Option<Value>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut found = None;
                while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    if name == self.0 {
                        found = Some(map.next_value()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(found)
            }
        }
        self.0.as_ref()?;
        let object = self.as_object();
        serde_json::Deserializer::from_str(&object).deserialize_map(Find(name)).ok().flatten()
    }

    /// The fields after `changes`; `None` if nothing really changes.
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
        let next = Self::from_values(&values);
        (next != *self).then_some(next)
    }

    fn as_object(&self) -> String {
        format!("{{{}}}", self.as_members())
    }
}

/// Collects the members of a stored object that this version does not know, to be kept as they are.
#[derive(Debug, Default)]
pub struct Unknown(String);

impl Unknown {
    pub fn add(&mut self, name: &str, value: &RawValue) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        let mut quoted = Vec::new();
        super::json::push_str(&mut quoted, name);
        self.0.push_str(&String::from_utf8_lossy(&quoted));
        self.0.push(':');
        self.0.push_str(value.get());
    }

    /// The members without braces, if there are any.
    pub fn into_members(self) -> Option<Box<str>> {
        (!self.0.is_empty()).then(|| self.0.into_boxed_str())
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
        assert_eq!(one.value("b"), Some(json!({"x":2,"y":1})));
        assert_eq!(one.value("c"), None);
        assert_eq!(one.changed(&vec![("b".into(), Some(json!({"x":2,"y":1})))]), None);
        assert_eq!(one.changed(&vec![("c".into(), None)]), None);
        assert!(one.changed(&vec![("a".into(), None), ("b".into(), None)]).unwrap().is_empty());
    }
}
