//! Preference pairs: training questions in, pairs of the model's own answers out.

use serde_json::{Value, json};

use super::data::TRAIN;
use super::shared::{ModelSlot, Slot};
use crate::agent::GenerationConfig;
use crate::artifact::write_atomic;
use crate::datasets::{pairs, questions};
use crate::scenario::Testbed;
use crate::stages::{Input, Stage, StageContext};
use crate::training::pairs::{PairsConfig, sample_pairs};

/// Kind of the stage.
pub const KIND: &str = "pairs";
/// The pairs.
pub const PAIRS: &str = "pairs.parquet";

/// Samples the pairs of one model and seed.
pub struct PairsStage {
    name: String,
    data: String,
    testbed: Testbed,
    model: ModelSlot,
    generation: GenerationConfig,
    config: PairsConfig,
    seed: u64,
}

impl PairsStage {
    /// `data` is the name of the stage that makes the questions.
    pub fn new(name: String, data: &str, slot: &Slot) -> Self {
        let settings = slot.settings();
        Self {
            name,
            data: data.into(),
            testbed: slot.testbed,
            model: slot.model.clone(),
            generation: settings.stage_generation.pairs.over(&settings.generation),
            config: settings.pairs.clone(),
            seed: slot.seed,
        }
    }
}

impl Stage for PairsStage {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn kind(&self) -> &'static str {
        KIND
    }

    fn format(&self) -> u32 {
        1
    }

    fn config(&self) -> Value {
        json!({ "testbed": self.testbed, "generation": self.generation, "pairs": self.config })
    }

    fn model_identity(&self) -> Option<String> {
        Some(self.model.identity())
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn inputs(&self) -> Vec<Input> {
        vec![Input::output("questions", &self.data, TRAIN)]
    }

    fn run(&self, context: &StageContext) -> anyhow::Result<()> {
        let questions = questions::read(context.input("questions")?)?;
        let model = self.model.load()?;
        let (found, report) = sample_pairs(
            &model,
            &questions,
            &self.generation,
            &self.config,
            context.seed,
            &context.checkpoints,
        )?;
        tracing::info!(
            "{} pairs of {} questions; not obtained: {} compliant, {} deviant answers; {} of {} samples without a \
             readable choice, {} failed",
            report.pairs,
            report.questions,
            report.missing_compliant,
            report.missing_deviant,
            report.invalid,
            report.samples,
            report.failed
        );
        if found.is_empty() {
            anyhow::bail!(
                "no question gave both answers ({} samples, {} without a readable choice, {} failed); raise \
                 `pairs.attempts` or set `pairs.template_fallback = true`",
                report.samples,
                report.invalid,
                report.failed
            );
        }
        write_atomic(&context.output(PAIRS), &pairs::encode(&found)?)?;
        write_atomic(
            &context.output("pairs.json"),
            serde_json::to_string_pretty(&report)?.as_bytes(),
        )?;
        Ok(())
    }
}
