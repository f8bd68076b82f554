//! The disk of nats-server is full. Needs the right to mount a file system in memory; without it
//! nothing is tried.

use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use super::refused::{SETTINGS, errors, readyz_says};
use crate::support::http::Http;
use crate::support::server::Options;
use crate::support::{Client, Daemon, Server};

/// A file system of 24 MB.
struct Disk(TempDir);

impl Disk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(folder.path());
        mount.output().is_ok_and(|done| done.status.success()).then_some(Self(folder))
    }

    fn fill(&self) {
        // The error is that there is no room.
        let _ = std::fs::write(self.0.path().join("filler"), vec![0; 24 << 20]);
    }

    fn free(&self) {
        std::fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).output();
    }
}

#[tokio::test]
async fn a_full_disk_is_reported_and_what_was_acknowledged_is_there_after_a_restart() {
    let Some(disk) = Disk::mount() else { return };
    let store = disk.0.path().join("jetstream");
    let config = format!("jetstream {{ store_dir: {store:?}, max_file: 1GB }}\n");
    let options = Options { jetstream: false, config, ..Options::default() };
    let mut server = Server::start_with(options).await;
    let mut daemon = Daemon::spawn(&server, SETTINGS).await;
    let http = Http::of(&mut daemon).await;
    let client = Client::connect(&server).await;
    client.upsert(json!({"id": "ann", "status": "here"})).await;
    disk.fill();
    let user = |n| json!({"id": format!("u{n}"), "text": "x".repeat(4500)});
    let users: Vec<_> = (0..40).map(user).collect();
    let refused = client.refused("upsert_users", json!({"users": users})).await;
    assert_eq!(refused.code, "unavailable");
    readyz_says(&http, 503, "writes: they are not stored").await;
    assert!(client.see("ann").await.is_some(), "queries are answered");
    assert!(!errors(&daemon).is_empty());

    disk.free();
    server.vanish();
    server.appear().await;
    let client = Client::connect(&server).await;
    let body = json!({"users": [{"id": "bob"}]});
    super::answer(&client, "upsert_users", body, super::HEALED).await;
    readyz_says(&http, 200, "serving").await;
    super::agree(&client, "ann", super::HEALED, |ann| ann.is_some_and(|a| a["status"] == "here"))
        .await;
}
