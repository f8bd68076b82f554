//! The task of a connection: connects, beats, and takes changes, for as long as the service lets
//! it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};

use super::{Command, ConnectionState, Device};
use crate::beat::{Beat, Silence};
use crate::error::Error;
use crate::hub::{self, HubHandle};
use crate::id::Id;
use crate::link::{Link, LinkState, until};
use crate::patch::Patch;
use crate::retry;
use crate::standing::Standing;
use crate::user::Seen;

pub struct Task {
    pub link: Arc<Link>,
    pub user: Id,
    pub id: Id,
    /// The changes that the service has not acknowledged.
    pub pending: Patch,
    pub device: Device,
    /// The defaults that the application gave.
    pub given: Map<String, Value>,
    /// The fields that would be lost with the record.
    pub remembered: Map<String, Value>,
    /// The service holds the connection, or may hold it.
    pub held: bool,
    pub waiting: Vec<oneshot::Sender<Result<(), Error>>>,
    pub interval: Duration,
    pub state: watch::Sender<ConnectionState>,
    pub standing: watch::Sender<Standing>,
    pub me: watch::Sender<Option<Arc<Seen>>>,
    pub hub: HubHandle,
}

/// The reason why a connection is to be made again, or not.
enum End {
    /// At once, or after the wait that follows an error.
    Again(Option<Error>),
    Refused(Error),
}

/// A heartbeat that waits for its answer, and whether NATS sent anything meanwhile.
type Asked = Pin<Box<dyn Future<Output = (Result<Value, Error>, bool)> + Send>>;

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
        let error = match error {
            Some(error) => Some(error),
            None => self.disconnect(asked_to_wait).await.err(),
        };
        self.stand(ConnectionState::Closed(error.clone()), error);
    }

    /// Says goodbye. The lease ends a connection whose goodbye is not heard.
    async fn disconnect(&self, wait: bool) -> Result<(), Error> {
        let body = self.named(json!({"connection_id": self.id}));
        if !wait {
            self.link.tell("disconnect", &body).await;
            return Ok(());
        }
        let goodbye = self.link.ask_within("disconnect", &body, retry::LAST_DISCONNECT);
        goodbye.await.map(|_| ())
    }

    /// Shows a state, and the error that explains it.
    fn stand(&self, state: ConnectionState, error: Option<Error>) {
        let since = *self.state.borrow() != state;
        self.standing.send_modify(|standing| {
            if since {
                standing.since = std::time::Instant::now();
            }
            standing.last_error = error;
        });
        self.state.send_if_modified(|shown| std::mem::replace(shown, state) != *shown);
    }

    /// Shows what went wrong without another state.
    fn note(&self, error: Error) {
        self.standing.send_modify(|standing| standing.last_error = Some(error));
    }

    /// Lives until the service refuses it.
    async fn live(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> Error {
        let mut failed = None;
        loop {
            if let Err(error) = self.connect(commands, failed.take()).await {
                return error;
            }
            match self.beat(commands).await {
                End::Again(error) => {
                    let shown = error.clone().unwrap_or_else(|| self.link.down());
                    self.stand(ConnectionState::Interrupted, Some(shown));
                    failed = error;
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

    /// Connects, for as long as it takes; after a wait if a request has just failed. An error is a
    /// refusal.
    async fn connect(
        &mut self,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        earlier: Option<Error>,
    ) -> Result<(), Error> {
        let mut failed = 0;
        if let Some(error) = earlier {
            failed = 1;
            sleep(retry::wait(&error, failed)).await;
        }
        loop {
            if !self.link.look().up {
                self.note(self.link.down());
            }
            // Changes that are made while NATS is away ride in the connect: a user who became
            // invisible meanwhile is not shown for a moment.
            self.link.up().await?;
            self.take(commands);
            let sent = self.pending.clone();
            let body = self.connect_body(&sent, self.defaults());
            match self.link.ask_now("connect", &body).await {
                Ok(answer) => {
                    self.held = true;
                    self.acknowledge(&sent, &answer, "me");
                    self.stand(ConnectionState::Online, None);
                    return Ok(());
                }
                Err(error) if error.may_pass() => {
                    self.held |= error.may_have_applied();
                    failed += 1;
                    let wait = retry::wait(&error, failed);
                    self.note(error);
                    sleep(wait).await;
                }
                Err(error) if self.pending.drop_ended(&sent, &error) => {}
                Err(error) if self.waiting.is_empty() => {
                    // An earlier try may be stored, and others would see it until the lease ends.
                    if self.held {
                        let _ = self.disconnect(false).await;
                    }
                    return Err(error.of_one_user());
                }
                // The fault may lie in the changes that ride along: it goes on without them.
                Err(error) => {
                    self.pending = Patch::new();
                    self.answer(&Err(error.of_one_user()));
                }
            }
        }
    }

    /// The fields that count if the user has to be made.
    fn defaults(&self) -> Map<String, Value> {
        self.given.clone().into_iter().chain(self.remembered.clone()).collect()
    }

    fn connect_body(&self, sent: &Patch, defaults: Map<String, Value>) -> Value {
        let mut user = sent.fields();
        user.insert("id".to_owned(), self.user.as_str().into());
        let mut body = json!({"user": user, "connection_id": self.id});
        self.device.put(&mut body);
        if !defaults.is_empty() {
            body["defaults"] = Value::Object(defaults);
        }
        body
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
                let me: Arc<Seen> = Arc::new(me);
                if self.link.user().is_some() {
                    self.hub.send(hub::Command::Me(me.clone()));
                }
                self.me.send_replace(Some(me));
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
            return End::Again(None);
        }
        let mut beat = Beat::new(self.interval, false, Instant::now());
        let mut asked: Option<Asked> = None;
        loop {
            let due = asked.is_none().then(|| beat.due());
            tokio::select! {
                () = left(&mut states, connected) => return End::Again(None),
                () = until(due) => {
                    beat.set_interval(self.interval);
                    asked = self.send_beat(&mut beat).await;
                }
                (answer, link_lives) = answered(&mut asked) => {
                    match self.on_beat(answer) {
                        Ok(()) => beat.on_answer(),
                        Err(End::Again(Some(error))) => {
                            match beat.on_silence(Instant::now(), link_lives) {
                                Silence::Unclear => {}
                                Silence::Service => {
                                    self.stand(ConnectionState::Interrupted, Some(error));
                                }
                                Silence::Link => {
                                    self.link.abandon(connected).await;
                                    return End::Again(Some(error));
                                }
                            }
                        }
                        Err(end) => return end,
                    }
                }
                Some(command) = commands.recv() => {
                    if let Err(end) = self.on_command(command).await {
                        return end;
                    }
                }
            }
        }
    }

    async fn send_beat(&self, beat: &mut Beat) -> Option<Asked> {
        let body = self.named(json!({"connection_id": self.id}));
        if !beat.on_sent(Instant::now()) {
            self.link.tell("heartbeat", &body).await;
            return None;
        }
        let (link, doubtful) = (self.link.clone(), beat.is_doubtful());
        Some(Box::pin(async move { link.beat(&body, doubtful).await }))
    }

    /// An error that names one is a silence.
    fn on_beat(&mut self, answer: Result<Value, Error>) -> Result<(), End> {
        match answer {
            Ok(answer) => {
                self.acknowledge(&Patch::new(), &answer, "me");
                let unknown = answer["unknown"].as_array().is_some_and(|all| !all.is_empty());
                if unknown {
                    return Err(End::Again(None));
                }
                self.stand(ConnectionState::Online, None);
                Ok(())
            }
            Err(error @ Error::NoAnswer { .. }) => Err(End::Again(Some(error))),
            Err(error) if error.may_pass() => {
                self.note(error);
                Ok(())
            }
            Err(error) => Err(End::Refused(error)),
        }
    }

    /// An error says that the connection has to be made again.
    async fn on_command(&mut self, command: Command) -> Result<(), End> {
        let device = match command {
            Command::Device(device, reply) => {
                self.waiting.push(reply);
                Some(std::mem::replace(&mut self.device, device))
            }
            Command::Update(patch, reply) => {
                self.pending.merge(patch);
                self.waiting.push(reply);
                None
            }
        };
        let result = match device.is_some() {
            true => self.update_device().await,
            false => self.update().await,
        };
        match result {
            Ok(true) => Ok(()),
            Ok(false) => Err(End::Again(None)),
            // Unacknowledged changes ride in the connect that follows.
            Err(error) if error.may_pass() => Err(End::Again(Some(error))),
            Err(error) => {
                match device {
                    Some(before) => self.device = before,
                    None => self.pending = Patch::new(),
                }
                self.answer(&Err(error.of_one_user()));
                Ok(())
            }
        }
    }

    /// Returns whether the service knows the connection.
    async fn update_device(&mut self) -> Result<bool, Error> {
        let device = &self.device;
        let mut body = self.named(json!({"connection_id": self.id, "idle": device.idle}));
        device.put(&mut body);
        let answer = self.link.ask_now("update_connection", &body).await?;
        let known = answer["unknown"].as_array().is_none_or(Vec::is_empty);
        if known {
            self.answer(&Ok(()));
        }
        Ok(known)
    }

    async fn update(&mut self) -> Result<bool, Error> {
        loop {
            let sent = self.pending.clone();
            if sent.is_empty() {
                self.answer(&Ok(()));
                return Ok(true);
            }
            match self.change(&sent).await {
                Ok(answer) => {
                    self.acknowledge(&sent, &answer, "me");
                    return Ok(true);
                }
                Err(error) if self.pending.drop_ended(&sent, &error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a change. If the record was deleted meanwhile, the change makes it again. So it rides in
    /// a connect where there are defaults: an invisible user stays so.
    async fn change(&self, sent: &Patch) -> Result<Value, Error> {
        let defaults = self.defaults();
        if !defaults.is_empty() {
            return self.link.ask_now("connect", &self.connect_body(sent, defaults)).await;
        }
        let mut user = sent.fields();
        user.insert("id".to_owned(), self.user.as_str().into());
        let answer = self.link.ask_now("upsert_users", &json!({"users": [user]})).await?;
        Ok(json!({"me": answer["users"][self.user.as_str()]}))
    }
}

/// The answer of a heartbeat, which then no longer waits for it.
async fn answered(asked: &mut Option<Asked>) -> (Result<Value, Error>, bool) {
    match asked {
        Some(answer) => {
            let answer = answer.await;
            *asked = None;
            answer
        }
        None => std::future::pending().await,
    }
}

/// Returns when the link is no longer the one that is `known`.
async fn left(states: &mut watch::Receiver<LinkState>, known: LinkState) {
    // An error says that the hub has ended, and with it all that is to be kept alive.
    let _ = states.wait_for(|state| *state != known).await;
}
