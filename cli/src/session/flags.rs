//! The flags and variables of the connection: those of the `nats` command.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use presenced_client::Id;

const HEADING: &str = "Connection";

// A comment, as clap would show a doc comment as help: no `Debug`, as some hold secrets.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = HEADING)]
pub struct Flags {
    /// Addresses of NATS servers, with commas between them
    #[arg(
        short,
        long,
        env = "NATS_URL",
        value_name = "URL",
        hide_env_values = true,
        global = true
    )]
    pub server: Option<String>,
    /// User name, or a token if there is no password
    // An id of its own: commands have a user, too.
    #[arg(
        id = "login_user",
        long = "user",
        env = "NATS_USER",
        value_name = "USER",
        hide_env_values = true,
        global = true
    )]
    pub user: Option<String>,
    /// Password
    #[arg(
        long,
        env = "NATS_PASSWORD",
        value_name = "PASSWORD",
        hide_env_values = true,
        global = true
    )]
    pub password: Option<String>,
    /// Token
    #[arg(long, env = "NATS_TOKEN", value_name = "TOKEN", hide_env_values = true, global = true)]
    pub token: Option<String>,
    /// File of credentials
    #[arg(long, env = "NATS_CREDS", value_name = "FILE", global = true)]
    pub creds: Option<String>,
    /// File with the seed of an nkey
    #[arg(long, env = "NATS_NKEY", value_name = "FILE", global = true)]
    pub nkey: Option<String>,
    /// User JWT
    #[arg(long, env = "NATS_JWT", value_name = "JWT", hide_env_values = true, global = true)]
    pub jwt: Option<String>,
    /// Seed of the user JWT
    #[arg(long, env = "NATS_SEED", value_name = "SEED", hide_env_values = true, global = true)]
    pub seed: Option<String>,
    /// Certificate of this client
    #[arg(long, env = "NATS_CERT", value_name = "FILE", global = true)]
    pub tlscert: Option<String>,
    /// Private key of the certificate
    #[arg(long, env = "NATS_KEY", value_name = "FILE", global = true)]
    pub tlskey: Option<String>,
    /// Certificates of the authorities that are trusted
    #[arg(long, env = "NATS_CA", value_name = "FILE", global = true)]
    pub tlsca: Option<String>,
    /// TLS handshake before the server's greeting
    #[arg(long, alias = "tls-first", global = true)]
    pub tlsfirst: bool,
    /// The longest wait for NATS and for answers
    #[arg(
        long,
        env = "NATS_TIMEOUT",
        value_name = "DURATION",
        default_value = "5s",
        value_parser = humantime::parse_duration,
        global = true
    )]
    pub timeout: Duration,
    /// Prefix of the inboxes that answers come to, such as _INBOX_ann for the login ann
    #[arg(long, value_name = "PREFIX", value_parser = subject, global = true)]
    pub inbox_prefix: Option<String>,
    /// Name of the connection on the server
    #[arg(long, value_name = "NAME", global = true)]
    pub connection_name: Option<String>,
    /// Context of the nats command: a name, or a file that ends in .json
    #[arg(long, env = "NATS_CONTEXT", value_name = "NAME", global = true)]
    pub context: Option<String>,
    /// Leave the selected context aside
    #[arg(long, global = true)]
    pub no_context: bool,
    /// The daemons' setting subjects.prefix
    #[arg(
        long,
        value_name = "PREFIX",
        default_value = "presence",
        value_parser = subject,
        global = true
    )]
    pub prefix: String,
    /// The daemons' setting subjects.events
    #[arg(
        long,
        value_name = "PREFIX",
        default_value = "user.presence.changed",
        value_parser = subject,
        global = true
    )]
    pub events: String,
    /// Act and look as this user, through the door of users' own clients
    #[arg(long = "as", value_name = "USER", value_parser = user_id, global = true)]
    pub as_user: Option<String>,
}

/// A text that is no subject without wildcards.
#[derive(Debug, thiserror::Error)]
#[error("no subject: names with dots between them, without blanks, `*` and `>`")]
pub struct NoSubject;

/// The beginning of subjects.
pub fn subject(text: &str) -> Result<String, NoSubject> {
    let is_token = |token: &str| {
        !token.is_empty() && !token.contains(|c: char| c.is_whitespace() || "*>".contains(c))
    };
    if text.split('.').all(is_token) { Ok(text.to_owned()) } else { Err(NoSubject) }
}

fn user_id(text: &str) -> Result<String, presenced_client::Error> {
    Id::parse(text).map(|id| id.as_str().to_owned())
}

/// The proxy that the environment names. It is not supported, so there is no flag for it; what the
/// `nats` command would heed is refused rather than left aside.
pub fn socks_proxy() -> Option<String> {
    std::env::var("NATS_SOCKS_PROXY").ok().filter(|proxy| !proxy.is_empty())
}

/// The folder of settings: `XDG_CONFIG_HOME`, or `.config` in the home of the user.
pub fn settings_folder() -> Option<PathBuf> {
    let named = std::env::var_os("XDG_CONFIG_HOME").filter(|folder| !folder.is_empty());
    named.map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".config")))
}
