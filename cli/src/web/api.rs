//! The requests of the page.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, stream};
use presenced_client::Error;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::demo::{Action, Demo};
use super::guard::refuse;
use crate::commands::check::Check;
use crate::condition;
use crate::failure::Failure;
use crate::live::Live;
use crate::session::{Door, Session};

/// The state that the handlers share.
#[derive(Clone)]
pub struct Page {
    pub door: Arc<Door>,
    pub live: Arc<Live>,
    pub session: Arc<Session>,
    pub write: bool,
    pub demo: Option<Arc<Demo>>,
}

/// A failure as the page shows it.
pub struct Refused(Failure);

impl<F: Into<Failure>> From<F> for Refused {
    fn from(failure: F) -> Self {
        Self(failure.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match &self.0 {
            Failure::Usage(_) | Failure::Presence(Error::Refused { .. }) => StatusCode::BAD_REQUEST,
            _ => StatusCode::BAD_GATEWAY,
        };
        (status, Json(json!({"error": self.0.to_string()}))).into_response()
    }
}

type Answer = Result<Json<Value>, Refused>;

impl Page {
    async fn ask(&self, operation: &str, body: Value) -> Answer {
        let asked = self.door.request(operation, &body).await;
        asked.map(Json).map_err(|error| Refused(self.session.explain(error.into())))
    }
}

pub async fn overview(State(page): State<Page>) -> Json<Value> {
    let findings = Check::default().findings(&page.session).await;
    let alerts: Vec<Value> = findings
        .problems
        .iter()
        .map(|(level, text)| json!({"level": level.name(), "text": text}))
        .collect();
    let picture = page.live.picture();
    let online: Vec<_> = picture.online.iter().map(|point| (point.at_ms, point.online)).collect();
    let changes: Vec<&Value> = picture.changes.iter().map(|change| &**change).collect();
    Json(json!({
        "online": online,
        "online_now": picture.online_now,
        "known": picture.known,
        "channels": picture.channels,
        "rate": picture.rate(),
        "changes": changes,
        "daemons": picture.daemons,
        "problem": picture.problem,
        "level": findings.level().name(),
        "alerts": alerts,
        "write": page.write,
        "demo": page.demo.as_ref().map(|demo| demo.players()),
    }))
}

/// Changes as they come. A reader that is too slow is told how many it missed.
pub async fn changes(
    State(page): State<Page>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let events = stream::unfold(page.live.changes(), |mut changes| async move {
        let event = match changes.recv().await {
            Ok(change) => Event::default().event("change").data(change.to_string()),
            Err(RecvError::Lagged(missed)) => {
                Event::default().event("missed").data(missed.to_string())
            }
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(event), changes))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

#[derive(Deserialize)]
pub struct Search {
    /// Conditions with " and " between them, or a JSON filter.
    #[serde(default)]
    q: String,
    #[serde(default)]
    sort: String,
}

impl Search {
    fn body(&self, limit: u32) -> Result<Value, Failure> {
        let text = self.q.trim();
        let conditions: Vec<String> = match text {
            "" => Vec::new(),
            json if json.starts_with('{') => vec![json.to_owned()],
            text => text.split(" and ").map(str::to_owned).collect(),
        };
        let mut body = json!({"limit": limit, "presence": true});
        body["filter"] = condition::filter(&conditions)?;
        if !self.sort.is_empty() {
            body["sort"] = condition::sort(&self.sort)?;
        }
        Ok(body)
    }
}

pub async fn users(State(page): State<Page>, Query(search): Query<Search>) -> Answer {
    let body = search.body(100)?;
    let counted = json!({"filter": body["filter"], "presence": true});
    let Json(mut answer) = page.ask("query_users", body).await?;
    let Json(count) = page.ask("count_users", counted).await?;
    answer["count"] = count["count"].clone();
    Ok(Json(answer))
}

pub async fn channels(State(page): State<Page>, Query(search): Query<Search>) -> Answer {
    let mut body = search.body(30)?;
    body["online_count"] = true.into();
    page.ask("query_channels", body).await
}

#[derive(Deserialize)]
pub struct Named {
    id: String,
}

/// A user as others see it, and why.
pub async fn user(State(page): State<Page>, Query(named): Query<Named>) -> Answer {
    let Json(explained) = page.ask("explain", json!({"user_id": named.id})).await?;
    let body = json!({"filter": {"id": named.id}, "limit": 1, "presence": true});
    let Json(found) = page.ask("query_users", body).await?;
    Ok(Json(json!({"user": found["users"][0], "explain": explained, "write": page.write})))
}

const READ_ONLY: &str = "the page only reads: start it with --write";

/// Changes one user.
pub async fn set(State(page): State<Page>, Json(user): Json<Map<String, Value>>) -> Response {
    if !page.write {
        return refuse(READ_ONLY);
    }
    page.ask("upsert_users", json!({"users": [user]})).await.into_response()
}

/// Deletes one user.
pub async fn delete(State(page): State<Page>, Json(named): Json<Named>) -> Response {
    if !page.write {
        return refuse(READ_ONLY);
    }
    page.ask("delete_users", json!({"ids": [named.id]})).await.into_response()
}

#[derive(Deserialize)]
pub struct Play {
    id: String,
    action: Action,
}

/// Has a lively user do something.
pub async fn demo(State(page): State<Page>, Json(play): Json<Play>) -> Response {
    let Some(demo) = page.demo.as_ref().filter(|_| page.write) else { return refuse(READ_ONLY) };
    let done: Answer = match demo.play(&play.id, play.action).await {
        Ok(()) => Ok(Json(json!({"demo": demo.players()}))),
        Err(error) => Err(error.into()),
    };
    done.into_response()
}
