//! `status`: the stages of a run directory, without loading anything.

use std::path::PathBuf;

use clap::Args;

use crate::stages::status;

/// Options of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The run directory.
    #[arg(default_value = "runs/laptop")]
    run_dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl StatusArgs {
    /// Show it.
    pub fn execute(self) -> anyhow::Result<()> {
        if !self.run_dir.is_dir() {
            anyhow::bail!(
                "{}: no such run directory; `atp-pipeline run` makes one",
                self.run_dir.display()
            );
        }
        let status = status(&self.run_dir, &[])?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&status)?);
        } else {
            print!("{status}");
        }
        Ok(())
    }
}
