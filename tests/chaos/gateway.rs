//! A gateway as it should be written: it beats on time, asks now and then, and connects again
//! whatever comes back as unknown.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::cluster::connect;
use crate::support::Client;

/// Every so many heartbeats it asks for the answer.
const ASKS: u32 = 4;

/// A request that has no answer by then will have none.
const ANSWERED: Duration = Duration::from_secs(3);

pub struct Gateway {
    pub users: Vec<String>,
    pub shared: bool,
    client: Client,
    interval: Duration,
    run: u32,
    beating: Option<JoinHandle<()>>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
pub struct State {
    pub last_beat: Instant,
    /// The longest time between two heartbeats since this was last set to zero.
    pub longest_gap: Duration,
    /// The number of users who came back as unknown.
    pub unknown: usize,
}

impl Gateway {
    pub async fn new(urls: &str, n: usize, users: usize, shared: bool, interval: Duration) -> Self {
        let state = State { last_beat: Instant::now(), longest_gap: Duration::ZERO, unknown: 0 };
        Self {
            users: (0..users).map(|user| format!("gw{n}-user{user}")).collect(),
            shared,
            client: Client::trusted(connect(urls).await, "presence"),
            interval,
            run: 0,
            beating: None,
            state: Arc::new(Mutex::new(state)),
        }
    }

    pub fn is_alive(&self) -> bool {
        self.beating.is_some()
    }

    /// The node that it is connected to.
    pub fn node(&self) -> usize {
        let name = self.client.nats.server_info().server_name;
        name.strip_prefix("node-").unwrap().parse().unwrap()
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A new run of the gateway: its users connect, and it begins to beat.
    pub fn live(&mut self) {
        self.run += 1;
        self.start(self.users.clone());
    }

    /// Lets the gateway go on where it stopped.
    pub fn resume(&mut self) {
        self.start(Vec::new());
    }

    fn start(&mut self, left: Vec<String>) {
        let lease = self.shared.then(|| format!("{}-run{}", self.users[0], self.run));
        self.state().last_beat = Instant::now();
        let run = Run {
            client: self.client.clone(),
            users: self.users.clone(),
            lease,
            state: Arc::clone(&self.state),
        };
        self.beating = Some(tokio::spawn(run.beat(self.interval, left)));
    }

    /// Falls silent without a disconnect. Returns when its last heartbeat was sent.
    pub fn die(&mut self) -> Instant {
        if let Some(beating) = self.beating.take() {
            beating.abort();
        }
        self.state().last_beat
    }
}

#[derive(Clone)]
struct Run {
    client: Client,
    users: Vec<String>,
    lease: Option<String>,
    state: Arc<Mutex<State>>,
}

impl Run {
    /// Beats go out on time, whatever becomes of the answers.
    async fn beat(self, every: Duration, left: Vec<String>) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut care = std::pin::pin!(self.clone().care(every, left));
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = &mut care => return,
            }
            {
                let mut state = self.state.lock().unwrap();
                let now = Instant::now();
                state.longest_gap = state.longest_gap.max(now - state.last_beat);
                state.last_beat = now;
            }
            let body = self.heartbeat().to_string().into();
            let sent = self.client.nats.publish(self.client.subject("heartbeat"), body);
            // One that cannot leave now is worth nothing later.
            let _ = timeout(every / 2, sent).await;
        }
    }

    /// Connects missing users, and queries now and then which are missing.
    async fn care(self, every: Duration, mut left: Vec<String>) {
        let mut differs = false;
        loop {
            while !left.is_empty() {
                left = self.connect(left).await;
                if !left.is_empty() {
                    sleep(every).await;
                }
            }
            sleep(ASKS * every).await;
            left = self.ask(&mut differs).await;
            self.state.lock().unwrap().unknown += left.len();
        }
    }

    fn heartbeat(&self) -> Value {
        let of = |user: &String| json!({"user_id": user, "connection_id": "c"});
        match &self.lease {
            Some(lease) => json!({"lease": lease}),
            None => json!({"connections": self.users.iter().map(of).collect::<Vec<_>>()}),
        }
    }

    /// The users who must connect again.
    async fn ask(&self, differed: &mut bool) -> Vec<String> {
        let asked = self.client.attempt("heartbeat", self.heartbeat(), ANSWERED).await;
        let Some(Ok(answer)) = asked else { return Vec::new() };
        let unknown = answer["unknown"].as_array().unwrap();
        match &self.lease {
            None => {
                let id = |each: &Value| each["user_id"].as_str().unwrap().to_owned();
                unknown.iter().map(id).collect()
            }
            Some(_) => {
                let differs = answer["held"] != json!(self.users.len());
                let twice = std::mem::replace(differed, differs) && differs;
                if unknown.is_empty() && !twice { Vec::new() } else { self.users.clone() }
            }
        }
    }

    /// Connects users; who is left to connect.
    async fn connect(&self, users: Vec<String>) -> Vec<String> {
        let op = |user: &String| {
            let user = json!({"id": user});
            let mut op = json!({"op": "connect", "user": user, "connection_id": "c"});
            if let Some(lease) = &self.lease {
                op["lease"] = json!(lease);
            }
            op
        };
        let body = json!({"ops": users.iter().map(op).collect::<Vec<_>>()});
        match self.client.attempt("batch", body, ANSWERED).await {
            Some(Ok(answer)) => {
                let results = answer["results"].as_array().unwrap().iter().zip(users);
                results
                    .filter(|(result, _)| result.get("error").is_some())
                    .map(|(_, user)| user)
                    .collect()
            }
            _ => users,
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.die();
    }
}
