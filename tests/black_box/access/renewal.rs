//! Logins of short life, which another program renews.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::{errors, launch};
use crate::support::http::Http;
use crate::support::server::Options;
use crate::support::{Daemon, Server, eventually};

const BOUND: Duration = Duration::from_secs(30);

/// An operator with one account that may use JetStream.
struct Operator {
    account: KeyPair,
    config: String,
}

impl Operator {
    fn new() -> Self {
        let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
        let claims = json!({"type": "operator", "version": 2});
        let operator_jwt = token(&operator, &operator.public_key(), None, &claims);
        let system = KeyPair::new_account();
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1,
            "consumer": -1,
        });
        let claims = json!({"type": "account", "version": 2, "limits": limits});
        let account_jwt = token(&operator, &account.public_key(), None, &claims);
        let claims = json!({"type": "account", "version": 2});
        let system_jwt = token(&operator, &system.public_key(), None, &claims);
        let (id, system) = (account.public_key(), system.public_key());
        let config = format!(
            "operator: {operator_jwt}\nresolver: MEMORY\nsystem_account: {system}\n\
             resolver_preload: {{ {id}: {account_jwt}, {system}: {system_jwt} }}\n"
        );
        Self { account, config }
    }

    /// Writes credentials that expire so long from now.
    fn issue(&self, file: &Path, life: Duration) {
        let user = KeyPair::new_user();
        let claims = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1});
        let jwt =
            token(&self.account, &user.public_key(), Some(seconds() + life.as_secs()), &claims);
        let seed = user.seed().unwrap();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        let new = file.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, file).unwrap();
    }
}

#[allow(clippy::disallowed_methods, reason = "a token carries wall time")]
fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn token(issuer: &KeyPair, subject: &str, expires: Option<u64>, nats: &Value) -> String {
    let mut claims = json!({
        "jti": subject, "iat": seconds(), "iss": issuer.public_key(), "sub": subject,
        "name": "test", "nats": nats,
    });
    if let Some(expires) = expires {
        claims["exp"] = json!(expires);
    }
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed =
        format!("{}.{}", part(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), part(&claims));
    let signature = BASE64URL_NOPAD.encode(&issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

async fn connects(daemon: &Daemon, times: usize) {
    let connected = || {
        let lines = daemon.lines();
        lines.iter().filter(|line| line["message"] == "connected to NATS").count()
    };
    eventually(&format!("{times} connections"), BOUND, async || {
        (connected() >= times).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_renewed_login_is_used_when_the_old_one_expires() {
    let operator = Operator::new();
    let options = Options { config: operator.config.clone(), ..Options::default() };
    let server = Server::start_with(options).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("creds");
    operator.issue(&file, Duration::from_secs(6));
    let mut daemon = launch(&server.url(), &[("NATS__CREDS", file.to_str().unwrap())]);
    daemon.logs("\"ready\"").await;
    operator.issue(&file, Duration::from_secs(600));
    // Three connections, each of which is cut off once.
    connects(&daemon, 6).await;
    let http = Http::of(&mut daemon).await;
    eventually("it is ready", BOUND, async || {
        (http.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(errors(&daemon), Vec::<String>::new());
}

#[tokio::test]
async fn a_login_that_was_not_renewed_is_named_as_expired_until_it_is() {
    let operator = Operator::new();
    let options = Options { config: operator.config.clone(), ..Options::default() };
    let server = Server::start_with(options).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("creds");
    operator.issue(&file, Duration::from_secs(6));
    let mut daemon = launch(&server.url(), &[("NATS__CREDS", file.to_str().unwrap())]);
    daemon.logs("\"ready\"").await;
    let line = daemon.logs("NATS refuses the connection").await;
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("has expired") && error.contains(file.to_str().unwrap()), "{error}");
    assert!(!error.contains("violation"), "{error}");
    operator.issue(&file, Duration::from_secs(600));
    let http = Http::of(&mut daemon).await;
    eventually("it is ready again", BOUND, async || {
        (http.get("/readyz").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_renewed_token_is_read_when_the_server_asks_for_it() {
    let config = |token: &str| format!("authorization {{ token: {token} }}\n");
    let options = Options { config: config("first"), ..Options::default() };
    let mut server = Server::start_with(options).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first\n").unwrap();
    let mut daemon = launch(&server.url(), &[("NATS__TOKEN_FILE", file.to_str().unwrap())]);
    daemon.logs("\"ready\"").await;
    std::fs::write(&file, "second\n").unwrap();
    server.reload(config("second")).await;
    connects(&daemon, 6).await;
    let http = Http::of(&mut daemon).await;
    eventually("it is ready", BOUND, async || {
        (http.get("/readyz").await.status == 200).then_some(())
    })
    .await;
}
