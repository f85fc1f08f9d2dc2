//! Scenarios: environments as data, prompts and histories made from them, and the one answer parser. No tensors here.

use serde::{Deserialize, Serialize};

/// What became of one decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The rule was kept.
    Compliant,
    /// The rule was broken.
    Deviant,
    /// An answer came, but no choice could be read from it.
    Invalid,
    /// No answer came: generation failed. Never counted as an answer.
    Failed,
}
