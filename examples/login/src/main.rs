//! The login of users' clients: nats-server asks it about each client that it does not know itself.
//!
//! `presence-login serve` answers callouts; `presence-login token john` signs a session token, as
//! the app's back end would.

mod callout;
mod grant;
mod jwt;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use futures_util::StreamExt;
use nkeys::KeyPair;

use callout::Login;
use grant::Session;

const SUBJECT: &str = "$SYS.REQ.USER.AUTH";

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer nats-server's callouts
    Serve(Serve),
    /// Sign a session token, as the app does when a person logs in
    Token(Token),
}

#[derive(Args)]
struct Serve {
    #[arg(long, env = "NATS_URL", default_value = "nats://127.0.0.1:4222")]
    url: String,
    /// File with the seed by which this service logs in
    #[arg(long, env = "LOGIN_NKEY")]
    nkey: PathBuf,
    /// File with the seed that nats-server trusts as `issuer` (an account's: SA…)
    #[arg(long, env = "LOGIN_ISSUER")]
    issuer: PathBuf,
    /// The public key by which the app signs session tokens
    #[arg(long, env = "LOGIN_APP_KEY")]
    app_key: String,
    /// The account of users' clients
    #[arg(long, default_value = "CLIENTS")]
    account: String,
    /// The maximum duration of a login, in seconds
    #[arg(long, default_value_t = 900)]
    lifetime: u64,
}

#[derive(Args)]
struct Token {
    user: String,
    /// File with the app's seed
    #[arg(long)]
    app_seed: PathBuf,
    /// Seconds until the session ends; negative for one that has ended
    #[arg(long, default_value_t = 3600, allow_negative_numbers = true)]
    lifetime: i64,
    /// The users whose events the user may hear
    #[arg(long, value_delimiter = ',')]
    sees: Vec<String>,
    /// Let the user hear and query everyone
    #[arg(long)]
    sees_all: bool,
    /// Of which channels (type:id) the user may hear how many members are online
    #[arg(long, value_delimiter = ',')]
    counts: Vec<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Serve(options) => serve(options).await,
        Command::Token(options) => {
            println!("{}", sign(&options)?);
            Ok(())
        }
    }
}

async fn serve(options: Serve) -> anyhow::Result<()> {
    let login = Login {
        issuer: read_seed(&options.issuer)?,
        app: KeyPair::from_public_key(&options.app_key).context("--app-key is no public key")?,
        account: options.account,
        lifetime: Duration::from_secs(options.lifetime),
    };
    let seed = read_seed(&options.nkey)?.seed()?;
    let client = async_nats::ConnectOptions::with_nkey(seed)
        .custom_inbox_prefix("_INBOX_login")
        .connect(&options.url)
        .await
        .context("NATS is not reached")?;
    // A group, so that several of these may run.
    let mut callouts = client.queue_subscribe(SUBJECT, "login".into()).await?;
    client.flush().await?;
    eprintln!("ready");
    let login = Arc::new(login);
    let stop = tokio::signal::ctrl_c();
    tokio::pin!(stop);
    loop {
        let request = tokio::select! {
            _ = &mut stop => break,
            request = callouts.next() => request.context("the connection to NATS ended")?,
        };
        let Some(reply) = request.reply else { continue };
        let Ok(text) = str::from_utf8(&request.payload) else { continue };
        match login.answer(text, seconds_now()) {
            Ok((answer, outcome)) => {
                match outcome {
                    Ok(user) => eprintln!("let {user:?} in"),
                    Err(error) => eprintln!("refused: {error}"),
                }
                client.publish(reply, answer.into()).await?;
            }
            Err(error) => eprintln!("no callout: {error}"),
        }
    }
    client.drain().await?;
    Ok(())
}

fn sign(options: &Token) -> anyhow::Result<String> {
    let session = Session {
        sub: options.user.clone(),
        exp: seconds_now().saturating_add_signed(options.lifetime),
        sees: options.sees.clone(),
        sees_all: options.sees_all,
        counts: options.counts.clone(),
    };
    jwt::sign(&session, &read_seed(&options.app_seed)?)
}

fn read_seed(path: &Path) -> anyhow::Result<KeyPair> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("{} is not read", path.display()))?;
    KeyPair::from_seed(text.trim()).with_context(|| format!("{} holds no seed", path.display()))
}

/// The one clock read: tokens end by the wall clock, and all else takes the time as a value.
#[allow(clippy::disallowed_methods)]
fn seconds_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
