//! Changes of the stream, the server, the clock and the login below running daemons.

mod clock;
mod deleted;
mod disk;
mod documented;
mod lease;
mod limits;
mod lost_tail;
mod payload;
mod purge;
mod rebuild;
mod refused;
mod two_streams;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Client, Daemon, eventually};

/// The time that daemons may take to notice a change of the stream and to be right again.
const NOTICED: Duration = Duration::from_secs(5);

/// The time that they may take after the server was away.
pub const HEALED: Duration = Duration::from_secs(20);

/// The lines of a daemon's log that say that the stream is another.
fn noticed(daemon: &Daemon) -> Vec<String> {
    let lines = daemon.lines().into_iter();
    let texts = lines.filter_map(|line| line["message"].as_str().map(str::to_owned));
    texts.filter(|text| text.contains("the bucket is not what it was")).collect()
}

/// Waits until requests are answered again, and returns the first answer.
async fn answer(client: &Client, operation: &str, body: Value, within: Duration) -> Value {
    eventually(&format!("{operation} is answered"), within, async || {
        client.attempt(operation, body.clone(), Duration::from_secs(3)).await?.ok()
    })
    .await
}

/// Waits until every one of many answers shows `id` like this: all daemons agree.
pub async fn agree(
    client: &Client,
    id: &str,
    within: Duration,
    is_right: impl Fn(Option<&Value>) -> bool,
) {
    eventually(&format!("all daemons show {id} as it is"), within, async || {
        for _ in 0..20 {
            let body = json!({"filter": {"id": id}, "presence": true});
            let answer = client.attempt("query_users", body, Duration::from_secs(3)).await?.ok()?;
            if !is_right(answer["users"].get(0)) {
                return None;
            }
        }
        Some(())
    })
    .await;
}
