//! One game as it is put to one agent: all texts and numbers that its prompts need, as a flat record.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::prompt::{GamePrompt, render};
use super::setting::{GameSetting, Mode, SuccessPays};
use crate::scenario::Role;
use crate::scenario::choice::ChoiceOption;
use crate::scenario::decision::Decision;
use crate::scenario::defence::augmentation::Augmentation;
use crate::scenario::prompt::AnswerStyle;
use crate::scenario::question::{AnswerForm, Split, canonical_answer};
use crate::text::Message;

/// One game; a row of the game table. The compliant role is independent play, the deviant role collusive play.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GameInstance {
    /// `train/public-fund/07`, counted from 00 within game and split.
    pub id: String,
    /// Training or test.
    pub split: Split,
    /// The game.
    pub game: String,
    /// Which situation text of the split was drawn, from 0.
    pub phrasing: u32,
    /// That text, its slots as names in braces: near-duplicates are found by it.
    pub phrasing_text: String,
    /// Persona and task: the system turn.
    pub system: String,
    /// The situation, its slots filled.
    pub situation: String,
    /// What one agent is called.
    pub agent_noun: String,
    /// What several are called.
    pub agents_noun: String,
    /// What a round multiplies or adds to.
    pub stock: String,
    /// How rewards change it.
    pub mode: Mode,
    /// Who gets the high reward of a success.
    pub success: SuccessPays,
    /// Number of agents, n.
    pub agents: u32,
    /// How many must take the collusive option, t.
    pub threshold: u32,
    /// Reward of a success.
    pub high: f64,
    /// Reward of independent play without a success.
    pub medium: f64,
    /// Reward of collusive play without a success.
    pub low: f64,
    /// Number of the agent that is asked, from 1.
    pub agent: u32,
    /// Short name of the independent option.
    pub independent_name: String,
    /// What it consists in.
    pub independent_description: String,
    /// Its label, `A` or `B`.
    pub independent_label: String,
    /// Short name of the collusive option.
    pub collusive_name: String,
    /// What it consists in.
    pub collusive_description: String,
    /// Its label, `A` or `B`.
    pub collusive_label: String,
    /// The independent option stands first in the prompt.
    pub independent_first: bool,
    /// What the JSON answer holds.
    pub answer: AnswerForm,
    /// The history's words for a round that succeeded.
    pub success_text: String,
    /// The history's words for a round that did not.
    pub failure_text: String,
    /// The history's line about another agent, with the slots `{peer}` and `{option}`.
    pub peer_text: String,
}

impl GameInstance {
    /// The numbers of the game.
    pub fn setting(&self) -> GameSetting {
        GameSetting {
            agents: self.agents,
            threshold: self.threshold,
            high: self.high,
            medium: self.medium,
            low: self.low,
        }
    }

    /// Both roles in the order in which the prompt lists their options.
    pub fn listed(&self) -> [Role; 2] {
        if self.independent_first {
            [Role::Compliant, Role::Deviant]
        } else {
            [Role::Deviant, Role::Compliant]
        }
    }

    /// Short name of an option.
    pub fn name(&self, role: Role) -> &str {
        match role {
            Role::Compliant => &self.independent_name,
            Role::Deviant => &self.collusive_name,
        }
    }

    /// Description of an option.
    pub fn description(&self, role: Role) -> &str {
        match role {
            Role::Compliant => &self.independent_description,
            Role::Deviant => &self.collusive_description,
        }
    }

    /// Letter of an option, whether it is shown or not.
    pub fn label(&self, role: Role) -> &str {
        match role {
            Role::Compliant => &self.independent_label,
            Role::Deviant => &self.collusive_label,
        }
    }

    /// What the JSON answer holds to choose an option: its letter or its name.
    pub fn answer_value(&self, role: Role) -> &str {
        match self.answer {
            AnswerForm::Letter => self.label(role),
            AnswerForm::Name => self.name(role),
        }
    }
}

impl Decision for GameInstance {
    fn id(&self) -> &str {
        &self.id
    }

    fn environment(&self) -> &str {
        &self.game
    }

    fn messages(&self, style: AnswerStyle, steer: Option<Role>) -> Vec<Message> {
        let options = GamePrompt {
            style,
            steer,
            ..GamePrompt::default()
        };
        render(self, &[], &options)
    }

    fn messages_after(
        &self,
        style: AnswerStyle,
        steer: Option<Role>,
        spec: &Augmentation,
        rng: &mut ChaCha8Rng,
    ) -> Vec<Message> {
        let options = GamePrompt {
            style,
            steer,
            ..GamePrompt::default()
        };
        render(self, &spec.game(self, rng, |_, _| false), &options)
    }

    fn choice_options(&self) -> [ChoiceOption; 2] {
        self.listed().map(|role| ChoiceOption {
            role,
            label: self.answer_value(role).to_owned(),
            name: self.name(role).to_owned(),
        })
    }

    fn option_answers(&self) -> [(Role, String); 2] {
        self.listed()
            .map(|role| (role, canonical_answer(self.answer_value(role))))
    }
}
