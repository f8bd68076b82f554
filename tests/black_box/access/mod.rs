//! Refusals of NATS. Each is logged in one line that names the cause. The daemon does not serve
//! meanwhile, and goes on by itself when the cause is gone.

mod certificates;
mod credentials;
mod permissions;
mod renewal;

use serde_json::Value;

use crate::support::http::Http;
use crate::support::{Daemon, Settings};

/// A daemon that says over HTTP, too, whether it is ready.
fn launch(url: &str, settings: Settings<'_>) -> Daemon {
    let settings = [settings, &[("METRICS__LISTEN", "127.0.0.1:0")]].concat();
    Daemon::launch(url, &settings)
}

/// The lines at which someone has to act.
fn errors(daemon: &Daemon) -> Vec<String> {
    let errors = daemon.lines().into_iter().filter(|line| line["level"] == "ERROR");
    errors.map(|line| line.to_string()).collect()
}

/// The one line at which someone has to act, which contains all of `parts`; the daemon does not
/// serve.
async fn only_error(daemon: &mut Daemon, parts: &[&str]) {
    daemon.logs("\"ERROR\"").await;
    let errors = errors(daemon);
    assert_eq!(errors.len(), 1, "{errors:?}");
    for part in parts {
        assert!(errors[0].contains(part), "no {part:?}: {}", errors[0]);
    }
    assert!(!is_ready(daemon));
    let page = Http::of(daemon).await.get("/readyz").await;
    assert_eq!(page.status, 503, "{}", page.body);
    assert!(daemon.ended().is_none(), "it waits for someone to act");
}

fn is_ready(daemon: &Daemon) -> bool {
    daemon.lines().iter().any(|line: &Value| line["message"] == "ready")
}
