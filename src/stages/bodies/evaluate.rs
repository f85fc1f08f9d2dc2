//! Evaluation: test questions and an adapter in, a row a decision out.

use serde_json::{Value, json};

use super::data::TEST;
use super::shared::{ModelSlot, Slot};
use super::train::ADAPTER;
use crate::agent::GenerationConfig;
use crate::artifact::table::encode_parquet;
use crate::artifact::write_atomic;
use crate::datasets::{games, problems, questions};
use crate::evaluation::coordination::{GameEvaluation, evaluate_games};
use crate::evaluation::coordination_row::GAME_ROWS_FILE;
use crate::evaluation::rounds::{EvaluationConfig, ROWS_FILE, Subject, evaluate};
use crate::evaluation::tool_row::TOOL_ROWS_FILE;
use crate::evaluation::tool_use::{Workshop, evaluate_tools};
use crate::model::Adapter;
use crate::recipe::raw::{RawRecipe, RawToolUse, Variant};
use crate::scenario::Testbed;
use crate::stages::{Input, Stage, StageContext};
use crate::tool::Sandbox;

/// Kind of the stage.
pub const KIND: &str = "evaluate";

/// What is done over the rounds, by testbed.
enum Protocol {
    RolePlay(EvaluationConfig),
    Games(GameEvaluation),
    Tools(RawToolUse),
}

impl Protocol {
    fn of(testbed: Testbed, settings: &RawRecipe) -> Self {
        match testbed {
            Testbed::RolePlay => Self::RolePlay(settings.evaluation.clone()),
            Testbed::Coordination => Self::Games(settings.coordination.evaluation.clone()),
            Testbed::ToolUse => Self::Tools(settings.tool_use.clone()),
        }
    }

    fn config(&self) -> Value {
        match self {
            Self::RolePlay(config) => json!(config),
            Self::Games(config) => json!(config),
            Self::Tools(all) => json!({
                "rounds": all.evaluation,
                "costs": all.costs,
                "tools": all.tools,
                "sandbox": all.sandbox,
            }),
        }
    }
}

/// File of a testbed's evaluation rows.
pub fn rows_file(testbed: Testbed) -> &'static str {
    match testbed {
        Testbed::RolePlay => ROWS_FILE,
        Testbed::Coordination => GAME_ROWS_FILE,
        Testbed::ToolUse => TOOL_ROWS_FILE,
    }
}

/// Evaluates one variant of one model.
pub struct EvaluateStage {
    name: String,
    data: String,
    /// The stage that trained the adapter.
    trained: Option<String>,
    variant: Variant,
    testbed: Testbed,
    model: ModelSlot,
    generation: GenerationConfig,
    protocol: Protocol,
    seed: u64,
}

impl EvaluateStage {
    /// `data` makes the questions, `trained` the adapter.
    pub fn new(
        name: String,
        data: &str,
        trained: Option<String>,
        variant: Variant,
        slot: &Slot,
    ) -> Self {
        let settings = slot.settings();
        Self {
            name,
            data: data.into(),
            trained,
            variant,
            testbed: slot.testbed,
            model: slot.model.clone(),
            generation: settings
                .stage_generation
                .evaluation
                .over(&settings.generation),
            protocol: Protocol::of(slot.testbed, settings),
            seed: slot.seed,
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
            "testbed": self.testbed,
            "evaluation": self.protocol.config(),
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
        let data = context.input("questions")?;
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
        let (root, checkpoints) = (context.seed, &context.checkpoints);
        let generation = &self.generation;
        let bytes = match &self.protocol {
            Protocol::RolePlay(config) => {
                let questions = questions::read(data)?;
                let rows = evaluate(&subject, &questions, generation, config, root, checkpoints)?;
                encode_parquet(&rows)?
            }
            Protocol::Games(config) => {
                let games = games::read(data)?;
                let rows = evaluate_games(&subject, &games, generation, config, root, checkpoints)?;
                encode_parquet(&rows)?
            }
            Protocol::Tools(all) => {
                let problems = problems::read(data)?;
                let workshop = Workshop {
                    generation,
                    tools: &all.tools,
                    sandbox: &Sandbox::new(&all.sandbox)?,
                    costs: all.costs,
                };
                let rows = evaluate_tools(
                    &subject,
                    &problems,
                    &workshop,
                    &all.evaluation,
                    root,
                    checkpoints,
                )?;
                encode_parquet(&rows)?
            }
        };
        write_atomic(&context.output(rows_file(self.testbed)), &bytes)?;
        Ok(())
    }
}
