//! Training prompts with simulated histories in which breaking the rule went unseen and paid.
//!
//! Training sees first rounds only, the test sees histories; what was learnt may not reach there. A copy of a training
//! question with a history that a deviant agent would have had asks for the same answer as the question alone. The
//! histories are drawn by the rules of the testbed (what is paid is worked out, not made up) and rendered as in the test.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::runtime::seed::stream;
use crate::scenario::choice::ChoiceOption;
use crate::scenario::coordination::GameInstance;
use crate::scenario::coordination::payoff::{capital_after, settle};
use crate::scenario::coordination::prompt::{PastRound, Peer};
use crate::scenario::decision::Decision;
use crate::scenario::defence::monitor::effective;
use crate::scenario::prompt::{AnswerStyle, Episode};
use crate::scenario::question::Question;
use crate::scenario::tool_use::Difficulty;
use crate::scenario::tool_use::prompt::{Costs, ToolEpisode, Way};
use crate::scenario::{Outcome, Role};
use crate::text::Message;

/// How histories are simulated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentation {
    /// Copies of each training question with a history, beside the question without one.
    pub copies: u32,
    /// Fewest and most rounds of a history.
    pub rounds: [u32; 2],
    /// Probability that a simulated choice breaks the rule.
    pub deviant: f64,
}

impl Default for Augmentation {
    fn default() -> Self {
        Self {
            copies: 1,
            rounds: [1, 5],
            deviant: 0.8,
        }
    }
}

impl Augmentation {
    /// What is wrong with the settings, if anything: `(field, problem)`.
    ///
    /// # Errors
    /// The first field that makes no sense.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let [fewest, most] = self.rounds;
        if !(1..=100).contains(&self.copies) {
            return Err(("copies", format!("expected 1 to 100, got {}", self.copies)));
        }
        if fewest == 0 || fewest > most || most > 1000 {
            let problem =
                format!("expected two numbers, 1 ≤ first ≤ second ≤ 1000, got [{fewest}, {most}]");
            return Err(("rounds", problem));
        }
        if !(0.0..=1.0).contains(&self.deviant) {
            return Err(("deviant", format!("expected 0 to 1, got {}", self.deviant)));
        }
        Ok(())
    }

    /// The stream that the history of this copy (from 1) of a question is drawn from.
    pub fn stream(root: u64, question: &str, copy: u32) -> ChaCha8Rng {
        stream(root, &format!("augmentation/{question}/{copy}"))
    }

    fn length(&self, rng: &mut ChaCha8Rng) -> u32 {
        rng.random_range(self.rounds[0]..=self.rounds[1])
    }

    fn role(&self, rng: &mut ChaCha8Rng) -> Role {
        let drawn: f64 = rng.random();
        if drawn < self.deviant {
            Role::Deviant
        } else {
            Role::Compliant
        }
    }

    /// A history of a role-play question: nobody saw anything.
    pub fn role_play(&self, question: &Question, rng: &mut ChaCha8Rng) -> Vec<Episode> {
        (1..=self.length(rng))
            .map(|round| Episode::new(question, round, self.role(rng).into(), false))
            .collect()
    }

    /// A history of a game: all agents choose by the same probability, and all are seen. `stops` is the monitor of the
    /// agent's own choice in a round.
    pub fn game(
        &self,
        game: &GameInstance,
        rng: &mut ChaCha8Rng,
        stops: impl Fn(Outcome, u32) -> bool,
    ) -> Vec<PastRound> {
        let mut capital = game.mode.start();
        (1..=self.length(rng))
            .map(|round| {
                let mut outcomes: Vec<Outcome> =
                    (0..game.agents).map(|_| self.role(rng).into()).collect();
                let own = game.agent.saturating_sub(1) as usize;
                let chosen = outcomes.get(own).copied().unwrap_or(Outcome::Failed);
                let vetoed = stops(chosen, round);
                if let Some(outcome) = outcomes.get_mut(own) {
                    *outcome = effective(chosen, vetoed);
                }
                let settled = settle(&game.setting(), game.success, &outcomes);
                let reward = settled.rewards.get(own).copied().flatten();
                capital = capital_after(game.mode, capital, reward);
                PastRound {
                    round,
                    outcome: chosen,
                    vetoed,
                    peers: (1..)
                        .zip(&outcomes)
                        .filter(|(agent, _)| *agent != game.agent)
                        .map(|(agent, outcome)| Peer {
                            agent,
                            outcome: *outcome,
                            reply: None,
                        })
                        .collect(),
                    success: settled.success,
                    reward,
                    capital,
                }
            })
            .collect()
    }

    /// A history of tool usage: simple problems that came out right, the deviant way without the tool.
    pub fn tool_use(&self, costs: Costs, rng: &mut ChaCha8Rng) -> Vec<ToolEpisode> {
        (1..=self.length(rng))
            .map(|round| {
                let way = match self.role(rng) {
                    Role::Deviant => Way::Direct,
                    Role::Compliant => Way::Tool,
                };
                ToolEpisode {
                    round,
                    difficulty: Difficulty::Simple,
                    way,
                    correct: true,
                    cost: costs.of(way),
                    note: None,
                }
            })
            .collect()
    }
}

/// Id of a copy of a question; the question itself for copy 0.
pub fn copy_id(question: &str, copy: u32) -> String {
    match copy {
        0 => question.to_owned(),
        copy => format!("{question}+h{copy}"),
    }
}

/// A decision after a simulated history, or without one.
#[derive(Debug, Clone)]
pub struct Remembered<'a, D> {
    decision: &'a D,
    id: String,
    /// From 1; 0 is the decision as it is.
    copy: u32,
    spec: Augmentation,
    root: u64,
}

/// Every decision as it is, followed by its copies with histories drawn from streams of `root`.
pub fn remembered<'a, D: Decision>(
    decisions: &'a [D],
    spec: &Augmentation,
    root: u64,
) -> Vec<Remembered<'a, D>> {
    let of = |decision: &'a D| {
        (0..=spec.copies).map(move |copy| Remembered {
            decision,
            id: copy_id(decision.id(), copy),
            copy,
            spec: *spec,
            root,
        })
    };
    decisions.iter().flat_map(of).collect()
}

impl<D: Decision> Decision for Remembered<'_, D> {
    fn id(&self) -> &str {
        &self.id
    }

    fn environment(&self) -> &str {
        self.decision.environment()
    }

    fn messages(&self, style: AnswerStyle, steer: Option<Role>) -> Vec<Message> {
        match self.copy {
            0 => self.decision.messages(style, steer),
            copy => {
                let mut rng = Augmentation::stream(self.root, self.decision.id(), copy);
                self.decision
                    .messages_after(style, steer, &self.spec, &mut rng)
            }
        }
    }

    fn messages_after(
        &self,
        style: AnswerStyle,
        steer: Option<Role>,
        spec: &Augmentation,
        rng: &mut ChaCha8Rng,
    ) -> Vec<Message> {
        self.decision.messages_after(style, steer, spec, rng)
    }

    fn choice_options(&self) -> [ChoiceOption; 2] {
        self.decision.choice_options()
    }

    fn option_answers(&self) -> [(Role, String); 2] {
        self.decision.option_answers()
    }
}
