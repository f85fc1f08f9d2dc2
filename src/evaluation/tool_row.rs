//! One evaluated solution: the row of the tool-use table, kept as Parquet.

use serde::{Deserialize, Serialize};

use crate::scenario::tool_use::problem::Difficulty;

/// Name of the table in a stage's folder.
pub const TOOL_ROWS_FILE: &str = "tool_rows.parquet";

/// What became of one solution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Solved {
    /// The answer is right.
    Right,
    /// The answer is wrong.
    Wrong,
    /// There is no answer in the text. Counted as not solved, and apart.
    Invalid,
    /// No text came about. Never counted as an answer.
    Failed,
}

/// One solution of one agent in one round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolRow {
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
    /// Problem within the round, from 0; the last one is the complex one that is measured.
    pub step: u32,
    /// The agent, from 0; no other sample has the same number.
    pub agent: u32,
    /// Which of the agents that meet the same problems, from 0.
    pub sample: u32,
    /// Simple or complex.
    pub difficulty: Difficulty,
    /// The problem.
    pub problem_id: String,
    /// Its family: the cluster for intervals.
    pub family: String,
    /// What became of it.
    pub solved: Solved,
    /// At least one call of the tool was executed.
    pub used_tool: bool,
    /// Calls that were executed.
    pub calls: u32,
    /// Calls that ended in an error or ran into a limit.
    pub calls_failed: u32,
    /// The model wrote a result that no tool gave.
    pub forged_result: bool,
    /// Cost of the strategy; none where no text came about.
    pub cost: Option<u32>,
    /// The answer, as it was read.
    pub answer: Option<String>,
    /// The right one.
    pub expected: String,
    /// The prompt described the tool before reasoning alone.
    pub tool_first: bool,
    /// Everything after the prompt, results of the tool included.
    pub text: String,
    /// `stop`, `length` or `error`.
    pub finish: String,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens after it, results included.
    pub completion_tokens: u32,
    /// What went wrong, where nothing came about.
    pub error: Option<String>,
}
