//! `status`: the stages of a run directory, without loading anything; once, or again and again.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;

use crate::runtime::interrupt;
use crate::stages::{is_begun, no_stages, status};

/// Options of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The run directory.
    #[arg(default_value = "runs/laptop")]
    run_dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Show it again every so many seconds, until the run is over or Ctrl-C; with --json an object a line.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    watch: Option<f64>,
}

/// Clears the terminal and goes to its upper left corner.
const CLEAR: &str = "\x1b[2J\x1b[H";

impl StatusArgs {
    /// Show it.
    pub fn execute(self) -> anyhow::Result<()> {
        if !self.run_dir.is_dir() {
            bail!(
                "{}: no such run directory; `atp-pipeline run` makes one",
                self.run_dir.display()
            );
        }
        if !is_begun(&self.run_dir) {
            bail!(no_stages(&self.run_dir));
        }
        let Some(seconds) = self.watch else {
            let status = status(&self.run_dir, &[])?.with_jobs()?;
            match self.json {
                true => tell!("{}", serde_json::to_string_pretty(&status)?),
                false => tell!("{}", status.to_string().trim_end()),
            }
            return Ok(());
        };
        if !(0.1..=3600.0).contains(&seconds) {
            bail!("--watch: expected 0.1 to 3600 seconds, got {seconds}");
        }
        let mut out = std::io::stdout();
        let live = out.is_terminal() && !self.json;
        loop {
            let status = status(&self.run_dir, &[])?.with_jobs()?;
            let text = match self.json {
                true => format!("{}\n", serde_json::to_string(&status)?),
                false => status.to_string(),
            };
            let clear = if live { CLEAR } else { "" };
            if out.write_all(format!("{clear}{text}").as_bytes()).is_err() {
                // Whoever read has gone.
                return Ok(());
            }
            out.flush()?;
            if status.holder.is_none() {
                return Ok(());
            }
            let mut left = seconds;
            while left > 0.0 {
                // A watcher has nothing to save: it just ends.
                if interrupt::check().is_err() {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_secs_f64(left.min(0.1)));
                left -= 0.1;
            }
        }
    }
}
