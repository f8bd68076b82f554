//! The forms in which each command prints its data: what `-o`, `-j` and `--raw` may choose.
//!
//! One table for the parser, which refuses all other forms before anything is sent, and for the
//! help, the manual pages and `docs/presencectl.md`.

use clap::{ArgMatches, ValueEnum};

use crate::output::Format::{self, Csv, Ids, Json, Jsonl, Table};
use crate::output::OutputFlags;

/// What a command can print.
#[derive(Clone, Copy)]
pub struct Forms {
    /// None: the command prints text of one form, or none at all.
    formats: &'static [Format],
    /// Whether it can print the reply as it came.
    raw: bool,
    /// The flag of the command's own that chooses a form.
    own: Option<&'static str>,
}

const ANY: &[Format] = &[Table, Json, Jsonl, Csv, Ids];
const NO_ROWS: &[Format] = &[Table, Json, Jsonl];

const fn of(formats: &'static [Format]) -> Forms {
    Forms { formats, raw: false, own: None }
}

const fn with_raw(formats: &'static [Format]) -> Forms {
    Forms { formats, raw: true, own: None }
}

const fn own(flag: &'static str) -> Forms {
    Forms { formats: &[], raw: false, own: Some(flag) }
}

/// By the name of the command, with its subcommand or the flag that changes what it prints.
const COMMANDS: [(&str, Forms); 25] = [
    ("who", with_raw(ANY)),
    ("get", with_raw(ANY)),
    ("query", with_raw(ANY)),
    ("query --count", with_raw(NO_ROWS)),
    ("count", with_raw(NO_ROWS)),
    ("watch", of(&[Table, Json, Jsonl, Ids])),
    ("wait", of(ANY)),
    ("connect", of(NO_ROWS)),
    ("set", with_raw(ANY)),
    ("delete", of(&[Table, Json, Jsonl, Ids])),
    ("channel create", with_raw(ANY)),
    ("channel add", with_raw(ANY)),
    ("channel remove", with_raw(ANY)),
    ("channel delete", with_raw(NO_ROWS)),
    ("explain", with_raw(NO_ROWS)),
    ("daemons", of(ANY)),
    ("top", of(&[])),
    ("export", of(&[Jsonl])),
    ("import", of(NO_ROWS)),
    ("web", of(&[])),
    ("check", own("--format nagios, json, prometheus or text")),
    ("permissions", own("--format conf, json or nsc")),
    ("keys", of(NO_ROWS)),
    ("completion", of(&[])),
    ("man", of(&[])),
];

impl Forms {
    /// The forms of a command; `None` if it only has subcommands.
    pub fn of(command: &str) -> Option<Self> {
        COMMANDS.iter().find(|(name, _)| *name == command).map(|(_, forms)| *forms)
    }

    /// The flags that it offers, in words.
    pub fn offered(&self) -> String {
        let names = self.formats.iter().filter_map(|format| format.to_possible_value());
        let names: Vec<String> = names.map(|name| name.get_name().to_owned()).collect();
        match (names.as_slice(), self.own) {
            ([], Some(own)) => own.to_owned(),
            ([], None) => "one form only, without -o, -j and --raw".to_owned(),
            ([one], _) => format!("-o {one}"),
            ([most @ .., last], _) => {
                let raw = if self.raw { ", or --raw" } else { "" };
                format!("-o {} or {last}{raw}", most.join(", "))
            }
        }
    }

    /// The flag among those given that it does not offer.
    fn refused(&self, given: &OutputFlags) -> Option<String> {
        if given.raw && !self.raw {
            return Some("--raw".to_owned());
        }
        if given.json && !self.formats.contains(&Json) {
            return Some("-j".to_owned());
        }
        let format = given.output.filter(|format| !self.formats.contains(format))?;
        Some(format!("-o {}", format.to_possible_value()?.get_name()))
    }
}

/// Refuses a form that the command does not print; the error says what it offers.
pub fn check(matches: &ArgMatches, given: &OutputFlags) -> Result<(), String> {
    let command = named(matches);
    let Some(forms) = Forms::of(&command) else { return Ok(()) };
    match forms.refused(given) {
        Some(flag) => Err(format!("`{command}` has no {flag}; it offers {}", forms.offered())),
        None => Ok(()),
    }
}

/// The name of the command that was given, as it stands in the table.
fn named(matches: &ArgMatches) -> String {
    let mut words = Vec::new();
    let mut inner = matches;
    while let Some((name, matches)) = inner.subcommand() {
        words.push(name);
        inner = matches;
    }
    if words == ["query"] && inner.get_flag("count") {
        words.push("--count");
    }
    words.join(" ")
}

/// The grammar, with the forms of each command in its help.
pub fn explained(command: clap::Command) -> clap::Command {
    fn within(command: clap::Command, parent: &str) -> clap::Command {
        let path = format!("{parent} {}", command.get_name());
        let path = path.trim_start();
        if command.has_subcommands() {
            return command.mut_subcommands(|each| within(each, path));
        }
        let Some(forms) = Forms::of(path) else { return command };
        let counted = Forms::of(&format!("{path} --count"));
        let counted = counted.map(|forms| format!(" With --count: {}.", forms.offered()));
        let text = format!("Output: {}.{}", forms.offered(), counted.unwrap_or_default());
        command.after_help(text)
    }
    command.mut_subcommands(|each| within(each, ""))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn every_command_has_its_forms() {
        fn leaves(command: &clap::Command, parent: &str, found: &mut Vec<String>) {
            for each in command.get_subcommands() {
                let path = format!("{parent} {}", each.get_name()).trim_start().to_owned();
                if each.has_subcommands() {
                    leaves(each, &path, found);
                } else {
                    found.push(path);
                }
            }
        }
        let mut commands = Vec::new();
        leaves(&Cli::command(), "", &mut commands);
        let without = commands.iter().filter(|command| Forms::of(command).is_none());
        assert_eq!(without.collect::<Vec<_>>(), Vec::<&String>::new());
        for (name, _) in COMMANDS {
            let command = name.split(" --").next().unwrap();
            assert!(commands.iter().any(|each| each == command), "{name} is no command");
        }
    }
}
