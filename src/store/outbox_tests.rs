//! The real loop over a real connection that stalls.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::*;
use crate::health::Health;
use crate::watchdog::Watchdog;

const INFO: &[u8] = b"INFO {\"server_id\":\"s\",\"server_name\":\"s\",\"version\":\"2.15.0\",\
    \"go\":\"\",\"host\":\"127.0.0.1\",\"port\":4222,\"headers\":true,\"proto\":1,\
    \"max_payload\":8388608}\r\n";

/// Accepts a client, and then reads nothing more until `hang_up` is set.
async fn accept(mut stream: TcpStream, mut hang_up: watch::Receiver<bool>) {
    stream.write_all(INFO).await.unwrap();
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.starts_with("PING") {
            write.write_all(b"PONG\r\n").await.unwrap();
            break;
        }
    }
    hang_up.wait_for(|is_set| *is_set).await.unwrap();
}

#[tokio::test]
async fn an_outbox_that_cannot_send_its_messages_hangs_unless_nats_is_down() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let (tracker, (hang_up, hung_up)) = (TaskTracker::new(), watch::channel(false));
    tracker.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        accept(stream, hung_up).await;
        // From here on there is no server.
        drop(listener);
    });
    let options = async_nats::ConnectOptions::new().client_capacity(1);
    let client = options.connect(url).await.unwrap();

    let (outbox, outgoing) = outbox();
    let limit = PayloadLimit::new(8 << 20);
    let (mut watchdog, health) = (Watchdog::default(), Health::new());
    let tap = watchdog.register("answers");
    tracker.spawn(outgoing.run(client, Clock::start(), limit, tap, || {}));
    let mut answers = health.answers();
    tracker.spawn(watchdog.run(health));
    let bound = Duration::from_secs(20);
    timeout(bound, answers.changed()).await.expect("the outbox answers at first").unwrap();

    // More than the buffers of the client, the kernel and the other side hold.
    for _ in 0..64 {
        let payload = vec![0; 1 << 20].into();
        let subject = "answer".to_owned();
        outbox.send(Message { subject, reply: None, headers: None, payload, not_after_ms: None });
    }
    let quiet = Duration::from_secs(2);
    let hangs = async { while timeout(quiet, answers.changed()).await.is_ok() {} };
    timeout(bound, hangs).await.expect("the outbox hangs when all buffers are full");

    hang_up.send_replace(true);
    timeout(bound, answers.changed())
        .await
        .expect("without NATS it may wait, and answers")
        .unwrap();
}
