//! Waiting for something to come true, with a bound. Nothing here waits for time to pass by itself.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

const POLL_INTERVAL: Duration = Duration::from_millis(15);

/// Looks again and again until there is something to see.
pub async fn eventually<T>(
    what: &str,
    bound: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(start.elapsed() < bound, "not within {bound:?}: {what}");
        sleep(POLL_INTERVAL).await;
    }
}

/// Waits for something that must not take longer.
pub async fn within<T>(what: &str, bound: Duration, future: impl Future<Output = T>) -> T {
    let done = timeout(bound, future).await;
    done.unwrap_or_else(|_| panic!("not within {bound:?}: {what}"))
}

/// The names of the members of an object.
pub fn keys(object: &Value) -> BTreeSet<&str> {
    let object = object.as_object().unwrap_or_else(|| panic!("no object: {object}"));
    object.keys().map(String::as_str).collect()
}

/// Waits until the wall clock shows another millisecond than at the call.
pub async fn a_later_millisecond() {
    let start = wall_ms();
    let later = async {
        while wall_ms() <= start + 1 {
            tokio::task::yield_now().await;
        }
    };
    within("another millisecond", Duration::from_secs(1), later).await;
}

/// Milliseconds since 1970.
pub fn wall_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}
