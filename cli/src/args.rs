//! The command line.

use std::env;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{
    channel, check, connect, count, daemons, delete, explain, export, get, import, keys, manual,
    permissions, query, set, top, wait, watch, who,
};
use crate::failure::code;
use crate::forms;
use crate::output::OutputFlags;
use crate::session::Flags;
use crate::web::Web;

const AFTER_HELP: &str = "\
Output: a table on a terminal, JSON lines in a pipe; -o chooses another. Data goes to standard \
output, all else to standard error.

The connection is that of the nats command: the same flags, variables and contexts. A login that \
flags give replaces that of the context.

Exit status; check alone has those of Nagios:
";

fn after_help() -> String {
    let codes = code::MEANINGS.iter().map(|(code, meaning)| format!("{code:>5}  {meaning}\n"));
    format!("{AFTER_HELP}{}", codes.collect::<String>())
}

/// Asks, watches, changes and explains who is online, on NATS.
#[derive(Parser)]
#[command(name = "presencectl", version, after_long_help = after_help())]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub output: OutputFlags,
    #[command(flatten)]
    pub connection: Flags,
}

impl Cli {
    /// Reads the command line; otherwise prints what is to be said, and returns the exit code.
    pub fn read() -> Result<Self, ExitCode> {
        let read = Self::read_by(Self::grammar());
        read.map_err(|error| {
            let error = if error.exit_code() == 0 { error } else { Self::without_variables(error) };
            let _ = error.print();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                // For Nagios, 2 would say that presence is down.
                _ if Self::is_check() => check::Level::Unknown.code().into(),
                _ => ExitCode::from(2),
            }
        })
    }

    fn read_by(grammar: clap::Command) -> Result<Self, clap::Error> {
        let mut of_errors = grammar.clone();
        let matches = grammar.try_get_matches()?;
        let cli = Self::from_arg_matches(&matches)?;
        forms::check(&matches, &cli.output)
            .map_err(|text| of_errors.error(ErrorKind::ArgumentConflict, text))?;
        Ok(cli)
    }

    /// The error as it is without the variables: the usage that clap shows in it names all that is
    /// given, as if it were required. What only a variable is wrong in stays.
    fn without_variables(error: clap::Error) -> clap::Error {
        let grammar = Self::grammar().mut_args(|arg| arg.env(None));
        Self::read_by(grammar).err().unwrap_or(error)
    }

    /// The grammar. A variable that is set to nothing counts as not set, as for the `nats` command.
    pub fn grammar() -> clap::Command {
        let is_empty = |arg: &Arg| {
            let value = arg.get_env().and_then(env::var_os);
            value.is_some_and(|value| value.is_empty())
        };
        let grammar = Self::command();
        let grammar = grammar.mut_args(|arg| if is_empty(&arg) { arg.env(None) } else { arg });
        forms::explained(grammar)
    }

    /// Returns whether a command line with an error is one of `check`.
    fn is_check() -> bool {
        let read = Self::grammar().ignore_errors(true).try_get_matches();
        read.is_ok_and(|matches| matches.subcommand_name() == Some("check"))
    }
}

#[derive(Subcommand)]
pub enum Command {
    #[command(flatten)]
    OnNats(OnNats),
    #[command(flatten)]
    Alone(Alone),
}

/// Commands that ask the service.
#[derive(Subcommand)]
pub enum OnNats {
    /// Show who is online
    Who(who::Who),
    /// Show one user
    Get(get::Get),
    /// Find users or channels
    Query(query::Query),
    /// Count users
    Count(count::Count),
    /// Follow changes of users
    Watch(watch::WatchUsers),
    /// Return when users are online, offline, or have a status
    Wait(wait::Wait),
    /// Be online as a user, until Ctrl-C
    Connect(connect::Connect),
    /// Change a user, or make it
    Set(set::Set),
    /// Delete users
    Delete(delete::Delete),
    /// Make, change and delete channels
    #[command(subcommand)]
    Channel(channel::Channel),
    /// Say why a user is shown as it is
    Explain(explain::Explain),
    /// Show the daemons that serve
    Daemons(daemons::Daemons),
    /// Show a live picture on the full screen
    Top(top::Top),
    /// Write users to a file, with what they have set
    Export(export::Export),
    /// Read users from a file
    Import(import::Import),
}

/// Commands that need no connection, or make their own.
#[derive(Subcommand)]
pub enum Alone {
    /// Serve a page to look at, on this machine
    Web(Web),
    /// Check the service, for monitoring systems
    Check(check::Check),
    /// Print what NATS has to allow to a user's own client
    Permissions(permissions::Permissions),
    /// Make a pair of keys for a login
    Keys(keys::Keys),
    /// Print the completion of a shell
    Completion(manual::Completion),
    /// Write the manual pages
    Man(manual::Man),
}

/// The changes that `set` and `connect` make to a user.
#[derive(Args)]
pub struct Changes {
    /// The status
    #[arg(long, value_name = "TEXT")]
    pub status: Option<String>,
    /// The time after which the status ends
    #[arg(
        long,
        value_name = "DURATION",
        requires = "status",
        value_parser = humantime::parse_duration
    )]
    pub status_for: Option<std::time::Duration>,
    /// Be invisible to all others
    #[arg(long)]
    pub invisible: bool,
    /// A custom field; JSON where it is JSON, else text. May be repeated
    #[arg(short, long = "field", value_name = "NAME=VALUE")]
    pub fields: Vec<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
