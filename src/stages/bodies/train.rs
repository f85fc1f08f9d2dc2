//! Training: pairs or questions in, an adapter out.

use std::path::Path;

use serde_json::{Value, json};

use super::data::TRAIN;
use super::pairs::PAIRS;
use super::shared::{ModelSlot, Slot};
use crate::agent::GenerationConfig;
use crate::datasets::{games, pairs, problems, questions};
use crate::model::Adapter;
use crate::recipe::raw::RawToolUse;
use crate::scenario::Testbed;
use crate::stages::{Input, Stage, StageContext};
use crate::tool::Sandbox;
use crate::training::TrainContext;
use crate::training::decision_rollout::DecisionSource;
use crate::training::dpo_trainer::{DpoConfig, train_dpo};
use crate::training::grpo_trainer::{GrpoConfig, train_grpo};
use crate::training::tool_rollout::ToolSource;

/// Kind of the DPO stage.
pub const DPO_KIND: &str = "train-dpo";
/// Kind of the GRPO stage.
pub const GRPO_KIND: &str = "train-grpo";
/// Folder of the adapter, as PEFT writes it.
pub const ADAPTER: &str = "adapter";

/// How an adapter is trained.
enum Method {
    Dpo(DpoConfig),
    Grpo(GrpoConfig),
}

/// Trains one model by one method on one seed's data.
pub struct TrainStage {
    name: String,
    input: Input,
    testbed: Testbed,
    model: ModelSlot,
    generation: GenerationConfig,
    method: Method,
    tools: RawToolUse,
    seed: u64,
}

impl TrainStage {
    /// DPO on the pairs of the stage `pairs`.
    pub fn dpo(name: String, pairs: &str, slot: &Slot) -> Self {
        let settings = slot.settings();
        Self {
            name,
            input: Input::output("pairs", pairs, PAIRS),
            testbed: slot.testbed,
            model: slot.model.clone(),
            generation: settings.stage_generation.pairs.over(&settings.generation),
            method: Method::Dpo(settings.dpo.clone()),
            tools: settings.tool_use.clone(),
            seed: slot.seed,
        }
    }

    /// GRPO on the training questions of the stage `data`.
    pub fn grpo(name: String, data: &str, slot: &Slot) -> Self {
        let settings = slot.settings();
        Self {
            name,
            input: Input::output("questions", data, TRAIN),
            testbed: slot.testbed,
            model: slot.model.clone(),
            generation: settings.stage_generation.grpo.over(&settings.generation),
            method: Method::Grpo(settings.grpo.clone()),
            tools: settings.tool_use.clone(),
            seed: slot.seed,
        }
    }
}

impl Stage for TrainStage {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn kind(&self) -> &'static str {
        match self.method {
            Method::Dpo(_) => DPO_KIND,
            Method::Grpo(_) => GRPO_KIND,
        }
    }

    fn format(&self) -> u32 {
        1
    }

    fn config(&self) -> Value {
        match &self.method {
            // Of generation, DPO uses only how prompts are rendered.
            Method::Dpo(config) => {
                json!({ "testbed": self.testbed, "dpo": config, "thinking": self.generation.thinking })
            }
            Method::Grpo(config) => {
                let mut all = json!({
                    "testbed": self.testbed,
                    "grpo": config,
                    "generation": self.generation,
                });
                if self.testbed == Testbed::ToolUse {
                    let RawToolUse {
                        costs,
                        reward,
                        tools,
                        sandbox,
                        ..
                    } = &self.tools;
                    all["tools"] = json!({
                        "costs": costs, "reward": reward, "tools": tools, "sandbox": sandbox,
                    });
                }
                all
            }
        }
    }

    fn model_identity(&self) -> Option<String> {
        Some(self.model.identity())
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn inputs(&self) -> Vec<Input> {
        vec![self.input.clone()]
    }

    fn run(&self, context: &StageContext) -> anyhow::Result<()> {
        let model = self.model.load()?;
        let render = self.generation.render_options();
        let training = TrainContext {
            model: &model,
            render: &render,
            seed: context.seed,
            folder: &context.out,
            checkpoints: &context.checkpoints,
        };
        let adapter = match &self.method {
            Method::Dpo(config) => {
                train_dpo(&training, &pairs::read(context.input("pairs")?)?, config)?
            }
            Method::Grpo(config) => self.grpo_on(&training, context.input("questions")?, config)?,
        };
        adapter.save(&context.output(ADAPTER), &self.model.spec.source)?;
        Ok(())
    }
}

impl TrainStage {
    /// GRPO on the testbed's training set.
    fn grpo_on(
        &self,
        training: &TrainContext,
        data: &Path,
        config: &GrpoConfig,
    ) -> anyhow::Result<Adapter> {
        let (generation, reward) = (&self.generation, config.reward);
        let adapter = match self.testbed {
            Testbed::RolePlay => {
                let source = DecisionSource {
                    decisions: &questions::read(data)?,
                    generation,
                    reward,
                };
                train_grpo(training, &source, config)?
            }
            Testbed::Coordination => {
                let source = DecisionSource {
                    decisions: &games::read(data)?,
                    generation,
                    reward,
                };
                train_grpo(training, &source, config)?
            }
            Testbed::ToolUse => {
                let source = ToolSource {
                    problems: &problems::read(data)?,
                    generation,
                    tools: &self.tools.tools,
                    sandbox: &Sandbox::new(&self.tools.sandbox)?,
                    costs: self.tools.costs,
                    reward: self.tools.reward,
                };
                train_grpo(training, &source, config)?
            }
        };
        Ok(adapter)
    }
}
