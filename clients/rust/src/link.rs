//! The borrowed connection to NATS: its state, and requests with their retries.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Message, Request, RequestErrorKind, Subscriber};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::error::Error;
use crate::id::Id;
use crate::retry;
use crate::signals::{Signal, Signals};
use crate::suspend::{self, Suspends};

/// The interval at which the state of the connection is polled: async-nats has no other public way.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// The interval at which a ping's answer is looked for.
const PING_LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// A call into async-nats that blocks so long is given up: its queue is full.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// The reachability of NATS, and the connection over which it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub up: bool,
    /// The number of times the connection was made; another number means that requests were lost.
    pub connects: u64,
    /// The number of suspensions of the machine, after which all is to be asked for again.
    suspends: u64,
}

/// One door to the service over a borrowed connection.
#[derive(Debug)]
pub(crate) struct Link {
    nats: Client,
    prefix: String,
    events: String,
    user: Option<Id>,
    /// The time for which a request is repeated.
    deadline: Duration,
    signals: Signals,
    state: watch::Sender<LinkState>,
    /// The client of NATS has ended for good: it was drained, or gave up.
    ended: AtomicBool,
    malformed: AtomicU64,
    suspends: Mutex<Suspends>,
}

impl Link {
    pub fn new(
        nats: Client,
        prefix: &str,
        events: &str,
        user: Option<Id>,
        deadline: Duration,
        signals: Signals,
    ) -> Arc<Self> {
        let mut suspends = Suspends::default();
        let state = watch::Sender::new(look(&nats, false, suspends.on_look(suspend::total())));
        let suspends = Mutex::new(suspends);
        let (ended, malformed) = (AtomicBool::new(false), AtomicU64::new(0));
        let (prefix, events) = (format!("{prefix}.v1"), events.to_owned());
        Arc::new(Self {
            nats,
            prefix,
            events,
            user,
            deadline,
            signals,
            state,
            ended,
            malformed,
            suspends,
        })
    }

    pub fn user(&self) -> Option<&Id> {
        self.user.as_ref()
    }

    pub fn signals(&self) -> &Signals {
        &self.signals
    }

    /// The number of bytes that the connection has received, of whatever kind.
    pub fn received(&self) -> u64 {
        self.nats.statistics().in_bytes.load(Ordering::Relaxed)
    }

    /// Has NATS itself send something, if the link lives.
    ///
    /// async-nats has no ping of its own; to drain a subscription it sends one, and the answer
    /// counts as received.
    async fn ping(&self) {
        let ping = async {
            match self.nats.subscribe(self.nats.new_inbox()).await {
                // A message that is not sent is not answered.
                Ok(mut subscriber) => drop(subscriber.drain().await),
                Err(_) => self.on_ended(),
            }
        };
        let _ = timeout(CALL_TIMEOUT, ping).await;
    }

    /// Returns whether NATS answers one of two pings.
    pub async fn answers(&self) -> bool {
        for _ in 0..2 {
            let received = self.received();
            self.ping().await;
            let deadline = Instant::now() + retry::TRY;
            while Instant::now() < deadline {
                sleep(PING_LOOK_INTERVAL).await;
                if self.received() != received {
                    return true;
                }
            }
        }
        false
    }

    /// Asks by a heartbeat, and NATS itself beside the service if `doubtful`. Says besides whether
    /// NATS sent anything since.
    pub async fn beat(&self, body: &Value, doubtful: bool) -> (Result<Value, Error>, bool) {
        let received = self.received();
        if doubtful {
            self.ping().await;
        }
        let result = self.ask_now("heartbeat", body).await;
        (result, self.received() != received)
    }

    /// Looks at the connection, and tells those who wait for a change.
    pub fn look(&self) -> LinkState {
        let suspends =
            self.suspends.lock().unwrap_or_else(PoisonError::into_inner).on_look(suspend::total());
        let now = look(&self.nats, self.has_ended(), suspends);
        self.state.send_if_modified(|state| std::mem::replace(state, now) != now);
        now
    }

    pub fn states(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    pub fn subject(&self, operation: &str) -> String {
        match &self.user {
            None => format!("{}.{operation}", self.prefix),
            Some(user) => format!("{}.{operation}.{}", self.prefix, user.token()),
        }
    }

    pub fn event_subject(&self, user: &Id) -> String {
        format!("{}.{}", self.events, user.token())
    }

    /// The events of all users.
    pub fn all_events_subject(&self) -> String {
        format!("{}.*", self.events)
    }

    pub async fn subscribe(&self, subject: String) -> Result<Subscriber, Error> {
        let down = Error::Disconnected { may_have_applied: false };
        match timeout(CALL_TIMEOUT, self.nats.subscribe(subject)).await {
            Ok(Ok(subscriber)) => Ok(subscriber),
            Ok(Err(_)) => {
                self.on_ended();
                Err(Error::Closed)
            }
            Err(_) => Err(down),
        }
    }

    /// Publishes without asking for an answer, if the link is up.
    pub async fn tell(&self, operation: &str, body: &Value) {
        if self.look().up {
            let publish = self.nats.publish(self.subject(operation), body.to_string().into());
            // A heartbeat that is not heard is noticed by the answers that are asked for.
            let _ = timeout(CALL_TIMEOUT, publish).await;
        }
    }

    /// Has async-nats leave a connection that claims to be up and is not, unless it was made again
    /// meanwhile.
    pub async fn abandon(&self, dead: LinkState) {
        if self.look() != dead {
            return;
        }
        let _ = timeout(CALL_TIMEOUT, self.nats.force_reconnect()).await;
    }

    /// Asks, and repeats what may succeed later, until the deadline.
    pub async fn ask(&self, operation: &str, body: &Value) -> Result<Value, Error> {
        self.ask_within(operation, body, self.deadline).await
    }

    pub async fn ask_within(
        &self,
        operation: &str,
        body: &Value,
        patience: Duration,
    ) -> Result<Value, Error> {
        let deadline = Instant::now() + patience;
        let (mut failed, mut may_have_applied) = (0, false);
        let mut last: Option<Error> = None;
        loop {
            let tried = tokio::select! {
                tried = self.ask_once(operation, body) => tried,
                // A try that the deadline cuts short hides no cause that is known already.
                () = sleep_until(deadline) => Err(match last.take() {
                    Some(error) => error.after(true),
                    None => self.unanswered(operation),
                }),
            };
            let error = match tried {
                Ok(answer) => return Ok(answer),
                Err(error) => error.after(may_have_applied),
            };
            may_have_applied |= error.may_have_applied();
            failed += 1;
            let wait = retry::wait(&error, failed);
            if !error.is_retryable() || Instant::now() + wait >= deadline {
                return Err(error);
            }
            last = Some(error);
            sleep(wait).await;
        }
    }

    /// The reason why nothing is sent now.
    pub fn down(&self) -> Error {
        if self.has_ended() {
            return Error::Closed;
        }
        Error::Disconnected { may_have_applied: false }
    }

    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// The client of NATS has ended for good.
    pub fn on_ended(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.look();
    }

    /// The number of answers that could not be read.
    pub fn malformed(&self) -> u64 {
        self.malformed.load(Ordering::Relaxed)
    }

    /// Counts an answer that could not be read.
    pub fn count(&self, error: &Error) {
        if matches!(error, Error::Malformed(_)) {
            self.malformed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn unanswered(&self, operation: &str) -> Error {
        if self.look().up {
            Error::NoAnswer { subject: self.subject(operation) }
        } else {
            self.down()
        }
    }

    /// Returns when the link is up.
    pub async fn up(&self) -> Result<(), Error> {
        let mut states = self.states();
        let settled = states.wait_for(|state| state.up || self.has_ended()).await;
        let is_up = settled.map_err(|_| Error::Closed)?.up;
        if is_up { Ok(()) } else { Err(Error::Closed) }
    }

    /// One try: waits for the link, and sends.
    pub async fn ask_once(&self, operation: &str, body: &Value) -> Result<Value, Error> {
        self.up().await?;
        self.ask_now(operation, body).await
    }

    /// Sends over the link as it is, and fails at once when it is down, breaks, or NATS refuses.
    pub async fn ask_now(&self, operation: &str, body: &Value) -> Result<Value, Error> {
        let mut states = self.states();
        let sent_over = self.look();
        if !sent_over.up {
            return Err(self.down());
        }
        let subject = self.subject(operation);
        let mut signals = self.signals.listen();
        let denied = async {
            loop {
                match signals.recv().await {
                    Ok(Signal::Denied(denied)) if denied == subject => return,
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => {
                        std::future::pending::<()>().await;
                    }
                    _ => {}
                }
            }
        };
        let request = Request::new().payload(body.to_string().into()).timeout(Some(retry::TRY));
        let answer = tokio::select! {
            answer = self.nats.send_request(subject.clone(), request) => answer,
            _ = states.wait_for(|state| *state != sent_over) => {
                return Err(Error::Disconnected { may_have_applied: true });
            }
            () = denied => {
                return Err(Error::Permission { subject, may_have_applied: false });
            }
        };
        if matches!(&answer, Err(error) if error.kind() == RequestErrorKind::Other) {
            // Finds out whether the client of NATS has ended.
            self.ping().await;
        }
        match answer {
            Ok(message) => read(&message).inspect_err(|error| self.count(error)),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::TimedOut => Error::NoAnswer { subject },
                RequestErrorKind::NoResponders => {
                    Error::NoDaemon { subject, may_have_applied: false }
                }
                RequestErrorKind::MaxPayloadExceeded => {
                    Error::invalid("too_large", "the request exceeds NATS' `max_payload`")
                }
                RequestErrorKind::InvalidSubject => {
                    Error::invalid("invalid_request", "the prefix is no subject")
                }
                RequestErrorKind::Other if self.has_ended() => Error::Closed,
                RequestErrorKind::Other => Error::Disconnected { may_have_applied: true },
            }),
        }
    }
}

fn look(nats: &Client, ended: bool, suspends: u64) -> LinkState {
    let connects = nats.statistics().connects.load(Ordering::Relaxed);
    // A client that was drained says for ever that it is connected.
    LinkState { up: !ended && nats.connection_state() == State::Connected, connects, suspends }
}

/// Reads an answer: an object, or an error.
fn read(message: &Message) -> Result<Value, Error> {
    let status =
        message.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error-Code"));
    let status = status.and_then(|status| status.as_str().parse().ok());
    parse(status, &message.payload)
}

pub(crate) fn parse(status: Option<u16>, payload: &[u8]) -> Result<Value, Error> {
    let body: Value =
        serde_json::from_slice(payload).map_err(|error| Error::Malformed(error.to_string()))?;
    match body.get("error") {
        Some(error) if error.is_object() => Err(Error::of_reply(status, error)),
        _ if status.is_some() => Err(Error::of_reply(status, &Value::Null)),
        _ if body.is_object() => Ok(body),
        _ => Err(Error::Malformed("an answer is an object".to_owned())),
    }
}

/// Waits until a moment, or for ever.
pub(crate) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A part of an answer as its type.
pub(crate) fn part<T: serde::de::DeserializeOwned>(
    answer: &mut Value,
    name: &str,
) -> Result<T, Error> {
    let part = answer.get_mut(name).map(Value::take).unwrap_or_default();
    serde_json::from_value(part).map_err(|error| Error::Malformed(format!("`{name}`: {error}")))
}
