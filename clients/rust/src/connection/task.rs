//! The task of a connection: connects, beats, and takes changes, for as long as the service lets
//! it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Command, ConnectionState, Device};
use crate::beat::Beat;
use crate::error::Error;
use crate::id::Id;
use crate::link::{Link, LinkState};
use crate::patch::Patch;
use crate::retry;
use crate::user::Seen;

/// How long a close tries to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

pub struct Task {
    pub link: Arc<Link>,
    pub user: Id,
    pub id: Id,
    /// What the service has not acknowledged.
    pub pending: Patch,
    pub device: Device,
    /// The defaults that the application gave.
    pub given: Map<String, Value>,
    /// What a record that is gone would forget.
    pub remembered: Map<String, Value>,
    pub waiting: Vec<oneshot::Sender<Result<(), Error>>>,
    pub interval: Duration,
    pub state: watch::Sender<ConnectionState>,
    pub me: watch::Sender<Option<Arc<Seen>>>,
}

/// Why a connection is to be made again, or not.
enum End {
    Again,
    Refused(Error),
}

impl Task {
    pub async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        mut closing: watch::Receiver<bool>,
    ) {
        let mut asked_to_wait = true;
        let error = tokio::select! {
            error = self.live(&mut commands) => Some(error),
            closed = closing.wait_for(|closing| *closing) => {
                // A handle that was dropped does not wait, so neither does the task.
                asked_to_wait = closed.is_ok();
                None
            }
        };
        if error.is_none() {
            let body = self.named(json!({"connection_id": self.id}));
            if asked_to_wait {
                let goodbye = self.link.ask_within("disconnect", &body, GOODBYE);
                // What is not heard is ended by the lease.
                let _ = timeout(GOODBYE, goodbye).await;
            } else {
                self.link.tell("disconnect", &body).await;
            }
        }
        self.state.send_replace(ConnectionState::Closed(error));
    }

    /// Lives until the service refuses it.
    async fn live(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> Error {
        loop {
            if let Err(error) = self.connect(commands).await {
                return error;
            }
            match self.beat(commands).await {
                End::Again => {
                    self.state.send_replace(ConnectionState::Interrupted);
                }
                End::Refused(error) => return error,
            }
        }
    }

    fn named(&self, mut body: Value) -> Value {
        if self.link.user().is_none() {
            body["user_id"] = self.user.as_str().into();
        }
        body
    }

    /// Connects, for as long as it takes. An error is a refusal.
    async fn connect(
        &mut self,
        commands: &mut mpsc::UnboundedReceiver<Command>,
    ) -> Result<(), Error> {
        let mut failed = 0;
        loop {
            // Changes that are made while NATS is away ride in the connect: a user who became
            // invisible meanwhile is not shown for a moment.
            self.link.up().await?;
            self.take(commands);
            let sent = self.pending.clone();
            let mut user = sent.fields();
            user.insert("id".to_owned(), self.user.as_str().into());
            let mut body = json!({"user": user, "connection_id": self.id});
            self.device.put(&mut body);
            let defaults: Map<_, _> =
                self.given.clone().into_iter().chain(self.remembered.clone()).collect();
            if !defaults.is_empty() {
                body["defaults"] = Value::Object(defaults);
            }
            match self.link.ask_now("connect", &body).await {
                Ok(answer) => {
                    self.acknowledge(&sent, &answer, "me");
                    self.state.send_replace(ConnectionState::Online);
                    return Ok(());
                }
                Err(error) if error.is_retryable() => {
                    failed += 1;
                    sleep(retry::wait(&error, failed)).await;
                }
                Err(error) if self.waiting.is_empty() => return Err(error),
                // The fault may lie in the changes that ride along: it goes on without them.
                Err(error) => {
                    self.pending = Patch::new();
                    self.answer(&Err(error));
                }
            }
        }
    }

    /// Takes the changes that were asked for meanwhile, so that they ride in the connect.
    fn take(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) {
        while let Ok(command) = commands.try_recv() {
            match command {
                Command::Update(patch, reply) => {
                    self.pending.merge(patch);
                    self.waiting.push(reply);
                }
                Command::Device(device, reply) => {
                    self.device = device;
                    self.waiting.push(reply);
                }
            }
        }
    }

    fn acknowledge(&mut self, sent: &Patch, answer: &Value, part: &str) {
        self.pending.acknowledge(sent);
        if let Some(ms) = answer["heartbeat"]["interval_ms"].as_u64() {
            self.interval = Duration::from_millis(ms.max(50));
        }
        if let Some(me) = answer[part].as_object() {
            self.remembered = Patch::defaults_from(me);
            if let Ok(me) = serde_json::from_value(Value::Object(me.clone())) {
                self.me.send_replace(Some(Arc::new(me)));
            }
        }
        if self.pending.is_empty() {
            self.answer(&Ok(()));
        }
    }

    fn answer(&mut self, result: &Result<(), Error>) {
        for waiting in self.waiting.drain(..) {
            // A caller that no longer waits needs no answer.
            let _ = waiting.send(result.clone());
        }
    }

    /// Beats and takes commands, until the connection has to be made again.
    async fn beat(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> End {
        let mut states = self.link.states();
        let connected = *states.borrow();
        if !connected.up {
            return End::Again;
        }
        let mut beat = Beat::new(self.interval, false, Instant::now());
        loop {
            tokio::select! {
                () = left(&mut states, connected) => return End::Again,
                () = sleep_until(beat.due()) => {
                    beat.set_interval(self.interval);
                    if let Some(end) = self.send_beat(&mut beat).await {
                        return end;
                    }
                }
                Some(command) = commands.recv() => {
                    if !self.on_command(command).await {
                        return End::Again;
                    }
                }
            }
        }
    }

    async fn send_beat(&mut self, beat: &mut Beat) -> Option<End> {
        let body = self.named(json!({"connection_id": self.id}));
        if !beat.on_sent(Instant::now()) {
            self.link.tell("heartbeat", &body).await;
            return None;
        }
        match self.link.ask_once("heartbeat", &body).await {
            Ok(answer) => {
                beat.on_answer();
                self.acknowledge(&Patch::new(), &answer, "me");
                let unknown = answer["unknown"].as_array().is_some_and(|all| !all.is_empty());
                unknown.then_some(End::Again)
            }
            Err(Error::NoAnswer { .. }) => {
                if beat.on_silence(Instant::now()) {
                    self.link.abandon().await;
                    return Some(End::Again);
                }
                None
            }
            Err(error) if error.is_retryable() => {
                beat.on_answer();
                None
            }
            Err(error) => Some(End::Refused(error)),
        }
    }

    /// Whether the connection is as it was.
    async fn on_command(&mut self, command: Command) -> bool {
        match command {
            Command::Update(patch, reply) => {
                self.pending.merge(patch);
                self.waiting.push(reply);
                self.update().await
            }
            Command::Device(device, reply) => {
                let mut body = self.named(json!({"connection_id": self.id, "idle": device.idle}));
                if let Some(kind) = &device.kind {
                    body["device"] = kind.as_str().into();
                }
                let answer = self.link.ask("update_connection", &body).await;
                let known = answer
                    .as_ref()
                    .map_or(true, |answer| answer["unknown"].as_array().is_none_or(Vec::is_empty));
                match &answer {
                    Err(error) if !error.is_retryable() => {}
                    // What was not acknowledged rides in the next connect.
                    _ => self.device = device,
                }
                let _ = reply.send(answer.map(|_| ()));
                known
            }
        }
    }

    async fn update(&mut self) -> bool {
        let sent = self.pending.clone();
        if sent.is_empty() {
            self.answer(&Ok(()));
            return true;
        }
        let mut user = sent.fields();
        user.insert("id".to_owned(), self.user.as_str().into());
        match self.link.ask_once("upsert_users", &json!({"users": [user]})).await {
            Ok(answer) => {
                let user = json!({"me": answer["users"][self.user.as_str()]});
                self.acknowledge(&sent, &user, "me");
                true
            }
            // It rides in the connect that follows.
            Err(error) if error.is_retryable() => false,
            Err(error) => {
                self.pending = Patch::new();
                self.answer(&Err(error));
                true
            }
        }
    }
}

/// Returns when the link is no longer the one that is `known`.
async fn left(states: &mut watch::Receiver<LinkState>, known: LinkState) {
    // An error says that the hub has ended, and with it all that is to be kept alive.
    let _ = states.wait_for(|state| *state != known).await;
}
