//! The script: one fault after another, and what must be true after each.

use std::time::Duration;

use fastrand::Rng;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::cluster::{Cluster, connect};
use crate::daemons::Daemons;
use crate::gateway::Gateway;
use crate::report::{Phase, Report};
use crate::support::{Client, eventually};
use crate::watcher::Watcher;
use crate::writers::Writers;

/// From the end of a lease to offline, where nothing else is amiss.
const LATEST: Duration = Duration::from_secs(2);

/// The amount by which a bound may be exceeded where daemons died, or where daemons or NATS were
/// away.
const AFTER_A_FAULT: Duration = Duration::from_secs(5);

/// The log line of a daemon that had to drop heartbeats.
const DROPPED: &str = "faster than they were taken";

/// A flood that has not made a daemon drop any by then is over.
const LONGEST_FLOOD: Duration = Duration::from_secs(10);

/// The time that anything may take before the run is given up.
const GIVEN_UP: Duration = Duration::from_secs(60);

/// The parameters of a run.
pub struct Plan {
    pub seed: u64,
    pub nodes: usize,
    pub daemons: usize,
    pub lease: Duration,
    /// Half of them with a shared lease, half with a lease for each user.
    pub gateways: usize,
    pub users_each: usize,
    pub faults: Vec<Fault>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Nothing,
    DaemonKilled,
    DaemonStopped,
    DaemonsRolled,
    NatsNodeKilled,
    NatsLeaderKilled,
    Partitioned,
    Flood,
    GatewayPaused,
}

impl Fault {
    pub const ALL: [Self; 9] = [
        Self::Nothing,
        Self::DaemonKilled,
        Self::DaemonStopped,
        Self::DaemonsRolled,
        Self::NatsNodeKilled,
        Self::NatsLeaderKilled,
        Self::Partitioned,
        Self::Flood,
        Self::GatewayPaused,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::DaemonKilled => "daemon killed",
            Self::DaemonStopped => "daemon stopped, continued",
            Self::DaemonsRolled => "daemons rolled",
            Self::NatsNodeKilled => "NATS node killed",
            Self::NatsLeaderKilled => "NATS leader killed",
            Self::Partitioned => "NATS node cut off",
            Self::Flood => "heartbeats flooded",
            Self::GatewayPaused => "gateway paused",
        }
    }

    /// Returns whether hearing or writing may have been away for all daemons at once: the bound
    /// then counts from when that is over.
    fn is_outage(self) -> bool {
        matches!(
            self,
            Self::NatsNodeKilled | Self::NatsLeaderKilled | Self::Partitioned | Self::Flood
        )
    }
}

struct Stage {
    plan: Plan,
    rng: Rng,
    cluster: Cluster,
    daemons: Daemons,
    gateways: Vec<Gateway>,
    client: Client,
    watcher: Watcher,
    report: Report,
}

/// Plays a script to its end, prints the table, and panics if a promise was broken.
pub async fn play(plan: Plan) {
    let mut stage = Stage::set(plan).await;
    let writers = Writers::start(&stage.client);
    for fault in stage.plan.faults.clone() {
        stage.phase(fault).await;
    }
    let written = writers.stop(&stage.client, &stage.watcher).await;
    stage.report.written = written;
    stage.all_leave().await;
    println!("{}", stage.report.table());
    let broken = stage.report.broken();
    assert!(broken.is_empty(), "broken promises: {broken:#?}");
}

impl Stage {
    async fn set(plan: Plan) -> Self {
        let cluster = Cluster::start(plan.nodes).await;
        let daemons = Daemons::start(cluster.urls(), plan.daemons, plan.nodes, plan.lease).await;
        let watcher = Watcher::start(&cluster).await;
        let mut gateways = Vec::new();
        for n in 0..plan.gateways {
            let (urls, shared, interval) = (cluster.urls(), n % 2 == 0, plan.lease / 8);
            let mut gateway = Gateway::new(&urls, n, plan.users_each, shared, interval).await;
            gateway.live();
            gateways.push(gateway);
        }
        let client = Client::trusted(cluster.connect().await, "presence");
        let rng = Rng::with_seed(plan.seed);
        let report = Report::default();
        let mut stage = Self { plan, rng, cluster, daemons, gateways, client, watcher, report };
        stage.all_online().await;
        sleep(stage.plan.lease).await;
        stage.report.users = stage.plan.gateways * stage.plan.users_each;
        stage
    }

    /// One fault, during which two gateways die; then all that is to be back comes back.
    async fn phase(&mut self, fault: Fault) {
        let began = Instant::now();
        for gateway in &self.gateways {
            gateway.state().longest_gap = Duration::ZERO;
        }
        // The far side of a cut: those who are there cannot be heard where it is written.
        let cut_off = (fault == Fault::Partitioned).then(|| self.rng.usize(..self.plan.nodes));
        let is_far = |gateway: &Gateway| Some(gateway.node()) == cut_off;
        let far: Vec<_> = self.gateways.iter().map(is_far).collect();
        let dying = [0, 1].map(|kind| {
            let of_kind = (kind..self.plan.gateways).step_by(2);
            let near: Vec<_> = of_kind.filter(|n| !far[*n]).collect();
            *self.rng.choice(&near).expect("a gateway on the near side")
        });
        let wait = self.plan.lease.mul_f64(self.rng.f64() / 4.0);
        let died = if fault == Fault::GatewayPaused || self.rng.bool() {
            // They die first, and the fault strikes while their leases run out.
            let died = dying.map(|n| self.gateways[n].die());
            sleep(wait).await;
            self.strike(fault, cut_off).await;
            died
        } else {
            // The fault strikes, and they die as soon as it is over.
            self.strike(fault, cut_off).await;
            dying.map(|n| self.gateways[n].die())
        };
        let over = Instant::now();
        let lease = self.plan.lease;
        let mut phase = Phase::new(fault, began, over);
        for (n, died) in dying.into_iter().zip(died) {
            let bound = match fault {
                Fault::Nothing | Fault::GatewayPaused => died + lease + LATEST,
                _ if fault.is_outage() => died.max(over) + lease + AFTER_A_FAULT,
                _ => died + lease + LATEST + AFTER_A_FAULT,
            };
            let early = self.gone(n, died, bound, &mut phase).await;
            phase.false_offlines += early;
        }
        // Long enough to see users that were taken for dead by mistake.
        sleep(lease).await;
        for n in dying {
            if fault == Fault::GatewayPaused {
                self.gateways[n].resume();
            } else {
                self.gateways[n].live();
            }
        }
        phase.left_behind = self.all_online().await;
        self.hold_the_living(began, dying, &far, &mut phase);
        for (n, died) in dying.into_iter().zip(died) {
            let times = |user| self.watcher.offline_since(user, died).len();
            // Once is what becomes of the dead.
            let users = self.gateways[n].users.iter();
            phase.false_offlines += users.filter(|user| times(user) > 1).count();
        }
        println!("{:>6.1} s: {}", began.elapsed().as_secs_f64(), phase.line());
        self.report.phases.push(phase);
    }

    /// Waits until the users of a dead gateway are shown offline, and notes when. How many were
    /// before their time.
    async fn gone(&self, n: usize, died: Instant, bound: Instant, phase: &mut Phase) -> usize {
        let gateway = &self.gateways[n];
        let mut early = 0;
        for user in &gateway.users {
            let wait = bound.max(Instant::now()) + AFTER_A_FAULT - Instant::now();
            let offline = async {
                loop {
                    if let Some(at) = self.watcher.offline_since(user, died).first() {
                        return *at;
                    }
                    sleep(Duration::from_millis(10)).await;
                }
            };
            match tokio::time::timeout(wait, offline).await {
                Ok(at) => {
                    early += usize::from(at < died + self.plan.lease);
                    phase.gone(at - died, bound - died);
                }
                Err(_) => phase.ghosts += 1,
            }
        }
        early
    }

    /// Users whose gateway was always there were never shown offline. Users on the far side of a
    /// cut are counted apart: they cannot be told from the dead.
    fn hold_the_living(&self, began: Instant, dying: [usize; 2], far: &[bool], phase: &mut Phase) {
        for (n, gateway) in self.gateways.iter().enumerate() {
            if dying.contains(&n) {
                continue;
            }
            let offline: usize = gateway
                .users
                .iter()
                .map(|user| self.watcher.offline_since(user, began).len())
                .sum();
            let gap = gateway.state().longest_gap;
            // Such a gateway was not there all the time: this machine is too busy for the test.
            if gap + self.plan.lease / 4 > self.plan.lease {
                phase.late_gateways += 1;
            } else if far[n] {
                phase.far_side += offline;
            } else {
                phase.false_offlines += offline;
            }
        }
    }

    /// Waits until all are online again; how many are not.
    async fn all_online(&self) -> usize {
        let users = || self.gateways.iter().filter(|g| g.is_alive()).flat_map(|g| &g.users);
        let start = Instant::now();
        loop {
            let online =
                |user: &&String| self.watcher.newest(user).is_some_and(|change| change.is_online());
            let left = users().filter(|user| !online(user)).count();
            if left == 0 || start.elapsed() > GIVEN_UP / 2 {
                return left;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn strike(&mut self, fault: Fault, cut_off: Option<usize>) {
        let lease = self.plan.lease;
        let victim = self.rng.usize(..self.daemons.running.len());
        match fault {
            Fault::Nothing => {}
            Fault::GatewayPaused => sleep(lease + lease / 2).await,
            Fault::DaemonKilled => {
                self.daemons.kill(victim);
                sleep(lease / 2).await;
                self.daemons.add().await;
            }
            Fault::DaemonStopped => {
                self.daemons.running[victim].pause();
                sleep(lease + lease / 2).await;
                self.daemons.running[victim].resume();
            }
            Fault::DaemonsRolled => {
                for _ in 0..self.plan.daemons {
                    self.daemons.add().await;
                    // One that has been up for a lease is there at any time.
                    sleep(lease + lease / 4).await;
                    self.daemons.running.remove(0).stop().await;
                }
            }
            Fault::NatsNodeKilled | Fault::NatsLeaderKilled => {
                let leader = self.cluster.leader(&self.client.nats).await;
                let other = (leader + 1) % self.plan.nodes;
                let node = if fault == Fault::NatsLeaderKilled { leader } else { other };
                self.cluster.kill(node);
                sleep(lease).await;
                self.cluster.restart(node).await;
                self.all_well().await;
            }
            Fault::Partitioned => {
                self.cluster.isolate(cut_off.expect("a node to cut off"));
                sleep(2 * lease).await;
                self.cluster.heal();
                self.cluster.whole().await;
                self.all_well().await;
            }
            Fault::Flood => {
                self.flood().await;
                self.all_well().await;
                self.someone_hears().await;
            }
        }
    }

    /// Waits until writes and fresh reads are served again.
    async fn all_well(&self) {
        let mut n = 0;
        eventually("requests are served again", GIVEN_UP, async || {
            n += 1;
            let body = json!({"users": [{"id": "probe", "n": n}]});
            let bound = Duration::from_secs(1);
            self.client.attempt("upsert_users", body, bound).await?.ok()?;
            let body = json!({"filter": {"id": "probe"}, "presence": true});
            self.client.attempt("query_users", body, bound).await?.ok()
        })
        .await;
    }

    /// Waits until a daemon has worked off what it had queued, and has listened for a lease since.
    async fn someone_hears(&self) {
        eventually("a daemon hears", 2 * GIVEN_UP, async || {
            let bound = Duration::from_secs(1);
            let asked = self.client.attempt("explain", json!({"user_id": "probe"}), bound).await;
            asked?.ok()?["deaf"].is_null().then_some(())
        })
        .await;
    }

    /// Heartbeats for nobody, until a daemon has dropped some because they come too fast.
    async fn flood(&mut self) {
        let body = bytes::Bytes::from_static(b"{\"lease\":\"nobody\"}");
        let (nats, start) = (connect(&self.cluster.urls()).await, Instant::now());
        let before = self.daemons.deafened_by(DROPPED);
        while self.daemons.deafened_by(DROPPED) == before && start.elapsed() < LONGEST_FLOOD {
            for _ in 0..20_000 {
                nats.publish("presence.v1.heartbeat", body.clone()).await.unwrap();
            }
        }
        nats.flush().await.unwrap();
        self.report.deafened_by_flood += self.daemons.deafened_by(DROPPED) - before;
    }

    /// In the end all gateways die, and nobody may be left online.
    async fn all_leave(&mut self) {
        self.gateways.iter_mut().for_each(|gateway| {
            gateway.die();
        });
        sleep(self.plan.lease + LATEST + AFTER_A_FAULT).await;
        let body = json!({"filter": {"online": true}, "presence": true, "limit": 100});
        let left = self.client.query(body).await;
        self.report.ghosts_at_the_end = left.len();
    }
}
