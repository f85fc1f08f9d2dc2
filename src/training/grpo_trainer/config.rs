//! Settings of GRPO.

use serde::{Deserialize, Serialize};

use crate::model::LoraConfig;
use crate::training::decision_rollout::RewardConfig;
use crate::training::grpo::{GrpoLoss, GrpoTerms, ImportanceLevel, SamplingCorrection};
use crate::training::optim::{OptimConfig, Schedule};
use crate::training::rollout::GroupPlan;

/// What the KL penalty is measured against where training begins with an adapter. A fresh one changes nothing yet, so there
/// both are the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KlReference {
    /// The model without an adapter.
    Base,
    /// The adapter as training found it, as in TRL where a model comes with one.
    #[default]
    Start,
}

/// Settings of GRPO; the defaults are the paper's for Qwen3-8B.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrpoConfig {
    /// How losses of actions are averaged.
    pub loss: GrpoLoss,
    /// Completions a prompt.
    pub group: usize,
    /// Prompts of one generation step.
    pub prompts_per_step: usize,
    /// Optimiser steps on the rollouts of a generation step.
    pub iterations: u64,
    /// Passes over the questions.
    pub epochs: u64,
    /// Weight of the KL penalty.
    pub beta: f64,
    /// What the KL penalty is measured against.
    pub reference: KlReference,
    /// Multiply the KL penalty by the ratio, as today's TRL does.
    pub kl_ratio_weighted: bool,
    /// Over what one probability ratio is taken.
    pub importance_level: ImportanceLevel,
    /// Correction of the policy term where sampler and training disagree about a token's probability.
    pub sampling_correction: SamplingCorrection,
    /// Largest weight of that correction.
    pub sampling_correction_cap: f64,
    /// Ratios below 1 − this are clipped.
    pub epsilon_low: f64,
    /// Ratios above 1 + this are clipped.
    pub epsilon_high: f64,
    /// Leave completions that ran into the token limit out of the loss.
    pub mask_truncated: bool,
    /// Leave groups without reward differences out of the update altogether, their KL penalty with them.
    pub skip_zero_variance: bool,
    /// Optimiser steps between checkpoints.
    pub checkpoint_every: u64,
    /// Rewards.
    pub reward: RewardConfig,
    /// The adapter.
    pub lora: LoraConfig,
    /// The optimiser.
    #[serde(deserialize_with = "read_optim")]
    pub optim: OptimConfig,
}

/// The optimiser's defaults for this method.
fn grpo_optim() -> OptimConfig {
    OptimConfig {
        lr: 5e-6,
        schedule: Schedule::Linear,
        ..OptimConfig::default()
    }
}

fn read_optim<'de, D: serde::Deserializer<'de>>(source: D) -> Result<OptimConfig, D::Error> {
    grpo_optim().read_over(source)
}

impl Default for GrpoConfig {
    fn default() -> Self {
        Self {
            loss: GrpoLoss::Dapo,
            group: 4,
            prompts_per_step: 8,
            iterations: 1,
            epochs: 6,
            beta: 0.04,
            reference: KlReference::Start,
            kl_ratio_weighted: false,
            importance_level: ImportanceLevel::Token,
            sampling_correction: SamplingCorrection::None,
            // TRL's default.
            sampling_correction_cap: 3.0,
            epsilon_low: 0.2,
            epsilon_high: 0.2,
            mask_truncated: false,
            skip_zero_variance: false,
            checkpoint_every: 10,
            reward: RewardConfig::default(),
            lora: LoraConfig::default(),
            optim: grpo_optim(),
        }
    }
}

impl GrpoConfig {
    /// Terms of the loss for the batch that an optimiser step sees; `longest` is the most actions of a completion.
    pub fn terms<'a>(
        &self,
        plans: impl IntoIterator<Item = &'a GroupPlan>,
        longest: usize,
    ) -> GrpoTerms {
        let (mut completions, mut actions) = (0, 0);
        for plan in plans {
            completions += plan.completions;
            actions += plan.advantages.len();
        }
        GrpoTerms {
            loss: self.loss,
            level: self.importance_level,
            correction: self.sampling_correction,
            correction_cap: self.sampling_correction_cap,
            beta: self.beta,
            kl_ratio_weighted: self.kl_ratio_weighted,
            epsilon_low: self.epsilon_low,
            epsilon_high: self.epsilon_high,
            max_completion: longest as f64,
            batch_completions: completions.max(1) as f64,
            batch_actions: actions.max(1) as f64,
        }
    }
}
