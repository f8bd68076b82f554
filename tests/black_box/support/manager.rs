//! A stand-in for systemd: a socket to which the daemon reports its state.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdDatagram};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::UnixDatagram;

use super::wait::within;

/// The time that a daemon may take to send the awaited message.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Manager {
    socket: UnixDatagram,
    address: String,
    _folder: TempDir,
}

/// One message, as `NAME=value` lines.
#[derive(Debug, Clone)]
pub struct Notification(Vec<String>);

impl Notification {
    pub fn has(&self, line: &str) -> bool {
        self.0.iter().any(|each| each == line)
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }

    /// The state of the daemon, for people.
    pub fn status(&self) -> &str {
        self.value("STATUS").unwrap_or_default()
    }
}

impl Manager {
    /// One whose socket is a file.
    pub fn at_a_path() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, address: path.to_str().unwrap().to_owned(), _folder: folder }
    }

    /// One whose socket has a name that is no file.
    pub fn abstract_one() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().to_str().unwrap();
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let socket = StdDatagram::bind_addr(&address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = format!("@{name}");
        Self { socket: UnixDatagram::from_std(socket).unwrap(), address, _folder: folder }
    }

    /// The variable that a daemon finds in its environment.
    pub fn environment(&self) -> (&'static str, &str) {
        ("NOTIFY_SOCKET", &self.address)
    }

    /// The next message.
    pub async fn hear(&self) -> Notification {
        let mut bytes = vec![0; 4096];
        let received = within("a message to systemd", NOTICE_TIMEOUT, self.socket.recv(&mut bytes));
        let length = received.await.unwrap();
        bytes.truncate(length);
        Notification(String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect())
    }

    /// All messages up to the first that `is_it`.
    pub async fn hear_until(
        &self,
        what: &str,
        is_it: impl Fn(&Notification) -> bool,
    ) -> Vec<Notification> {
        let mut heard = Vec::new();
        let all = async {
            while !heard.last().is_some_and(&is_it) {
                heard.push(self.hear().await);
            }
        };
        within(&format!("{what} is sent to systemd"), NOTICE_TIMEOUT, all).await;
        heard
    }

    pub async fn ready(&self) -> Vec<Notification> {
        self.hear_until("READY", |message| message.has("READY=1")).await
    }
}
