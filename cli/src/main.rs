//! `presencectl`: the command line of presence.
//!
//! `args` is the grammar, `commands` has a file for each command, `session` the connection, `output`
//! what is printed. A command returns a `Failure`, whose exit code and advice are printed here.

mod args;
mod commands;
mod condition;
mod daemons;
mod failure;
mod output;
mod session;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use failure::Failure;
use output::{Output, printable};
use session::{Session, interrupted};

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let events = cli.connection.events.clone();
    match run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_silent() {
                eprintln!("presencectl: {}", printable(&failure.to_string()));
            }
            if let Some(advice) = failure.advice(&events) {
                eprintln!("{}", printable(&advice));
            }
            failure.exit_code().into()
        }
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let output = Output::new(&cli.output);
    let session = tokio::select! {
        session = Session::open(&cli.connection) => session?,
        () = interrupted() => return Err(Failure::Interrupted),
    };
    let done = match cli.command {
        // It disconnects before it ends.
        Command::Connect(command) => command.run(&session, &output).await,
        command => tokio::select! {
            done = on_nats(command, &session, &output) => done,
            () = interrupted() => Err(Failure::Interrupted),
        },
    };
    done.map_err(|failure| session.explain(failure))
}

async fn on_nats(command: Command, session: &Session, output: &Output) -> Result<(), Failure> {
    match command {
        Command::Who(command) => command.run(session, output).await,
        Command::Get(command) => command.run(session, output).await,
        Command::Query(command) => command.run(session, output).await,
        Command::Count(command) => command.run(session, output).await,
        Command::Watch(command) => command.run(session, output).await,
        Command::Wait(command) => command.run(session, output).await,
        Command::Connect(command) => command.run(session, output).await,
        Command::Set(command) => command.run(session, output).await,
        Command::Delete(command) => command.run(session, output).await,
        Command::Channel(command) => command.run(session, output).await,
        Command::Explain(command) => command.run(session, output).await,
        Command::Daemons(command) => command.run(session, output).await,
    }
}
