//! Writes the manual pages and the completions of shells, made from the definition of the command
//! line, into a folder. For `scripts/deb`; the daemon itself carries none of it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::{Shell, generate_to};
use presenced::cli::Cli;

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).context("expected the folder to write to")?;
    let folder = PathBuf::from(folder);
    std::fs::create_dir_all(&folder)?;
    clap_mangen::generate_to(Cli::command(), &folder)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut Cli::command(), "presenced", &folder)?;
    }
    Ok(())
}
