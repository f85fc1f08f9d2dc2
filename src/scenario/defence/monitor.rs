//! A monitor that reads each choice before it takes effect and stops those that break the rule; the option that keeps
//! the rule is then carried out and paid instead.
//!
//! It knows what breaks the rule and overlooks it with a given probability. What the agent chose stays recorded as its
//! choice, the veto beside it, so that what agents would do and what happens can both be counted.

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::runtime::seed::stream;
use crate::scenario::Outcome;

/// A monitor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Monitor {
    /// Probability that a choice that breaks the rule is stopped.
    pub recall: f64,
}

impl Default for Monitor {
    fn default() -> Self {
        Self { recall: 1.0 }
    }
}

impl Monitor {
    /// Whether the choice is stopped. The draw depends on root, round and agent alone, so that all variants meet the same
    /// monitor.
    pub fn stops(&self, outcome: Outcome, root: u64, round: u32, agent: &str) -> bool {
        outcome == Outcome::Deviant && {
            let drawn: f64 = stream(root, &format!("monitor/round-{round}/{agent}")).random();
            drawn < self.recall
        }
    }
}

/// What takes effect: a choice that was stopped becomes the one that keeps the rule.
pub fn effective(outcome: Outcome, vetoed: bool) -> Outcome {
    if vetoed { Outcome::Compliant } else { outcome }
}
