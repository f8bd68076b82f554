//! `completion` and `man`: made from the definition of the command line.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Failure;

#[derive(Args)]
pub struct Completion {
    /// The shell
    shell: Shell,
}

impl Completion {
    pub fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::grammar(), "presencectl", &mut script);
        Ok(std::io::Write::write_all(&mut std::io::stdout().lock(), &script)?)
    }
}

#[derive(Args)]
pub struct Man {
    /// The folder that they are written to
    folder: PathBuf,
}

impl Man {
    pub fn run(self) -> Result<(), Failure> {
        let made = std::fs::create_dir_all(&self.folder)
            .and_then(|()| clap_mangen::generate_to(Cli::grammar(), &self.folder));
        made.map_err(Failure::writing(&self.folder))
    }
}
