//! The command line of `presenced`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::Flags;
use crate::dev::{Place, default_dir};
use crate::version::VERSION_AND_COMMIT;

/// The text that the manual page and the long help add.
const AFTER_HELP: &str = "\
Files: /etc/presenced/presenced.toml holds the settings; the one that is shipped names and \
explains all of them. Above it count variables PRESENCED_<SECTION>__<KEY>, such as \
PRESENCED_NATS__URL, and above these the flags.

Signals: SIGTERM and SIGINT end the daemon in less than five seconds; no user goes offline by it. \
SIGHUP reads the settings again: log.level and limits.* apply at once, other changes are named in \
the log.

Exit status: 0 after SIGTERM or SIGINT. 78 if the settings or the server need a change before \
another start. 2 for a command line that cannot be understood, 1 otherwise.";

/// Answers presence requests on NATS: who is online, with which status, and last active when.
#[derive(Parser)]
#[command(name = "presenced", version = VERSION_AND_COMMIT, after_long_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Serve until SIGTERM or SIGINT, and read the settings again at SIGHUP.
    Run(Options),
    /// Check the settings without starting, and list them with their origins.
    Check(Check),
    /// Start a nats-server, serve on it, and print presence changes.
    Dev(Dev),
}

// No `Debug`, for the same reason as below.
#[derive(Args)]
pub struct Check {
    /// Connect to NATS, too, and try the login, the permissions and the bucket
    #[arg(long)]
    pub connect: bool,
    #[command(flatten)]
    pub options: Options,
}

// No `Debug`, for the same reason as below.
#[derive(Args)]
pub struct Dev {
    /// The nats-server to start [default: NATS_SERVER, or one on PATH]
    #[arg(long, value_name = "PATH")]
    pub nats_server: Option<PathBuf>,
    /// Forget everything at the end
    #[arg(long, conflicts_with = "dir")]
    pub ephemeral: bool,
    /// The folder for data, which survives a restart [default: presenced/dev in the state folder of
    /// the user]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The port of the nats-server on the loopback interface; 0 for any that is free
    #[arg(long, default_value_t = 4222)]
    pub port: u16,
    #[command(flatten)]
    pub options: Options,
}

impl Dev {
    /// The program of the server and the folder of its data.
    pub fn place(&self) -> Place {
        let dir = self.dir.clone().unwrap_or_else(default_dir);
        Place {
            nats_server: self.nats_server.clone(),
            dir: (!self.ephemeral).then_some(dir),
            port: self.port,
        }
    }
}

// A comment, as clap would show a doc comment as help: no `Debug`, as a URL or a pair may hold a
// secret.
#[derive(Args)]
pub struct Options {
    /// The file of settings [default: /etc/presenced/presenced.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Addresses of NATS servers, with commas between them
    #[arg(long, value_name = "URL")]
    pub nats_url: Option<String>,
    /// off, error, warn, info, debug, trace, or directives
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text or json
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// The address at which metrics are served
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<String>,
    /// Any other setting, such as liveness.lease=90s; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub set: Vec<(String, String)>,
}

impl Options {
    /// The settings that were given as flags.
    pub fn flags(&self) -> Flags {
        self.flags_over(Flags::default())
    }

    /// The same, above those that are set already.
    pub fn flags_over(&self, below: Flags) -> Flags {
        let named = [
            ("--nats-url", "nats.url", &self.nats_url),
            ("--log-level", "log.level", &self.log_level),
            ("--log-format", "log.format", &self.log_format),
            ("--metrics-listen", "metrics.listen", &self.metrics_listen),
        ];
        let flags =
            self.set.iter().fold(below, |flags, (key, value)| flags.set("--set", key, value));
        named.into_iter().fold(flags, |flags, (flag, key, value)| match value {
            Some(value) => flags.set(flag, key, value),
            None => flags,
        })
    }
}

/// Text of `--set` that sets nothing.
#[derive(Debug, thiserror::Error)]
#[error("expected KEY=VALUE with a dotted key, such as liveness.lease=90s")]
struct PairError;

/// The error does not quote the text, which may hold a secret.
fn parse_pair(text: &str) -> Result<(String, String), PairError> {
    match text.split_once('=') {
        Some((key, value)) if key.contains('.') => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err(PairError),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_flag_overrides_its_setting() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let config = file.path().to_str().unwrap();
        let line = ["presenced", "run", "--config", config, "--log-level", "debug"];
        let line = line.into_iter().chain(["--set", "store.bucket=b"]);
        let Command::Run(options) = Cli::parse_from(line).command else { panic!() };
        let settings =
            crate::config::Settings::load(options.config.as_deref(), options.flags()).unwrap();
        assert_eq!(settings.log.level, "debug");
        assert_eq!(settings.store.bucket, "b");
    }
}
