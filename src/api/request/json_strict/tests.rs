use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(text: &str) -> Value {
    let parsed = parse(text.as_bytes()).unwrap();
    assert!(parsed.flaws.is_empty(), "{text}: {:?}", parsed.flaws);
    parsed.value
}

fn flaws(text: &str) -> Vec<(String, &'static str)> {
    let parsed = parse(text.as_bytes()).unwrap();
    parsed.flaws.iter().map(|flaw| (flaw.path(), flaw.what)).collect()
}

#[test]
fn a_name_that_stands_twice_is_a_flaw_at_any_depth() {
    assert_eq!(flaws(r#"{"a":1,"a":1}"#), [("a".to_owned(), "is given twice")]);
    let deep = r#"[{"b":{"a":1,"c":[],"a":2}}]"#;
    assert_eq!(flaws(deep), [("[0].b.a".to_owned(), "is given twice")]);
}

#[test]
fn half_of_a_surrogate_pair_becomes_a_replacement_character() {
    assert_eq!(read(r#""a\ud83d""#), json!("a\u{FFFD}"));
    assert_eq!(read(r#""\ude00b""#), json!("\u{FFFD}b"));
    assert_eq!(read(r#""\ud83d\ud83d\ude00""#), json!("\u{FFFD}😀"));
    assert_eq!(read(r#""\ud83d\u0041""#), json!("\u{FFFD}A"));
    assert_eq!(read(r#"{"\uD83D":1}"#), json!({"\u{FFFD}": 1}));
    assert_eq!(read(r#""\ud83D\uDe00""#), json!("😀"));
}

#[test]
fn numbers_that_json_does_not_have_are_flaws_in_their_place() {
    let text = r#"{"a":NaN,"b":[-Infinity,1],"c":{"d":Infinity},"e":1e999}"#;
    let not_finite = "is not a finite number";
    let expected = [
        ("a", not_finite),
        ("b[0]", not_finite),
        ("c.d", not_finite),
        ("e", "is a number out of range"),
    ];
    assert_eq!(flaws(text), expected.map(|(path, what)| (path.to_owned(), what)));
}

#[test]
fn each_part_of_a_batch_keeps_its_first_flaw() {
    let text = r#"{"ops":[{"a":NaN,"b":NaN},{"c":[NaN,{"d":NaN}]},1,NaN]}"#;
    let paths: Vec<_> = flaws(text).into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["ops[0].a", "ops[1].c[0]", "ops[3]"]);
    let parsed = parse(text.as_bytes()).unwrap();
    let indices: Vec<_> = parsed.flaws.iter().map(|flaw| flaw.index_in("ops")).collect();
    assert_eq!(indices, [Some(0), Some(1), Some(3)]);
}

#[test]
fn a_long_name_is_held_once_for_all_flaws_in_it() {
    let name = "x".repeat(100_000);
    let text = format!("{{\"{name}\":[{}]}}", vec!["NaN"; 1001].join(","));
    let parsed = parse(text.as_bytes()).unwrap();
    let names = parsed.flaws.iter().filter_map(|flaw| match flaw.steps.last() {
        Some(Step::Member(name)) => Some(name),
        _ => None,
    });
    let names: Vec<_> = names.collect();
    assert_eq!(names.len(), 1001);
    assert!(names.iter().all(|each| Arc::ptr_eq(each, names[0])));
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(flaws(&nested(MAX_DEPTH)).is_empty());
    assert_eq!(flaws(&nested(MAX_DEPTH + 1))[0].1, "is nested too deep");
    assert_eq!(flaws(&nested(100_000)).len(), 1);
    assert!(parse("[".repeat(100_000).as_bytes()).is_err());
}

#[test]
fn a_byte_order_mark_is_skipped() {
    assert_eq!(read("\u{FEFF}{}"), json!({}));
}

#[test]
fn other_texts_are_not_json() {
    for text in ["", "{", "{} x", "[1,]", r#"{"a":1,}"#, "01", "1.", "-", "'a'", "\"\t\"", "nul"] {
        assert!(parse(text.as_bytes()).is_err(), "{text}");
    }
    for text in [r#""\x""#, r#""\u12g4""#, r#""\u+123""#, "\"\\u00e", "{\"a\" 1}", "Nan"] {
        assert!(parse(text.as_bytes()).is_err(), "{text}");
    }
    assert!(parse(b"\"\xff\"").is_err());
}

/// Texts near JSON: pieces of it in any order.
fn text() -> impl Strategy<Value = String> {
    let pieces = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"a\"",
        "\"b\\n\"",
        "\"\\u00e9\"",
        "\"é😀\"",
        " ",
        "\n",
        "0",
        "-1",
        "2.5",
        "1e3",
        "18446744073709551616",
        "-0",
        "true",
        "false",
        "null",
        "\"",
        "\\",
    ];
    prop_oneof![
        proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..12)
            .prop_map(|pieces| pieces.concat()),
        any::<Vec<String>>().prop_map(|strings| serde_json::to_string(&strings).unwrap()),
        any::<Vec<f64>>().prop_map(|numbers| serde_json::to_string(&numbers).unwrap()),
        any::<Vec<i64>>().prop_map(|numbers| serde_json::to_string_pretty(&numbers).unwrap()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn without_flaws_it_reads_what_serde_json_reads(text in text()) {
        let plain = serde_json::from_str::<Value>(&text).ok();
        match parse(text.as_bytes()) {
            Ok(parsed) if parsed.flaws.is_empty() => prop_assert_eq!(Some(parsed.value), plain),
            Ok(parsed) => {
                let is_repeated = |flaw: &Flaw| flaw.what == "is given twice";
                prop_assert_eq!(plain.is_some(), parsed.flaws.iter().all(is_repeated), "{}", text);
            }
            Err(error) => prop_assert!(plain.is_none(), "{}: {}", text, error),
        }
    }
}
