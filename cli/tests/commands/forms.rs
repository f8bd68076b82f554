//! Each command in each form: it prints it, or refuses it and names what it offers.

use std::path::Path;

use serde_json::{Deserializer, Value};

use crate::support::{Done, Stage};

const FORMS: [&str; 6] = ["table", "json", "jsonl", "csv", "ids", "raw"];

/// The commands of the page, and the forms that it names for each.
fn documented() -> Vec<(String, Vec<String>)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/presencectl.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().skip_while(|line| !line.starts_with("| command | forms |")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let mut commands = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let forms = cells[2].split(", ").filter(|form| FORMS.contains(form));
        let forms: Vec<String> = forms.map(str::to_owned).collect();
        let names = cells[1].split(", ").map(|name| name.trim_matches('`').to_owned());
        commands.extend(names.map(|name| (name, forms.clone())));
    }
    commands
}

/// A command line of the command, and the id of what it prints.
fn example<'a>(command: &'a str, file: &'a str) -> (Vec<&'a str>, &'a str) {
    let (more, id) = match command {
        "who" => ("john", "john"),
        "query" => ("users id=john", "john"),
        "query --count" => return (vec!["query", "users", "--count"], ""),
        "wait" => ("john --offline --for 20s", "john"),
        "connect" => ("jack --for 100ms", ""),
        "delete" => ("gone --yes", "gone"),
        "channel create" | "channel add" => ("team:red john", "team:red"),
        "channel remove" => ("team:red jill", "team:red"),
        "channel delete" => ("team:gone --yes", ""),
        "import" => (file, ""),
        "completion" => ("bash", ""),
        "man" => ("man", ""),
        "get" | "set" | "watch" | "explain" | "permissions" => ("john", "john"),
        _ => ("", ""),
    };
    (command.split(' ').chain(more.split_whitespace()).collect(), id)
}

/// Whether the text is of the form.
fn is_of(form: &str, text: &str, id: &str) -> bool {
    let values =
        || Deserializer::from_str(text).into_iter::<Value>().collect::<Result<Vec<_>, _>>();
    let is_json = values().is_ok_and(|values| !values.is_empty());
    match form {
        "json" => is_json && (text.starts_with("{\n") || text.starts_with("[\n")),
        "jsonl" => text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()),
        "raw" => is_json && text.lines().count() == 1,
        "csv" => text.starts_with("id,") || text.starts_with("cid,"),
        "ids" => id.is_empty() && !is_json || text == format!("{id}\n"),
        _ => !text.is_empty() && !text.starts_with(['{', '[']),
    }
}

#[tokio::test]
async fn every_command_prints_each_form_that_the_page_names_and_refuses_all_others() {
    let stage = Stage::start().await;
    stage.ok(&["set", "john"]).await;
    let file = stage.home.path().join("users.jsonl");
    std::fs::write(&file, "{\"id\":\"john\"}\n").unwrap();
    let commands = documented();
    assert!(commands.len() > 20, "{commands:?}");
    for (command, forms) in &commands {
        for form in FORMS {
            let (mut arguments, id) = example(command, file.to_str().unwrap());
            match form {
                "raw" if command == "who" => arguments = vec!["who", "--raw"],
                "raw" => arguments.push("--raw"),
                form => arguments.extend(["-o", form]),
            }
            if !forms.iter().any(|each| each == form) {
                let code = if command == "check" { 3 } else { 2 };
                refuses(&stage.run(&arguments).await, code, command, form);
                continue;
            }
            stage.ok(&["set", "gone"]).await;
            stage.ok(&["channel", "create", "team:gone"]).await;
            if command == "watch" {
                let first = stage.follow(&arguments).line().await;
                let fits = match form {
                    "table" => first.contains("USER"),
                    "json" => first == "{",
                    form => is_of(form, &format!("{first}\n"), id),
                };
                assert!(fits, "{arguments:?}: {first}");
                continue;
            }
            let printed = stage.ok(&arguments).await;
            assert!(is_of(form, &printed, id), "{arguments:?}: {printed}");
        }
    }
}

fn refuses(done: &Done, code: i32, command: &str, form: &str) {
    let flag = if form == "raw" { "--raw".to_owned() } else { format!("-o {form}") };
    done.fails(code, &format!("`{command}` has no {flag}; it offers "));
}

#[tokio::test]
async fn the_forms_stand_in_the_help_and_in_the_manual_pages() {
    let stage = Stage::start().await;
    let help = stage.ok(&["explain", "--help"]).await;
    assert!(help.contains("Output: -o table, json or jsonl, or --raw."), "{help}");
    let folder = stage.home.path().join("man");
    stage.ok(&["man", folder.to_str().unwrap()]).await;
    for (page, said) in [
        ("presencectl-export.1", "Output: \\-o jsonl."),
        ("presencectl-channel-add.1", "csv or ids, or \\-\\-raw."),
        ("presencectl-check.1", "\\-\\-format nagios, json, prometheus or text."),
    ] {
        let text = std::fs::read_to_string(folder.join(page)).unwrap();
        assert!(text.contains(said), "{page}: {text}");
    }
}
