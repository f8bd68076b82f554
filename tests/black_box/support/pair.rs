//! Two daemons on one bucket, each with a request prefix of its own, so that a test says which of
//! them it asks.

use super::{Client, Daemon, Server, Settings};

pub struct Pair {
    _server: Server,
    /// Asks the first daemon. Both clients share one connection.
    pub one: Client,
    /// Asks the second daemon.
    pub two: Client,
    pub daemons: [Daemon; 2],
}

impl Pair {
    pub async fn start(settings: Settings<'_>) -> Self {
        let server = Server::start().await;
        Self::on(server, settings).await
    }

    pub async fn on(server: Server, settings: Settings<'_>) -> Self {
        Self::with_file(server, settings, "").await
    }

    /// Two daemons whose settings stand in a file, too.
    pub async fn with_file(server: Server, settings: Settings<'_>, file: &str) -> Self {
        let with = |prefix| {
            let mut all = settings.to_vec();
            all.push(("SUBJECTS__PREFIX", prefix));
            all
        };
        let (first, second) = (with("one"), with("two"));
        let launch = |settings| Daemon::launch_with_file(&server.url(), settings, file);
        let (mut a, mut b) = (launch(&first[..]), launch(&second[..]));
        a.ready(&server).await;
        b.ready(&server).await;
        let nats = server.connect().await;
        let (one, two) = (Client::trusted(nats.clone(), "one"), Client::trusted(nats, "two"));
        Self { _server: server, one, two, daemons: [a, b] }
    }

    /// Both clients.
    pub fn clients(&self) -> [&Client; 2] {
        [&self.one, &self.two]
    }
}
