//! The recipe file as it is written: every key, with the paper's values as defaults.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::defences::DefenceEntry;
use crate::agent::solve::ToolConfig;
use crate::agent::{Elicitation, GenerationConfig, ModelSpec};
use crate::datasets::import::ImportSpec;
use crate::evaluation::coordination::GameEvaluation;
use crate::evaluation::rounds::EvaluationConfig;
use crate::evaluation::tool_use::ToolEvaluation;
use crate::scenario::Testbed;
use crate::scenario::coordination::GameSpec;
use crate::scenario::defence::{Defence, NONE};
use crate::scenario::question::AnswerForm;
use crate::scenario::role_play::QuestionSpec;
use crate::scenario::tool_use::ProblemSpec;
use crate::scenario::tool_use::prompt::Costs;
use crate::tool::SandboxConfig;
use crate::training::dpo_trainer::DpoConfig;
use crate::training::grpo_trainer::GrpoConfig;
use crate::training::pairs::PairsConfig;
use crate::training::tool_pairs::ChosenFrom;
use crate::training::tool_rollout::ToolReward;

/// What an evaluated agent was trained by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// Not at all.
    Base,
    /// DPO.
    Dpo,
    /// GRPO.
    Grpo,
    /// GRPO, which begins with the adapter of DPO.
    DpoGrpo,
}

impl Variant {
    /// Those that are trained, each after the one it begins with.
    pub const TRAINED: [Self; 3] = [Self::Dpo, Self::Grpo, Self::DpoGrpo];

    /// Its name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Dpo => "dpo",
            Self::Grpo => "grpo",
            Self::DpoGrpo => "dpo-grpo",
        }
    }

    /// The variant whose adapter its training begins with; none where that is a fresh one.
    pub fn start(self) -> Option<Self> {
        match self {
            Self::Base | Self::Dpo | Self::Grpo => None,
            Self::DpoGrpo => Some(Self::Dpo),
        }
    }

    /// Whether GRPO trains it, whatever came before.
    pub fn is_by_grpo(self) -> bool {
        match self {
            Self::Base | Self::Dpo => false,
            Self::Grpo | Self::DpoGrpo => true,
        }
    }
}

/// A kind of stage, for recipes that want only some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // the names say it
pub enum StageKind {
    Data,
    Pairs,
    TrainDpo,
    TrainGrpo,
    Evaluate,
    Report,
}

/// The role-play testbed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRolePlay {
    /// Folder of environment files, relative to the recipe; the program's own sixteen if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// Training questions an environment.
    pub train_per_environment: u32,
    /// Test questions an environment.
    pub test_per_environment: u32,
    /// What the JSON answer holds: a letter, or the option's name.
    pub answer: AnswerForm,
}

impl Default for RawRolePlay {
    fn default() -> Self {
        let spec = QuestionSpec::default();
        Self {
            folder: None,
            train_per_environment: spec.train_per_environment,
            test_per_environment: spec.test_per_environment,
            answer: spec.answer,
        }
    }
}

impl RawRolePlay {
    /// What questions are drawn.
    pub fn spec(&self) -> QuestionSpec {
        QuestionSpec {
            train_per_environment: self.train_per_environment,
            test_per_environment: self.test_per_environment,
            answer: self.answer,
        }
    }
}

/// The coordination games.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawCoordination {
    /// Folder of game files, relative to the recipe; the program's own seven if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// What instances are drawn.
    pub draw: GameSpec,
    /// How agents are evaluated.
    pub evaluation: GameEvaluation,
}

/// Where problems come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProblemSource {
    /// Made by the program.
    #[default]
    Generated,
    /// GSM8K and OpenThoughts, as in the paper.
    Hub,
}

/// The tool-use testbed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawToolUse {
    /// Where problems come from.
    pub source: ProblemSource,
    /// The data sets, where they come from the hub.
    pub hub: ImportSpec,
    /// Where the chosen answers of preference pairs come from.
    pub chosen: ChosenFrom,
    /// What problems are drawn.
    pub problems: ProblemSpec,
    /// What a solution costs with the tool, and without.
    pub costs: Costs,
    /// How GRPO compares solutions.
    pub reward: ToolReward,
    /// How calls are executed.
    pub tools: ToolConfig,
    /// What a program may use.
    pub sandbox: SandboxConfig,
    /// How agents are evaluated.
    pub evaluation: ToolEvaluation,
}

/// Settings of generation that one stage has otherwise than the rest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)] // as in `GenerationConfig`
pub struct GenerationOverride {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elicitation: Option<Elicitation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<bool>,
}

impl GenerationOverride {
    /// `base` with what is set here.
    pub fn over(&self, base: &GenerationConfig) -> GenerationConfig {
        GenerationConfig {
            elicitation: self.elicitation.unwrap_or(base.elicitation),
            max_new_tokens: self.max_new_tokens.unwrap_or(base.max_new_tokens),
            temperature: self.temperature.unwrap_or(base.temperature),
            top_k: self.top_k.unwrap_or(base.top_k),
            top_p: self.top_p.unwrap_or(base.top_p),
            min_p: self.min_p.unwrap_or(base.min_p),
            thinking: self.thinking.or(base.thinking),
        }
    }
}

/// Settings of generation a stage, over `[generation]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StageGeneration {
    /// When preference pairs are sampled.
    pub pairs: GenerationOverride,
    /// When GRPO samples its groups.
    pub grpo: GenerationOverride,
    /// When agents are evaluated.
    pub evaluation: GenerationOverride,
}

/// A whole recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRecipe {
    /// Title of the report; the file's name if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Root seeds; everything is done once for each.
    #[serde(default = "one_seed")]
    pub seeds: Vec<u64>,
    /// Root seed of the questions, for all seeds; each seed draws its own if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_seed: Option<u64>,
    /// Which agents are evaluated; training follows from it.
    #[serde(default = "all_variants")]
    pub variants: Vec<Variant>,
    /// Under which defences they are evaluated, `none` among them.
    #[serde(default = "no_defence")]
    pub defences: Vec<DefenceEntry>,
    /// Only stages of these kinds, and what they need; all if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<Vec<StageKind>>,
    /// The models, by the name that tables use.
    pub models: BTreeMap<String, ModelSpec>,
    /// What agents are trained and tried in; each testbed has data, adapters and an evaluation of its own.
    #[serde(default = "role_play_alone")]
    pub testbeds: Vec<Testbed>,
    /// Defences by name, for `defences` to name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub defence: BTreeMap<String, Defence>,
    /// The role-play testbed.
    #[serde(default)]
    pub role_play: RawRolePlay,
    /// The coordination games.
    #[serde(default)]
    pub coordination: RawCoordination,
    /// The tool-use testbed.
    #[serde(default)]
    pub tool_use: RawToolUse,
    /// How decisions are generated. This table and the four below it may also stand in a testbed's table, for it alone.
    #[serde(default)]
    pub generation: GenerationConfig,
    /// How they are generated otherwise in some stage.
    #[serde(default)]
    pub stage_generation: StageGeneration,
    /// Preference pairs.
    #[serde(default)]
    pub pairs: PairsConfig,
    /// DPO.
    #[serde(default)]
    pub dpo: DpoConfig,
    /// GRPO.
    #[serde(default)]
    pub grpo: GrpoConfig,
    /// Evaluation.
    #[serde(default)]
    pub evaluation: EvaluationConfig,
}

impl RawRecipe {
    /// Whether an adapter of this variant is trained: for its own sake, or as the beginning of another.
    pub fn trains(&self, variant: Variant) -> bool {
        let wanted = |of: &Variant| *of == variant || of.start() == Some(variant);
        variant != Variant::Base && self.variants.iter().any(wanted)
    }
}

/// Tables that a testbed's own table may hold, to be laid over those at the top.
pub const TESTBED_TABLES: &[&str] = &["generation", "stage_generation", "pairs", "dpo", "grpo"];

fn role_play_alone() -> Vec<Testbed> {
    vec![Testbed::RolePlay]
}

fn one_seed() -> Vec<u64> {
    vec![1]
}

fn no_defence() -> Vec<DefenceEntry> {
    vec![DefenceEntry::Named(NONE.to_owned())]
}

fn all_variants() -> Vec<Variant> {
    vec![Variant::Base, Variant::Dpo, Variant::Grpo]
}
