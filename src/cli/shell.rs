//! `completions` and `man`: what a shell and the manual know of the program, made from its own arguments.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;

/// Options of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

impl CompletionsArgs {
    /// Print them.
    pub fn execute(self) -> anyhow::Result<()> {
        let mut text = vec![];
        clap_complete::generate(self.shell, &mut Cli::command(), "atp-pipeline", &mut text);
        print(&text)
    }
}

/// Options of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page for the program and one for each command into this folder.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

impl ManArgs {
    /// Print one, or write all.
    pub fn execute(self) -> anyhow::Result<()> {
        let command = Cli::command();
        let Some(folder) = self.out else {
            let mut text = vec![];
            clap_mangen::Man::new(command).render(&mut text)?;
            return print(&text);
        };
        if !folder.is_dir() {
            bail!("--out: there is no folder `{}`", folder.display());
        }
        clap_mangen::generate_to(command, &folder)
            .with_context(|| format!("--out: cannot write to `{}`", folder.display()))
    }
}

fn print(text: &[u8]) -> anyhow::Result<()> {
    let written = std::io::stdout().write_all(text);
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}
