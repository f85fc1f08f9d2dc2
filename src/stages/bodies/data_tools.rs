//! Tool-use data: a specification in, training and test problems out.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::data::{DataSource, TEST, TRAIN};
use crate::artifact::write_atomic;
use crate::datasets::problems;
use crate::recipe::raw::RawToolUse;
use crate::scenario::tool_use::{ProblemSpec, generate};
use crate::stages::StageContext;

/// Draws problems.
pub struct ToolData {
    spec: ProblemSpec,
}

impl ToolData {
    /// As the recipe asks.
    pub fn new(settings: &RawToolUse) -> Self {
        Self {
            spec: settings.problems.clone(),
        }
    }
}

impl DataSource for ToolData {
    fn config(&self) -> Value {
        json!({ "problems": self.spec })
    }

    fn files(&self) -> &[PathBuf] {
        &[]
    }

    fn write(&self, context: &StageContext, _seed: u64) -> anyhow::Result<()> {
        let set = generate(&self.spec, context.seed)?;
        write_atomic(&context.output(TRAIN), &problems::encode(&set.train)?)?;
        write_atomic(&context.output(TEST), &problems::encode(&set.test)?)?;
        write_atomic(
            &context.output("disjointness.json"),
            serde_json::to_string_pretty(&set.disjointness)?.as_bytes(),
        )?;
        tracing::info!(
            "{} training and {} test problems, disjoint",
            set.train.len(),
            set.test.len()
        );
        Ok(())
    }
}
