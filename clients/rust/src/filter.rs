//! Filters and sorting that cannot be wrong for their field.

use serde::Serialize;
use serde_json::{Map, Value, json};

/// A condition on users, or on channels.
///
/// ```
/// use presenced_client::filter::{field, online};
/// let filter = online().and(field("team").eq("red"));
/// assert_eq!(filter.to_json().to_string(), r#"{"online":true,"team":"red"}"#);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Filter(Node);

#[derive(Debug, Clone, PartialEq)]
enum Node {
    All,
    One(String, Value),
    And(Vec<Node>),
    Or(Vec<Node>),
    Nor(Vec<Node>),
    Json(Value),
}

impl Filter {
    /// All of them.
    pub fn all() -> Self {
        Self(Node::All)
    }

    /// A filter in the language of the contract, as it stands.
    pub fn json(filter: Value) -> Self {
        Self(Node::Json(filter))
    }

    /// Both.
    pub fn and(self, other: Filter) -> Self {
        let mut parts = Vec::new();
        for node in [self.0, other.0] {
            match node {
                Node::All => {}
                Node::And(nodes) => parts.extend(nodes),
                node => parts.push(node),
            }
        }
        Self(match parts.len() {
            0 => Node::All,
            1 => parts.remove(0),
            _ => Node::And(parts),
        })
    }

    /// Either, or both.
    pub fn or(self, other: Filter) -> Self {
        let mut parts = Vec::new();
        for node in [self.0, other.0] {
            match node {
                Node::Or(nodes) => parts.extend(nodes),
                node => parts.push(node),
            }
        }
        Self(Node::Or(parts))
    }

    /// None of these.
    pub fn nor(filters: impl IntoIterator<Item = Filter>) -> Self {
        Self(Node::Nor(filters.into_iter().map(|filter| filter.0).collect()))
    }

    /// The opposite.
    #[expect(clippy::should_implement_trait, reason = "a filter reads `online().not()`")]
    pub fn not(self) -> Self {
        Self::nor([self])
    }

    /// The filter as it goes on the wire.
    pub fn to_json(&self) -> Value {
        self.0.json()
    }
}

impl Node {
    fn json(&self) -> Value {
        let all = |nodes: &[Node]| nodes.iter().map(Node::json).collect::<Vec<_>>();
        match self {
            Self::All => json!({}),
            Self::One(field, condition) => json!({field: condition}),
            Self::Or(nodes) => json!({"$or": all(nodes)}),
            Self::Nor(nodes) => json!({"$nor": all(nodes)}),
            Self::Json(value) => value.clone(),
            Self::And(nodes) => {
                let parts = all(nodes);
                merged(&parts).unwrap_or_else(|| json!({"$and": parts}))
            }
        }
    }
}

/// One object of all parts, if no key occurs twice.
fn merged(parts: &[Value]) -> Option<Value> {
    let mut object = Map::new();
    for part in parts {
        for (key, value) in part.as_object()? {
            if object.insert(key.clone(), value.clone()).is_some() {
                return None;
            }
        }
    }
    Some(Value::Object(object))
}

fn one(field: &str, operator: &str, operand: impl Serialize) -> Filter {
    let operand = serde_json::to_value(operand).unwrap_or(Value::Null);
    let condition = match operand {
        bare if operator == "$eq" && !bare.is_array() && !bare.is_object() => bare,
        operand => json!({operator: operand}),
    };
    Filter(Node::One(field.to_owned(), condition))
}

macro_rules! operators {
    ($kind:ident, $operand:ty: $($name:ident $operator:literal $doc:literal),*) => {
        impl $kind {
            $(#[doc = $doc]
            pub fn $name(self, operand: $operand) -> Filter {
                one(&self.0, $operator, operand)
            })*
        }
    };
}

macro_rules! sets {
    ($($kind:ident),*) => { $(impl $kind {
        /// One of these; of a list: any of these.
        pub fn is_in<S: AsRef<str>>(self, operands: impl IntoIterator<Item = S>) -> Filter {
            one(&self.0, "$in", texts(operands))
        }

        /// None of these.
        pub fn not_in<S: AsRef<str>>(self, operands: impl IntoIterator<Item = S>) -> Filter {
            one(&self.0, "$nin", texts(operands))
        }
    })* };
}

macro_rules! exists {
    ($kind:ident) => {
        impl $kind {
            /// Whether there is a value at all.
            pub fn exists(self, exists: bool) -> Filter {
                one(&self.0, "$exists", exists)
            }
        }
    };
}

macro_rules! sorting {
    ($($kind:ident),*) => { $(impl $kind {
        /// Smallest first.
        pub fn asc(self) -> Sort { Sort(vec![(self.0, 1)]) }
        /// Largest first.
        pub fn desc(self) -> Sort { Sort(vec![(self.0, -1)]) }
    })* };
}

/// A field that identifies: `id`, `cid`, `type`.
pub struct IdField(String);
/// A text of the contract: `status`.
pub struct Text(String);
/// A time.
pub struct Time(String);
/// `availability`.
pub struct AvailabilityField(String);
/// `member_count`.
pub struct Count(String);
/// A list of texts: `devices`.
pub struct Texts(String);
/// The members of a channel.
pub struct Members(String);
/// A custom field.
pub struct Custom(String);

operators!(IdField, &str:
    eq "$eq" "Equal.", ne "$ne" "Not equal.",
    gt "$gt" "Greater.", gte "$gte" "Greater or equal.",
    lt "$lt" "Less.", lte "$lte" "Less or equal.",
    autocomplete "$autocomplete" "A word begins so.");
operators!(Text, &str:
    eq "$eq" "Equal.", ne "$ne" "Not equal.",
    gt "$gt" "Greater.", gte "$gte" "Greater or equal.",
    lt "$lt" "Less.", lte "$lte" "Less or equal.",
    autocomplete "$autocomplete" "A word begins so.");
operators!(Time, &str:
    eq "$eq" "At.", ne "$ne" "Not at.",
    gt "$gt" "Later.", gte "$gte" "Not earlier.",
    lt "$lt" "Earlier.", lte "$lte" "Not later.");
operators!(AvailabilityField, &str: eq "$eq" "Equal.", ne "$ne" "Not equal.");
operators!(Count, u64:
    eq "$eq" "Equal.", ne "$ne" "Not equal.",
    gt "$gt" "Greater.", gte "$gte" "Greater or equal.",
    lt "$lt" "Less.", lte "$lte" "Less or equal.");
operators!(Custom, impl Serialize:
    eq "$eq" "Equal.", ne "$ne" "Not equal.",
    gt "$gt" "Greater.", gte "$gte" "Greater or equal.",
    lt "$lt" "Less.", lte "$lte" "Less or equal.",
    autocomplete "$autocomplete" "A word begins so.",
    contains "$contains" "The array holds this.");
operators!(Texts, &str: contains "$contains" "Holds this.");
operators!(Texts, &[&str]: eq "$eq" "Exactly these, in this order.", ne "$ne" "Not exactly these.");
operators!(Members, &str: contains "$contains" "This one is a member.");
sets!(IdField, Text, AvailabilityField, Texts);
exists!(Text);
exists!(Time);
exists!(Count);
exists!(Texts);
exists!(Custom);
sorting!(IdField, Text, Time, Count, Custom);

impl Custom {
    /// One of these; of an array: any of these.
    pub fn is_in<T: Serialize>(self, operands: impl IntoIterator<Item = T>) -> Filter {
        one(&self.0, "$in", operands.into_iter().collect::<Vec<_>>())
    }

    /// None of these.
    pub fn not_in<T: Serialize>(self, operands: impl IntoIterator<Item = T>) -> Filter {
        one(&self.0, "$nin", operands.into_iter().collect::<Vec<_>>())
    }
}

impl Count {
    /// One of these.
    pub fn is_in(self, operands: impl IntoIterator<Item = u64>) -> Filter {
        one(&self.0, "$in", operands.into_iter().collect::<Vec<_>>())
    }

    /// None of these.
    pub fn not_in(self, operands: impl IntoIterator<Item = u64>) -> Filter {
        one(&self.0, "$nin", operands.into_iter().collect::<Vec<_>>())
    }
}

impl Members {
    /// Exactly these.
    pub fn eq<S: AsRef<str>>(self, members: impl IntoIterator<Item = S>) -> Filter {
        one(&self.0, "$eq", texts(members))
    }

    /// Any of these.
    pub fn is_in<S: AsRef<str>>(self, members: impl IntoIterator<Item = S>) -> Filter {
        one(&self.0, "$in", texts(members))
    }
}

fn texts<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Vec<String> {
    texts.into_iter().map(|text| text.as_ref().to_owned()).collect()
}

/// Users who are online.
pub fn online() -> Filter {
    one("online", "$eq", true)
}

/// Users who are offline.
pub fn offline() -> Filter {
    one("online", "$eq", false)
}

/// Whether the viewer itself is invisible; nobody else matches, whatever the value.
pub fn invisible(invisible: bool) -> Filter {
    one("invisible", "$eq", invisible)
}

/// Users, or channels, with one of these ids. A filter takes at most 100.
pub fn ids<S: AsRef<str>>(ids: impl IntoIterator<Item = S>) -> Filter {
    one("id", "$in", texts(ids))
}

macro_rules! fields {
    ($($name:ident $kind:ident $doc:literal),*) => {
        $(#[doc = $doc]
        pub fn $name() -> $kind { $kind(stringify!($name).to_owned()) })*
    };
}
fields!(
    id IdField "The id.",
    cid IdField "Type and id of a channel.",
    status Text "The status.",
    last_active Time "The time when the user was last active.",
    offline_since Time "The time when the user went offline.",
    created_at Time "The time when the user or channel was made.",
    updated_at Time "The time when the user or channel was last changed.",
    last_message_at Time "The time of a channel's last message.",
    availability AvailabilityField "The shown availability of the user.",
    member_count Count "The number of a channel's members.",
    devices Texts "Kinds of devices that are connected.",
    members Members "The members of a channel."
);

/// The type of a channel.
pub fn channel_type() -> IdField {
    IdField("type".to_owned())
}

/// A custom field.
pub fn field(name: &str) -> Custom {
    Custom(name.to_owned())
}

/// An order of users or channels: at most 5 keys.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sort(Vec<(String, i8)>);

impl Sort {
    /// Adds an order for records that are equal by this one.
    pub fn then(mut self, next: Sort) -> Self {
        self.0.extend(next.0);
        self
    }

    pub(crate) fn to_json(&self) -> Value {
        self.0.iter().map(|(field, direction)| json!({field: direction})).collect()
    }
}
