//! `presencectl`: the command line of presence.
//!
//! `args` is the grammar, `commands` has a file for each command, `session` the connection,
//! `output` what is printed. A command returns a `Failure`, whose exit code and advice are printed
//! here.

mod args;
mod commands;
mod condition;
mod daemons;
mod failure;
mod forms;
mod live;
mod output;
mod progress;
mod session;
mod web;

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::sleep;

use args::{Alone, Cli, Command, OnNats};
use failure::Failure;
use output::{Output, note};
use session::{Flags, Session, interrupted};

/// The time that a command has to disconnect and to remove what is its own.
const END_TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let events = cli.connection.events.clone();
    tokio::spawn(end_in_time());
    match run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_silent() {
                note(&format!("presencectl: {failure}"));
            }
            if let Some(advice) = failure.advice(&events) {
                note(&advice);
            }
            failure.exit_code().into()
        }
    }
}

/// Ends the process some time after Ctrl-C, at once after the second: a reader that does not read
/// keeps a command from its end.
async fn end_in_time() {
    interrupted().await;
    tokio::select! {
        () = interrupted() => {}
        () = sleep(END_TIMEOUT) => {}
    }
    std::process::exit(failure::code::INTERRUPTED.into());
}

async fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Alone(command) => {
            alone(command, &cli.connection, &Output::new(&cli.output, None)).await
        }
        Command::OnNats(command) => {
            let session = tokio::select! {
                session = Session::open(&cli.connection) => session?,
                () = interrupted() => return Err(Failure::Interrupted),
            };
            let output = Output::new(&cli.output, session.colors);
            let done = on_nats(command, &session, &output).await;
            done.map_err(|failure| session.explain(failure))
        }
    }
}

async fn alone(command: Alone, flags: &Flags, output: &Output) -> Result<(), Failure> {
    match command {
        // It removes its lively users before it ends.
        Alone::Web(command) => {
            let session = tokio::select! {
                session = Session::open(flags) => session?,
                () = interrupted() => return Err(Failure::Interrupted),
            };
            command.run(session).await
        }
        Alone::Check(command) => command.run(flags).await,
        Alone::Permissions(command) => command.run(flags),
        Alone::Keys(command) => command.run(output),
        Alone::Completion(command) => command.run(),
        Alone::Man(command) => command.run(),
    }
}

async fn on_nats(command: OnNats, session: &Session, output: &Output) -> Result<(), Failure> {
    match command {
        OnNats::Who(command) => until_interrupted(command.run(session, output)).await,
        OnNats::Get(command) => until_interrupted(command.run(session, output)).await,
        OnNats::Query(command) => until_interrupted(command.run(session, output)).await,
        OnNats::Count(command) => until_interrupted(command.run(session, output)).await,
        OnNats::Watch(command) => until_interrupted(command.run(session, output)).await,
        OnNats::Wait(command) => until_interrupted(command.run(session, output)).await,
        // It disconnects before it ends.
        OnNats::Connect(command) => command.run(session, output).await,
        OnNats::Set(command) => until_interrupted(command.run(session, output)).await,
        OnNats::Delete(command) => until_interrupted(command.run(session, output)).await,
        OnNats::Channel(command) => until_interrupted(command.run(session, output)).await,
        OnNats::Explain(command) => until_interrupted(command.run(session, output)).await,
        OnNats::Daemons(command) => until_interrupted(command.run(session, output)).await,
        OnNats::Top(command) => until_interrupted(command.run(session, output)).await,
        OnNats::Export(command) => until_interrupted(command.run(session)).await,
        OnNats::Import(command) => until_interrupted(command.run(session, output)).await,
    }
}

async fn until_interrupted(
    command: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    tokio::select! {
        done = command => done,
        () = interrupted() => Err(Failure::Interrupted),
    }
}
