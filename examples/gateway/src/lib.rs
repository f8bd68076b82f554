//! A WebSocket gateway: each socket is a seat of one lease, and has a watch of its own.
//!
//! `GET /ws?user=john&watch=jack,jill` opens a socket. The gateway sends text frames of JSON:
//! `{"state":"live"}` and other states, and `{"type":"user.presence.changed","user":{…}}`. It takes
//! `{"status":"…"}` and `{"watch":"jane"}`. A real gateway takes the user from the login, not from
//! the address.

use std::sync::Arc;

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::get;
use futures_util::StreamExt;
use presenced_client::{Change, Error, Lease, Patch, Seat, Service, Watch, WatchState};
use serde::Deserialize;
use serde_json::{Value, json};

/// What all sockets share.
pub struct Gateway {
    presence: Service,
    lease: Lease,
}

impl Gateway {
    /// A gateway over a connection to NATS. The name begins that of its lease.
    pub fn new(presence: Service, name: &str) -> Result<Arc<Self>, Error> {
        let lease = presence.lease(name)?;
        Ok(Arc::new(Self { presence, lease }))
    }

    /// The routes to serve.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new().route("/ws", get(open)).with_state(self.clone())
    }
}

/// Who opens a socket, and whom to watch.
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
    let seat = match gateway.lease.connect(&opened.user, Patch::new()).await {
        Ok(seat) => seat,
        Err(error) => return refuse(&mut socket, &error).await,
    };
    let ids = opened.watch.split(',').filter(|id| !id.is_empty());
    match gateway.presence.watch(ids) {
        Ok(watch) => talk(&seat, watch, &mut socket).await,
        Err(error) => refuse(&mut socket, &error).await,
    }
    seat.close().await;
}

/// Carries changes to the socket, and wishes from it, until it ends. A slow socket finds only the
/// newest state of each user.
async fn talk(seat: &Seat, mut watch: Watch, socket: &mut WebSocket) {
    loop {
        let sent = tokio::select! {
            change = watch.next() => match change.as_ref().map(frame) {
                Some(Some(frame)) => send(socket, &frame).await,
                Some(None) => true,
                None => return,
            },
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => match wish(seat, &watch, &text).await {
                    Ok(()) => true,
                    Err(error) => send(socket, &shown(&error)).await,
                },
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => true,
            },
        };
        if !sent {
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
        Change::State(WatchState::Stale(why)) => json!({"state": "stale", "why": why}),
        Change::State(WatchState::Denied(error)) => shown(error),
        _ => return None,
    })
}

async fn wish(seat: &Seat, watch: &Watch, text: &str) -> Result<(), Error> {
    let wish: Value = serde_json::from_str(text).unwrap_or_default();
    if let Some(id) = wish["watch"].as_str() {
        watch.add(id)?;
    }
    match wish.get("status") {
        Some(status) => seat.update(Patch::new().status(status.as_str())).await,
        None => Ok(()),
    }
}

fn shown(error: &Error) -> Value {
    json!({"error": {"code": error.code(), "message": error.to_string()}})
}

async fn refuse(socket: &mut WebSocket, error: &Error) {
    send(socket, &shown(error)).await;
}

async fn send(socket: &mut WebSocket, frame: &Value) -> bool {
    socket.send(Message::Text(frame.to_string().into())).await.is_ok()
}
