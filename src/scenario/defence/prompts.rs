//! The prompts of all testbeds as a defence has them: its window, its record of earlier rounds, its reminder.

use super::Defence;
use crate::scenario::coordination::GameInstance;
use crate::scenario::coordination::prompt::{GamePrompt, PastRound, called, render as render_game};
use crate::scenario::prompt::{Episode, PromptOptions, kept_option, render};
use crate::scenario::question::Question;
use crate::scenario::tool_use::Problem;
use crate::scenario::tool_use::prompt::{ToolAsk, ToolEpisode, ToolPromptOptions, ask};
use crate::scenario::{Role, Testbed};
use crate::text::Message;

impl Defence {
    /// The conversation that asks for a question's next choice; `options` are those without a defence.
    pub fn role_play(
        &self,
        question: &Question,
        history: &[Episode],
        options: &PromptOptions,
    ) -> Vec<Message> {
        let options = PromptOptions {
            window: self.window.unwrap_or(options.window),
            record: self.record(),
            ..*options
        };
        let slots = [
            ("rule", question.rule.clone()),
            ("option", kept_option(question)),
        ];
        let plain = render(question, history, &options);
        self.remind(Testbed::RolePlay, &slots, plain)
    }

    /// The conversation that asks for an agent's next choice in a game; `options` are those without a defence.
    pub fn game(
        &self,
        game: &GameInstance,
        history: &[PastRound],
        options: &GamePrompt,
    ) -> Vec<Message> {
        let options = GamePrompt {
            window: self.window.unwrap_or(options.window),
            record: self.record(),
            ..*options
        };
        let slots = [("option", called(game, Role::Compliant))];
        let plain = render_game(game, history, &options);
        self.remind(Testbed::Coordination, &slots, plain)
    }

    /// The conversation that puts a problem; `options` are those without a defence.
    pub fn tool_use(
        &self,
        problem: &Problem,
        history: &[ToolEpisode],
        options: &ToolPromptOptions,
    ) -> ToolAsk {
        let options = ToolPromptOptions {
            window: self.window.unwrap_or(options.window),
            record: self.record(),
            ..options.clone()
        };
        let plain = ask(problem, history, &options);
        ToolAsk {
            messages: self.remind(Testbed::ToolUse, &[], plain.messages),
            ..plain
        }
    }

    fn remind(
        &self,
        testbed: Testbed,
        slots: &[(&str, String)],
        messages: Vec<Message>,
    ) -> Vec<Message> {
        match &self.reminder {
            Some(reminder) => reminder.put(testbed, slots, messages),
            None => messages,
        }
    }
}
