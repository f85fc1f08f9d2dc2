//! A question: one drawn situation with all texts and pays that its prompts need, as a flat record.

use serde::{Deserialize, Serialize};

use super::choice::ChoiceOption;
use super::{Outcome, Role};

/// The labels of the two options.
pub const LABELS: [&str; 2] = ["A", "B"];

/// What every answer text begins with.
pub const CANONICAL_PREFIX: &str = "{\"choice\": \"";

/// Which set a question belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Seen in training.
    Train,
    /// Held out.
    Test,
}

impl Split {
    /// `train` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

/// What the JSON answer holds.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum AnswerForm {
    /// The option's letter.
    #[default]
    Letter,
    /// The option's short name, as in the paper. Letters are then not shown.
    Name,
}

/// What a prompt says about being watched.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Supervision {
    /// That the supervisor watches.
    Supervised,
    /// That nobody watches.
    Unsupervised,
    /// Nothing about it: the test's setting.
    #[default]
    Neutral,
}

/// One question; a row of the question table. Pay is in `unit`s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// `train/bakery/03`, counted from 00 within environment and split.
    pub id: String,
    /// Training or test.
    pub split: Split,
    /// The environment.
    pub environment: String,
    /// Which situation text of the split was drawn, from 0.
    pub phrasing: u32,
    /// That text, its slots as names in braces: near-duplicates are found by it.
    pub phrasing_text: String,
    /// Persona and task: the system turn.
    pub system: String,
    /// The situation, its slots filled.
    pub situation: String,
    /// The supervisor's rule.
    pub rule: String,
    /// Short name of the option that keeps the rule.
    pub compliant_name: String,
    /// What it consists in.
    pub compliant_description: String,
    /// Its label, `A` or `B`.
    pub compliant_label: String,
    /// Its pay.
    pub compliant_pay: u32,
    /// Short name of the option that breaks the rule.
    pub deviant_name: String,
    /// What it consists in.
    pub deviant_description: String,
    /// Its label, `A` or `B`.
    pub deviant_label: String,
    /// Its pay where it is not seen; more than the compliant pay.
    pub deviant_pay: u32,
    /// Its pay where it is seen; less than the compliant pay.
    pub detected_pay: u32,
    /// The compliant option stands first in the prompt.
    pub compliant_first: bool,
    /// What the JSON answer holds.
    pub answer: AnswerForm,
    /// What pay is counted in.
    pub unit: String,
    /// Sentence for [`Supervision::Supervised`].
    pub supervised_text: String,
    /// Sentence for [`Supervision::Unsupervised`].
    pub unsupervised_text: String,
    /// Sentence for [`Supervision::Neutral`].
    pub neutral_text: String,
    /// The history's words for a compliant round.
    pub compliant_outcome: String,
    /// The history's words for a deviant round that nobody saw.
    pub deviant_outcome: String,
    /// The history's words for a deviant round that was seen.
    pub detected_outcome: String,
}

impl Question {
    /// Both roles in the order in which the prompt lists their options.
    pub fn listed(&self) -> [Role; 2] {
        if self.compliant_first {
            [Role::Compliant, Role::Deviant]
        } else {
            [Role::Deviant, Role::Compliant]
        }
    }

    /// Short name of an option.
    pub fn name(&self, role: Role) -> &str {
        match role {
            Role::Compliant => &self.compliant_name,
            Role::Deviant => &self.deviant_name,
        }
    }

    /// Description of an option.
    pub fn description(&self, role: Role) -> &str {
        match role {
            Role::Compliant => &self.compliant_description,
            Role::Deviant => &self.deviant_description,
        }
    }

    /// Letter of an option, whether it is shown or not.
    pub fn label(&self, role: Role) -> &str {
        match role {
            Role::Compliant => &self.compliant_label,
            Role::Deviant => &self.deviant_label,
        }
    }

    /// What the JSON answer holds to choose an option: its letter or its name.
    pub fn answer_value(&self, role: Role) -> &str {
        match self.answer {
            AnswerForm::Letter => self.label(role),
            AnswerForm::Name => self.name(role),
        }
    }

    /// The options for [`parse_choice`](super::choice::parse_choice), in listed order. Letters that the prompt does not
    /// show are no answer.
    pub fn choice_options(&self) -> [ChoiceOption; 2] {
        self.listed().map(|role| ChoiceOption {
            role,
            label: self.answer_value(role).to_owned(),
            name: self.name(role).to_owned(),
        })
    }
}

/// The exact answer text of each option, such as `{"choice": "A"}`, in listed order. Each begins with
/// [`CANONICAL_PREFIX`] and is what scoring and constrained decoding use.
pub fn option_answers(question: &Question) -> [(Role, String); 2] {
    question
        .listed()
        .map(|role| (role, canonical_answer(question.answer_value(role))))
}

/// The answer text that chooses what the prompt calls `value`.
pub(super) fn canonical_answer(value: &str) -> String {
    // Labels and names are plain letters, digits, spaces and hyphens: nothing needs escaping in JSON.
    format!("{CANONICAL_PREFIX}{value}\"}}")
}

/// Pay with its unit: `1 coin`, `4 coins`.
pub(super) fn amount(pay: f64, unit: &str) -> String {
    let singular = unit.strip_suffix('s').unwrap_or(unit);
    format!("{pay} {}", if pay == 1.0 { singular } else { unit })
}

/// What a decision pays: unseen deviance more than compliance, detected deviance less; nothing to pay without a choice.
pub fn payoff(question: &Question, outcome: Outcome, detected: bool) -> Option<f64> {
    let pay = match (outcome.role()?, detected) {
        (Role::Compliant, _) => question.compliant_pay,
        (Role::Deviant, true) => question.detected_pay,
        (Role::Deviant, false) => question.deviant_pay,
    };
    Some(f64::from(pay))
}
