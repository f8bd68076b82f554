//! The daemon as a program: settings, log, signals, exit codes.

use std::process::ExitCode;

use clap::Parser;
use presenced::cli::{Cli, Command, Options};
use presenced::config::Settings;
use presenced::{daemon, logging};
use tokio::signal::unix::{SignalKind, signal};
use tracing::error;

/// `EX_CONFIG` of sysexits.h: someone has to change the settings or the server. systemd can be told
/// not to start again (`RestartPreventExitStatus`).
const UNUSABLE: u8 = 78;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(options) => run(&options),
        Command::Check(options) => check(&options),
    }
}

fn check(options: &Options) -> ExitCode {
    match Settings::load_listed(options.config.as_deref(), options.flags()) {
        Ok((_, listing)) => {
            print!("ok\n{listing}");
            ExitCode::SUCCESS
        }
        Err(error) => unusable(&error),
    }
}

fn run(options: &Options) -> ExitCode {
    let settings = match Settings::load(options.config.as_deref(), options.flags()) {
        Ok(settings) => settings,
        Err(error) => return unusable(&error),
    };
    logging::init(&settings.log);
    match serve(settings) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            error!("{error}");
            if error.needs_a_change() { ExitCode::from(UNUSABLE) } else { ExitCode::FAILURE }
        }
        Err(error) => {
            error!(%error, "the operating system refused what every daemon needs");
            ExitCode::FAILURE
        }
    }
}

fn unusable(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("presenced: {error}");
    ExitCode::from(UNUSABLE)
}

#[tokio::main]
async fn serve(settings: Settings) -> std::io::Result<Result<(), daemon::Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Ok(daemon::run(settings, shutdown).await)
}
