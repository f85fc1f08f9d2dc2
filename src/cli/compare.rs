//! `compare`: two runs beside each other.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use crate::artifact::write_atomic;
use crate::report::compare::{Comparison, RunRows, compare};
use crate::stages::evaluations::{Rows, evaluations};

/// Options of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// A run directory: A.
    run_a: PathBuf,
    /// Another: B. Differences are B minus A.
    run_b: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Write a page with charts here too.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Show the page in the browser.
    #[arg(long, requires = "html")]
    open: bool,
}

impl CompareArgs {
    /// Compare.
    pub fn execute(self) -> anyhow::Result<()> {
        let found = compare_runs(&self.run_a, &self.run_b)?;
        if let Some(path) = &self.html {
            write_atomic(path, found.html().as_bytes())
                .with_context(|| format!("--html: cannot write `{}`", path.display()))?;
        }
        match self.json {
            true => tell!("{}", serde_json::to_string_pretty(&found)?),
            false => tell!("{}", found.text().trim_end()),
        }
        match &self.html {
            Some(path) if self.open => super::open::show(path),
            _ => Ok(()),
        }
    }
}

fn compare_runs(a: &Path, b: &Path) -> anyhow::Result<Comparison> {
    if a.canonicalize()
        .is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
    {
        tracing::warn!("`{}` is compared with itself", a.display());
    }
    Ok(compare(&rows(a)?, &rows(b)?)?)
}

fn rows(run: &Path) -> anyhow::Result<RunRows> {
    let mut rows = RunRows {
        name: run.display().to_string(),
        ..RunRows::default()
    };
    for evaluated in evaluations(run)? {
        let set = (evaluated.testbed, evaluated.seed);
        rows.test_sets.insert(set, evaluated.test_set);
        match evaluated.rows()? {
            Rows::RolePlay(found) => rows.rows.extend(found),
            Rows::Coordination(found) => rows.games.extend(found),
            Rows::ToolUse(found) => rows.tools.extend(found),
        }
    }
    Ok(rows)
}
