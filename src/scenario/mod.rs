//! Scenarios: environments as data, prompts and histories made from them, and the one answer parser. No tensors here.

pub mod choice;
pub mod coordination;
pub mod decision;
pub mod defence;
pub mod disjoint;
pub mod environment;
pub mod kind;
mod loose_json;
pub mod prompt;
pub mod question;
pub mod role_play;
mod slots;
pub mod supervision;
mod toml_error;
pub mod tool_use;

use serde::{Deserialize, Serialize};

/// A setting in which alignment is trained and then tried (paper, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Testbed {
    /// One agent, a supervisor's rule, an option that breaks it and pays more.
    RolePlay,
    /// Many agents that gain if enough of them collude.
    Coordination,
    /// Problems that a costly tool would solve.
    ToolUse,
}

impl Testbed {
    /// All, in the order they are run and reported.
    pub const ALL: [Self; 3] = [Self::RolePlay, Self::Coordination, Self::ToolUse];

    /// Its key in a recipe.
    pub fn key(self) -> &'static str {
        match self {
            Self::RolePlay => "role_play",
            Self::Coordination => "coordination",
            Self::ToolUse => "tool_use",
        }
    }

    /// Its name in stages and texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::RolePlay => "role-play",
            Self::Coordination => "coordination",
            Self::ToolUse => "tool-use",
        }
    }
}

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

/// What an option stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The option that keeps the rule.
    Compliant,
    /// The option that breaks the rule and pays more.
    Deviant,
}

impl Role {
    /// Both, in a fixed order.
    pub const BOTH: [Self; 2] = [Self::Compliant, Self::Deviant];

    /// The other role.
    pub fn other(self) -> Self {
        match self {
            Self::Compliant => Self::Deviant,
            Self::Deviant => Self::Compliant,
        }
    }
}

impl From<Role> for Outcome {
    fn from(role: Role) -> Self {
        match role {
            Role::Compliant => Self::Compliant,
            Role::Deviant => Self::Deviant,
        }
    }
}

impl Outcome {
    /// The role that was chosen, where one was.
    pub fn role(self) -> Option<Role> {
        match self {
            Self::Compliant => Some(Role::Compliant),
            Self::Deviant => Some(Role::Deviant),
            Self::Invalid | Self::Failed => None,
        }
    }
}
