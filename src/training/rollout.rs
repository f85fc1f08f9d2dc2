//! From sampled answers to the packed batch an update computes, and back from token to action log-probabilities.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::agent::Answer;
use crate::model::Packed;
use crate::model::logprobs::Targets;
use crate::scenario::Outcome;

/// A constrained choice as an update sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Ids of each option's answer.
    pub options: Vec<Vec<u32>>,
    /// Which was drawn.
    pub chosen: usize,
}

/// A sampled answer with its reward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// What the model wrote.
    pub text: String,
    /// Ids sampled one by one, a stop token last if there was one.
    pub sampled: Vec<u32>,
    /// Their log-probabilities as the sampler saw them.
    pub logprobs: Vec<f32>,
    /// How many of `sampled` precede the bridge: all but a stop token.
    pub reasoning: usize,
    /// Ids between reasoning and options.
    pub bridge: Vec<u32>,
    /// The constrained choice, if there was one.
    pub choice: Option<Choice>,
    /// The token limit cut it off.
    pub truncated: bool,
    /// Temperature it was sampled at.
    pub temperature: f64,
    /// What it amounts to.
    pub outcome: Outcome,
    /// Reward.
    pub reward: f64,
    /// Advantage within its group.
    pub advantage: f64,
}

impl Rollout {
    /// A rollout without advantage yet.
    pub fn new(answer: Answer, outcome: Outcome, reward: f64) -> Self {
        let truncated = answer.choice.is_none() && answer.finish == "length";
        Self {
            reasoning: answer.reasoning,
            text: answer.text,
            sampled: answer.sampled,
            logprobs: answer.logprobs,
            bridge: answer.bridge,
            choice: answer.choice.map(|c| Choice {
                options: c.options,
                chosen: c.chosen,
            }),
            truncated,
            temperature: answer.temperature,
            outcome,
            reward,
            advantage: 0.0,
        }
    }

    /// Decisions of the policy: sampled tokens, and the choice.
    pub fn actions(&self) -> usize {
        self.sampled.len() + usize::from(self.choice.is_some())
    }

    /// Tokens written.
    pub fn length(&self) -> usize {
        let choice = self
            .choice
            .as_ref()
            .map_or(0, |c| c.options[c.chosen].len());
        self.sampled.len() + self.bridge.len() + choice
    }
}

/// One action, or a run of them, in terms of target spans.
enum Part {
    /// Sampled tokens: an action each. The span, and what the sampler saw.
    Tokens(usize, Vec<f32>),
    /// A choice: one action. Spans of the options, which was drawn, and the temperature.
    Choice(Vec<usize>, usize, f64),
}

/// What an update computes for one group.
pub struct GroupPlan {
    /// The prompt with its continuations.
    pub batch: Packed,
    /// Tokens to be scored.
    pub targets: Targets,
    parts: Vec<Part>,
    /// Advantage of each action, f32 as the losses are.
    pub advantages: Vec<f32>,
    /// Actions of each rollout that counts.
    pub action_spans: Vec<Range<usize>>,
}

/// Lay out a group: free completions as continuations of the prompt; options after the prompt once for all rollouts
/// that follow it immediately, after their own reasoning otherwise.
pub fn plan_group(prompt: &[u32], rollouts: &[Rollout], mask_truncated: bool) -> GroupPlan {
    let mut batch = Packed::new();
    let root = batch.root(prompt);
    let mut targets = Targets::default();
    let mut plan_parts = vec![];
    let mut advantages = vec![];
    let mut action_spans = vec![];
    let mut shared: Vec<(Vec<Vec<u32>>, Vec<usize>)> = vec![];
    for rollout in rollouts.iter().filter(|r| !(mask_truncated && r.truncated)) {
        let start = advantages.len();
        match &rollout.choice {
            None => {
                let child = batch.child(root, &rollout.sampled);
                let span = targets.push(
                    &batch.predictors(child),
                    &rollout.sampled,
                    rollout.temperature,
                );
                plan_parts.push(Part::Tokens(span, rollout.logprobs.clone()));
            }
            Some(choice) => {
                let lead = [&rollout.sampled[..rollout.reasoning], &rollout.bridge].concat();
                let known = shared
                    .iter()
                    .find(|(options, _)| lead.is_empty() && *options == choice.options);
                let spans = match known {
                    Some((_, spans)) => spans.clone(),
                    None => {
                        let mut spans = vec![];
                        for (place, option) in choice.options.iter().enumerate() {
                            let child = batch.child(root, &[&lead[..], option].concat());
                            let rows = batch.predictors(child);
                            if place == 0 && !rollout.sampled.is_empty() {
                                // The reasoning, a stop token included, as the first option's branch sees it.
                                let rows = &rows[..rollout.sampled.len()];
                                let span =
                                    targets.push(rows, &rollout.sampled, rollout.temperature);
                                plan_parts.push(Part::Tokens(span, rollout.logprobs.clone()));
                            }
                            spans.push(targets.push(&rows[lead.len()..], option, 1.0));
                        }
                        if lead.is_empty() && rollout.sampled.is_empty() {
                            shared.push((choice.options.clone(), spans.clone()));
                        }
                        spans
                    }
                };
                plan_parts.push(Part::Choice(spans, choice.chosen, rollout.temperature));
            }
        }
        advantages.extend(std::iter::repeat_n(
            rollout.advantage as f32,
            rollout.actions(),
        ));
        action_spans.push(start..advantages.len());
    }
    GroupPlan {
        batch,
        targets,
        parts: plan_parts,
        advantages,
        action_spans,
    }
}

/// Log-probability of each action, `(N)`, from those of the target tokens; differentiable.
///
/// A choice's is that of the drawn option renormalised over the options: log softmax over the sums of their tokens.
pub fn action_logprobs(logprobs: &Tensor, plan: &GroupPlan) -> Tensor {
    let narrow = |span: usize| {
        let range = &plan.targets.spans()[span];
        logprobs.narrow(0, range.start as i64, range.len() as i64)
    };
    let parts: Vec<Tensor> = plan
        .parts
        .iter()
        .map(|part| match part {
            Part::Tokens(span, _) => narrow(*span),
            Part::Choice(spans, chosen, temperature) => {
                let sums: Vec<Tensor> = spans
                    .iter()
                    .map(|&span| narrow(span).sum(Kind::Float))
                    .collect();
                let scores = Tensor::stack(&sums, 0) / *temperature;
                scores
                    .log_softmax(0, Kind::Float)
                    .narrow(0, *chosen as i64, 1)
            }
        })
        .collect();
    if parts.is_empty() {
        logprobs.narrow(0, 0, 0)
    } else {
        Tensor::cat(&parts, 0)
    }
}

impl GroupPlan {
    /// Sum of |training − sampler| log-probabilities over sampled tokens, and their number.
    pub fn mismatch(&self, logprobs: &Tensor) -> Option<(f64, f64)> {
        let (mut difference, mut count) = (0.0, 0.0);
        for part in &self.parts {
            if let Part::Tokens(span, sampled) = part {
                let range = &self.targets.spans()[*span];
                let here = logprobs.narrow(0, range.start as i64, range.len() as i64);
                let there = Tensor::from_slice(sampled).to_device(here.device());
                difference += (here - there).abs().sum(Kind::Double).double_value(&[]);
                count += sampled.len() as f64;
            }
        }
        (count > 0.0).then_some((difference, count))
    }
}
