//! The table of `docs/operations.md` names the tests of each of its rows.

use std::path::Path;

const PAGE: &str = include_str!("../../../docs/operations.md");

/// The cells of the rows of the table under a heading, without its head.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let section = PAGE.split(heading).nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(2);
    rows.map(|row| row.trim_matches('|').split(" | ").collect()).collect()
}

#[test]
fn every_test_that_the_table_of_faults_names_exists() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/black_box");
    let rows = rows("\n## Faults of NATS\n");
    assert!(rows.len() > 15, "the table is read: {rows:?}");
    for row in rows {
        let [what, _, _, tests] = row[..] else { panic!("a row of four cells: {row:?}") };
        let named: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "{what} has no test");
        for name in named {
            let text = std::fs::read_to_string(folder.join(name));
            let text = text.unwrap_or_else(|error| panic!("{what}: {name}: {error}"));
            assert!(text.contains("#[tokio::test]"), "{what}: {name} holds no test");
        }
    }
}
