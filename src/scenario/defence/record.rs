//! What prompts show of earlier rounds: redaction of broken rules, hiding of outcomes.
//!
//! The window comes first: it is applied to the whole history, and what is redacted within it makes no room for older
//! rounds. So a redaction only ever takes something away. Numbers of rounds stay, so that a gap can be seen.

use serde::{Deserialize, Serialize};

/// What becomes of choices in the history that broke the rule: the deviant option in role-play; the collusive one in
/// games, one's own and others'; solutions without the tool in tool usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Redaction {
    /// They are left out.
    Omit,
    /// It stands there that something is not shown.
    Mask,
}

/// What of earlier rounds' outcomes is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hiding {
    /// Numbers: pay, rewards, capital, costs.
    Pay,
    /// Numbers and words: choices alone are shown.
    Outcomes,
}

/// How earlier rounds are shown; everything by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Record {
    /// Of choices that broke the rule.
    pub redaction: Option<Redaction>,
    /// Of outcomes.
    pub hiding: Option<Hiding>,
}

impl Record {
    /// Choices that broke the rule are left out.
    pub fn omits(self) -> bool {
        self.redaction == Some(Redaction::Omit)
    }

    /// Choices that broke the rule are masked.
    pub fn masks(self) -> bool {
        self.redaction == Some(Redaction::Mask)
    }

    /// What a round led to is told in words.
    pub fn shows_words(self) -> bool {
        self.hiding != Some(Hiding::Outcomes)
    }

    /// Pay, rewards, capital and costs are told.
    pub fn shows_pay(self) -> bool {
        self.hiding.is_none()
    }
}
