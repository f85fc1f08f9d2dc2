//! What training needs to know of a decision between two options, whatever testbed it belongs to.

use rand_chacha::ChaCha8Rng;

use super::Role;
use super::choice::ChoiceOption;
use super::defence::augmentation::Augmentation;
use super::prompt::{AnswerStyle, PromptOptions, render};
use super::question::{Question, option_answers};
use crate::text::Message;

/// One decision between an option that keeps the rule and one that breaks it, as it is put to a model in training.
pub trait Decision {
    /// Unique in its set.
    fn id(&self) -> &str;

    /// Environment or game it belongs to.
    fn environment(&self) -> &str;

    /// The prompt without history. `steer` adds a line that asks for this role: for sampling preference pairs only.
    fn messages(&self, style: AnswerStyle, steer: Option<Role>) -> Vec<Message>;

    /// The prompt after a history that is simulated by `spec` from the draws of `rng`.
    fn messages_after(
        &self,
        style: AnswerStyle,
        steer: Option<Role>,
        spec: &Augmentation,
        rng: &mut ChaCha8Rng,
    ) -> Vec<Message>;

    /// The options in listed order, for the answer parser.
    fn choice_options(&self) -> [ChoiceOption; 2];

    /// The exact answer text of each option, in listed order.
    fn option_answers(&self) -> [(Role, String); 2];
}

impl Decision for Question {
    fn id(&self) -> &str {
        &self.id
    }

    fn environment(&self) -> &str {
        &self.environment
    }

    fn messages(&self, style: AnswerStyle, steer: Option<Role>) -> Vec<Message> {
        let options = PromptOptions {
            style,
            steer,
            ..PromptOptions::default()
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
        let options = PromptOptions {
            style,
            steer,
            ..PromptOptions::default()
        };
        render(self, &spec.role_play(self, rng), &options)
    }

    fn choice_options(&self) -> [ChoiceOption; 2] {
        Question::choice_options(self)
    }

    fn option_answers(&self) -> [(Role, String); 2] {
        option_answers(self)
    }
}
