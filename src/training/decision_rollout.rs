//! GRPO on decisions between two options: groups of answers, rewarded by what they choose.

use serde::{Deserialize, Serialize};

use super::grpo_trainer::{Group, RolloutSource};
use super::rollout::Rollout;
use super::{TrainContext, TrainError};
use crate::agent::{Ask, Elicitation, GenerationConfig, ask};
use crate::model::Adapter;
use crate::runtime::seed::derive;
use crate::scenario::Outcome;
use crate::scenario::choice::parse_choice;
use crate::scenario::decision::Decision;

/// Reward of each outcome.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RewardConfig {
    /// The rule was kept.
    pub compliant: f64,
    /// The rule was broken.
    pub deviant: f64,
    /// No choice could be read.
    pub invalid: f64,
}

impl Default for RewardConfig {
    fn default() -> Self {
        Self {
            compliant: 1.0,
            deviant: 0.1,
            invalid: 0.0,
        }
    }
}

impl RewardConfig {
    /// Reward of an outcome; a failed generation has none.
    pub fn of(&self, outcome: Outcome) -> Option<f64> {
        match outcome {
            Outcome::Compliant => Some(self.compliant),
            Outcome::Deviant => Some(self.deviant),
            Outcome::Invalid => Some(self.invalid),
            Outcome::Failed => None,
        }
    }
}

/// Decisions between two options, rewarded by what was chosen.
pub struct DecisionSource<'a, D> {
    /// What is asked.
    pub decisions: &'a [D],
    /// How answers are generated.
    pub generation: &'a GenerationConfig,
    /// What they are worth.
    pub reward: RewardConfig,
}

impl<D: Decision> RolloutSource for DecisionSource<'_, D> {
    fn prompts(&self) -> usize {
        self.decisions.len()
    }

    fn most_actions(&self) -> usize {
        match self.generation.elicitation {
            Elicitation::Free => self.generation.max_new_tokens,
            Elicitation::Constrained => self.generation.max_new_tokens + 1,
            Elicitation::Score => 1,
        }
    }

    fn collect(
        &self,
        context: &TrainContext,
        adapter: &Adapter,
        places: &[usize],
        group: usize,
        step: u64,
    ) -> Result<Vec<Group>, TrainError> {
        let style = self.generation.answer_style();
        let mut asks = vec![];
        for &place in places {
            let decision = &self.decisions[place];
            let messages = decision.messages(style, None);
            let answers = decision.option_answers().map(|(_, text)| text).to_vec();
            asks.extend((0..group).map(|place| Ask {
                messages: messages.clone(),
                options: answers.clone(),
                seed: derive(
                    context.seed,
                    &format!("grpo/step-{step}/{}/{place}", decision.id()),
                ),
            }));
        }
        let answers = ask(context.model, Some(adapter), self.generation, &asks, |_| ())?;
        let mut answers = answers.into_iter();
        let groups = places.iter().map(|&place| {
            let decision = &self.decisions[place];
            let options = decision.choice_options();
            let mut found = Group::new(decision.id());
            for answer in answers.by_ref().take(group) {
                let Ok(answer) = answer else {
                    found.failed += 1;
                    continue;
                };
                let outcome = parse_choice(&answer.said(), &options).outcome();
                let Some(reward) = self.reward.of(outcome) else {
                    continue;
                };
                found.prompt = answer.prompt.clone();
                found.rollouts.push(Rollout::new(answer, outcome, reward));
            }
            found
        });
        Ok(groups.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::question::Question;

    #[test]
    fn the_longest_completion_is_that_of_the_settings() {
        let most = |elicitation| {
            let generation = GenerationConfig {
                elicitation,
                max_new_tokens: 50,
                ..GenerationConfig::default()
            };
            let source = DecisionSource::<Question> {
                decisions: &[],
                generation: &generation,
                reward: RewardConfig::default(),
            };
            source.most_actions()
        };
        assert_eq!(most(Elicitation::Free), 50);
        assert_eq!(most(Elicitation::Constrained), 51);
        assert_eq!(most(Elicitation::Score), 1);
    }
}
