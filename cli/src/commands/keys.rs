//! `keys`: a pair of keys for a login.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use nkeys::KeyPair;
use serde_json::json;

use crate::failure::Failure;
use crate::output::Output;

#[derive(Clone, Copy, ValueEnum)]
pub enum Kind {
    User,
    Account,
    Operator,
}

#[derive(Args)]
pub struct Keys {
    /// The purpose of the pair
    #[arg(value_name = "KIND", default_value = "user")]
    kind: Kind,
    /// Write the seed to this new file, which only its owner can read, and print the public key
    /// alone
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Keys {
    pub fn run(self, output: &Output) -> Result<(), Failure> {
        let pair = match self.kind {
            Kind::User => KeyPair::new_user(),
            Kind::Account => KeyPair::new_account(),
            Kind::Operator => KeyPair::new_operator(),
        };
        let public = pair.public_key();
        let seed = pair.seed().map_err(|error| std::io::Error::other(error.to_string()))?;
        match &self.out {
            Some(path) => {
                write(path, &seed).map_err(Failure::writing(path))?;
                output.result(&json!({"public_key": public}), &public)?;
            }
            None => {
                let json = json!({"public_key": public, "seed": seed});
                output.result(&json, &format!("public key  {public}\nseed        {seed}"))?;
            }
        }
        Ok(())
    }
}

fn write(path: &Path, seed: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{seed}")
}
