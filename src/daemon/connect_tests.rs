//! Against a server that sends only what the test prescribes.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::super::permissions::Permissions;
use super::*;
use crate::config::{Auth, Secret, Settings};
use crate::health::Health;

const OLD: &str = r#"INFO {"server_id":"x","version":"2.10.9","max_payload":1048576}"#;
const NEW: &str = r#"INFO {"server_id":"x","version":"2.11.0","max_payload":1048576}"#;

async fn listen() -> (TcpListener, Nats) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut nats = Settings::default().nats;
    nats.urls = vec![listener.local_addr().unwrap().to_string().parse().unwrap()];
    (listener, nats)
}

async fn attempt(nats: &Nats) -> Result<(Client, UnboundedReceiver<Event>), ConnectError> {
    let purpose = Purpose { name: "test", label: "test".to_owned(), subscription_capacity: 16 };
    connect(nats, purpose, &Access::new(Health::new(), Permissions::default())).await
}

/// Greets the next client with `info`, lets it in, and returns its CONNECT line.
async fn accept(listener: &TcpListener, info: &str) -> (BufReader<TcpStream>, String) {
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = BufReader::new(stream);
    stream.write_all(format!("{info}\r\n").as_bytes()).await.unwrap();
    let mut connect = String::new();
    stream.read_line(&mut connect).await.unwrap();
    stream.read_line(&mut String::new()).await.unwrap();
    stream.write_all(b"PONG\r\n").await.unwrap();
    (stream, connect)
}

#[tokio::test]
async fn a_server_that_is_too_old_is_named_with_its_version() {
    let (listener, nats) = listen().await;
    let (result, _server) = tokio::join!(attempt(&nats), accept(&listener, OLD));
    let error = result.map(|_| ()).unwrap_err();
    let servers = nats.servers();
    assert_eq!(
        error.to_string(),
        format!(
            "the NATS server at {servers} is version 2.10.9, but presenced needs 2.11.0 or newer"
        )
    );
}

#[tokio::test]
async fn the_login_and_the_name_reach_the_server_and_the_event_comes_out() {
    let (listener, mut nats) = listen().await;
    nats.auth = Auth::Password { user: "john".to_owned(), password: Secret::new("p@ss") };
    let (result, (_stream, line)) = tokio::join!(attempt(&nats), accept(&listener, NEW));
    let (_client, mut events) = result.unwrap();
    for part in [r#""user":"john""#, r#""pass":"p@ss""#, r#""name":"test""#] {
        assert!(line.contains(part), "{line}");
    }
    assert!(matches!(events.recv().await, Some(Event::Connected)));
}

#[tokio::test]
async fn an_attempt_that_fails_is_followed_by_another() {
    let (listener, nats) = listen().await;
    let server = async {
        drop(listener.accept().await.unwrap());
        accept(&listener, NEW).await
    };
    let (result, _server) = tokio::join!(attempt(&nats), server);
    result.unwrap();
}

#[tokio::test]
async fn a_file_without_a_login_ends_the_waiting() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("nk");
    std::fs::write(&path, "no seed").unwrap();
    let mut nats = Settings::default().nats;
    for auth in [Auth::NkeyFile(path.clone()), Auth::Creds(path)] {
        nats.auth = auth;
        let result = attempt(&nats).await;
        let error = result.map(|_| ()).unwrap_err();
        assert!(matches!(error, ConnectError::Login(_)), "{error}");
        assert!(!error.to_string().contains("no seed"), "{error}");
    }
}

#[test]
fn delays_grow_to_two_seconds_and_are_spread() {
    for attempt in 0..100 {
        let delay = delay(attempt, false);
        assert!(delay <= MAX_RECONNECT_DELAY);
        assert!(delay >= MIN_RECONNECT_DELAY || attempt <= 1);
    }
    let (one, other) = ((0..9).map(|_| delay(9, false)), (0..9).map(|_| delay(9, false)));
    assert!(one.ne(other));
}
