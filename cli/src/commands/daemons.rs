//! `daemons`: those that serve, by the NATS service protocol.

use clap::Args;
use serde_json::Value;

use crate::failure::Failure;
use crate::output::{Kind, Output};
use crate::session::Session;

#[derive(Args)]
pub struct Daemons {}

impl Daemons {
    pub async fn run(self, session: &Session, output: &Output) -> Result<(), Failure> {
        let daemons: Vec<Value> = crate::daemons::find(session).await?;
        if daemons.is_empty() {
            return Err(crate::daemons::none(session));
        }
        output.records(Kind::Daemon, &daemons)
    }
}
