//! Two lively users, for newcomers: they change their statuses, and a person at the page has them
//! hide, leave and sleep. Their ids are new ones, and they are deleted at the end, so that no real
//! user is changed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use presenced_client::{Error, Service};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

/// As often as the shortest lease that daemons take may need.
const BEAT: Duration = Duration::from_secs(1);
const NAMES: [&str; 2] = ["ann", "bob"];
const STATUSES: [&str; 6] = [
    "Eating a veggie burger…",
    "In a meeting",
    "Out for a run",
    "Writing",
    "Listening to the rain",
    "Back in five",
];

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Become invisible.
    Hide,
    /// Become visible.
    Show,
    /// Disconnect.
    Leave,
    /// Connect again.
    Return,
    /// Stop to send heartbeats, as a laptop that is closed.
    Sleep,
    /// Go on.
    Wake,
}

#[derive(Clone)]
struct Player {
    id: String,
    connection: String,
    connected: bool,
    asleep: bool,
    invisible: bool,
}

pub struct Demo {
    service: Service,
    players: Mutex<Vec<Player>>,
}

impl Demo {
    pub async fn start(service: Service) -> Result<Arc<Self>, Error> {
        let run = fastrand::u32(..);
        let player = |name| Player {
            id: format!("demo-{name}-{run:08x}"),
            connection: String::new(),
            connected: false,
            asleep: false,
            invisible: false,
        };
        let demo = Arc::new(Self { service, players: Mutex::new(NAMES.map(player).to_vec()) });
        for id in demo.ids() {
            demo.play(&id, Action::Show).await?;
            demo.play(&id, Action::Return).await?;
        }
        tokio::spawn(Arc::clone(&demo).live());
        Ok(demo)
    }

    /// Deletes the users.
    pub async fn end(&self) -> Result<(), Error> {
        let ids = self.ids();
        self.service.request("delete_users", &json!({"ids": ids})).await.map(|_| ())
    }

    fn ids(&self) -> Vec<String> {
        self.lock().iter().map(|player| player.id.clone()).collect()
    }

    /// The state of each player.
    pub fn players(&self) -> Value {
        let shown = |player: &Player| {
            json!({"id": player.id, "connected": player.connected, "asleep": player.asleep,
                "invisible": player.invisible})
        };
        self.lock().iter().map(shown).collect()
    }

    pub async fn play(&self, id: &str, action: Action) -> Result<(), Error> {
        let Some(mut player) = self.lock().iter().find(|player| player.id == id).cloned() else {
            return Ok(());
        };
        match action {
            Action::Hide | Action::Show => {
                player.invisible = action == Action::Hide;
                let user = json!({"id": id, "invisible": player.invisible});
                self.service.request("upsert_users", &json!({"users": [user]})).await?;
            }
            Action::Leave => {
                let body = json!({"user_id": id, "connection_id": player.connection});
                self.service.request("disconnect", &body).await?;
                (player.connected, player.asleep) = (false, false);
            }
            Action::Return | Action::Wake => {
                // An id is never used again after its disconnect.
                player.connection = format!("demo-{:032x}", fastrand::u128(..));
                self.connect(&player).await?;
                (player.connected, player.asleep) = (true, false);
            }
            Action::Sleep => player.asleep = player.connected,
        }
        if let Some(known) = self.lock().iter_mut().find(|known| known.id == id) {
            *known = player;
        }
        Ok(())
    }

    async fn connect(&self, player: &Player) -> Result<(), Error> {
        let body = json!({
            "user": {"id": player.id}, "connection_id": player.connection, "device": "desktop",
        });
        self.service.request("connect", &body).await.map(|_| ())
    }

    async fn live(self: Arc<Self>) {
        let mut beat_at = Instant::now() + BEAT;
        let mut change_at = Instant::now();
        loop {
            tokio::select! {
                () = sleep_until(beat_at) => {
                    self.beat().await;
                    beat_at = Instant::now() + BEAT;
                }
                () = sleep_until(change_at) => {
                    self.change().await;
                    change_at = Instant::now() + Duration::from_millis(fastrand::u64(3000..8000));
                }
            }
        }
    }

    async fn beat(&self) {
        let awake: Vec<Player> = self.awake();
        for player in awake {
            let body = json!({"user_id": player.id, "connection_id": player.connection});
            let answer = self.service.request("heartbeat", &body).await;
            // The next beat tries again what fails.
            if answer.is_ok_and(|answer| answer["unknown"] != json!([])) {
                let _ = self.play(&player.id, Action::Return).await;
            }
        }
    }

    async fn change(&self) {
        let awake = self.awake();
        let Some(player) = fastrand::choice(&awake) else { return };
        let status = fastrand::choice(STATUSES);
        let user = json!({"id": player.id, "status": status});
        // The next change comes soon.
        let _ = self.service.request("upsert_users", &json!({"users": [user]})).await;
    }

    fn awake(&self) -> Vec<Player> {
        let awake = |player: &&Player| player.connected && !player.asleep;
        self.lock().iter().filter(awake).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Player>> {
        self.players.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
