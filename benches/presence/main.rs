//! The cost of presence beside the raw operations on NATS that it is made of, on one machine in one
//! run. The benchmark prints its results and asserts nothing about time. Absolute numbers are the
//! machine's; the ratios are the daemon's.
//!
//! - `make bench`: each operation beside its raw counterpart, twice, with ratios, JSON and plots.
//! - `make bench-scale`: a million users (`USERS` for another number).
//! - `cargo bench --bench presence -- channels`: queries of 100 000 channels.
//!
//! `PRESENCED` names another program than the one that was just built, to compare two of them.

#![allow(
    clippy::disallowed_methods,
    reason = "the bans keep clocks of the daemon in one place; a measurement has its own"
)]

mod channels;
mod heartbeats;
mod latency;
mod machine;
mod measure;
mod operations;
mod plot;
mod presence;
mod raw;
mod redis_server;
mod report;
mod scale;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Cargo adds it.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum What {
    /// Each operation beside its raw counterpart.
    Operations {
        /// The file for all numbers, as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
        /// The folder for the plots, as SVG.
        #[arg(long)]
        plots: Option<PathBuf>,
        /// Operations of each measurement.
        #[arg(long, default_value_t = 100_000)]
        count: usize,
        /// Measures only what has this text in its name.
        #[arg(long, default_value = "")]
        only: String,
    },
    /// Very many users: memory, start, scans, the death of a gateway, an idle cell.
    Scale {
        /// The number of users.
        #[arg(long, env = "USERS", default_value_t = 1_000_000)]
        users: usize,
    },
    /// Queries of many channels.
    Channels,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Arguments::parse().what {
        What::Operations { json, plots, count, only } => {
            let report = operations::run(count, &only).await?;
            report.print();
            if let Some(path) = json {
                std::fs::write(&path, report.json()?)?;
                println!("\nall numbers: {}", path.display());
            }
            if let Some(folder) = plots {
                plot::write(&report, &folder)?;
                println!("plots: {}", folder.display());
            }
            Ok(())
        }
        What::Scale { users } => scale::run(users).await,
        What::Channels => channels::run().await,
    }
}
