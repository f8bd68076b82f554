//! The last steps of a start: the daemon answers the NATS service protocol, and takes requests.

use std::sync::Arc;

use async_nats::Client;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::monitor::Monitor;
use super::start::Startup;
use super::tasks::Tasks;
use super::{Daemon, Error};
use crate::api::Stats;
use crate::api::transport::executor::executor;
use crate::api::transport::intake::{Intake, QUEUE_GROUP};
use crate::api::transport::micro::{self, Micro};
use crate::api::transport::responder::ReplyContext;
use crate::config::INTERNAL;
use crate::liveness::build::Build;
use crate::round_trip::round_trip;
use crate::service::Service;
use crate::store::outbox::Outbox;
use crate::version::COMMIT;

impl Startup {
    /// Answers the NATS service protocol.
    pub(super) async fn answer_inquiries(
        &self,
        client: &Client,
        answers: &Outbox,
    ) -> Result<Arc<ReplyContext>, Error> {
        let context = Arc::new(ReplyContext {
            outbox: answers.clone(),
            stats: Stats::default(),
            clock: self.clock,
            metrics: Arc::clone(&self.metrics),
            payload_limit: self.payload_limit.clone(),
        });
        let micro = Micro {
            daemon: self.id,
            context: Arc::clone(&context),
            subjects: self.subjects.clone(),
            metadata: json!({ "daemon": self.id.to_string(), "host": Build::own().host, "commit": COMMIT }),
            started: self.clock.now().wall,
        };
        let inquiries = micro::inquiries(client, self.id).await?;
        self.tasks.spawn(micro.run(inquiries));
        Ok(context)
    }

    /// Joins the queue group. The daemon is ready when the server knows of it.
    pub(super) async fn serve(
        mut self,
        service: Service,
        client: Client,
        internal: Client,
        context: Arc<ReplyContext>,
        yields: watch::Receiver<bool>,
    ) -> Result<Daemon, Error> {
        let fence_subject = format!("{INTERNAL}.fence.{}", self.id);
        let fences = client.subscribe(fence_subject.clone()).await?;
        let all_requests = self.subjects.all_requests();
        let requests = client.queue_subscribe(all_requests, QUEUE_GROUP.to_owned()).await?;
        let (queue, executor) = executor(service.clone(), self.subjects.clone());
        let monitor = Monitor {
            service: service.clone(),
            gauge: queue.gauge(),
            health: self.health.clone(),
            metrics: self.metrics,
        };
        self.tasks.spawn(monitor.run());
        let answers = context.outbox.clone();
        let intake = Intake {
            service: service.clone(),
            context,
            client: client.clone(),
            subjects: self.subjects,
            fence_subject,
            queue,
            yields,
        };
        let no_more = CancellationToken::new();
        let tap = self.tasks.watchdog.register("executor");
        let executed = self.tasks.tracker.spawn(executor.run(tap));
        let tap = self.tasks.watchdog.register("intake");
        let taken = intake.run(requests, fences, tap, no_more.clone());
        let Tasks { tracker, stop, watchdog } = self.tasks;
        let intake = tracker.spawn(async move {
            taken.await;
            // It fails only by a panic, which the watchdog reports.
            let _ = executed.await;
        });
        self.health.starting("NATS to pass requests on");
        round_trip(&client).await?;
        // A daemon that leaves need not answer its watchdog.
        let watched = watchdog.run(self.health.clone());
        tracker.spawn(no_more.clone().run_until_cancelled_owned(watched));
        self.health.serving();
        tracing::info!(daemon = %self.id, "ready");
        Ok(Daemon { health: self.health, service, answers, internal, no_more, intake, stop })
    }
}
