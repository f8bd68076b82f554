use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::field::sample::sample;
use super::super::refusal::Code;
use super::*;

/// Returns whether the filter finds the record, a channel if it has a `type`.
fn finds(filter: Value, record: &Value) -> bool {
    let kind = if record.get("type").is_some() { Kind::Channels } else { Kind::Users };
    Filter::parse(kind, &filter).unwrap().matches(&sample(record))
}

fn assert_finds(record: &Value, filters: impl IntoIterator<Item = Value>) {
    for filter in filters {
        assert!(finds(filter.clone(), record), "{filter} should find {record}");
    }
}

fn assert_misses(record: &Value, filters: impl IntoIterator<Item = Value>) {
    for filter in filters {
        assert!(!finds(filter.clone(), record), "{filter} should not find {record}");
    }
}

/// The path that the refusal names, which must have this code.
fn refused(kind: Kind, filter: &Value, code: Code) -> String {
    let refusal = Filter::parse(kind, filter).expect_err(&filter.to_string());
    assert_eq!(refusal.code, code, "{filter}");
    let path = refusal.details["field"].as_str().unwrap().to_owned();
    assert!(refusal.message.contains(&format!("`{path}`")), "{}", refusal.message);
    path
}

fn john() -> Value {
    json!({
        "id": "john", "online": true, "status": "Eating a veggie-burger", "invisible": false,
        "last_active": "2019-01-07T13:17:42.375Z", "created_at": "2019-01-01T00:00:00.000Z",
        "name": "Seán O'Brien", "age": 42, "vip": true, "tags": ["a", 1, true], "home": {"x": 1},
    })
}

fn channel() -> Value {
    json!({
        "type": "messaging", "id": "c1", "members": ["john", "jack"], "color": "green",
        "last_message_at": "2019-01-07T13:17:42.375Z",
    })
}

#[test]
fn an_id_alone_rules_out_what_a_condition_on_ids_does_not_admit() {
    let admits = |filter: Value, id: &str| Filter::parse(Kind::Users, &filter).unwrap().admits(id);
    assert!(!admits(json!({"id": {"$gt": "m"}}), "j"));
    assert!(admits(json!({"id": {"$gt": "m"}}), "n"));
    assert!(!admits(json!({"$and": [{"x": 1}, {"id": {"$gt": "m"}}]}), "j"));
    assert!(admits(json!({"$or": [{"x": 1}, {"id": {"$gt": "m"}}]}), "j"));
    assert!(!admits(json!({"$or": [{"id": "a"}, {"id": {"$gt": "m"}}]}), "j"));
    assert!(admits(json!({"$nor": [{"id": {"$gt": "m"}}]}), "n"));
    assert!(admits(json!({}), "j"));
}

#[test]
fn ids_and_types_compare_by_code_point() {
    for (field, value) in [("id", "c1"), ("cid", "messaging:c1"), ("type", "messaging")] {
        let greater = format!("{value}!");
        assert_finds(
            &channel(),
            [
                json!({field: value}),
                json!({field: {"$eq": value}}),
                json!({field: {"$ne": "x"}}),
                json!({field: {"$in": ["x", value]}}),
                json!({field: {"$nin": ["x"]}}),
                json!({field: {"$gt": "", "$gte": value, "$lt": greater, "$lte": value}}),
                json!({field: {"$autocomplete": value[..2].to_uppercase()}}),
            ],
        );
        assert_misses(
            &channel(),
            [
                json!({field: value.to_uppercase()}),
                json!({field: {"$ne": value}}),
                json!({field: {"$in": ["x"]}}),
                json!({field: {"$nin": ["x", value]}}),
                json!({field: {"$gt": value}}),
                json!({field: {"$gte": greater}}),
                json!({field: {"$lt": value}}),
                json!({field: {"$lte": ""}}),
                json!({field: {"$autocomplete": "x"}}),
            ],
        );
    }
    assert_finds(&json!({"id": "Ä"}), [json!({"id": {"$gt": "Z"}}), json!({"id": {"$gt": "z"}})]);
}

#[test]
fn online_is_equal_or_not() {
    let on = [json!({"online": true}), json!({"online": {"$ne": false}})];
    let off = [json!({"online": false}), json!({"online": {"$ne": true}})];
    assert_finds(&john(), on.clone());
    assert_misses(&john(), off.clone());
    assert_finds(&json!({"id": "x", "online": false}), off);
    assert_misses(&json!({"id": "x", "online": false}), on);
}

#[test]
fn invisible_matches_only_oneself_whatever_is_asked() {
    assert_finds(&john(), [json!({"invisible": false}), json!({"invisible": {"$ne": true}})]);
    let of_another = json!({"id": "jack", "online": false});
    for value in [true, false] {
        let asked = [json!({"invisible": value}), json!({"invisible": {"$ne": value}})];
        assert_misses(&of_another, asked.clone());
        assert_finds(&of_another, asked.map(|filter| json!({"$nor": [filter]})));
    }
}

#[test]
fn status_compares_and_completes() {
    assert_finds(
        &john(),
        [
            json!({"status": "Eating a veggie-burger"}),
            json!({"status": {"$exists": true}}),
            json!({"status": {"$gte": "E", "$lt": "F"}}),
            json!({"status": {"$in": ["x", "Eating a veggie-burger"]}}),
            json!({"status": {"$autocomplete": "BURG"}}),
            json!({"status": {"$autocomplete": "a veg"}}),
        ],
    );
    assert_misses(
        &john(),
        [
            json!({"status": "eating a veggie-burger"}),
            json!({"status": {"$exists": false}}),
            json!({"status": {"$autocomplete": "urger"}}),
            json!({"status": {"$autocomplete": "eating  a"}}),
        ],
    );
}

#[test]
fn a_word_is_completed_whatever_its_case_and_script() {
    for (text, prefix, found) in [
        ("Seán O'Brien", "SEÁ", true),
        ("Seán O'Brien", "brien", true),
        ("Seán O'Brien", "o'BR", true),
        ("Seán O'Brien", "án", false),
        ("Seán O'Brien", "rien", false),
        ("ΟΔΟΣ", "οδοσ", true),
        ("İstanbul", "i", true),
        ("привет Мир", "мир", true),
        ("hello @bob", "@b", true),
        ("hello @bob", "bob", true),
        ("room42", "42", false),
        ("room 42", "42", true),
        ("a", "ab", false),
        ("", "a", false),
    ] {
        let record = json!({"id": "x", "name": text});
        assert_eq!(
            finds(json!({"name": {"$autocomplete": prefix}}), &record),
            found,
            "{text} {prefix}"
        );
    }
}

#[test]
fn times_compare_by_the_instant_they_name() {
    assert_finds(
        &john(),
        [
            json!({"last_active": "2019-01-07T13:17:42.375Z"}),
            json!({"last_active": "2019-01-07T14:17:42.375+01:00"}),
            json!({"last_active": {"$gt": "2019-01-07T13:17:42.374999Z"}}),
            json!({"last_active": {"$gte": "2019-01-07T13:17:42.375Z"}}),
            json!({"last_active": {"$lte": "2019-01-07T13:17:42.375Z"}}),
            json!({"last_active": {"$lt": "2019-01-07T13:17:42.375001Z"}}),
            json!({"last_active": {"$ne": "2019-01-07T13:17:42.375001Z"}}),
            json!({"last_active": {"$exists": true}}),
        ],
    );
    assert_misses(
        &john(),
        [
            json!({"last_active": {"$gt": "2019-01-07T13:17:42.375Z"}}),
            json!({"last_active": {"$gte": "2019-01-07T13:17:42.375001Z"}}),
            json!({"last_active": {"$eq": "2019-01-07T13:17:42.375001Z"}}),
            json!({"last_active": {"$lt": "2019-01-07T13:17:42.375Z"}}),
            json!({"last_active": {"$lte": "2019-01-07T13:17:42.374999Z"}}),
            json!({"last_active": {"$ne": "2019-01-07T13:17:42.375Z"}}),
        ],
    );
    assert_finds(&channel(), [json!({"last_message_at": {"$gt": "2019-01-07T00:00:00Z"}})]);
}

#[test]
fn members_are_a_set() {
    assert_finds(
        &channel(),
        [
            json!({"members": ["jack", "john", "jack"]}),
            json!({"members": {"$eq": ["john", "jack"]}}),
            json!({"members": {"$in": ["nobody", "jack"]}}),
            json!({"members": {"$contains": "john"}}),
            json!({"member_count": 2}),
            json!({"member_count": {"$gt": 1.5, "$lte": 2.0, "$in": [2, 3], "$exists": true}}),
        ],
    );
    assert_misses(
        &channel(),
        [
            json!({"members": ["john"]}),
            json!({"members": ["john", "jack", "jim"]}),
            json!({"members": ["john", "jim"]}),
            json!({"members": []}),
            json!({"members": {"$in": []}}),
            json!({"members": {"$in": ["nobody"]}}),
            json!({"members": {"$contains": "joh"}}),
            json!({"member_count": {"$nin": [2]}}),
        ],
    );
    assert_finds(&json!({"type": "t", "id": "x", "members": []}), [json!({"members": []})]);
}

#[test]
fn custom_fields_compare_by_the_type_of_the_operand() {
    assert_finds(
        &john(),
        [
            json!({"name": {"$gt": "Sea", "$ne": "Sean", "$nin": ["x"], "$exists": true}}),
            json!({"age": 42.0}),
            json!({"age": {"$gte": 42, "$lt": 42.5, "$in": ["x", 42], "$nin": [41]}}),
            json!({"vip": true}),
            json!({"vip": {"$ne": false, "$exists": true}}),
            json!({"tags": ["a", 1.0, true]}),
            json!({"tags": {"$ne": ["a"]}}),
            json!({"tags": {"$contains": "a"}}),
            json!({"tags": {"$contains": 1.0}}),
            json!({"tags": {"$contains": true}}),
            json!({"home": {"$exists": true}}),
        ],
    );
    assert_misses(
        &john(),
        [
            json!({"age": 43}),
            json!({"age": {"$gt": 42}}),
            json!({"vip": {"$exists": false}}),
            json!({"vip": false}),
            json!({"tags": [1, "a", true]}),
            json!({"tags": {"$contains": "1"}}),
        ],
    );
}

#[test]
fn a_custom_field_of_another_type_does_not_match_even_if_it_is_not_equal() {
    assert_misses(
        &john(),
        [
            json!({"age": "42"}),
            json!({"age": {"$ne": "x"}}),
            json!({"age": {"$nin": ["x"]}}),
            json!({"age": {"$in": ["42"]}}),
            json!({"age": {"$lt": "x"}}),
            json!({"age": {"$autocomplete": "4"}}),
            json!({"age": {"$contains": 42}}),
            json!({"name": {"$contains": "Seán"}}),
            json!({"vip": {"$ne": 1}}),
            json!({"tags": {"$ne": "a"}}),
            json!({"tags": "a"}),
            json!({"home": {"$ne": 1}}),
        ],
    );
    assert_finds(&john(), [json!({"age": {"$nin": ["x", 1]}}), json!({"age": {"$nin": []}})]);
}

#[test]
fn of_an_absent_field_only_ne_nin_and_exists_false_are_true() {
    let nobody = json!({"id": "x", "online": false, "status": null, "last_active": null});
    assert_finds(
        &nobody,
        [
            json!({"status": {"$ne": "x", "$nin": ["x"], "$exists": false}}),
            json!({"last_active": {"$ne": "2019-01-07T13:17:42.375Z", "$exists": false}}),
            json!({"name": {"$ne": "x", "$nin": ["x", 1], "$exists": false}}),
            json!({"vip": {"$ne": true}}),
            json!({"tags": {"$ne": []}}),
        ],
    );
    assert_misses(
        &nobody,
        [
            json!({"status": "x"}),
            json!({"status": {"$lt": "x"}}),
            json!({"status": {"$exists": true}}),
            json!({"status": {"$autocomplete": "x"}}),
            json!({"last_active": {"$lt": "2999-01-01T00:00:00Z"}}),
            json!({"created_at": {"$gte": "1970-01-01T00:00:00Z"}}),
            json!({"name": {"$in": ["x"]}}),
            json!({"tags": {"$contains": "x"}}),
            json!({"vip": false}),
        ],
    );
}

#[test]
fn large_integers_are_told_apart() {
    let record = json!({"id": "x", "n": 9007199254740993_u64, "m": u64::MAX});
    assert_finds(
        &record,
        [
            json!({"n": 9007199254740993_u64}),
            json!({"n": {"$gt": 9007199254740992.0}}),
            json!({"m": {"$gt": u64::MAX - 1, "$lt": 18446744073709551616.0}}),
        ],
    );
    assert_misses(&record, [json!({"n": 9007199254740992.0})]);
}

#[test]
fn groups_combine_and_fields_and_operators_are_all_required() {
    assert_finds(
        &john(),
        [
            json!({}),
            json!({"$or": [{"id": "x"}, {"online": true}]}),
            json!({"$and": [{"id": "john"}, {"online": true}], "age": 42}),
            json!({"$nor": [{"id": "x"}, {"online": false}]}),
            json!({"$or": [{}]}),
        ],
    );
    assert_misses(
        &john(),
        [
            json!({"id": "john", "age": 41}),
            json!({"age": {"$gt": 1, "$lt": 2}}),
            json!({"$and": [{"id": "john"}, {"online": false}]}),
            json!({"$or": [{"id": "x"}], "online": true}),
            json!({"$nor": [{"id": "x"}, {"online": true}]}),
        ],
    );
}

#[test]
fn what_is_wrong_is_named_by_its_path() {
    for (filter, path) in [
        (json!(null), "filter"),
        (json!([]), "filter"),
        (
            json!({"$or": [{"id": "x"}, {"last_active": {"$regex": "x"}}]}),
            "$or[1].last_active.$regex",
        ),
        (json!({"$and": [{"$nor": [{"id": 1}]}]}), "$and[0].$nor[0].id"),
        (json!({"$and": []}), "$and"),
        (json!({"$or": {}}), "$or"),
        (json!({"$or": [1]}), "$or[0]"),
        (json!({"$not": [{}]}), "$not"),
        (json!({"$eq": 1}), "$eq"),
        (json!({"": 1}), ""),
        (json!({"version": 1}), "version"),
        (json!({"id": {}}), "id"),
        (json!({"id": null}), "id"),
        (json!({"id": ["a"]}), "id"),
        (json!({"id": {"$exists": true}}), "id.$exists"),
        (json!({"id": {"$in": "a"}}), "id.$in"),
        (json!({"id": {"$in": ["a", 1]}}), "id.$in[1]"),
        (json!({"id": {"$nin": [null]}}), "id.$nin[0]"),
        (json!({"id": {"$autocomplete": ""}}), "id.$autocomplete"),
        (json!({"name": {"$autocomplete": " \t\u{a0}\u{3000}"}}), "name.$autocomplete"),
        (json!({"status": {"$autocomplete": "\u{301}"}}), "status.$autocomplete"),
        (json!({"online": 1}), "online"),
        (json!({"online": {"$in": [true]}}), "online.$in"),
        (json!({"invisible": {"$exists": true}}), "invisible.$exists"),
        (json!({"status": 1}), "status"),
        (json!({"status": {"$exists": 1}}), "status.$exists"),
        (json!({"status": {"$contains": "x"}}), "status.$contains"),
        (json!({"last_active": "yesterday"}), "last_active"),
        (json!({"last_active": {"$gt": 1}}), "last_active.$gt"),
        (json!({"last_active": {"$in": []}}), "last_active.$in"),
        (json!({"age": {"$gt": true}}), "age.$gt"),
        (json!({"age": {"$lte": [1]}}), "age.$lte"),
        (json!({"age": {"$eq": null}}), "age.$eq"),
        (json!({"age": {"$eq": {"x": 1}}}), "age.$eq"),
        (json!({"age": {"$in": [[true]]}}), "age.$in[0]"),
        (json!({"age": {"$in": [[1]]}}), "age.$in[0]"),
        (json!({"age": {"$autocomplete": 4}}), "age.$autocomplete"),
        (json!({"home": {"x": 1}}), "home.x"),
        (json!({"tags": {"$contains": ["a"]}}), "tags.$contains"),
        (json!({"a\nb": {"$x": 1}}), "a b.$x"),
    ] {
        assert_eq!(refused(Kind::Users, &filter, Code::InvalidFilter), path, "{filter}");
    }
    for (filter, path) in [
        (json!({"presence": true}), "presence"),
        (json!({"presence_disabled": true}), "presence_disabled"),
        (json!({"members": "john"}), "members"),
        (json!({"members": ["john", 1]}), "members[1]"),
        (json!({"members": {"$ne": ["john"]}}), "members.$ne"),
        (json!({"members": {"$nin": ["john"]}}), "members.$nin"),
        (json!({"members": {"$contains": ["john"]}}), "members.$contains"),
        (json!({"member_count": "2"}), "member_count"),
        (json!({"member_count": {"$autocomplete": "2"}}), "member_count.$autocomplete"),
    ] {
        assert_eq!(refused(Kind::Channels, &filter, Code::InvalidFilter), path, "{filter}");
    }
}

#[test]
fn a_refusal_says_what_is_accepted() {
    let message = |filter| Filter::parse(Kind::Users, &filter).unwrap_err().message;
    let operators = message(json!({"online": {"$gt": true}}));
    assert!(operators.ends_with("this field takes a value or $eq $ne"), "{operators}");
    assert!(message(json!({"age": null})).contains("use `$exists`"));
    assert!(message(json!({"last_active": "soon"})).contains("RFC 3339"));
    assert!(message(json!({"version": 1})).contains("last_active"));
}

#[test]
fn a_path_is_repeated_only_as_far_as_it_helps() {
    let refusal = Filter::parse(Kind::Users, &json!({"x".repeat(9999): null})).unwrap_err();
    assert!(refusal.message.len() < 500);
}

#[test]
fn limits_are_named() {
    let values = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
    let nested = |depth| (0..depth).fold(json!({}), |filter, _| json!({"$and": [filter]}));
    let limit = |kind, filter: Value, code| {
        let refusal = Filter::parse(kind, &filter).unwrap_err();
        assert_eq!(refusal.code, code);
        refusal.details["limit"].clone()
    };
    for operator in ["$in", "$nin"] {
        assert!(Filter::parse(Kind::Users, &json!({"id": {operator: values(100)}})).is_ok());
        let over = json!({"id": {operator: values(101)}});
        assert_eq!(limit(Kind::Users, over, Code::LimitExceeded), 100);
    }
    let members = json!({"members": {"$in": values(101)}});
    assert_eq!(limit(Kind::Channels, members, Code::LimitExceeded), 100);
    assert!(Filter::parse(Kind::Channels, &json!({"members": values(10_000)})).is_ok());
    let members = json!({"members": values(10_001)});
    assert_eq!(limit(Kind::Channels, members, Code::LimitExceeded), 10_000);

    assert!(Filter::parse(Kind::Users, &nested(8)).is_ok());
    assert_eq!(limit(Kind::Users, nested(9), Code::InvalidFilter), 8);

    let many = |count| json!({"$or": vec![json!({"id": "x"}); count]});
    assert!(Filter::parse(Kind::Users, &many(999)).is_ok());
    assert_eq!(limit(Kind::Users, many(1000), Code::LimitExceeded), 1000);
}

#[test]
fn the_few_ids_that_can_match_are_known() {
    let candidates = |filter| {
        let filter = Filter::parse(Kind::Users, &filter).unwrap();
        filter
            .candidates(&Field::Id)
            .map(|ids| ids.into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    let some = |ids: &[&str]| Some(ids.iter().map(|&id| id.to_owned()).collect::<Vec<_>>());
    for (filter, expected) in [
        (json!({"id": "a"}), some(&["a"])),
        (json!({"id": {"$in": ["b", "a", "b"]}, "online": true}), some(&["a", "b"])),
        (json!({"id": {"$in": ["b", "a"], "$eq": "c"}}), some(&["c"])),
        (json!({"id": {"$in": []}}), some(&[])),
        (json!({"$and": [{"online": true}, {"id": "a"}]}), some(&["a"])),
        (json!({"$or": [{"id": "b"}, {"id": {"$in": ["a", "b"]}}]}), some(&["a", "b"])),
        (json!({"$or": [{"id": "b"}, {"online": true}]}), None),
        (json!({"$nor": [{"id": "b"}]}), None),
        (json!({"id": {"$ne": "a"}}), None),
        (json!({"name": "a"}), None),
        (json!({}), None),
    ] {
        assert_eq!(candidates(filter.clone()), expected, "{filter}");
    }
    let filter = Filter::parse(Kind::Channels, &json!({"cid": "t:x"})).unwrap();
    assert_eq!(filter.candidates(&Field::Cid), Some(vec!["t:x"]));
    assert_eq!(filter.candidates(&Field::Id), None);
}

#[test]
fn the_members_that_a_channel_must_have_are_known() {
    for (filter, expected) in [
        (json!({"members": {"$contains": "a"}}), Some(vec!["a"])),
        (json!({"members": {"$in": ["b", "a"]}}), Some(vec!["a", "b"])),
        (json!({"members": ["b", "a"]}), Some(vec!["a"])),
        (json!({"members": []}), None),
        (
            json!({"$and": [{"members": {"$in": ["b", "a"]}}], "color": "green"}),
            Some(vec!["a", "b"]),
        ),
        (json!({"$or": [{"members": ["b"]}, {"members": []}]}), None),
        (json!({"color": "green"}), None),
    ] {
        let parsed = Filter::parse(Kind::Channels, &filter).unwrap();
        assert_eq!(parsed.member_candidates(), expected, "{filter}");
    }
}

/// JSON of all shapes, with names and operators that lead into the parser.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        Just(json!("2019-01-07T13:17:42.375Z")),
    ];
    let name = prop_oneof![
        prop::sample::select(vec![
            "$and",
            "$or",
            "$nor",
            "$eq",
            "$ne",
            "$in",
            "$nin",
            "$gt",
            "$exists",
            "$contains",
            "$autocomplete",
            "id",
            "online",
            "status",
            "last_active",
            "members",
            "member_count",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,4}",
    ];
    leaf.prop_recursive(6, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..4).prop_map(Value::from_iter),
        ]
    })
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        "[ab]{0,2}".prop_map(Value::from),
        (-2i64..3).prop_map(Value::from),
        prop::sample::select(vec![-0.5, 1.0, 1.5]).prop_map(Value::from),
    ]
}

fn record() -> impl Strategy<Value = Value> {
    let custom = prop_oneof![
        4 => scalar(),
        1 => any::<bool>().prop_map(Value::from),
        1 => prop::collection::vec(scalar(), 0..3).prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    let members = prop::collection::btree_set("[ab]", 0..3);
    ("[ab]{1,2}", custom, members)
        .prop_map(|(id, x, members)| json!({"type": "t", "id": id, "x": x, "members": members}))
}

/// Valid filters over the fields of [`record`].
fn any_filter() -> impl Strategy<Value = Value> {
    let ids = || prop::collection::vec("[ab]{1,2}", 0..3);
    let order = prop::sample::select(vec!["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]);
    let leaf = prop_oneof![
        ("[ab]{1,2}").prop_map(|id| json!({"id": id})),
        ids().prop_map(|ids| json!({"id": {"$in": ids}})),
        ids().prop_map(|ids| json!({"members": {"$in": ids}})),
        ids().prop_map(|ids| json!({"members": ids})),
        (order, scalar()).prop_map(|(operator, value)| json!({"x": {operator: value}})),
        prop::collection::vec(scalar(), 0..4).prop_map(|values| json!({"x": {"$nin": values}})),
        any::<bool>().prop_map(|there| json!({"x": {"$exists": there}})),
        scalar().prop_map(|value| json!({"x": {"$contains": value}})),
    ];
    leaf.prop_recursive(3, 20, 3, |inner| {
        let group = prop::sample::select(vec!["$and", "$or", "$nor"]);
        (group, prop::collection::vec(inner, 1..4))
            .prop_map(|(group, filters)| json!({group: filters}))
    })
}

#[test]
fn of_arrays_in_is_any_of_and_nin_is_none_of() {
    let record = json!({"devices": ["desktop", "mobile"], "tags": ["a", 1], "name": "a",
        "flags": ["x", true], "on": false});
    for (filter, found) in [
        (json!({"devices": {"$in": ["mobile", "watch"]}}), true),
        (json!({"devices": {"$in": ["watch"]}}), false),
        (json!({"devices": {"$nin": ["watch"]}}), true),
        (json!({"devices": {"$nin": ["watch", "desktop"]}}), false),
        (json!({"devices": ["desktop", "mobile"]}), true),
        (json!({"devices": {"$ne": ["desktop"]}}), true),
        (json!({"devices": {"$contains": "mobile"}}), true),
        (json!({"devices": {"$exists": false}}), false),
        (json!({"tags": {"$in": [1]}}), true),
        (json!({"tags": {"$in": [2, "b"]}}), false),
        (json!({"tags": {"$nin": ["a"]}}), false),
        (json!({"tags": {"$nin": ["b"]}}), true),
        (json!({"tags": {"$in": [true]}}), false),
        (json!({"flags": {"$in": [true]}}), true),
        (json!({"flags": {"$in": [false, 1]}}), false),
        (json!({"flags": {"$nin": [true]}}), false),
        (json!({"flags": {"$nin": [false]}}), true),
        (json!({"on": {"$in": [false]}}), true),
        (json!({"on": {"$in": [true, "false"]}}), false),
        (json!({"on": {"$nin": ["false"]}}), false),
        (json!({"name": {"$in": [true]}}), false),
    ] {
        assert_eq!(finds(filter.clone(), &record), found, "{filter}");
    }
    for filter in [json!({"devices": "mobile"}), json!({"devices": {"$in": [1]}})] {
        let refusal = Filter::parse(Kind::Users, &filter).unwrap_err();
        assert_eq!(refusal.code, Code::InvalidFilter, "{filter}");
    }
}

#[test]
fn availability_is_one_of_a_few_words() {
    let record = json!({"availability": "away", "offline_since": "2024-01-01T00:00:00Z"});
    assert!(finds(json!({"availability": {"$in": ["away", "busy"]}}), &record));
    assert!(finds(json!({"availability": {"$ne": "active"}}), &record));
    assert!(finds(json!({"offline_since": {"$gt": "2023-01-01T00:00:00Z"}}), &record));
    let filter = json!({"availability": {"$gt": "a"}});
    assert_eq!(Filter::parse(Kind::Users, &filter).unwrap_err().code, Code::InvalidFilter);
}

proptest! {
    #[test]
    fn no_json_makes_it_panic(filter in any_json(), record in record()) {
        for kind in [Kind::Users, Kind::Channels] {
            match Filter::parse(kind, &filter) {
                Ok(filter) => _ = filter.matches(&sample(&record)),
                Err(refusal) => {
                    prop_assert!(matches!(refusal.code, Code::InvalidFilter | Code::LimitExceeded));
                    prop_assert!(refusal.details.contains_key("field"));
                    prop_assert!(!refusal.message.chars().any(char::is_control));
                }
            }
        }
    }

    #[test]
    fn nor_is_the_complement(filter in any_filter(), record in record()) {
        prop_assert_eq!(finds(json!({"$nor": [filter.clone()]}), &record), !finds(filter, &record));
    }

    #[test]
    fn in_is_any_of_its_values(
        values in prop::collection::vec(scalar(), 1..5), record in record()
    ) {
        let holds = |value| [json!({"x": value}), json!({"x": {"$contains": value}})];
        let each: Vec<_> = values.iter().flat_map(holds).collect();
        prop_assert_eq!(
            finds(json!({"x": {"$in": values}}), &record),
            finds(json!({"$or": each}), &record)
        );
    }

    #[test]
    fn a_present_value_of_the_type_is_less_equal_or_greater(value in scalar(), x in scalar()) {
        let record = json!({"id": "a", "x": x});
        let held = ["$lt", "$eq", "$gt"].map(|op| finds(json!({"x": {op: value}}), &record));
        let same_type = value.is_string() == x.is_string();
        prop_assert_eq!(held.iter().filter(|held| **held).count(), usize::from(same_type));
        prop_assert_eq!(finds(json!({"x": {"$ne": value}}), &record), same_type && !held[1]);
        prop_assert_eq!(finds(json!({"x": {"$lte": value}}), &record), held[0] || held[1]);
        prop_assert_eq!(finds(json!({"x": {"$gte": value}}), &record), held[2] || held[1]);
    }

    #[test]
    fn what_matches_is_among_the_candidates(filter in any_filter(), record in record()) {
        let parsed = Filter::parse(Kind::Channels, &filter).unwrap();
        if parsed.matches(&sample(&record)) {
            prop_assert!(parsed.admits(record["id"].as_str().unwrap()));
            if let Some(ids) = parsed.candidates(&Field::Id) {
                prop_assert!(ids.contains(&record["id"].as_str().unwrap()));
            }
            if let Some(members) = parsed.member_candidates() {
                let held = record["members"].as_array().unwrap();
                prop_assert!(held.iter().any(|id| members.contains(&id.as_str().unwrap())));
            }
        }
    }
}
