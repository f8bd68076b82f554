//! The fast path for heartbeats: the usual body, parsed without a tree and without copies.
//!
//! Every daemon reads the heartbeats of all clients. The fast path accepts nothing that
//! [`Heartbeat::parse`] refuses, and leaves anything unusual (an escape in an id, a mistake) to it.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::heartbeat::{Heartbeat, MAX_CONNECTIONS};
use crate::api::request::door::Door;
use crate::presence::id::IdRef;

/// Parses a plain heartbeat. `None` leaves the body to [`Heartbeat::parse`].
pub fn read<'a>(body: &'a [u8], door: &'a Door) -> Option<Heartbeat<IdRef<'a>>> {
    let Object(body) = serde_json::from_slice::<Object<Body<'_>>>(body).ok()?;
    match body {
        Body { lease: Some(lease), connections: None, user_id: None, connection_id: None } => {
            door.is_trusted().then_some(Heartbeat::Lease(IdRef::new(lease)?))
        }
        Body { lease: None, connections: Some(each), user_id: None, connection_id: None } => {
            if each.len() > MAX_CONNECTIONS {
                return None;
            }
            let named = |Object(each): Object<Connection<'a>>| {
                connection(each.user_id, each.connection_id, door)
            };
            each.into_iter().map(named).collect::<Option<_>>().map(Heartbeat::Connections)
        }
        Body { lease: None, connections: None, user_id, connection_id } => {
            Some(Heartbeat::Connections(vec![connection(user_id, connection_id, door)?]))
        }
        _ => None,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    #[serde(borrow, default, deserialize_with = "given")]
    lease: Option<&'a str>,
    #[serde(borrow, default, deserialize_with = "given")]
    connections: Option<Vec<Object<Connection<'a>>>>,
    #[serde(borrow, default, deserialize_with = "given")]
    user_id: Option<&'a str>,
    #[serde(borrow, default, deserialize_with = "given")]
    connection_id: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Connection<'a> {
    #[serde(borrow, default, deserialize_with = "given")]
    user_id: Option<&'a str>,
    #[serde(borrow, default, deserialize_with = "given")]
    connection_id: Option<&'a str>,
}

/// A field that is optional, but not `null`.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// The user and the connection that `door` allows.
fn connection<'a>(
    user: Option<&'a str>,
    connection: Option<&'a str>,
    door: &'a Door,
) -> Option<(IdRef<'a>, IdRef<'a>)> {
    let user = match door {
        Door::Trusted => IdRef::new(user?)?,
        Door::Own(own) if user.is_none_or(|user| user == own.as_str()) => own.into(),
        Door::Own(_) => return None,
    };
    Some((user, IdRef::new(connection?)?))
}

/// An object. A derived type alone would accept an array too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(members)).map(Object)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    use super::*;
    use crate::presence::id::Id;
    use crate::presence::refusal::Refusal;

    fn own() -> Door {
        Door::Own(Id::parse("john", "id").unwrap())
    }

    fn parse(body: &[u8], door: &Door) -> Result<Heartbeat, Refusal> {
        Heartbeat::parse(door.fields(body)?, door)
    }

    fn read_plain(body: &[u8], door: &Door) -> Option<Heartbeat> {
        read(body, door).map(|plain| plain.into_owned())
    }

    /// Strings as they stand in a body: ids, what is none, and escapes.
    fn string() -> impl Strategy<Value = String> {
        const FIXED: [&str; 13] = [
            r#""john""#,
            r#""jack""#,
            r#""c1""#,
            r#""j\u006fhn""#,
            r#""a\nb""#,
            r#""""#,
            r#""😀é""#,
            r#""\ud83d\ude00""#,
            r#""\ud83d""#,
            "\"\u{7f}\"",
            "\"\u{85}\"",
            "\"\t\"",
            "\"",
        ];
        let long = [254_usize, 255, 256].map(|bytes| format!("\"{}\"", "x".repeat(bytes)));
        let text = any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap());
        prop_oneof![8 => select(&FIXED[..3]).prop_map(str::to_owned),
            2 => select(&FIXED[..]).prop_map(str::to_owned),
            1 => select(long.to_vec()), 1 => text]
    }

    fn other() -> impl Strategy<Value = String> {
        let values =
            ["null", "1", "-0.5e3", "true", "{}", "[]", r#"["c1"]"#, r#"["john","c1"]"#, ""];
        select(values.to_vec()).prop_map(str::to_owned)
    }

    fn value() -> impl Strategy<Value = String> {
        prop_oneof![9 => string(), 1 => other()]
    }

    fn space() -> impl Strategy<Value = String> {
        prop_oneof![6 => Just(String::new()), 2 => "[ \t\r\n]{1,2}", 1 => Just("\u{a0}".to_owned())]
    }

    /// An object of members with these names, mostly a whole one.
    fn object(
        names: &'static [&'static str],
        value: impl Strategy<Value = String> + Clone + 'static,
    ) -> impl Strategy<Value = String> {
        let odd = ["lease", "connections", r"user\u005fid", "USER_ID", "", "x"];
        let name = prop_oneof![15 => select(names.to_vec()), 1 => select(odd.to_vec())];
        let usual: Vec<_> = names.iter().map(|name| (Just(*name).boxed(), value.clone())).collect();
        let any = vec((name.boxed(), value), 0..4);
        let members = prop_oneof![4 => usual.prop_shuffle(), 1 => any];
        (members, space(), space()).prop_map(|(members, before, behind)| {
            let member =
                |(name, value)| format!("{before}\"{name}\"{behind}:{before}{value}{behind}");
            let members: Vec<_> = members.into_iter().map(member).collect();
            format!("{before}{{{}}}{behind}", members.join(","))
        })
    }

    const ENTRY: &[&str] = &["user_id", "connection_id"];

    fn connection_object() -> impl Strategy<Value = String> {
        prop_oneof![
            5 => object(ENTRY, value().boxed()),
            1 => object(&["connection_id"], value().boxed()),
        ]
    }

    fn list() -> impl Strategy<Value = String> {
        let entry = prop_oneof![20 => connection_object().boxed(), 1 => other().boxed()];
        let some = vec(entry, 0..4).prop_map(|entries| format!("[{}]", entries.join(",")));
        let many = (999_usize..=1001).prop_map(|count| {
            let entry = r#"{"user_id":"john","connection_id":"c1"}"#;
            format!("[{}]", vec![entry; count].join(","))
        });
        prop_oneof![40 => some, 1 => many, 1 => other()]
    }

    fn body() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => connection_object(),
            2 => object(&["lease"], value().boxed()),
            4 => object(&["connections"], list().boxed()),
            1 => object(&["connections", "lease"], prop_oneof![list(), value()].boxed()),
            1 => object(&["user_id", "connection_id", "lease"], value().boxed()),
        ]
    }

    /// A body of which nothing, or a byte, or a piece is lost, another, or there twice.
    fn mutated() -> impl Strategy<Value = Vec<u8>> {
        let change = prop_oneof![3 => Just(0_u8), 1 => 1_u8..5];
        let byte = prop_oneof![select(b"\"\\{}[]:, \n\x00\x80\xc3n".to_vec()), any::<u8>()];
        (body(), change, any::<(Index, Index)>(), byte).prop_map(|(body, change, (a, b), byte)| {
            let mut body = body.into_bytes();
            let (a, b) = (a.index(body.len()), b.index(body.len()));
            let range = a.min(b)..a.max(b);
            match change {
                0 => {}
                1 => body[a] = byte,
                2 => body.insert(a, byte),
                3 => drop(body.drain(range)),
                _ => {
                    let piece = body[range].to_vec();
                    body.splice(b..b, piece);
                }
            }
            body
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn what_it_takes_is_what_the_whole_parse_takes(body in mutated()) {
            for door in [Door::Trusted, own()] {
                if let Some(plain) = read_plain(&body, &door) {
                    let full = parse(&body, &door).map_err(|e| e.message);
                    prop_assert_eq!(Ok(plain), full, "{}", String::from_utf8_lossy(&body));
                }
            }
        }

        #[test]
        fn it_takes_all_that_has_no_escape_and_is_right(body in mutated()) {
            for door in [Door::Trusted, own()] {
                if let Ok(heartbeat) = parse(&body, &door)
                    && !body.contains(&b'\\')
                {
                    let text = String::from_utf8_lossy(&body);
                    prop_assert_eq!(read_plain(&body, &door), Some(heartbeat), "{}", text);
                }
            }
        }
    }

    #[test]
    fn usual_heartbeats_are_plain() {
        let list = |count| {
            format!(
                r#"{{"connections":[{}]}}"#,
                vec![r#"{"user_id":"john","connection_id":"c"}"#; count].join(",")
            )
        };
        for (trusted, body) in [
            (true, r#"{"lease":"gw"}"#.to_owned()),
            (false, r#"{"connection_id":"c"}"#.to_owned()),
            (false, r#"{"user_id":"john","connection_id":"c"}"#.to_owned()),
            (true, r#" { "connection_id" : "c" , "user_id" : "john" } "#.to_owned()),
            (true, list(0)),
            (false, list(1000)),
        ] {
            let door = if trusted { Door::Trusted } else { own() };
            assert!(read(body.as_bytes(), &door).is_some(), "{body}");
        }
    }

    #[test]
    fn a_mistake_is_never_plain() {
        for body in [
            r#"["gw"]"#,
            r#"{"lease":null}"#,
            r#"{"lease":"gw","lease":"gw"}"#,
            r#"{"lease":"gw","user_id":"john","connection_id":"c"}"#,
            r#"{"connections":[["john","c"]]}"#,
            r#"{"connections":[{"user_id":"john","connection_id":"c","connection_id":"c"}]}"#,
            r#"{"connections":[{"user_id":"john","connection_id":"c","x":1}]}"#,
            r#"{"user_id":"jack","connection_id":"c"} x"#,
            r#"{"user_id":"jack"}"#,
            r#"{"user_id":"jack","connection_id":""}"#,
        ] {
            assert_eq!(read(body.as_bytes(), &Door::Trusted), None, "{body}");
            assert_eq!(read(body.as_bytes(), &own()), None, "{body}");
        }
        for body in [r#"{"lease":"gw"}"#, r#"{"user_id":"jack","connection_id":"c"}"#] {
            assert_eq!(read(body.as_bytes(), &own()), None, "{body}");
        }
        assert_eq!(read(br#"{"connection_id":"c"}"#, &Door::Trusted), None);
    }
}
