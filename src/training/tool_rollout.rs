//! GRPO on tool usage: solutions of a group are compared pair by pair, and what the comparisons come to is the reward.
//!
//! Every two solutions of a problem are compared (a right one beats a wrong one; of two right ones the recipe says which
//! is preferred), and their Bradley–Terry strengths are the rewards: the paper's preference aggregation. Tokens that a
//! tool put in are read, but they are no actions.

use serde::{Deserialize, Serialize};

use super::bradley_terry::{Judged, ToolPreference, group_preferences};
use super::grpo_trainer::{Group, RolloutSource};
use super::rollout::Rollout;
use super::{TrainContext, TrainError};
use crate::agent::GenerationConfig;
use crate::agent::solve::{Solution, SolveAsk, ToolConfig, solve};
use crate::model::Adapter;
use crate::runtime::seed::derive;
use crate::scenario::Outcome;
use crate::scenario::defence::augmentation::{Augmentation, copy_id};
use crate::scenario::tool_use::prompt::{Costs, ToolPromptOptions, Way, ask};
use crate::scenario::tool_use::{Problem, answer};
use crate::tool::Sandbox;

/// How solutions become rewards.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ToolReward {
    /// Which of two right solutions is preferred.
    pub preference: ToolPreference,
    /// Wins, and as many losses, of every solution against a virtual opponent: what keeps strengths finite.
    pub prior: f64,
}

impl Default for ToolReward {
    fn default() -> Self {
        Self {
            preference: ToolPreference::default(),
            prior: 0.5,
        }
    }
}

/// Problems, and how solutions of them are sampled and compared.
pub struct ToolSource<'a> {
    /// What is asked.
    pub problems: &'a [Problem],
    /// Simulated histories, of which every problem gets its copies.
    pub augmentation: Option<Augmentation>,
    /// How solutions are generated.
    pub generation: &'a GenerationConfig,
    /// How calls are executed.
    pub tools: &'a ToolConfig,
    /// Where they are executed.
    pub sandbox: &'a Sandbox,
    /// What the two ways cost.
    pub costs: Costs,
    /// What they are worth.
    pub reward: ToolReward,
}

/// What a solution amounts to: right (compliant), wrong (deviant), or without an answer (invalid).
pub fn outcome(solution: &Solution, problem: &Problem) -> Outcome {
    let said = solution.said();
    if answer::extract(&said).is_none() {
        Outcome::Invalid
    } else if answer::is_correct(&said, &problem.answer) {
        Outcome::Compliant
    } else {
        Outcome::Deviant
    }
}

impl ToolSource<'_> {
    /// Prompts a problem.
    fn copies(&self) -> usize {
        1 + self.augmentation.map_or(0, |spec| spec.copies as usize)
    }

    /// The problem at a place, and which copy: the problems in their order, each followed by its copies.
    fn at(&self, place: usize) -> (&Problem, u32) {
        let copies = self.copies();
        (&self.problems[place / copies], (place % copies) as u32)
    }
}

impl RolloutSource for ToolSource<'_> {
    fn prompts(&self) -> usize {
        self.problems.len() * self.copies()
    }

    fn most_actions(&self) -> usize {
        self.generation.max_new_tokens
    }

    fn collect(
        &self,
        context: &TrainContext,
        adapter: &Adapter,
        places: &[usize],
        group: usize,
        step: u64,
    ) -> Result<Vec<Group>, TrainError> {
        let options = ToolPromptOptions {
            costs: self.costs,
            seed: context.seed,
            ..ToolPromptOptions::default()
        };
        let mut asks = vec![];
        for &place in places {
            let (problem, copy) = self.at(place);
            let history = match (copy, &self.augmentation) {
                (1.., Some(spec)) => {
                    let mut rng = Augmentation::stream(context.seed, &problem.id, copy);
                    spec.tool_use(self.costs, &mut rng)
                }
                _ => vec![],
            };
            let messages = ask(problem, &history, &options).messages;
            let id = copy_id(&problem.id, copy);
            asks.extend((0..group).map(|place| SolveAsk {
                messages: messages.clone(),
                seed: derive(context.seed, &format!("grpo/step-{step}/{id}/{place}")),
            }));
        }
        let solutions = solve(
            context.model,
            Some(adapter),
            self.generation,
            self.tools,
            self.sandbox,
            &asks,
            |_| (),
        )?;
        let mut solutions = solutions.into_iter();
        let mut groups = vec![];
        for &place in places {
            let (problem, copy) = self.at(place);
            let mut found = Group::new(&copy_id(&problem.id, copy));
            let mut judged = vec![];
            for solution in solutions.by_ref().take(group) {
                let Ok(solution) = solution else {
                    found.failed += 1;
                    continue;
                };
                let outcome = outcome(&solution, problem);
                let way = solution.way();
                judged.push(Judged {
                    correct: outcome == Outcome::Compliant,
                    used_tool: way == Way::Tool,
                    cost: self.costs.of(way).into(),
                });
                found.prompt = solution.prompt.clone();
                found.rollouts.push(rollout(solution, outcome));
            }
            let wins = group_preferences(&judged, self.reward.preference);
            let strengths = wins
                .log_strengths(self.reward.prior)
                .map_err(|problem| TrainError::Data(problem.to_string()))?;
            for (rollout, strength) in found.rollouts.iter_mut().zip(strengths) {
                rollout.reward = strength;
            }
            groups.push(found);
        }
        Ok(groups)
    }
}

/// A rollout without reward yet.
fn rollout(solution: Solution, outcome: Outcome) -> Rollout {
    Rollout {
        reasoning: solution.tokens.len(),
        truncated: solution.finish == "length",
        text: solution.text,
        sampled: solution.tokens,
        logprobs: solution.logprobs,
        inserted: solution.inserted,
        bridge: vec![],
        choice: None,
        temperature: solution.temperature,
        outcome,
        reward: 0.0,
        advantage: 0.0,
    }
}
