//! The daemon as a program: settings, log, signals, exit codes.

use std::io;
use std::num::NonZero;
use std::pin::Pin;
use std::process::ExitCode;

use clap::Parser;
use presenced::cli::{Check, Cli, Command, Dev, Options};
use presenced::config::{self, Flags, Loaded, Settings, Sources};
use presenced::health::Health;
use presenced::logging::Level;
use presenced::reload::Reloader;
use presenced::systemd::SdNotifier;
use presenced::{daemon, dev, logging};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::error;

/// Records and messages are many small pieces. With the allocator of the C library they took a
/// third of the time, and a fifth more memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `EX_CONFIG` of sysexits.h: the settings or the server need a change. `RestartPreventExitStatus`
/// keeps systemd from starting the daemon again.
const EXIT_CONFIG: u8 = 78;

/// As many threads as there are busy loops: requests, answers, the store, its feed.
const MAX_DEFAULT_THREADS: usize = 4;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(options) => run(&options),
        Command::Check(arguments) => check(&arguments),
        Command::Dev(dev) => develop(&dev),
    }
}

fn develop(arguments: &Dev) -> ExitCode {
    let options = &arguments.options;
    let load = |url: &str| {
        // Quiet unless asked: the terminal is for the changes.
        let quiet = Flags::default().set("dev", "log.level", "warn");
        let flags = options.flags_over(quiet).set("dev", "nats.url", url);
        Settings::load(options.config.as_deref(), flags)
    };
    // The address of the server that is not there yet does not count.
    let runtime = match load("nats://127.0.0.1") {
        Ok(settings) => settings.runtime,
        Err(error) => return unusable(&error),
    };
    let settings = |url: &str| {
        let settings = load(url)?;
        logging::init(&settings.log);
        Ok(settings)
    };
    match serve(runtime, |shutdown| dev::run(arguments.place(), settings, shutdown)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("presenced: {error:#}");
            ExitCode::FAILURE
        }
        Err(error) => out_of_resources(&error),
    }
}

fn check(arguments: &Check) -> ExitCode {
    let options = &arguments.options;
    let (settings, listing) =
        match Settings::load_listed(options.config.as_deref(), options.flags()) {
            Ok(loaded) => loaded,
            Err(error) => return unusable(&error),
        };
    if !arguments.connect {
        print!("ok\n{listing}");
        return ExitCode::SUCCESS;
    }
    match serve(settings.runtime, |_| daemon::check::check(&settings)) {
        Ok(Ok(lines)) => {
            print!("ok\n{listing}\n{}\n", lines.join("\n"));
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => unusable(&error),
        Err(error) => out_of_resources(&error),
    }
}

fn run(options: &Options) -> ExitCode {
    let sources = Sources::new(options.config.as_deref(), options.flags());
    let started = match sources.load() {
        Ok(loaded) => loaded,
        Err(error) => return unusable(&error),
    };
    let level = logging::init(&started.settings.log);
    let runtime = started.settings.runtime;
    match serve(runtime, |shutdown| live(sources, started, level, shutdown)) {
        Ok(Ok(Ok(()))) => ExitCode::SUCCESS,
        Ok(Ok(Err(error))) => {
            error!("{error}");
            if error.needs_a_change() { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
        }
        Ok(Err(error)) | Err(error) => out_of_resources(&error),
    }
}

/// Runs the daemon, notifies systemd, and reads the settings again at SIGHUP.
async fn live(
    sources: Sources,
    started: Loaded,
    level: Level,
    shutdown: impl Future<Output = ()>,
) -> io::Result<Result<(), daemon::Error>> {
    let hangups = signal(SignalKind::hangup())?;
    let health = Health::new();
    let (notifier, systemd) = SdNotifier::new(&health);
    let (reloads, to_reload) = mpsc::channel(1);
    let daemon = daemon::run(started.settings.clone(), health, to_reload, shutdown);
    let reloader = Reloader { sources, started, level, daemon: reloads, systemd };
    let daemon = async {
        tokio::select! {
            ended = daemon => ended,
            never = reloader.run(hangups) => match never {},
        }
    };
    Ok(notifier.run_beside(daemon).await)
}

fn out_of_resources(error: &io::Error) -> ExitCode {
    error!(%error, "the operating system refused what every daemon needs");
    ExitCode::FAILURE
}

fn unusable(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("presenced: {error}");
    ExitCode::from(EXIT_CONFIG)
}

/// Runs `program` with a future that completes at SIGTERM or SIGINT.
fn serve<P: Future>(
    settings: config::Runtime,
    program: impl FnOnce(Pin<Box<dyn Future<Output = ()>>>) -> P,
) -> io::Result<P::Output> {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(settings.threads.unwrap_or_else(default_threads))
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        Ok(program(Box::pin(shutdown)).await)
    })
}

/// Requests pass through a few loops in turn. More threads than those loops keep busy only wake
/// each other (`docs/performance.md`).
fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_DEFAULT_THREADS)
}
