//! A nats-server with the settings that are shipped, and those who log in to it.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::{ConnectOptions, Event, Subscriber};
use futures_util::{FutureExt, StreamExt};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::unconstrained;

use crate::support::process::Process;
use crate::support::server::{free_port, program};
use crate::support::{Client, Daemon, Settings, eventually};

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/nats-server.conf");
const WEB: &str = "\"127.0.0.1:8080\"";
const STORE: &str = "\"/var/lib/nats\"";

const START: Duration = Duration::from_secs(20);

/// The time that the server may take to refuse something.
const REFUSAL: Duration = Duration::from_secs(8);

/// The other halves of the example keys, with the inbox prefix that goes with each.
const DAEMON: Login<'static> =
    ("SUAB2IHVIM7BHZ5FZSMNNQ5TG3R45UOEC7XVDWDQMJC7BF3CRPKRVN6JZM", "_INBOX_presenced");
const KEEPER: Login<'static> =
    ("SUANDFN4QPDHOPMMEYNCPNNCVB7G7QCJQBVUNLSGEND42L6XF4CZJULEAQ", "_INBOX_keeper");
const SERVICE: Login<'static> =
    ("SUAEZ2BIFO2OWMYAA56ASWJ2F3RRZ6PTNN7H4DTBH3N3M4UBLSGSYT552I", "_INBOX_service");
const JOHN: Login<'static> =
    ("SUAFNPHPEXKHXHBVE7AEKQBXJG36MCC5NC7KOCH72OEDA3JWL3M4QTTES4", "_INBOX_john");
const JACK: Login<'static> =
    ("SUAEYD2EVDV7BGUEITUSEPSEYU5UPSY476ZZDPQEXBMA7CR5ITGBWVQAPE", "_INBOX_jack");

const OPERATOR: Login<'static> =
    ("SUANWUFVXJRJUDWUB6HZV3DD6MFHPGWQOX3P562K74EOT64AUJMLJUIWBI", "_INBOX");

/// A key that the file does not know.
pub const OTHER_KEY: &str = "UBMZCJFXNV2T7AZOGTGJTMSHENSRLWJVZUXZ3H64Q6GLLQGJX46HOJRB";
pub const OTHER_SEED: &str = "SUAEHVWCR2BNM4NHKRXV3XKXCJDGLN7K6X53WDIEFHFGXBZSL3MDLKV5WM";

/// A seed and an inbox prefix.
type Login<'a> = (&'a str, &'a str);

pub struct Guarded {
    process: Process,
    port: u16,
    web: u16,
    folder: TempDir,
}

impl Guarded {
    /// Starts the server with the file as it is, but for the port of the WebSocket listener and the
    /// folder of the store, which no flag overrides.
    pub async fn start() -> Self {
        Self::start_with(|text| text).await
    }

    /// The same with a text that was changed.
    pub async fn start_with(change: impl FnOnce(String) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (port, web) = (free_port(), free_port());
        let store = folder.path().join("store");
        let mut text = std::fs::read_to_string(CONFIG).unwrap();
        for (shipped, here) in
            [(WEB, format!("\"127.0.0.1:{web}\"")), (STORE, format!("{store:?}"))]
        {
            assert_eq!(text.matches(shipped).count(), 1, "{shipped} in the file");
            text = text.replace(shipped, &here);
        }
        let settings = folder.path().join("nats-server.conf");
        std::fs::write(&settings, change(text)).unwrap();
        let mut command = Command::new(program());
        command.arg("-c").arg(&settings).arg("-p").arg(port.to_string());
        let log = folder.path().join("nats.log");
        let mut process = Process::start("nats-server", &mut command, log);
        eventually("nats-server is ready", START, async || {
            assert!(process.ended().is_none(), "nats-server ended: {}", process.log());
            process.log().contains("Server is ready").then_some(())
        })
        .await;
        Self { process, port, web, folder }
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("nats-server.conf")).unwrap()
    }

    /// Changes the file, and waits until the server has read it again.
    pub async fn reload(&self, text: &str) {
        std::fs::write(self.folder.path().join("nats-server.conf"), text).unwrap();
        let reloads = || self.process.log().matches("Reloaded server configuration").count();
        let before = reloads();
        self.process.signal(Signal::HUP);
        eventually("the server reads its settings again", START, async || {
            (reloads() > before).then_some(())
        })
        .await;
    }

    /// The same, with a daemon that serves.
    pub async fn served(settings: Settings<'_>) -> (Self, Daemon, Member) {
        Self::start().await.serve(settings).await
    }

    pub async fn serve(self, settings: Settings<'_>) -> (Self, Daemon, Member) {
        let service = self.service().await;
        let daemon = self.daemon(settings, &service).await;
        (self, daemon, service)
    }

    /// A daemon that serves under its key.
    pub async fn daemon(&self, settings: Settings<'_>, service: &Member) -> Daemon {
        self.daemon_with(DAEMON.0, settings, service).await
    }

    /// A daemon that serves under that key.
    pub async fn daemon_with(
        &self,
        seed: &str,
        settings: Settings<'_>,
        service: &Member,
    ) -> Daemon {
        let (_, inbox) = DAEMON;
        let mut all = settings.to_vec();
        all.extend([("NATS__NKEY", seed), ("NATS__INBOX_PREFIX", inbox)]);
        let mut daemon = Daemon::launch(&self.url(), &all);
        let id = daemon.logs("\"ready\"").await["daemon"].as_str().unwrap().to_owned();
        let ping = format!("$SRV.PING.presence.{id}");
        eventually("the daemon answers", START, async || {
            service.nats().request(ping.clone(), Vec::new().into()).await.ok()
        })
        .await;
        daemon
    }

    /// Someone who has got hold of the daemon's key.
    pub async fn as_daemon(&self) -> Member {
        Member::log_in(&self.url(), DAEMON).await
    }

    /// Someone with another key.
    pub async fn log_in(&self, seed: &str, inbox: &str) -> Member {
        Member::log_in(&self.url(), (seed, inbox)).await
    }

    pub async fn service(&self) -> Member {
        Member::log_in(&self.url(), SERVICE).await
    }

    pub async fn keeper(&self) -> Member {
        Member::log_in(&self.url(), KEEPER).await
    }

    pub async fn operator(&self) -> Member {
        Member::log_in(&self.url(), OPERATOR).await
    }

    pub async fn john(&self) -> Member {
        Member::log_in(&self.url(), JOHN).await.own("john")
    }

    pub async fn jack(&self) -> Member {
        Member::log_in(&self.url(), JACK).await.own("jack")
    }

    /// John in a browser.
    pub async fn john_in_a_browser(&self) -> Member {
        Member::log_in(&self.web_url(), JOHN).await.own("john")
    }

    /// Returns whether that key is let in through the listener for browsers.
    pub async fn lets_in_browsers(&self, who: Login<'_>) -> bool {
        options(who).connect(self.web_url()).await.is_ok()
    }

    pub fn daemon_login() -> Login<'static> {
        DAEMON
    }

    /// The server's refusals, from its own log.
    pub fn violations(&self) -> Vec<String> {
        let log = self.process.log();
        log.lines().filter(|line| line.contains("Violation")).map(str::to_owned).collect()
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    fn web_url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.web)
    }
}

fn options((seed, inbox): Login<'_>) -> ConnectOptions {
    ConnectOptions::with_nkey(seed.to_owned()).custom_inbox_prefix(inbox)
}

/// The entry that begins with `nkey: <variable>`, and where it ends.
pub fn entry(text: &str, variable: &str) -> (usize, String) {
    let begin = text.find(&format!("      {{\n        nkey: {variable}")).unwrap();
    let end = begin + text[begin..].find("\n      }\n").unwrap() + "\n      }\n".len();
    (end, text[begin..end].to_owned())
}

/// Someone who has logged in, and what was refused.
pub struct Member {
    pub client: Client,
    refusals: Arc<Mutex<Vec<String>>>,
}

impl Member {
    async fn log_in(url: &str, login: Login<'_>) -> Self {
        let refusals = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&refusals);
        let options = options(login).event_callback(move |event| {
            if let Event::ServerError(error) = event {
                noted.lock().unwrap().push(error.to_string());
            }
            std::future::ready(())
        });
        let nats = options.connect(url).await.unwrap();
        Self { client: Client::trusted(nats, "presence"), refusals }
    }

    pub fn own(self, user: &str) -> Self {
        Self { client: self.client.of(user), ..self }
    }

    pub fn nats(&self) -> &async_nats::Client {
        &self.client.nats
    }

    /// Hears what it is allowed to hear.
    pub async fn hear(&self, subject: &str) -> Ears {
        let ears = self.nats().subscribe(subject.to_owned()).await.unwrap();
        self.nats().flush().await.unwrap();
        Ears(ears)
    }

    /// Tries to hear what the server refuses; what is heard all the same comes out.
    pub async fn may_not_hear(&self, subject: &str) -> Ears {
        let ears = self.hear(subject).await;
        self.is_refused(&format!("Subscription to \"{subject}\"")).await;
        ears
    }

    /// The same as a member of a queue group.
    pub async fn may_not_join(&self, subject: &str, queue: &str) -> Ears {
        let joined = self.nats().queue_subscribe(subject.to_owned(), queue.to_owned()).await;
        self.is_refused(&format!("Subscription to \"{subject}\" using queue \"{queue}\"")).await;
        Ears(joined.unwrap())
    }

    /// Tries to publish what the server refuses, asking for an answer.
    pub async fn may_not_say(&self, subject: &str, body: Value) {
        let reply = self.nats().new_inbox();
        let mut answers = self.hear(&reply).await;
        let payload = body.to_string().into();
        self.nats().publish_with_reply(subject.to_owned(), reply, payload).await.unwrap();
        self.is_refused(&format!("Publish to \"{subject}\"")).await;
        assert!(answers.heard().is_empty(), "{subject} was answered");
    }

    pub async fn is_refused(&self, what: &str) {
        let text = format!("Permissions Violation for {what}");
        eventually(&format!("the server says: {text}"), REFUSAL, async || {
            let mut refusals = self.refusals.lock().unwrap();
            let at = refusals.iter().position(|refusal| refusal.ends_with(&text))?;
            refusals.remove(at);
            Some(())
        })
        .await;
    }

    /// The unexpected refusals.
    pub fn refusals(&self) -> Vec<String> {
        self.refusals.lock().unwrap().clone()
    }
}

/// A subscription.
pub struct Ears(Subscriber);

impl Ears {
    /// All that has arrived, by subject.
    pub fn heard(&mut self) -> Vec<(String, Value)> {
        let mut heard = Vec::new();
        while let Some(Some(message)) = unconstrained(self.0.next()).now_or_never() {
            let body = serde_json::from_slice(&message.payload).unwrap_or(Value::Null);
            heard.push((message.subject.to_string(), body));
        }
        heard
    }

    /// The subjects of all that has arrived.
    pub fn subjects(&mut self) -> Vec<String> {
        self.heard().into_iter().map(|(subject, _)| subject).collect()
    }
}

/// The last sequence of the bucket: it moves with everything that is written.
pub async fn written(daemon: &Member) -> u64 {
    crate::support::server::last_seq(daemon.nats()).await
}

/// A channel with these members, that was written last.
pub async fn channel(service: &Member, id: &str, members: &[&str]) {
    let channel = json!({"type": "messaging", "id": id, "members": members});
    service.client.get("upsert_channel", channel).await;
}
