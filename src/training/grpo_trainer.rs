//! LoRA GRPO: questions in, adapter out.
//!
//! Each generation step collects rollouts with the adapter as it is, then updates on them: two functions. The prompt
//! of a group is computed once for all its completions; the reference is the same model without the adapter, or with the
//! one that training began with ([`KlReference`]).

mod config;

use std::collections::BTreeMap;
use std::ops::Range;

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::grpo::{advantages, mean_and_deviation};
use super::pass::{Policy, with_less};
use super::rollout::{GroupPlan, GrpoSums, Known, Rollout, accumulate, plan_group, score_groups};
use super::state::TrainState;
use super::{METRICS_FILE, TrainContext, TrainError};
use crate::artifact::MetricsLog;
use crate::model::backprop::Live;
use crate::model::backprop::plan::Budget;
use crate::model::batch::passes;
use crate::model::{Adapter, Decoder};
use crate::runtime::gpu::GpuError;
use crate::runtime::interrupt::check;
use crate::runtime::progress::Progress;
use crate::runtime::seed::stream;
use crate::scenario::Outcome;
pub use config::{GrpoConfig, KlReference};

/// The rollouts of one question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The question.
    pub question: String,
    /// Ids of the prompt.
    pub prompt: Vec<u32>,
    /// What was sampled. Failed generations are not among them.
    pub rollouts: Vec<Rollout>,
    /// Generations that failed.
    pub failed: usize,
}

impl Group {
    /// A group without rollouts yet.
    pub fn new(question: &str) -> Self {
        Self {
            question: question.to_owned(),
            prompt: vec![],
            rollouts: vec![],
            failed: 0,
        }
    }

    /// Work out every rollout's advantage from the rewards.
    fn weigh(&mut self) {
        let advantages = advantages(&self.rewards());
        for (rollout, advantage) in self.rollouts.iter_mut().zip(advantages) {
            rollout.advantage = advantage;
        }
    }

    fn rewards(&self) -> Vec<f64> {
        self.rollouts.iter().map(|r| r.reward).collect()
    }

    /// All rewards are equal: nothing to learn.
    fn is_flat(&self) -> bool {
        self.rewards().windows(2).all(|pair| pair[0] == pair[1])
    }
}

/// One line of the metrics file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GrpoMetrics {
    /// Optimiser step, from 1.
    pub step: u64,
    /// Epochs done, as a fraction.
    pub epoch: f64,
    /// Loss.
    pub loss: f64,
    /// Mean reward.
    pub reward_mean: f64,
    /// Mean over groups of the standard deviation within the group.
    pub reward_std: f64,
    /// Share of groups whose rewards are all equal: they give no gradient.
    pub zero_variance_share: f64,
    /// Share of compliant completions.
    pub compliant_share: f64,
    /// Share of completions without a readable choice.
    pub invalid_share: f64,
    /// Generations that failed; they are no completions.
    pub failed: usize,
    /// Mean k3 estimate of KL(π‖ref) an action.
    pub kl: f64,
    /// Mean entropy of the scored tokens, in nats.
    pub entropy: f64,
    /// Share of ratios clipped from below.
    pub clip_share_low: f64,
    /// Share of ratios clipped from above.
    pub clip_share_high: f64,
    /// Mean tokens of a completion.
    pub completion_length: f64,
    /// Mean |log-probability in training − log-probability when sampled| of the sampled tokens; none without any.
    pub rollout_mismatch: Option<f64>,
    /// The largest of these differences.
    pub rollout_mismatch_max: Option<f64>,
    /// Mean weight of the policy terms; none without sampling correction.
    pub correction_mean: Option<f64>,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of the step.
    pub lr: f64,
}

/// A completion one can read.
#[derive(Debug, Serialize)]
struct Sample<'a> {
    step: u64,
    question: &'a str,
    text: &'a str,
    outcome: Outcome,
    reward: f64,
    advantage: f64,
}

/// Sampled completions, one JSON object a line.
pub const SAMPLES_FILE: &str = "samples.jsonl";
const PENDING: &str = "pending-rollouts.json";

/// Where rollouts come from: what a generation step asks, and how answers are judged.
pub trait RolloutSource {
    /// Prompts of an epoch.
    fn prompts(&self) -> usize;

    /// Most actions a completion can have.
    fn most_actions(&self) -> usize;

    /// Sample a group of `group` completions of each of these prompts with the adapter as it is. Advantages are
    /// worked out by the trainer.
    ///
    /// # Errors
    /// A stop that was asked for, or a source that cannot go on.
    fn collect(
        &self,
        context: &TrainContext,
        adapter: &Adapter,
        places: &[usize],
        group: usize,
        step: u64,
    ) -> Result<Vec<Group>, TrainError>;
}

/// The groups an update learns from.
fn learnable<'a>(groups: &'a [Group], config: &GrpoConfig) -> Vec<&'a Group> {
    let kept = groups.iter().filter(|g| !g.rollouts.is_empty());
    kept.filter(|g| !(config.skip_zero_variance && g.is_flat()))
        .collect()
}

/// Train an adapter on the rollouts of a source: a fresh one, or `start` further.
///
/// # Errors
/// See [`TrainError`].
pub fn train_grpo(
    context: &TrainContext,
    source: &dyn RolloutSource,
    config: &GrpoConfig,
    start: Option<Adapter>,
) -> Result<Adapter, TrainError> {
    if source.prompts() == 0 {
        return Err(TrainError::Data(
            "there are no questions to train on".into(),
        ));
    }
    let model = &context.model.decoder;
    let frozen = frozen(model, config, start.as_ref())?;
    let mut state = match start {
        Some(adapter) => TrainState::with_adapter(adapter, model.config(), config.optim),
        None => TrainState::new(
            &config.lora,
            model.config(),
            config.optim,
            context.seed,
            model.device(),
        ),
    };
    let mut logs = state.resume(
        context.checkpoints,
        context.folder,
        &[METRICS_FILE, SAMPLES_FILE],
    )?;
    state.agree(&context.model.ranks)?;
    let mut pending = read_pending(context, state.step)?;
    let generations_per_epoch = source.prompts().div_ceil(config.prompts_per_step) as u64;
    let total = generations_per_epoch * config.epochs * config.iterations;
    let mut course = Course {
        budget: context.budget(&config.lora, frozen.is_some()),
        frozen,
        total,
        generations_per_epoch,
        longest: source.most_actions(),
    };
    let mut progress = Progress::new("grpo", total as usize);
    progress.skip(state.step as usize);
    while state.step < total {
        let generation_step = state.step / config.iterations;
        let (epoch, within) = (
            generation_step / generations_per_epoch,
            (generation_step % generations_per_epoch) as usize,
        );
        let mut order: Vec<usize> = (0..source.prompts()).collect();
        order.shuffle(&mut stream(
            context.seed,
            &format!("grpo/order/epoch-{epoch}"),
        ));
        let end = order.len().min((within + 1) * config.prompts_per_step);
        let asked = &order[within * config.prompts_per_step..end];
        let groups = match pending.take() {
            Some(groups) => groups,
            None => match source.collect(
                context,
                &state.adapter,
                asked,
                config.group,
                generation_step,
            ) {
                Err(TrainError::Interrupted(stop)) => {
                    state.save(context.checkpoints, &mut logs, &[])?;
                    return Err(stop.into());
                }
                other => {
                    let mut groups = other?;
                    groups.iter_mut().for_each(Group::weigh);
                    groups
                }
            },
        };
        update(context, &mut state, &mut logs, &groups, config, &mut course)?;
        progress.add(config.iterations as usize);
        let due = config.checkpoint_every.max(1);
        if state.step / due != (state.step - config.iterations) / due {
            state.save(context.checkpoints, &mut logs, &[])?;
        }
    }
    progress.finish();
    for log in logs.values_mut() {
        log.sync()?;
    }
    Ok(state.adapter)
}

/// The adapter of the reference; none where that is the model without one, or where there is no KL penalty.
///
/// Made of a copy, and before a checkpoint is read: both training and resuming write into the matrices of `start`.
fn frozen(
    model: &Decoder,
    config: &GrpoConfig,
    start: Option<&Adapter>,
) -> Result<Option<Live>, GpuError> {
    match start {
        Some(start) if config.beta > 0.0 && config.reference == KlReference::Start => {
            Live::new(&start.copied(), model).map(Some)
        }
        _ => Ok(None),
    }
}

/// What every update of a run has in common.
struct Course {
    /// Memory of a pass.
    budget: Budget,
    /// The adapter of the reference, if it has one.
    frozen: Option<Live>,
    /// Optimiser steps.
    total: u64,
    generations_per_epoch: u64,
    /// Most actions of a completion.
    longest: usize,
}

/// Rollouts that a checkpoint of this step holds.
fn read_pending(context: &TrainContext, step: u64) -> Result<Option<Vec<Group>>, TrainError> {
    let Some(checkpoint) = context.checkpoints.latest()?.filter(|c| c.step == step) else {
        return Ok(None);
    };
    if !checkpoint.path(PENDING).is_file() {
        return Ok(None);
    }
    serde_json::from_slice(&checkpoint.read(PENDING)?)
        .map(Some)
        .map_err(|e| TrainError::Checkpoint {
            path: checkpoint.folder,
            problem: format!("{PENDING}: {e}"),
        })
}

/// Log-probabilities of a generation step's actions that no update of it changes, by group.
struct Fixed {
    /// Under the policy that sampled; empty where that is the current one.
    old: Vec<Tensor>,
    /// Under the reference; empty without a KL penalty.
    reference: Vec<Tensor>,
}

impl Fixed {
    fn new(
        policy: &Policy,
        plans: &[&GroupPlan],
        passes: &[Range<usize>],
        config: &GrpoConfig,
        frozen: Option<&Live>,
    ) -> Result<Self, TrainError> {
        let score = |wanted: bool, live: Option<&Live>| -> Result<Vec<Tensor>, TrainError> {
            let mut all = vec![];
            for pass in passes.iter().filter(|_| wanted) {
                check()?;
                all.extend(score_groups(policy.model, live, &plans[pass.clone()])?);
            }
            Ok(all)
        };
        Ok(Self {
            old: score(config.iterations > 1, Some(policy.live()))?,
            reference: score(config.beta > 0.0, frozen)?,
        })
    }
}

/// Take the optimiser steps of one generation step.
fn update(
    context: &TrainContext,
    state: &mut TrainState,
    logs: &mut BTreeMap<String, MetricsLog>,
    groups: &[Group],
    config: &GrpoConfig,
    course: &mut Course,
) -> Result<(), TrainError> {
    let model = &context.model.decoder;
    let ranks = &context.model.ranks;
    // The update needs the memory more than the cache of texts whose weights are about to change.
    model.release_cache();
    let kept = learnable(groups, config);
    let plans: Vec<GroupPlan> = kept
        .iter()
        .map(|g| plan_group(&g.prompt, &g.rollouts, config.mask_truncated))
        .collect();
    let terms = config.terms(&plans, course.longest);
    let plans: Vec<&GroupPlan> = plans.iter().filter(|p| !p.advantages.is_empty()).collect();
    // Every rank knows all groups, and learns from its own.
    let costs: Vec<u64> = plans.iter().map(|p| p.batch.len() as u64).collect();
    let plans: Vec<&GroupPlan> = ranks.mine(&costs).into_iter().map(|i| plans[i]).collect();
    let sizes: Vec<usize> = plans.iter().map(|p| p.batch.len()).collect();
    // The reference does not move; with one iteration the sampling policy is the current one and the ratio is 1 by
    // definition.
    let mut fixed: Option<Fixed> = None;
    for iteration in 0..config.iterations {
        let TrainState {
            adapter,
            gradients,
            live,
            ..
        } = &mut *state;
        // A stop waits for the iterations that are left: what sampled is gone after the first, and with it the ratio.
        let may_stop = iteration == 0;
        let asked = match may_stop {
            true => ranks.check().map_err(TrainError::from),
            false => Ok(()),
        };
        let taken = asked.and_then(|()| {
            with_less(&mut course.budget, |budget| {
                gradients.reset();
                let policy = Policy::new(model, adapter, live, budget)?;
                let passes = passes(&sizes, budget.tokens);
                let fixed = match &mut fixed {
                    Some(fixed) => fixed,
                    none => {
                        let frozen = course.frozen.as_ref();
                        none.insert(Fixed::new(&policy, &plans, &passes, config, frozen)?)
                    }
                };
                let mut totals = GrpoSums::default();
                for pass in passes {
                    if may_stop {
                        check()?;
                    }
                    let groups: Vec<Known> = pass
                        .map(|i| Known {
                            plan: plans[i],
                            old: fixed.old.get(i),
                            reference: fixed.reference.get(i),
                        })
                        .collect();
                    accumulate(&policy, &groups, &terms, gradients, &mut totals)?;
                }
                Ok(totals)
            })
        });
        let mut totals = match taken {
            Err(TrainError::Interrupted(stop)) => {
                let bytes = serde_json::to_vec(groups).expect("JSON of plain values");
                state.save(context.checkpoints, logs, &[(PENDING, &bytes)])?;
                return Err(stop.into());
            }
            other => other?,
        };
        totals.reduce(ranks)?;
        ranks.sum(state.gradients.flat())?;
        if !totals.loss.is_finite() {
            return Err(TrainError::Diverged {
                step: state.step + 1,
                what: "the loss",
            });
        }
        let lr = config.optim.lr
            * config
                .optim
                .schedule
                .factor(state.step, course.total, config.optim.warmup_ratio);
        let grad_norm = state.take_step(lr)?;
        if !grad_norm.is_finite() {
            return Err(TrainError::Diverged {
                step: state.step + 1,
                what: "the gradient",
            });
        }
        state.step += 1;
        state.agree(ranks)?;
        let epoch = state.step as f64 / (course.generations_per_epoch * config.iterations) as f64;
        write_logs(
            logs,
            groups,
            state.step,
            &metrics(groups, &totals, state.step, epoch, grad_norm, lr),
        )?;
    }
    Ok(())
}

fn metrics(
    groups: &[Group],
    totals: &GrpoSums,
    step: u64,
    epoch: f64,
    grad_norm: f64,
    lr: f64,
) -> GrpoMetrics {
    let rollouts: Vec<&Rollout> = groups.iter().flat_map(|g| &g.rollouts).collect();
    let share = |sum: f64, of: f64| if of > 0.0 { sum / of } else { 0.0 };
    let count = rollouts.len() as f64;
    let mean =
        |value: &dyn Fn(&Rollout) -> f64| share(rollouts.iter().map(|r| value(r)).sum(), count);
    let outcome = |wanted| mean(&|r| f64::from(u8::from(r.outcome == wanted)));
    let with_rollouts: Vec<&Group> = groups.iter().filter(|g| !g.rollouts.is_empty()).collect();
    let flat = with_rollouts.iter().filter(|g| g.is_flat()).count();
    let stds: f64 = with_rollouts
        .iter()
        .map(|g| mean_and_deviation(&g.rewards()).1)
        .sum();
    GrpoMetrics {
        step,
        epoch,
        loss: totals.loss,
        reward_mean: mean(&|r| r.reward),
        reward_std: share(stds, with_rollouts.len() as f64),
        zero_variance_share: share(flat as f64, with_rollouts.len() as f64),
        compliant_share: outcome(Outcome::Compliant),
        invalid_share: outcome(Outcome::Invalid),
        failed: groups.iter().map(|g| g.failed).sum(),
        kl: share(totals.kl, totals.actions),
        entropy: share(totals.entropy, totals.scored),
        clip_share_low: share(totals.clipped_low, totals.ratios),
        clip_share_high: share(totals.clipped_high, totals.ratios),
        completion_length: mean(&|r| r.length() as f64),
        rollout_mismatch: (totals.sampled > 0.0).then(|| totals.mismatch / totals.sampled),
        rollout_mismatch_max: (totals.sampled > 0.0).then_some(totals.mismatch_max),
        correction_mean: (totals.corrected > 0.0).then(|| totals.correction / totals.corrected),
        grad_norm,
        lr,
    }
}

fn write_logs(
    logs: &mut BTreeMap<String, MetricsLog>,
    groups: &[Group],
    step: u64,
    metrics: &GrpoMetrics,
) -> Result<(), TrainError> {
    for (name, log) in logs {
        if name == SAMPLES_FILE {
            // One group a step is enough to see what the model writes.
            let shown = groups.iter().find(|g| !g.rollouts.is_empty());
            for (group, rollout) in shown
                .iter()
                .flat_map(|g| g.rollouts.iter().map(move |r| (g, r)))
            {
                log.append(&Sample {
                    step,
                    question: &group.question,
                    text: &rollout.text,
                    outcome: rollout.outcome,
                    reward: rollout.reward,
                    advantage: rollout.advantage,
                })?;
            }
        } else {
            log.append(metrics)?;
        }
        log.flush()?;
    }
    Ok(())
}
