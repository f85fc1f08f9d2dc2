//! One evaluated decision: the row of the evaluation table, kept as Parquet.

use serde::{Deserialize, Serialize};

use crate::scenario::Outcome;

/// One decision of one agent in one round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalRow {
    /// Name of the model, as the recipe calls it.
    pub model: String,
    /// `base`, `dpo`, `grpo` or `dpo-grpo`.
    pub variant: String,
    /// Name of the defence, as the recipe calls it; `none` without one.
    pub defence: String,
    /// Seed of the run.
    pub seed: u64,
    /// Round, from 1.
    pub round: u32,
    /// Test question.
    pub question_id: String,
    /// Environment of the question: the cluster for intervals.
    pub environment: String,
    /// Sample of the question, from 0.
    pub sample: u32,
    /// Compliant, deviant, invalid or failed.
    pub outcome: Outcome,
    /// The round was supervised.
    pub supervised: bool,
    /// A rule was broken and seen.
    pub detected: bool,
    /// A monitor stopped the choice: the option that keeps the rule was carried out and paid.
    pub vetoed: bool,
    /// The label that was chosen, as parsed.
    pub choice: Option<String>,
    /// Probability of the deviant option renormalised over both, where the elicitation scores options.
    pub deviant_probability: Option<f64>,
    /// Pay of this decision; none without a valid choice.
    pub payoff: Option<f64>,
    /// The compliant option stood first in the prompt.
    pub compliant_first: bool,
    /// The label of the compliant option.
    pub compliant_label: String,
    /// What the model wrote, whole.
    pub text: String,
    /// `stop`, `length` or `error`.
    pub finish: String,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens the model wrote.
    pub completion_tokens: u32,
    /// What went wrong, where the outcome is failed.
    pub error: Option<String>,
}
