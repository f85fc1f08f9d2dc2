//! From sampled answers to the packed batch an update computes, back from token to action log-probabilities, and the
//! gradients of the loss on them.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::grpo::{Actions, GrpoTerms, GrpoValue, grpo};
use super::pass::{Policy, slope_of};
use crate::agent::Answer;
use crate::model::backprop::{Gradients, Live};
use crate::model::logprobs::Targets;
use crate::model::{Decoder, Packed};
use crate::runtime::gpu::GpuError;
use crate::runtime::ranks::{RankError, Ranks};
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
    /// Ids sampled one by one, a stop token last if there was one; among them those that a tool put in.
    pub sampled: Vec<u32>,
    /// Their log-probabilities as the sampler saw them; 0 for what a tool put in.
    pub logprobs: Vec<f32>,
    /// Places in `sampled` that a tool put in: read by the model, no actions of it.
    #[serde(default)]
    pub inserted: Vec<Range<usize>>,
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
            inserted: vec![],
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

    /// Decisions of the policy: tokens it sampled, and the choice.
    pub fn actions(&self) -> usize {
        self.own().count() + usize::from(self.choice.is_some())
    }

    /// Places in `sampled` that the model sampled itself.
    fn own(&self) -> impl Iterator<Item = usize> {
        (0..self.sampled.len()).filter(|place| !self.inserted.iter().any(|r| r.contains(place)))
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
    /// Sampled tokens: an action each. The span.
    Tokens(usize),
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
    /// Log-probability of each action as the sampler saw it; none of a choice, which the sampler computes as training
    /// does.
    pub sampler: Vec<Option<f32>>,
    /// Actions of each rollout that counts.
    pub action_spans: Vec<Range<usize>>,
    /// Rollouts of the group, those masked as truncated included: a mean over completions counts them as zeros.
    pub completions: usize,
}

/// Lay out a group: free completions as continuations of the prompt; options after the prompt once for all rollouts
/// that follow it immediately, after their own reasoning otherwise.
pub fn plan_group(prompt: &[u32], rollouts: &[Rollout], mask_truncated: bool) -> GroupPlan {
    let mut batch = Packed::new();
    let root = batch.root(prompt);
    let mut targets = Targets::default();
    let mut plan_parts = vec![];
    let mut advantages = vec![];
    let mut sampler = vec![];
    let mut action_spans = vec![];
    let mut shared: Vec<(Vec<Vec<u32>>, Vec<usize>)> = vec![];
    for rollout in rollouts.iter().filter(|r| !(mask_truncated && r.truncated)) {
        let start = advantages.len();
        match &rollout.choice {
            None => {
                let child = batch.child(root, &rollout.sampled);
                let span = targets.push_without(
                    &batch.predictors(child),
                    &rollout.sampled,
                    rollout.temperature,
                    &rollout.inserted,
                );
                plan_parts.push(Part::Tokens(span));
            }
            Some(choice) => {
                let lead = [&rollout.sampled[..rollout.reasoning], &rollout.bridge].concat();
                // A stop token sampled at once leaves no lead either, but it is an action of its own.
                let at_once = lead.is_empty() && rollout.sampled.is_empty();
                let known = shared
                    .iter()
                    .find(|(options, _)| at_once && *options == choice.options);
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
                                plan_parts.push(Part::Tokens(span));
                            }
                            spans.push(targets.push(&rows[lead.len()..], option, 1.0));
                        }
                        if at_once {
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
        sampler.extend(rollout.own().map(|i| Some(rollout.logprobs[i])));
        sampler.extend(rollout.choice.iter().map(|_| None));
        action_spans.push(start..advantages.len());
    }
    GroupPlan {
        batch,
        targets,
        parts: plan_parts,
        advantages,
        sampler,
        action_spans,
        completions: rollouts.len(),
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
            Part::Tokens(span) => narrow(*span),
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

/// Several groups in one batch, and the places of each one's targets.
fn join(plans: &[&GroupPlan]) -> (Packed, Targets, Vec<Range<usize>>) {
    let (mut batch, mut targets) = (Packed::new(), Targets::default());
    let places = plans.iter().map(|plan| {
        let rows = batch.append(&plan.batch);
        targets.append(&plan.targets, rows)
    });
    let places = places.collect();
    (batch, targets, places)
}

fn part(logprobs: &Tensor, place: &Range<usize>) -> Tensor {
    logprobs.narrow(0, place.start as i64, place.len() as i64)
}

/// Log-probabilities of the groups' actions, `(N)` each on the CPU, without gradient; without an adapter they are the
/// reference's.
///
/// # Errors
/// The device refuses.
pub fn score_groups(
    model: &Decoder,
    live: Option<&Live>,
    plans: &[&GroupPlan],
) -> Result<Vec<Tensor>, GpuError> {
    let (batch, targets, places) = join(plans);
    let scored = model.score(&batch, live, &targets)?;
    let each = plans.iter().zip(&places);
    Ok(each
        .map(|(plan, place)| action_logprobs(&part(&scored.logprobs, place), plan))
        .collect())
}

/// Sums over the actions of an update.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GrpoSums {
    /// The loss; parts of a batch add up to the batch's.
    pub loss: f64,
    /// Number of actions.
    pub actions: f64,
    /// k3 estimates of KL(π‖ref).
    pub kl: f64,
    /// Entropies of the scored tokens, in nats.
    pub entropy: f64,
    /// Number of scored tokens.
    pub scored: f64,
    /// Ratios: one an action, or one a completion.
    pub ratios: f64,
    /// Ratios clipped from below.
    pub clipped_low: f64,
    /// Ratios clipped from above.
    pub clipped_high: f64,
    /// |log-probability as training computes it − as the sampler saw it| of the sampled tokens, same weights.
    pub mismatch: f64,
    /// The largest of these.
    pub mismatch_max: f64,
    /// Number of sampled tokens.
    pub sampled: f64,
    /// Weights of the policy terms, where the sampler is corrected for.
    pub correction: f64,
    /// Number of these weights.
    pub corrected: f64,
}

impl GrpoSums {
    /// Sums over the actions of all ranks.
    pub fn reduce(&mut self, ranks: &Ranks) -> Result<(), RankError> {
        ranks.sum_numbers(&mut [
            &mut self.loss,
            &mut self.actions,
            &mut self.kl,
            &mut self.entropy,
            &mut self.scored,
            &mut self.ratios,
            &mut self.clipped_low,
            &mut self.clipped_high,
            &mut self.mismatch,
            &mut self.sampled,
            &mut self.correction,
            &mut self.corrected,
        ])?;
        self.mismatch_max = ranks.largest(self.mismatch_max)?;
        Ok(())
    }

    /// Add the distances of training from the sampler.
    fn compare(&mut self, old: &[f32], sampler: &[Option<f32>]) {
        for (here, there) in old.iter().zip(sampler) {
            if let Some(there) = there {
                let distance = (f64::from(*here) - f64::from(*there)).abs();
                self.mismatch += distance;
                self.mismatch_max = self.mismatch_max.max(distance);
                self.sampled += 1.0;
            }
        }
    }
}

/// A group with what was computed of it before.
pub struct Known<'a> {
    /// The group.
    pub plan: &'a GroupPlan,
    /// Log-probabilities of the actions, `(N)`, under the policy that sampled them; without, that is the policy as it is,
    /// and every ratio is 1.
    pub old: Option<&'a Tensor>,
    /// Under the reference, where there is a KL penalty.
    pub reference: Option<&'a Tensor>,
}

/// Add the gradients of some groups, and their numbers to `sums`.
///
/// # Errors
/// The device refuses.
pub fn accumulate(
    policy: &Policy,
    groups: &[Known],
    terms: &GrpoTerms,
    gradients: &mut Gradients,
    sums: &mut GrpoSums,
) -> Result<(), GpuError> {
    let plans: Vec<&GroupPlan> = groups.iter().map(|g| g.plan).collect();
    let (batch, targets, places) = join(&plans);
    if batch.is_empty() {
        return Ok(());
    }
    policy.learn(&batch, &targets, gradients, |scored| {
        slope_of(scored, |logprobs, entropies| {
            sums.entropy += entropies.sum(Kind::Double).double_value(&[]);
            sums.scored += targets.len() as f64;
            let each = groups.iter().zip(&places);
            each.filter(|(group, _)| !group.plan.advantages.is_empty())
                .map(|(group, place)| group.loss(&part(logprobs, place), terms, sums))
                .reduce(|a, b| a + b)
        })
    })
}

impl Known<'_> {
    /// This group's part of the loss, from the log-probabilities of its targets.
    fn loss(&self, logprobs: &Tensor, terms: &GrpoTerms, sums: &mut GrpoSums) -> Tensor {
        let plan = self.plan;
        let current = action_logprobs(logprobs, plan);
        let detached = current.detach();
        let advantages = Tensor::from_slice(&plan.advantages);
        let old = self.old.unwrap_or(&detached);
        let old_values = Vec::<f32>::try_from(&old.to_kind(Kind::Float)).expect("a vector of f32");
        let correction = terms.correction.weights(
            &old_values,
            &plan.sampler,
            &plan.action_spans,
            terms.correction_cap,
        );
        sums.compare(&old_values, &plan.sampler);
        for weight in correction.iter().flatten() {
            sums.correction += f64::from(*weight);
            sums.corrected += 1.0;
        }
        let correction = correction.map(|w| Tensor::from_slice(&w));
        let GrpoValue {
            loss,
            kl_sum,
            ratios,
            clipped_low,
            clipped_high,
        } = grpo(
            &Actions {
                current: &current,
                old,
                reference: self.reference,
                advantages: &advantages,
                correction: correction.as_ref(),
                spans: &plan.action_spans,
            },
            terms,
        );
        sums.loss += loss.double_value(&[]);
        sums.actions += plan.advantages.len() as f64;
        sums.kl += kl_sum;
        sums.ratios += ratios;
        sums.clipped_low += clipped_low;
        sums.clipped_high += clipped_high;
        loss
    }
}
