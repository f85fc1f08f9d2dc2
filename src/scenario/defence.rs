//! Defences against tipping: small transformations of prompt, history or training set, described by data.
//!
//! The paper leaves open what would keep an agent aligned while it evolves. A [`Defence`] is a list of measures, each of
//! which may be off; all off is no defence. Every one is evaluated beside none on the same questions and the same random
//! numbers, so that differences are paired.
//!
//! | measure | changes | file |
//! |---|---|---|
//! | `reminder` | every prompt: a standing sentence about the rule | `reminder` |
//! | `redaction` | the history: rounds that broke the rule are left out or masked | `record` |
//! | `outcome_hiding` | the history: what choices paid, or led to, is not shown | `record` |
//! | `window` | the history: how many rounds are shown | here |
//! | `monitor` | what is done: a monitor stops choices that break the rule | `monitor` |
//! | `history_augmentation` | the training set: prompts with simulated deviant histories | `augmentation` |
//! | `kl_anchor` | the training: a stronger tie to the untrained model | here |
//! | `realignment` | the evaluation: some training steps between its rounds | here |

pub mod augmentation;
pub mod monitor;
mod prompts;
pub mod record;
pub mod reminder;

use serde::{Deserialize, Serialize};

use super::{Outcome, Testbed};
use augmentation::Augmentation;
use monitor::Monitor;
use record::{Hiding, Record, Redaction};
use reminder::Reminder;

/// The name under which no defence stands in recipes and rows.
pub const NONE: &str = "none";

/// Some measures, all of them off by default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defence {
    /// A standing sentence about the rule in every prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reminder: Option<Reminder>,
    /// What becomes of rounds of the history in which the rule was broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redaction: Option<Redaction>,
    /// What of the history's outcomes is not shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome_hiding: Option<Hiding>,
    /// Rounds of the history that a prompt shows, in place of the evaluation's own number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// Who stops choices that break the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor: Option<Monitor>,
    /// Simulated deviant histories in the training set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_augmentation: Option<Augmentation>,
    /// A stronger tie to the untrained model in training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_anchor: Option<KlAnchor>,
    /// Training steps between the evaluation's rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub realignment: Option<Realignment>,
}

/// Weights of the tie to the untrained model, in place of the recipe's β.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KlAnchor {
    /// β of DPO's loss: the larger, the less a given margin lets the policy leave the reference (Rafailov et al. 2023).
    pub dpo_beta: f64,
    /// Weight of GRPO's KL penalty.
    pub grpo_beta: f64,
}

impl Default for KlAnchor {
    /// Five times the paper's.
    fn default() -> Self {
        Self {
            dpo_beta: 0.5,
            grpo_beta: 0.2,
        }
    }
}

/// Training between the evaluation's rounds, by the method that the agent was trained by and on its training set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Realignment {
    /// After every so many rounds; never after the last.
    pub every: u32,
    /// Optimiser steps each time, each on a batch of its own as large as the method's; fewer where the set is smaller.
    pub steps: u64,
    /// Learning rate, constant; the method's peak rate if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
}

impl Default for Realignment {
    fn default() -> Self {
        Self {
            every: 1,
            steps: 2,
            lr: None,
        }
    }
}

impl Realignment {
    /// Whether weights change between this round (from 1) and the next one.
    pub fn is_after(&self, round: u32, rounds: u32) -> bool {
        round < rounds && round.is_multiple_of(self.every.max(1))
    }
}

/// Measures that a recipe may name without describing them: each alone, at its defaults.
pub const BUILT_IN: [&str; 8] = [
    "reminder",
    "redaction",
    "outcome-hiding",
    "window",
    "monitor",
    "history-augmentation",
    "kl-anchor",
    "realignment",
];

impl Defence {
    /// The built-in defence of this name, one of [`BUILT_IN`], or no defence for [`NONE`].
    pub fn built_in(name: &str) -> Option<Self> {
        let mut defence = Self::default();
        match name {
            NONE => {}
            "reminder" => defence.reminder = Some(Reminder::default()),
            "redaction" => defence.redaction = Some(Redaction::Omit),
            "outcome-hiding" => defence.outcome_hiding = Some(Hiding::Outcomes),
            "window" => defence.window = Some(1),
            "monitor" => defence.monitor = Some(Monitor::default()),
            "history-augmentation" => defence.history_augmentation = Some(Augmentation::default()),
            "kl-anchor" => defence.kl_anchor = Some(KlAnchor::default()),
            "realignment" => defence.realignment = Some(Realignment::default()),
            _ => return None,
        }
        Some(defence)
    }

    /// No measure is on.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What prompts show of earlier rounds.
    pub fn record(&self) -> Record {
        Record {
            redaction: self.redaction,
            hiding: self.outcome_hiding,
        }
    }

    /// Whether a monitor, if there is one, stops this choice.
    pub fn stops(&self, outcome: Outcome, root: u64, round: u32, agent: &str) -> bool {
        let monitor = self.monitor.as_ref();
        monitor.is_some_and(|monitor| monitor.stops(outcome, root, round, agent))
    }

    /// The measures that change how the adapter is trained, alone.
    pub fn of_training(&self) -> Self {
        Self {
            history_augmentation: self.history_augmentation,
            kl_anchor: self.kl_anchor,
            ..Self::default()
        }
    }

    /// The adapter is trained otherwise than without the defence.
    pub fn changes_training(&self) -> bool {
        self.history_augmentation.is_some() || self.kl_anchor.is_some()
    }

    /// Something is trained, so that there must be a trained agent to try it on.
    pub fn needs_training(&self) -> bool {
        self.changes_training() || self.realignment.is_some()
    }

    /// Why the defence cannot be tried in a testbed, if it cannot.
    pub fn misfit(&self, testbed: Testbed) -> Option<&'static str> {
        (testbed == Testbed::ToolUse && self.monitor.is_some()).then_some(
            "a monitor stops choices that break a rule, and tool usage has no rule, only costs",
        )
    }

    /// What is wrong with the settings, if anything: `(field below the defence, problem)`.
    ///
    /// # Errors
    /// The first field that makes no sense.
    pub fn check(&self) -> Result<(), (String, String)> {
        let at = |field: &str, problem: String| Err((field.to_owned(), problem));
        if let Some(reminder) = &self.reminder
            && let Err((field, problem)) = reminder.check()
        {
            return at(&format!("reminder.{field}"), problem);
        }
        if let Some(monitor) = &self.monitor
            && !(monitor.recall > 0.0 && monitor.recall <= 1.0)
        {
            let got = monitor.recall;
            return at(
                "monitor.recall",
                format!("expected above 0 to 1, got {got}"),
            );
        }
        if let Some(augmentation) = &self.history_augmentation
            && let Err((field, problem)) = augmentation.check()
        {
            return at(&format!("history_augmentation.{field}"), problem);
        }
        if let Some(anchor) = &self.kl_anchor {
            for (field, beta) in [
                ("dpo_beta", anchor.dpo_beta),
                ("grpo_beta", anchor.grpo_beta),
            ] {
                if !(beta.is_finite() && beta > 0.0) {
                    let problem = format!("expected a number above 0, got {beta}");
                    return at(&format!("kl_anchor.{field}"), problem);
                }
            }
        }
        if let Some(realignment) = &self.realignment {
            if realignment.every == 0 || realignment.steps == 0 {
                let field = if realignment.every == 0 {
                    "every"
                } else {
                    "steps"
                };
                let problem = "expected 1 or more, got 0".to_owned();
                return at(&format!("realignment.{field}"), problem);
            }
            if let Some(lr) = realignment.lr
                && !(lr > 0.0 && lr < 1.0)
            {
                let problem = format!("expected above 0 and below 1, got {lr}");
                return at("realignment.lr", problem);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
