//! Evaluation: test questions and an adapter in, a row a decision out.

use serde_json::{Value, json};

use super::data::TEST;
use super::shared::ModelSlot;
use super::train::ADAPTER;
use crate::agent::GenerationConfig;
use crate::artifact::table::encode_parquet;
use crate::artifact::write_atomic;
use crate::datasets::questions;
use crate::evaluation::rounds::{EvaluationConfig, ROWS_FILE, Subject, evaluate};
use crate::model::Adapter;
use crate::recipe::Recipe;
use crate::recipe::raw::Variant;
use crate::stages::{Input, Stage, StageContext};

/// Kind of the stage.
pub const KIND: &str = "evaluate";

/// Evaluates one variant of one model.
pub struct EvaluateStage {
    name: String,
    data: String,
    /// The stage that trained the adapter.
    trained: Option<String>,
    variant: Variant,
    model: ModelSlot,
    generation: GenerationConfig,
    config: EvaluationConfig,
    seed: u64,
}

impl EvaluateStage {
    /// `data` makes the questions, `trained` the adapter.
    pub fn new(
        name: String,
        data: &str,
        trained: Option<String>,
        variant: Variant,
        model: &ModelSlot,
        recipe: &Recipe,
        seed: u64,
    ) -> Self {
        let settings = &recipe.settings;
        Self {
            name,
            data: data.into(),
            trained,
            variant,
            model: model.clone(),
            generation: settings
                .stage_generation
                .evaluation
                .over(&settings.generation),
            config: settings.evaluation.clone(),
            seed,
        }
    }
}

impl Stage for EvaluateStage {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn kind(&self) -> &'static str {
        KIND
    }

    fn format(&self) -> u32 {
        2
    }

    fn config(&self) -> Value {
        json!({
            "evaluation": self.config,
            "generation": self.generation,
            "model": self.model.name,
            "variant": self.variant,
        })
    }

    fn model_identity(&self) -> Option<String> {
        Some(self.model.identity())
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn inputs(&self) -> Vec<Input> {
        let mut inputs = vec![Input::output("questions", &self.data, TEST)];
        inputs.extend(
            self.trained
                .as_ref()
                .map(|stage| Input::output("adapter", stage, ADAPTER)),
        );
        inputs
    }

    fn run(&self, context: &StageContext) -> anyhow::Result<()> {
        let questions = questions::read(context.input("questions")?)?;
        let model = self.model.load()?;
        let adapter = match &self.trained {
            None => None,
            Some(_) => {
                let folder = context.input("adapter")?;
                Some(Adapter::load(
                    folder,
                    model.decoder.config(),
                    model.decoder.device(),
                )?)
            }
        };
        let subject = Subject {
            name: &self.model.name,
            variant: self.variant.name(),
            seed: self.seed,
            model: &model,
            adapter: adapter.as_ref(),
        };
        // The stream's root is the same for every variant: they are compared on common random numbers.
        let rows = evaluate(
            &subject,
            &questions,
            &self.generation,
            &self.config,
            context.seed,
            &context.checkpoints,
        )?;
        write_atomic(&context.output(ROWS_FILE), &encode_parquet(&rows)?)?;
        Ok(())
    }
}
