//! The connection to NATS and the two doors to the service.

mod context;
mod flags;
mod login;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, Event, ServerAddr, ServerError};
use clap::ValueEnum;
use presenced_client::{
    Change, Connection, Device, Error, Fields, Filter, Found, Patch, Service, Signals, User, Watch,
};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::Scheme;
use context::Context;
pub use flags::{Flags, subject};

const DEFAULT_URL: &str = "nats://127.0.0.1:4222";

/// A connection to NATS with the settings of the command line.
pub struct Session {
    pub nats: Client,
    pub timeout: Duration,
    pub prefix: String,
    pub events: String,
    /// The addresses of the servers.
    servers: String,
    as_user: Option<String>,
    /// The colour scheme of the context.
    pub colors: Option<Scheme>,
    signals: Signals,
    denied: Denied,
}

/// The first subjects that NATS refused. Where that of the answers is among them, no request is
/// ever answered.
#[derive(Clone, Default)]
struct Denied(Arc<Mutex<Vec<String>>>);

impl Denied {
    const MAX_SHOWN: usize = 16;

    fn on_event(&self, event: &Event) {
        let Event::ServerError(ServerError::Other(text)) = event else { return };
        if !text.to_ascii_lowercase().contains("permissions violation") {
            return;
        }
        let mut denied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if denied.len() < Self::MAX_SHOWN {
            denied.extend(text.split('"').nth(1).map(str::to_owned));
        }
    }

    fn find(&self, is_it: impl Fn(&str) -> bool) -> Option<String> {
        let denied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        denied.iter().find(|subject| is_it(subject)).cloned()
    }
}

/// Ctrl-C, SIGTERM, or the end of the terminal.
pub async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::hangup()));
    let (Ok(mut terminate), Ok(mut hangup)) = signals else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

impl Session {
    pub async fn open(flags: &Flags) -> Result<Self, Failure> {
        let name = flags.context.as_deref().filter(|name| !name.is_empty());
        let context = if flags.no_context { Context::default() } else { Context::load(name)? };
        let mut context = login::merge(flags, context).looked_up()?;
        if let Some(proxy) = flags::socks_proxy() {
            context.socks_proxy = proxy;
        }
        context.check()?;
        let servers = servers(&context.url)?;
        let shown = servers.iter().map(shown).collect::<Vec<_>>().join(", ");
        let default_name = concat!("presencectl ", env!("CARGO_PKG_VERSION"));
        let denied = Denied::default();
        let options = login::options(&context, &servers)?
            .name(flags.connection_name.as_deref().unwrap_or(default_name))
            .connection_timeout(flags.timeout);
        let (options, signals) = Signals::tap(options, {
            let denied = denied.clone();
            move |event| {
                denied.on_event(&event);
                async {}
            }
        });
        let connected = tokio::time::timeout(flags.timeout, options.connect(servers)).await;
        let nats = match connected {
            Ok(Ok(nats)) => nats,
            Ok(Err(error)) => return Err(refused(&shown, error.kind(), &error.to_string())),
            Err(_) => return Err(refused(&shown, ConnectErrorKind::TimedOut, "timed out")),
        };
        Ok(Self {
            nats,
            timeout: flags.timeout,
            prefix: flags.prefix.clone(),
            events: flags.events.clone(),
            servers: shown,
            as_user: flags.as_user.clone(),
            // A colour is no reason to refuse a context: a name that is unknown counts for nothing.
            colors: Scheme::from_str(&context.color_scheme, true).ok(),
            signals,
            denied,
        })
    }

    /// The servers and the prefix, which tell the users of one installation from those of another.
    pub fn cell(&self) -> (&str, &str) {
        (&self.servers, &self.prefix)
    }

    /// The door of trusted services.
    pub fn service(&self) -> Result<Service, Failure> {
        match self.as_user {
            Some(_) => Err(Failure::usage(
                "this is for trusted services only: leave out --as, with a login of a service",
            )),
            None => Ok(self.builder().build()),
        }
    }

    /// The door that the command line names.
    pub fn door(&self) -> Result<Door, Failure> {
        Ok(match &self.as_user {
            None => Door::Service(self.builder().build()),
            Some(user) => Door::User(self.builder().user(user)?),
        })
    }

    fn builder(&self) -> presenced_client::Builder {
        Service::builder(self.nats.clone())
            .prefix(&self.prefix)
            .events(&self.events)
            .deadline(self.timeout)
            .signals(self.signals.clone())
    }

    /// The failure with its cause, where NATS has named one.
    pub fn explain(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Presence(Error::NoAnswer { .. }) => {
                self.refused("").map_or(failure, Failure::Permission)
            }
            failure => failure,
        }
    }

    /// The subject of the answers, or this one, if NATS has refused it.
    pub fn refused(&self, subject: &str) -> Option<String> {
        let inbox = self.nats.new_inbox();
        let prefix = inbox.rsplit_once('.').map_or(inbox.as_str(), |(prefix, _)| prefix).to_owned();
        self.denied.find(|denied| denied == subject || denied.starts_with(&prefix))
    }
}

/// The addresses in a list with commas.
fn servers(urls: &str) -> Result<Vec<ServerAddr>, Failure> {
    let urls = if urls.is_empty() { DEFAULT_URL } else { urls };
    let parsed = urls.split(',').map(|url| {
        url.trim()
            .parse()
            .map_err(|error| Failure::usage(format!("an address of NATS servers: {error}")))
    });
    parsed.collect()
}

/// An address without the secrets that may be in it.
fn shown(server: &ServerAddr) -> String {
    format!("{}:{}", server.host(), server.port())
}

fn refused(servers: &str, kind: ConnectErrorKind, error: &str) -> Failure {
    match kind {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            Failure::Login(format!("NATS at {servers} refuses the login: {error}"))
        }
        _ => Failure::Unreachable(format!("cannot reach NATS at {servers}: {error}")),
    }
}

/// One of the two doors.
pub enum Door {
    Service(Service),
    User(User),
}

impl Door {
    /// Any operation, as it stands on the wire.
    pub async fn request(&self, operation: &str, body: &Value) -> Result<Value, Error> {
        match self {
            Self::Service(service) => service.request(operation, body).await,
            Self::User(user) => user.request(operation, body).await,
        }
    }

    /// Checks that queries are answered. A watch would wait for that without end.
    pub async fn check_served(&self) -> Result<(), Error> {
        let id = match self {
            Self::Service(_) => "presencectl",
            Self::User(user) => user.id().as_str(),
        };
        let body = json!({"filter": {"id": id}, "limit": 1, "presence": true});
        self.request("query_users", &body).await.map(|_| ())
    }

    pub fn watch(&self, ids: &[String]) -> Result<Watch, Error> {
        match self {
            Self::Service(service) => service.watch(ids),
            Self::User(user) => user.watch(ids),
        }
    }

    /// Watches the first users that match.
    pub fn watch_where(&self, filter: Value) -> Watch<Fields, Found> {
        let (filter, limit) = (Filter::json(filter), crate::commands::PAGE as u32);
        match self {
            Self::Service(service) => service.watch_where(filter, None, limit),
            Self::User(user) => user.watch_where(filter, None, limit),
        }
    }

    /// Watches all users.
    pub fn watch_all(&self) -> Watch<Fields, Found> {
        match self {
            Self::Service(service) => service.watch_all(),
            Self::User(user) => user.watch_all(),
        }
    }

    /// Watches the members of a channel that there is: the first 100.
    pub async fn watch_channel(&self, kind: &str, id: &str) -> Result<Watch, Failure> {
        match self {
            // `watch_channel` of this door would make the channel.
            Self::Service(service) => {
                let channel = crate::commands::channel(self, kind, id).await?;
                let members = crate::commands::members(&channel);
                crate::commands::note_missing_members(&channel, members.len());
                let ids = members.iter().filter_map(|user| user["id"].as_str());
                Ok(service.watch(ids)?)
            }
            Self::User(user) => Ok(user.watch_channel(kind, id, None).await?.watch),
        }
    }

    /// Checks that the user is the one of the door.
    pub fn check_user(&self, user: &str) -> Result<(), Failure> {
        match self {
            Self::User(door) if door.id().as_str() != user => Err(Failure::usage(format!(
                "--as {} acts as that user only, not as {user}",
                door.id()
            ))),
            _ => Ok(()),
        }
    }

    pub async fn connect(
        &self,
        user: &str,
        patch: Patch,
        device: Device,
    ) -> Result<Connection, Error> {
        match self {
            Self::Service(service) => service.connect(user, patch).device(device).await,
            Self::User(user) => user.connect(patch).device(device).await,
        }
    }
}

/// The kind of a change, as scripts read it.
pub fn kind_name(change: &Change) -> &'static str {
    use presenced_client::Kind;
    match change {
        Change::User { kind, .. } => match kind {
            Kind::First => "first",
            Kind::Came => "came",
            Kind::Left => "left",
            Kind::Status => "status",
            Kind::Gone => "gone",
            _ => "fields",
        },
        _ => "state",
    }
}
