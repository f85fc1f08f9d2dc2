//! What the agents of one model, testbed and seed are trained on by a method, as files and settings; read when a stage
//! trains on it, be it for an adapter or between the rounds of an evaluation.

use serde_json::{Value, json};

use super::data::TRAIN;
use super::pairs::PAIRS;
use super::shared::Slot;
use super::train::ADAPTER;
use crate::agent::GenerationConfig;
use crate::datasets::pairs::PreferencePair;
use crate::datasets::{games, pairs, problems, questions};
use crate::model::{Adapter, Decoder, LoraConfig};
use crate::recipe::raw::RawToolUse;
use crate::scenario::Testbed;
use crate::scenario::decision::Decision;
use crate::scenario::defence::Defence;
use crate::scenario::defence::augmentation::{Augmentation, remembered};
use crate::stages::{Input, StageContext, Work};
use crate::tool::Sandbox;
use crate::training::augment::{augmented_pairs, augmented_tool_pairs};
use crate::training::decision_rollout::DecisionSource;
use crate::training::dpo_trainer::DpoConfig;
use crate::training::grpo_trainer::GrpoConfig;
use crate::training::lessons::Lessons;
use crate::training::tool_rollout::ToolSource;

/// Name of the pairs among a stage's inputs.
const PAIRS_INPUT: &str = "pairs";
/// Name of the adapter that training begins with.
pub const START: &str = "start";

/// How an adapter is trained.
#[derive(Clone)]
enum Method {
    Dpo(DpoConfig),
    Grpo(GrpoConfig),
}

/// A method with its training set.
#[derive(Clone)]
pub struct Curriculum {
    testbed: Testbed,
    generation: GenerationConfig,
    method: Method,
    tools: RawToolUse,
    augmentation: Option<Augmentation>,
    /// Training questions without copies, if their number is known.
    questions: Option<u64>,
    /// Stages that leave the training questions and the pairs.
    data: String,
    pairs: Option<String>,
    /// Stage that leaves the adapter to begin with; a fresh one if none.
    start: Option<String>,
    /// Name of the training questions among a stage's inputs.
    questions_input: &'static str,
}

impl Curriculum {
    /// DPO on the pairs of the stage `pairs`, which were sampled on the questions of the stage `data`.
    pub fn dpo(pairs: &str, data: &str, slot: &Slot, defence: &Defence) -> Self {
        let settings = slot.settings();
        let mut config = settings.dpo.clone();
        if let Some(anchor) = &defence.kl_anchor {
            config.beta = anchor.dpo_beta;
        }
        let generation = settings.stage_generation.pairs.over(&settings.generation);
        Self {
            pairs: Some(pairs.to_owned()),
            ..Self::new(Method::Dpo(config), generation, data, slot, defence)
        }
    }

    /// GRPO on the training questions of the stage `data`.
    pub fn grpo(data: &str, slot: &Slot, defence: &Defence) -> Self {
        let settings = slot.settings();
        let mut config = settings.grpo.clone();
        if let Some(anchor) = &defence.kl_anchor {
            config.beta = anchor.grpo_beta;
        }
        let generation = settings.stage_generation.grpo.over(&settings.generation);
        Self::new(Method::Grpo(config), generation, data, slot, defence)
    }

    fn new(
        method: Method,
        generation: GenerationConfig,
        data: &str,
        slot: &Slot,
        defence: &Defence,
    ) -> Self {
        Self {
            testbed: slot.testbed,
            generation,
            method,
            tools: slot.settings().tool_use.clone(),
            augmentation: defence.history_augmentation,
            questions: slot.sizes.map(|sizes| sizes.train),
            data: data.to_owned(),
            pairs: None,
            start: None,
            questions_input: "questions",
        }
    }

    /// The same, begun with the adapter that the stage `start` leaves.
    pub fn beginning_with(self, start: &str) -> Self {
        Self {
            start: Some(start.to_owned()),
            ..self
        }
    }

    /// The same for a stage that has another input called `questions`.
    pub fn beside_questions(self) -> Self {
        Self {
            questions_input: "training-questions",
            ..self
        }
    }

    /// How prompts are rendered.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// Trained by DPO.
    pub fn is_dpo(&self) -> bool {
        matches!(self.method, Method::Dpo(_))
    }

    /// The files that are read.
    pub fn inputs(&self) -> Vec<Input> {
        let pairs = self
            .pairs
            .as_ref()
            .map(|stage| Input::output(PAIRS_INPUT, stage, PAIRS));
        let needs_questions = !self.is_dpo() || self.augmentation.is_some();
        let questions =
            needs_questions.then(|| Input::output(self.questions_input, &self.data, TRAIN));
        let start = self.start.as_ref();
        let start = start.map(|stage| Input::output(START, stage, ADAPTER));
        pairs.into_iter().chain(questions).chain(start).collect()
    }

    /// The adapter to begin with, for this model; none for a fresh one.
    ///
    /// # Errors
    /// An adapter that cannot be read, or belongs to another model.
    pub fn start(
        &self,
        context: &StageContext,
        model: &Decoder,
    ) -> anyhow::Result<Option<Adapter>> {
        if self.start.is_none() {
            return Ok(None);
        }
        let folder = context.input(START)?;
        let adapter = Adapter::load(folder, model.config(), model.device())?;
        Ok(Some(adapter))
    }

    /// The adapter that is trained.
    pub fn lora(&self) -> &LoraConfig {
        match &self.method {
            Method::Dpo(config) => &config.lora,
            Method::Grpo(config) => &config.lora,
        }
    }

    /// How much a training on all of it takes.
    pub fn work(&self) -> Option<Work> {
        let copies = 1 + self.augmentation.map_or(0, |spec| u64::from(spec.copies));
        let questions = self.questions?;
        Some(match &self.method {
            Method::Dpo(config) => {
                Work::new(&[questions, copies, config.epochs], "passes over a pair")
            }
            Method::Grpo(config) => {
                let group = config.group as u64;
                let work = Work::new(&[questions, copies, config.epochs, group], "completions");
                work.writing(self.generation.new_tokens())
            }
        })
    }

    /// The part of a stage's key.
    pub fn config(&self) -> Value {
        let mut all = match &self.method {
            // Of generation, DPO uses only how prompts are rendered.
            Method::Dpo(config) => {
                json!({ "testbed": self.testbed, "dpo": config, "thinking": self.generation.thinking })
            }
            Method::Grpo(config) => {
                let mut grpo = json!(config);
                if self.start.is_none()
                    && let Some(settings) = grpo.as_object_mut()
                {
                    // A fresh adapter is the model without one, and realignment keeps to that.
                    settings.remove("reference");
                }
                json!({ "testbed": self.testbed, "grpo": grpo, "generation": self.generation })
            }
        };
        let RawToolUse {
            costs,
            reward,
            tools,
            sandbox,
            ..
        } = &self.tools;
        if self.testbed == Testbed::ToolUse && !self.is_dpo() {
            all["tools"] = json!({
                "costs": costs, "reward": reward, "tools": tools, "sandbox": sandbox,
            });
        }
        if let Some(augmentation) = &self.augmentation {
            all["history_augmentation"] = json!(augmentation);
            if self.is_dpo() {
                // The histories are rendered for the pairs here.
                all["answer_style"] = json!(self.generation.answer_style());
                all["costs"] = json!(costs);
            }
        }
        all
    }

    /// Read the training set and do something with it. `augmented` is given the pairs that augmentation made, if any.
    ///
    /// # Errors
    /// Files that cannot be read or do not belong together, and whatever `learn` fails with.
    pub fn with_lessons(
        &self,
        context: &StageContext,
        augmented: impl FnOnce(&[PreferencePair]) -> anyhow::Result<()>,
        learn: &mut dyn FnMut(Lessons) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        match &self.method {
            Method::Dpo(config) => {
                let mut found = pairs::read(context.input(PAIRS_INPUT)?)?;
                if let Some(spec) = &self.augmentation {
                    found = self.augment(&found, spec, context)?;
                    augmented(&found)?;
                }
                learn(Lessons::Dpo {
                    pairs: &found,
                    config,
                })
            }
            Method::Grpo(config) => {
                let data = context.input(self.questions_input)?;
                match self.testbed {
                    Testbed::RolePlay => {
                        self.decisions(&questions::read(data)?, config, context.seed, learn)
                    }
                    Testbed::Coordination => {
                        self.decisions(&games::read(data)?, config, context.seed, learn)
                    }
                    Testbed::ToolUse => learn(Lessons::Grpo {
                        source: &ToolSource {
                            problems: &problems::read(data)?,
                            augmentation: self.augmentation,
                            generation: &self.generation,
                            tools: &self.tools.tools,
                            sandbox: &Sandbox::new(&self.tools.sandbox)?,
                            costs: self.tools.costs,
                            reward: self.tools.reward,
                        },
                        config,
                    }),
                }
            }
        }
    }

    fn augment(
        &self,
        found: &[PreferencePair],
        spec: &Augmentation,
        context: &StageContext,
    ) -> anyhow::Result<Vec<PreferencePair>> {
        let data = context.input(self.questions_input)?;
        let (style, root) = (self.generation.answer_style(), context.seed);
        Ok(match self.testbed {
            Testbed::RolePlay => {
                augmented_pairs(found, &questions::read(data)?, spec, style, root)?
            }
            Testbed::Coordination => {
                augmented_pairs(found, &games::read(data)?, spec, style, root)?
            }
            Testbed::ToolUse => {
                let problems = problems::read(data)?;
                augmented_tool_pairs(found, &problems, spec, self.tools.costs, root)?
            }
        })
    }

    fn decisions<D: Decision>(
        &self,
        decisions: &[D],
        config: &GrpoConfig,
        root: u64,
        learn: &mut dyn FnMut(Lessons) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (generation, reward) = (&self.generation, config.reward);
        match &self.augmentation {
            None => learn(Lessons::Grpo {
                source: &DecisionSource {
                    decisions,
                    generation,
                    reward,
                },
                config,
            }),
            Some(spec) => learn(Lessons::Grpo {
                source: &DecisionSource {
                    decisions: &remembered(decisions, spec, root),
                    generation,
                    reward,
                },
                config,
            }),
        }
    }
}
