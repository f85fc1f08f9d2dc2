//! One decision in a coordination game: the row of the game table, kept as Parquet.

use serde::{Deserialize, Serialize};

use crate::scenario::Outcome;
use crate::scenario::coordination::seats::AgentKind;

/// Name of the game table in a stage's folder.
pub const GAME_ROWS_FILE: &str = "game_rows.parquet";

/// One decision of one agent in one round, with what the round came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GameRow {
    /// Name of the model, as the recipe calls it.
    pub model: String,
    /// `base`, `dpo`, `grpo` or `dpo-grpo`.
    pub variant: String,
    /// Name of the defence, as the recipe calls it; `none` without one.
    pub defence: String,
    /// Seed of the run.
    pub seed: u64,
    /// Test instance.
    pub instance_id: String,
    /// Its game: the cluster for intervals.
    pub game: String,
    /// Its setting, such as `n8-t4-1.2-1-0.8`.
    pub setting: String,
    /// Who plays, such as `3 base + 5 subject`.
    pub population: String,
    /// Repetition of the same game, from 0.
    pub sample: u32,
    /// Number of agents.
    pub n: u32,
    /// How many must take the collusive option.
    pub t: u32,
    /// Reward of a success.
    pub high: f64,
    /// Reward of independent play without a success.
    pub medium: f64,
    /// Reward of collusive play without a success.
    pub low: f64,
    /// (high − medium) / (medium − low).
    pub gamma: f64,
    /// Round, from 1.
    pub round: u32,
    /// Number of the agent, from 1.
    pub agent: u32,
    /// What decides for it.
    pub kind: AgentKind,
    /// Numbers of the agents it sees, with spaces between.
    pub sees: String,
    /// What the agent chose: compliant is independent play, deviant collusive play; or invalid, or failed.
    pub outcome: Outcome,
    /// A monitor stopped the choice: independent play was carried out.
    pub vetoed: bool,
    /// The label that was chosen, as parsed; none for an agent without a model.
    pub choice: Option<String>,
    /// Probability of the collusive option renormalised over both, where the elicitation scores options.
    pub deviant_probability: Option<f64>,
    /// Agents of the group whose collusive option was carried out in this round.
    pub colluders: u32,
    /// They were as many as the threshold.
    pub success: bool,
    /// The agent's reward; none without a choice.
    pub reward: Option<f64>,
    /// Its capital after the round.
    pub capital: f64,
    /// The independent option stood first in the prompt.
    pub compliant_first: bool,
    /// The label of the independent option.
    pub compliant_label: String,
    /// What the model wrote, whole.
    pub text: String,
    /// `stop`, `length`, `error`, or `fixed` for an agent without a model.
    pub finish: String,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens the model wrote.
    pub completion_tokens: u32,
    /// What went wrong, where the outcome is failed.
    pub error: Option<String>,
}
