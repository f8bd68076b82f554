//! The work of a service that keeps presence in Redis itself, with Redis's log of writes on disk.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use redis::aio::MultiplexedConnection;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::raw::{event, record};

/// Compares and sets, and announces.
const UPDATE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] or ARGV[1] == '' then \
     redis.call('SET', KEYS[1], ARGV[2]); redis.call('PUBLISH', KEYS[2], ARGV[3]); return 1 \
     else return 0 end";

pub struct RedisServer {
    child: Child,
    connection: MultiplexedConnection,
}

impl RedisServer {
    /// `None` where there is no `redis-server`.
    pub async fn start(folder: &Path) -> Result<Option<Self>> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--appendonly", "yes", "--appendfsync", "everysec", "--dir"]).arg(folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let Ok(child) = command.spawn() else { return Ok(None) };
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/"))?;
        let connected = timeout(Duration::from_secs(10), async {
            loop {
                match client.get_multiplexed_async_connection().await {
                    Ok(connection) => return connection,
                    Err(_) => sleep(Duration::from_millis(10)).await,
                }
            }
        });
        let connection = connected.await.context("redis-server does not listen")?;
        Ok(Some(Self { child, connection }))
    }

    pub fn id(&self) -> Result<u32> {
        self.child.id().context("redis-server ended")
    }

    /// Reads, compares and sets, announces.
    pub async fn do_it_yourself(&self, n: usize) -> Result<()> {
        let (key, mut connection) = (format!("user:{n}"), self.connection.clone());
        let known: Option<String> =
            redis::cmd("GET").arg(&key).query_async(&mut connection).await?;
        let mut update = redis::cmd("EVAL");
        update.arg(UPDATE).arg(2).arg(&key).arg(format!("changed:{n}"));
        update.arg(known.unwrap_or_default()).arg(record(n)).arg(event(n));
        let stored: i32 = update.query_async(&mut connection).await?;
        anyhow::ensure!(stored == 1, "somebody else has written {key}");
        Ok(())
    }
}
