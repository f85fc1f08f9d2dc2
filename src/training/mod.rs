//! Preference pairs, DPO and GRPO.
//!
//! A loss takes log-probabilities and knows nothing of where they come from (`dpo` as numbers, `grpo` as tensors); a trainer collects, updates, logs and checkpoints
//! (`dpo_trainer`, `grpo_trainer`).

use std::path::{Path, PathBuf};

use crate::agent::{LoadedModel, RenderOptions};
use crate::artifact::{ArtifactError, Checkpoints};
use crate::model::LoraConfig;
use crate::model::backprop::plan::Budget;
use crate::model::lora::LoraError;
use crate::model::tensors::TensorFileError;
use crate::runtime::gpu::GpuError;
use crate::runtime::interrupt::Interrupted;
use crate::runtime::ranks::{Ended, RankError};
use crate::text::TextError;

pub mod augment;
pub mod bradley_terry;
pub mod decision_rollout;
pub mod dpo;
pub mod dpo_trainer;
pub mod grpo;
pub mod grpo_trainer;
pub mod lessons;
pub mod optim;
pub mod pairs;
pub mod pass;
pub mod rollout;
pub mod state;
pub mod tool_pairs;
pub mod tool_rollout;

use pass::budget;

/// Training that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A stop was asked for; the last step is saved.
    // Not transparent: that would take `Interrupted` itself out of the chain, by which a stop is known.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
    /// The ranks cannot go on together.
    #[error("{0}")]
    Ranks(#[from] RankError),
    /// A file could not be written or read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A tensor file is damaged.
    #[error(transparent)]
    Tensors(#[from] TensorFileError),
    /// The adapter does not fit.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// A prompt or completion cannot be encoded.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A table could not be read or written.
    #[error(transparent)]
    Table(#[from] crate::artifact::table::TableError),
    /// A checkpoint that is whole but not of this run.
    #[error("checkpoint {path}: {problem}; remove it to start this stage anew")]
    Checkpoint {
        /// Its folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The device refuses: memory that ran out, above all.
    #[error(transparent)]
    Device(#[from] GpuError),
    /// What samples broke down. What it had under way was no failure of the model.
    #[error("{0}; what was saved is kept, the same command goes on from there")]
    Broken(String),
    /// The data cannot be trained on.
    #[error("{0}")]
    Data(String),
    /// Loss or gradients are no numbers any more.
    #[error("step {step}: {what} is not finite; lower the learning rate or use fp32")]
    Diverged {
        /// Optimiser step.
        step: u64,
        /// Which quantity.
        what: &'static str,
    },
}

impl TrainError {
    /// Whether a GPU's memory ran out.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Device(e) if e.is_out_of_memory())
    }
}

impl From<Ended> for TrainError {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Interrupted(stop) => stop.into(),
            Ended::Ranks(error) => error.into(),
            Ended::Broken(what) => Self::Broken(what),
        }
    }
}

/// Where a trainer works.
#[derive(Debug, Clone, Copy)]
pub struct TrainContext<'a> {
    /// The frozen model with its tokenizer.
    pub model: &'a LoadedModel,
    /// How conversations are rendered.
    pub render: &'a RenderOptions,
    /// Root of the random streams.
    pub seed: u64,
    /// Where logs go.
    pub folder: &'a Path,
    /// Where checkpoints go.
    pub checkpoints: &'a Checkpoints,
}

impl TrainContext<'_> {
    /// Memory for training an adapter of this shape; with another one, frozen, beside it.
    fn budget(&self, lora: &LoraConfig, beside_frozen: bool) -> Budget {
        let model = &self.model.decoder;
        let trained = lora.parameters(model.config());
        budget(
            model,
            trained,
            if beside_frozen { trained } else { 0 },
            None,
        )
    }
}

/// Metrics of every optimiser step, one JSON object a line.
pub const METRICS_FILE: &str = "metrics.jsonl";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_known_in_the_chain() {
        let error = anyhow::Error::new(TrainError::from(Interrupted));
        assert!(error.chain().any(|cause| cause.is::<Interrupted>()));
        assert_eq!(
            crate::runtime::message::message(&error),
            Interrupted.to_string()
        );
    }
}
