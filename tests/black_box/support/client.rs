//! A client of the service, which holds every answer to the protocol.

use std::time::Duration;

use async_nats::Message;
use serde_json::{Value, json};

use super::Server;
use super::wait::{keys, within};

/// A request that has no answer after so long will have none.
pub const UNANSWERED: Duration = Duration::from_secs(8);

/// The errors of the protocol and their statuses.
const CODES: [(&str, u16); 14] = [
    ("invalid_request", 400),
    ("invalid_id", 400),
    ("invalid_filter", 400),
    ("invalid_sort", 400),
    ("too_many_users", 400),
    ("limit_exceeded", 400),
    ("identity_mismatch", 403),
    ("forbidden_field", 403),
    ("user_not_found", 404),
    ("channel_not_found", 404),
    ("contended", 409),
    ("too_large", 413),
    ("overloaded", 429),
    ("unavailable", 503),
];

#[derive(Clone)]
pub struct Client {
    pub nats: async_nats::Client,
    /// The request prefix with its version.
    prefix: String,
    /// The user whose client this is; a trusted service has none.
    user: Option<String>,
}

/// An error reply.
#[derive(Debug, Clone)]
pub struct Refused {
    pub status: u16,
    pub code: String,
    pub message: String,
    /// Boxed, since an error is large beside an answer.
    pub details: Box<Value>,
}

impl Client {
    /// A trusted service.
    pub async fn connect(server: &Server) -> Self {
        Self::trusted(server.connect().await, "presence")
    }

    pub fn trusted(nats: async_nats::Client, prefix: &str) -> Self {
        Self { nats, prefix: format!("{prefix}.v1"), user: None }
    }

    /// The client of one user, over the same connection: the second door.
    pub fn of(&self, user: &str) -> Self {
        Self { user: Some(token(user)), ..self.clone() }
    }

    pub fn subject(&self, operation: &str) -> String {
        let Self { prefix, user, .. } = self;
        match user {
            None => format!("{prefix}.{operation}"),
            Some(user) => format!("{prefix}.{operation}.{user}"),
        }
    }

    /// Asks, and waits for the one answer.
    pub async fn ask(&self, operation: &str, body: Value) -> Result<Value, Refused> {
        read(&self.raw(self.subject(operation), body.to_string().into_bytes()).await)
    }

    /// Asks for something that must be done.
    pub async fn get(&self, operation: &str, body: Value) -> Value {
        let shown = body.to_string();
        let answer = self.ask(operation, body).await;
        answer.unwrap_or_else(|refused| panic!("{operation} {shown}: {refused:?}"))
    }

    /// Asks for something that must be refused.
    pub async fn refused(&self, operation: &str, body: Value) -> Refused {
        let shown = body.to_string();
        match self.ask(operation, body).await {
            Ok(answer) => panic!("{operation} {shown} was not refused: {answer}"),
            Err(refused) => refused,
        }
    }

    /// Any bytes to any subject.
    pub async fn raw(&self, subject: String, body: Vec<u8>) -> Message {
        let request = async_nats::Request::new().payload(body.into()).timeout(None);
        let what = format!("an answer to {subject}");
        let answer = self.nats.send_request(subject, request);
        within(&what, UNANSWERED, answer).await.unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// Asks while daemons come and go; `None` if no answer came within `bound`.
    pub async fn attempt(
        &self,
        operation: &str,
        body: Value,
        bound: Duration,
    ) -> Option<Result<Value, Refused>> {
        let body = body.to_string().into_bytes();
        let request = async_nats::Request::new().payload(body.into()).timeout(Some(bound));
        let answer = self.nats.send_request(self.subject(operation), request).await;
        answer.ok().map(|answer| read(&answer))
    }

    /// Waits until the server has dealt with all that this connection sent before.
    pub async fn settle(&self) {
        barrier(&self.nats).await;
    }

    pub async fn connect_user(&self, user: &str, connection: &str) -> Value {
        self.get("connect", json!({"user": {"id": user}, "connection_id": connection})).await
    }

    pub async fn disconnect(&self, user: &str, connection: &str) -> Value {
        self.get("disconnect", json!({"user_id": user, "connection_id": connection})).await
    }

    pub async fn upsert(&self, user: Value) -> Value {
        self.get("upsert_users", json!({"users": [user]})).await
    }

    /// All users with these ids as others see them, freshly read.
    pub async fn see_all(&self, ids: &[&str]) -> Vec<Value> {
        self.query(json!({"filter": {"id": {"$in": ids}}, "presence": true, "limit": 100})).await
    }

    /// The user as others see it, freshly read.
    pub async fn see(&self, id: &str) -> Option<Value> {
        self.see_all(&[id]).await.pop()
    }

    /// The user as it sees itself, freshly read.
    pub async fn see_as(&self, id: &str, viewer: &str) -> Option<Value> {
        self.query(json!({"filter": {"id": id}, "presence": true, "as": viewer})).await.pop()
    }

    pub async fn query(&self, body: Value) -> Vec<Value> {
        match self.get("query_users", body).await["users"].take() {
            Value::Array(users) => users,
            other => panic!("no users: {other}"),
        }
    }
}

/// The content of an answer, if it is one of the protocol.
pub fn read(answer: &Message) -> Result<Value, Refused> {
    let text = String::from_utf8_lossy(&answer.payload);
    let body: Value = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("an answer that is no JSON ({error}): {text:?}"));
    let header = |name: &str| answer.headers.as_ref()?.get(name).map(|value| value.as_str());
    let (line, number) = (header("Nats-Service-Error"), header("Nats-Service-Error-Code"));
    let (Some(line), Some(number)) = (line, number) else {
        assert_eq!((line, number), (None, None), "half an error: {text}");
        assert!(body.get("error").is_none(), "an error without headers: {text}");
        return Ok(body);
    };
    assert!(!line.is_empty() && !line.contains(['\r', '\n']), "no line: {line:?}");
    assert_eq!(keys(&body), ["error"].into(), "{text}");
    let refused = Refused::read(&body["error"]);
    assert_eq!(number, refused.status.to_string(), "{text}");
    Err(refused)
}

impl Refused {
    /// Reads the object that describes an error.
    pub fn read(error: &Value) -> Self {
        assert_eq!(keys(error), ["code", "details", "message"].into(), "{error}");
        let code = error["code"].as_str().unwrap().to_owned();
        let status = CODES.iter().find(|(name, _)| *name == code);
        let status = status.unwrap_or_else(|| panic!("a code that is none: {error}")).1;
        let message = error["message"].as_str().unwrap().to_owned();
        assert!(!message.is_empty(), "{error}");
        let details = Box::new(error["details"].clone());
        assert!(details.is_object(), "{error}");
        if status == 429 || status == 503 {
            assert!(details["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{error}");
        }
        Self { status, code, message, details }
    }

    /// The code, and the field at fault if one is named.
    pub fn what(&self) -> (&str, Option<&str>) {
        (&self.code, self.details["field"].as_str())
    }
}

/// An id as one token of a subject.
pub fn token(id: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => char::from(byte).to_string(),
        _ => format!("={byte:02X}"),
    };
    id.bytes().map(byte).collect()
}

/// Waits until the server has dealt with all that a connection sent before.
pub async fn barrier(nats: &async_nats::Client) {
    use futures_util::StreamExt;
    let inbox = nats.new_inbox();
    let mut back = nats.subscribe(inbox.clone()).await.unwrap();
    nats.publish(inbox, Vec::new().into()).await.unwrap();
    within("a message to ourselves", UNANSWERED, back.next()).await.unwrap();
}
