//! A WebSocket gateway: each socket is a seat of one lease, and has a watch of its own.
//!
//! `GET /ws?user=john&watch=jack,jill` opens a socket. The gateway sends text frames of JSON:
//! `{"state":"live"}` and other states, and `{"type":"user.presence.changed","user":{…}}`. It takes
//! `{"status":"…"}` and `{"watch":"jane"}`. A real gateway takes the user from the login, not from
//! the address.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::get;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use presenced_client::{Change, Error, Lease, Patch, Seat, Service, Watch, WatchState};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Interval, interval, timeout};

/// The interval at which a socket is pinged. One that answers two pings in a row with nothing is
/// dead: a phone that loses its network sends no end.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// The time for which a frame may wait for a client that does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// The wishes of a client that may wait for the service.
const MAX_WISHES: usize = 16;

/// The state that all sockets share.
pub struct Gateway {
    presence: Service,
    lease: Lease,
    ping_interval: Duration,
}

impl Gateway {
    /// A gateway over a connection to NATS. The name begins that of its lease.
    pub fn new(presence: Service, name: &str) -> Result<Arc<Self>, Error> {
        Self::with_pings(presence, name, PING_INTERVAL)
    }

    /// The same, with sockets that are pinged at this interval.
    ///
    /// # Errors
    /// As [`Gateway::new`].
    pub fn with_pings(
        presence: Service,
        name: &str,
        ping_interval: Duration,
    ) -> Result<Arc<Self>, Error> {
        let lease = presence.lease(name)?;
        Ok(Arc::new(Self { presence, lease, ping_interval }))
    }

    /// The routes to serve.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new().route("/ws", get(open)).with_state(self.clone())
    }

    /// Ends before a planned restart: the users stay online for a lease, in which they come back to
    /// the next gateway.
    ///
    /// # Errors
    /// An error is returned if the service did not confirm it. The lease lapses then, which shows
    /// nobody offline sooner.
    pub async fn hand_over(&self) -> Result<(), Error> {
        self.lease.hand_over().await
    }
}

/// The user who opens a socket, and the users to watch.
#[derive(Deserialize)]
struct Opened {
    user: String,
    /// Ids with commas between.
    #[serde(default)]
    watch: String,
}

async fn open(
    State(gateway): State<Arc<Gateway>>,
    Query(opened): Query<Opened>,
    upgrade: WebSocketUpgrade,
) -> Response {
    upgrade.max_message_size(16 * 1024).on_upgrade(move |socket| serve(gateway, opened, socket))
}

async fn serve(gateway: Arc<Gateway>, opened: Opened, mut socket: WebSocket) {
    let mut early = VecDeque::new();
    // While NATS is away this waits; a socket that ends meanwhile gives its seat up.
    let seat = tokio::select! {
        seat = gateway.lease.connect(&opened.user, Patch::new()) => seat,
        () = ended(&mut socket, &mut early) => return,
    };
    let seat = match seat {
        Ok(seat) => seat,
        Err(error) => return refuse(&mut socket, &error).await,
    };
    let ids = opened.watch.split(',').filter(|id| !id.is_empty());
    match gateway.presence.watch(ids) {
        Ok(watch) => {
            let pings = interval(gateway.ping_interval);
            talk(&seat, watch, early, pings, &mut socket).await;
        }
        Err(error) => refuse(&mut socket, &error).await,
    }
    seat.close().await;
}

/// Keeps what the client sends, and returns when the socket ends.
async fn ended(socket: &mut WebSocket, early: &mut VecDeque<String>) {
    while let Some(Ok(message)) = socket.recv().await {
        match message {
            Message::Text(text) if early.len() < MAX_WISHES => early.push_back(text.to_string()),
            Message::Close(_) => return,
            _ => {}
        }
    }
}

/// Carries changes to the socket, and wishes from it, until it ends. A slow socket finds only the
/// newest state of each user.
async fn talk(
    seat: &Seat,
    mut watch: Watch,
    mut wishes: VecDeque<String>,
    mut pings: Interval,
    socket: &mut WebSocket,
) {
    let mut unanswered = 0;
    // They wait for the service beside the socket, not before it.
    let mut updates = FuturesUnordered::new();
    loop {
        while let Some(text) = wishes.pop_front() {
            let wish: Value = serde_json::from_str(&text).unwrap_or_default();
            let added = wish["watch"].as_str().map_or(Ok(()), |id| watch.add(id));
            if let Err(error) = added
                && !send(socket, &shown(&error)).await
            {
                return;
            }
            if let Some(status) = wish.get("status").filter(|_| updates.len() < MAX_WISHES) {
                updates.push(seat.update(Patch::new().status(status.as_str())));
            }
        }
        let goes_on = tokio::select! {
            Some(done) = updates.next() => match done {
                Ok(()) => true,
                Err(error) => send(socket, &shown(&error)).await,
            },
            _ = pings.tick() => {
                unanswered += 1;
                unanswered <= 2 && put(socket, Message::Ping(Default::default())).await
            }
            message = socket.recv() => {
                unanswered = 0;
                match message {
                    Some(Ok(Message::Text(text))) => {
                        wishes.push_back(text.to_string());
                        true
                    }
                    Some(Ok(Message::Close(_)) | Err(_)) | None => false,
                    Some(Ok(_)) => true,
                }
            }
            change = watch.next() => match change.as_ref().map(frame) {
                Some(Some(frame)) => send(socket, &frame).await,
                Some(None) => true,
                None => false,
            },
        };
        if !goes_on {
            return;
        }
    }
}

fn frame(change: &Change) -> Option<Value> {
    Some(match change {
        Change::User { id, now, .. } => {
            let gone = json!({"id": id, "online": false, "status": null});
            let user = now.as_ref().map_or(gone, |user| json!(**user));
            json!({"type": "user.presence.changed", "user": user})
        }
        Change::State(WatchState::Live) => json!({"state": "live"}),
        Change::State(WatchState::Degraded(why)) => json!({"state": "degraded", "why": why}),
        Change::State(WatchState::Stale(why)) => json!({"state": "stale", "why": why}),
        Change::State(WatchState::Denied(error)) => shown(error),
        _ => return None,
    })
}

fn shown(error: &Error) -> Value {
    json!({"error": {"code": error.code(), "message": error.to_string()}})
}

async fn refuse(socket: &mut WebSocket, error: &Error) {
    send(socket, &shown(error)).await;
}

async fn send(socket: &mut WebSocket, frame: &Value) -> bool {
    put(socket, Message::Text(frame.to_string().into())).await
}

async fn put(socket: &mut WebSocket, message: Message) -> bool {
    timeout(SEND_TIMEOUT, socket.send(message)).await.is_ok_and(|sent| sent.is_ok())
}
