//! The cases that every client passes: `clients/cases`.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::filter::{self, Filter};
use crate::id::Id;
use crate::link;
use crate::merge::{Known, Merge};
use crate::retry;
use crate::user::Seen;

fn cases(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cases").join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn list<'a>(cases: &'a Value, name: &str) -> &'a [Value] {
    cases[name].as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn tokens() {
    let cases = cases("tokens.json");
    for case in list(&cases, "valid") {
        let id = Id::parse(text(&case["id"])).unwrap();
        assert_eq!(id.token(), text(&case["token"]), "{}", case["name"]);
        assert_eq!(Id::from_token(text(&case["token"])), Some(id), "{}", case["name"]);
    }
    for case in list(&cases, "invalid_ids") {
        assert_eq!(Id::parse(text(&case["id"])).unwrap_err().code(), "invalid_id", "{case}");
    }
    for case in list(&cases, "invalid_tokens") {
        assert_eq!(Id::from_token(text(&case["token"])), None, "{case}");
    }
}

#[test]
fn merge_sequences() {
    let cases = cases("merge.json");
    for case in list(&cases, "cases") {
        let mut merge = Merge::default();
        let mut queries: Map<String, Value> = Map::new();
        for (number, step) in list(case, "steps").iter().enumerate() {
            let changed = run(&mut merge, &mut queries, step);
            let place = format!("{}, step {number}", case["name"]);
            assert_eq!(json!(changed), step["changed"], "{place}");
            for id in ["john", "jack"] {
                let expected = match step["view"].get(id) {
                    None => Known::Unknown,
                    Some(Value::Null) => Known::Absent,
                    Some(user) => {
                        Known::User(serde_json::from_value::<Seen>(user.clone()).unwrap().into())
                    }
                };
                assert_eq!(merge.get(id), expected, "{place}, {id}");
            }
        }
    }
}

fn run(merge: &mut Merge, queries: &mut Map<String, Value>, step: &Value) -> Vec<String> {
    if let Some(name) = step.get("query") {
        let query = json!({"number": merge.on_query(), "users": step["users"]});
        queries.insert(text(name).to_owned(), query);
    }
    if let Some(event) = step.get("event") {
        let id = Id::from_token(text(&event["token"])).unwrap();
        let merged = merge.on_event(&id, text(&event["payload"]).as_bytes());
        return merged.ok().flatten().into_iter().map(|merged| merged.id.to_string()).collect();
    }
    let Some(name) = step.get("answer") else { return Vec::new() };
    let query = &queries[text(name)];
    let asked: Vec<_> =
        list(query, "users").iter().map(|id| Id::parse(text(id)).unwrap()).collect();
    let found = serde_json::from_value(step["found"].clone()).unwrap();
    let merged = merge.on_answer(query["number"].as_u64().unwrap(), &asked, found);
    let mut changed: Vec<_> = merged.into_iter().map(|merged| merged.id.to_string()).collect();
    changed.sort();
    changed
}

fn outcome(outcome: &Value) -> Error {
    let subject = "presence.v1.connect".to_owned();
    if let Some(reply) = outcome.get("reply") {
        let status = reply["status"].as_u64().map(|status| status as u16);
        let body = json!({"error": reply["error"]}).to_string();
        return link::parse(status, body.as_bytes()).unwrap_err();
    }
    if let Some(body) = outcome.get("body") {
        return link::parse(None, text(body).as_bytes()).unwrap_err();
    }
    match text(&outcome["event"]) {
        "no_responders" => Error::NoDaemon { subject, may_have_applied: false },
        "timeout" => Error::NoAnswer { subject },
        "link_lost" => Error::Disconnected { may_have_applied: true },
        "permission" => Error::Permission { subject, may_have_applied: false },
        other => panic!("{other}"),
    }
}

#[test]
fn retry_decisions() {
    let cases = cases("retries.json");
    assert_eq!(cases["deadline_ms"], retry::DEADLINE.as_millis() as u64);
    assert_eq!(cases["try_ms"], retry::TRY.as_millis() as u64);
    for case in list(&cases, "outcomes") {
        let error = outcome(&case["outcome"]);
        let name = &case["name"];
        assert_eq!(error.kind(), text(&case["kind"]), "{name}");
        assert_eq!(error.is_retryable(), case["retry"], "{name}");
        assert_eq!(error.may_have_applied(), case["may_have_applied"], "{name}");
        if let Some(code) = case.get("code") {
            assert_eq!(error.code(), text(code), "{name}");
        }
        if let Some(wait) = case.get("wait_ms") {
            let range = retry::wait_ms(&error, 1);
            assert_eq!(json!([range.start(), range.end()]), *wait, "{name}");
        }
    }
    let silence = Error::NoAnswer { subject: String::new() };
    for case in list(&cases, "backoff") {
        let failed = case["failed_tries"].as_u64().unwrap() as u32;
        let range = retry::wait_ms(&silence, failed);
        assert_eq!(json!([range.start(), range.end()]), case["wait_ms"], "{case}");
    }
    for case in list(&cases, "sequences") {
        let mut may_have_applied = false;
        let mut last = None;
        for tried in list(case, "outcomes") {
            let error = outcome(tried).after(may_have_applied);
            may_have_applied |= error.may_have_applied();
            last = Some(error);
        }
        let last = last.unwrap();
        assert_eq!(last.kind(), text(&case["kind"]), "{case}");
        assert_eq!(last.may_have_applied(), case["may_have_applied"], "{case}");
    }
}

#[test]
fn filters() {
    let cases = cases("filters.json");
    for case in list(&cases, "cases") {
        assert_eq!(build(&case["build"]).to_json(), case["json"], "{}", case["name"]);
    }
}

fn build(spec: &Value) -> Filter {
    let spec = spec.as_array().unwrap();
    let parts = |parts: &Value| parts.as_array().unwrap().iter().map(build).collect::<Vec<_>>();
    match text(&spec[0]) {
        "all" => Filter::all(),
        "and" => parts(&spec[1]).into_iter().reduce(Filter::and).unwrap(),
        "or" => parts(&spec[1]).into_iter().reduce(Filter::or).unwrap(),
        "nor" => Filter::nor(parts(&spec[1])),
        "not" => build(&spec[1]).not(),
        "field" => custom(text(&spec[1]), text(&spec[2]), &spec[3]),
        name => known(name, text(&spec[1]), &spec[2]),
    }
}

fn custom(name: &str, operator: &str, operand: &Value) -> Filter {
    let field = filter::field(name);
    match operator {
        "eq" => field.eq(operand),
        "ne" => field.ne(operand),
        "gte" => field.gte(operand),
        "lt" => field.lt(operand),
        "contains" => field.contains(operand),
        "exists" => field.exists(operand.as_bool().unwrap()),
        "in" => field.is_in(operand.as_array().unwrap()),
        other => panic!("{other}"),
    }
}

fn known(name: &str, operator: &str, operand: &Value) -> Filter {
    let texts = || operand.as_array().unwrap().iter().map(text);
    match (name, operator) {
        ("online", "eq") if operand == true => filter::online(),
        ("online", "eq") => filter::offline(),
        // The builder has no `ne` for a boolean: it would say what `offline` says.
        ("online", "ne") => Filter::json(json!({"online": {"$ne": operand}})),
        ("id", "eq") => filter::id().eq(text(operand)),
        ("id", "in") => filter::id().is_in(texts()),
        ("id", "nin") => filter::id().not_in(texts()),
        ("id", "gt") => filter::id().gt(text(operand)),
        ("id", "autocomplete") => filter::id().autocomplete(text(operand)),
        ("status", "eq") => filter::status().eq(text(operand)),
        ("status", "exists") => filter::status().exists(operand.as_bool().unwrap()),
        ("status", "autocomplete") => filter::status().autocomplete(text(operand)),
        ("last_active", "exists") => filter::last_active().exists(operand.as_bool().unwrap()),
        ("last_active", "gt") => filter::last_active().gt(text(operand)),
        other => panic!("{other:?}"),
    }
}
