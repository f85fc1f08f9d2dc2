//! Group-relative policy optimisation (Shao et al. 2024): advantages and the clipped loss, as TRL defines them.
//!
//! An *action* is one decision of the policy with a log-probability of its own: a sampled token, or the choice between
//! options where the elicitation decodes the answer under constraint. Actions of all completions of a batch lie one
//! after the other in one vector of N.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Added to the standard deviation of a group.
const EPSILON: f64 = 1e-4;

/// How losses of actions are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrpoLoss {
    /// Mean over each completion's actions, then over completions.
    Grpo,
    /// Mean over all actions.
    Bnpo,
    /// Sum over actions, divided by completions × longest allowed completion (Liu et al. 2025).
    DrGrpo,
    /// Sum over actions, divided by the actions of the whole generation batch (Yu et al. 2025).
    #[default]
    Dapo,
}

/// Over what one probability ratio is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceLevel {
    /// A ratio an action.
    #[default]
    Token,
    /// One ratio a completion: the geometric mean of its actions' (GSPO, Zheng et al. 2025).
    Sequence,
}

/// How the policy term is corrected where the sampler's log-probabilities differ from training's for the same weights
/// (other kernels, another precision). The weight is exp(training − sampler), a constant of the loss; TRL's modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplingCorrection {
    /// No correction.
    #[default]
    None,
    /// A weight an action, no larger than the cap.
    TokenTruncate,
    /// A weight an action; 0 where it is above the cap.
    TokenMask,
    /// One weight a completion, the product of its actions', no larger than the cap.
    SequenceTruncate,
    /// One weight a completion, the product of its actions'; 0 where it is above the cap.
    SequenceMask,
}

impl SamplingCorrection {
    /// Weight of each action's policy term; none without correction.
    ///
    /// `old` and `sampler` are the actions' log-probabilities under the same weights, as training and as the sampler
    /// computed them. An action that the sampler has no own log-probability of, as a constrained choice, counts as
    /// equal in both.
    pub fn weights(
        self,
        old: &[f32],
        sampler: &[Option<f32>],
        spans: &[Range<usize>],
        cap: f64,
    ) -> Option<Vec<f32>> {
        let apart = |i: usize| sampler[i].map_or(0.0, |s| f64::from(old[i]) - f64::from(s));
        let bounded = |logarithm: f64, mask: bool| {
            let weight = logarithm.exp();
            let above = if mask { 0.0 } else { cap };
            (if weight > cap { above } else { weight }) as f32
        };
        let (whole, mask) = match self {
            Self::None => return None,
            Self::TokenTruncate => (false, false),
            Self::TokenMask => (false, true),
            Self::SequenceTruncate => (true, false),
            Self::SequenceMask => (true, true),
        };
        let mut weights = vec![1.0; old.len()];
        for span in spans {
            let product = bounded(span.clone().map(apart).sum(), mask);
            for i in span.clone() {
                weights[i] = if whole {
                    product
                } else {
                    bounded(apart(i), mask)
                };
            }
        }
        Some(weights)
    }
}

/// Mean and sample standard deviation (Bessel's correction); the latter is 0 for a single value.
pub fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0).max(1.0)).sqrt())
}

/// Advantage of each completion of one group: (r − mean) / (std + 1e-4), std with Bessel's correction.
///
/// A group of one, or one whose rewards are all equal, has advantage 0: it teaches nothing.
pub fn advantages(rewards: &[f64]) -> Vec<f64> {
    if rewards.windows(2).all(|pair| pair[0] == pair[1]) {
        // The rounded mean of equal rewards may differ from each of them.
        return vec![0.0; rewards.len()];
    }
    let (mean, deviation) = mean_and_deviation(rewards);
    rewards
        .iter()
        .map(|r| (r - mean) / (deviation + EPSILON))
        .collect()
}

/// Settings of the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GrpoTerms {
    /// How actions are averaged.
    pub loss: GrpoLoss,
    /// Over what one ratio is taken.
    pub level: ImportanceLevel,
    /// Correction for a sampler that computes otherwise than training.
    pub correction: SamplingCorrection,
    /// Largest weight of that correction.
    pub correction_cap: f64,
    /// Weight of the KL penalty.
    pub beta: f64,
    /// Multiply each action's k3 by the ratio, with its gradient: then the penalty's gradient is that of KL(π‖ref) without
    /// bias (DeepSeek-V3.2; TRL's default, not the paper's).
    pub kl_ratio_weighted: bool,
    /// Ratios below 1 − this are clipped.
    pub epsilon_low: f64,
    /// Ratios above 1 + this are clipped.
    pub epsilon_high: f64,
    /// Actions of the longest allowed completion, for `dr_grpo`: a constant of the run, whatever was sampled.
    pub max_completion: f64,
    /// Completions of the whole batch an optimiser step sees, those masked as truncated included.
    pub batch_completions: f64,
    /// Actions of the whole batch an optimiser step sees, those of masked completions left out.
    pub batch_actions: f64,
}

/// Log-probabilities of the actions, `(N)` each, and their advantages.
pub struct Actions<'a> {
    /// Under the policy being trained; carries the gradient.
    pub current: &'a Tensor,
    /// Under the policy that sampled them.
    pub old: &'a Tensor,
    /// Under the reference, where there is a KL penalty.
    pub reference: Option<&'a Tensor>,
    /// Advantage of the action's completion.
    pub advantages: &'a Tensor,
    /// Weight of the action's policy term, where the sampler is corrected for; see [`SamplingCorrection::weights`].
    pub correction: Option<&'a Tensor>,
    /// Places of each completion's actions among the N.
    pub spans: &'a [Range<usize>],
}

/// The loss and what one wants to see of it; scalars, sums over this part of the batch.
pub struct GrpoValue {
    /// This part's share of the batch's loss: parts add up to it.
    pub loss: Tensor,
    /// Sum over actions of the k3 estimate of KL(π‖ref), as it is penalised.
    pub kl_sum: f64,
    /// Ratios: one an action, or one a completion.
    pub ratios: f64,
    /// Ratios clipped from below (advantage negative).
    pub clipped_low: f64,
    /// Ratios clipped from above (advantage positive).
    pub clipped_high: f64,
}

/// The clipped loss with its KL penalty.
///
/// Per action: −w·min(ρA, clip(ρ, 1 − ε_low, 1 + ε_high)·A) + β·k3, ρ = exp(current − old) or its geometric mean over
/// the completion, w the sampler's correction (1 without), k3 = exp(ref − current) − (ref − current) − 1, times ρ
/// where that is asked for.
pub fn grpo(actions: &Actions, terms: &GrpoTerms) -> GrpoValue {
    let log_ratio = actions.current - actions.old;
    let ratio = match terms.level {
        ImportanceLevel::Token => log_ratio.exp(),
        ImportanceLevel::Sequence => means(&log_ratio, actions.spans).exp(),
    };
    let clipped = ratio.clamp(1.0 - terms.epsilon_low, 1.0 + terms.epsilon_high);
    let mut losses = -(&ratio * actions.advantages).minimum(&(clipped * actions.advantages));
    if let Some(correction) = actions.correction {
        losses *= correction;
    }
    let mut kl_sum = 0.0;
    if let Some(reference) = actions.reference {
        let difference = reference - actions.current;
        let mut kl = difference.exp() - &difference - 1.0;
        if terms.kl_ratio_weighted {
            kl *= &ratio;
        }
        kl_sum = kl.sum(Kind::Double).double_value(&[]);
        losses += kl * terms.beta;
    }
    let weights = weights(actions.spans, actions.current.size()[0] as usize, terms);
    let weights = Tensor::from_slice(&weights)
        .to_kind(Kind::Float)
        .to_device(losses.device());
    // A completion's only ratio is counted at its first action.
    let counted: Vec<i64> = match terms.level {
        ImportanceLevel::Token => (0..ratio.size()[0]).collect(),
        ImportanceLevel::Sequence => acting(actions.spans).map(|s| s.start as i64).collect(),
    };
    let places = Tensor::from_slice(&counted).to_device(losses.device());
    let count = |mask: Tensor| {
        mask.index_select(0, &places)
            .sum(Kind::Double)
            .double_value(&[])
    };
    let low = ratio
        .less(1.0 - terms.epsilon_low)
        .logical_and(&actions.advantages.less(0.0));
    let high = ratio
        .greater(1.0 + terms.epsilon_high)
        .logical_and(&actions.advantages.greater(0.0));
    GrpoValue {
        loss: (losses * weights).sum(Kind::Float),
        kl_sum,
        ratios: counted.len() as f64,
        clipped_low: count(low),
        clipped_high: count(high),
    }
}

/// Completions that have actions.
fn acting(spans: &[Range<usize>]) -> impl Iterator<Item = &Range<usize>> {
    spans.iter().filter(|span| !span.is_empty())
}

/// Each completion's mean in the place of each of its actions, `(N)`; differentiable. The spans cover all of them.
fn means(values: &Tensor, spans: &[Range<usize>]) -> Tensor {
    let parts: Vec<Tensor> = acting(spans)
        .map(|span| {
            let own = values.narrow(0, span.start as i64, span.len() as i64);
            own.mean(Kind::Float).expand([span.len() as i64], false)
        })
        .collect();
    if parts.is_empty() {
        values.shallow_clone()
    } else {
        Tensor::cat(&parts, 0)
    }
}

/// Weight of each action's loss in the batch's.
fn weights(spans: &[Range<usize>], actions: usize, terms: &GrpoTerms) -> Vec<f64> {
    let mut weights = vec![0.0; actions];
    for span in spans {
        let weight = match terms.loss {
            GrpoLoss::Grpo => 1.0 / (span.len() as f64 * terms.batch_completions),
            GrpoLoss::Bnpo | GrpoLoss::Dapo => 1.0 / terms.batch_actions,
            GrpoLoss::DrGrpo => 1.0 / (terms.batch_completions * terms.max_completion),
        };
        weights[span.clone()].fill(weight);
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advantages_are_standardised_within_the_group() {
        let got = advantages(&[1.0, 0.1, 0.1, 0.0]);
        // mean 0.3, Bessel std √((0.49 + 0.04 + 0.04 + 0.09) / 3)
        let std = (0.66f64 / 3.0).sqrt() + 1e-4;
        for (got, reward) in got.iter().zip([1.0, 0.1, 0.1, 0.0]) {
            assert!((got - (reward - 0.3) / std).abs() < 1e-12);
        }
        assert_eq!(advantages(&[0.1; 4]), [0.0; 4]);
        // 0.1 + 0.1 + 0.1 is not 0.3: without its own case this group would push the policy by 1e-13.
        assert_eq!(advantages(&[0.1; 3]), [0.0; 3]);
        assert_eq!(advantages(&[0.7]), [0.0]);
    }

    #[test]
    fn a_correction_is_bounded_by_token_or_by_sequence() {
        // Ratios 2 and 1/2 · 4 = 2 and none; a choice (no log-probability of the sampler's) has ratio 1.
        let old = [0.0, 0.0, 0.0, -1.0];
        let log = |x: f32| Some(-x.ln());
        let sampler = [log(2.0), log(0.5), log(4.0), None];
        let spans = [0..1, 1..4];
        let weights = |mode: SamplingCorrection, cap| {
            mode.weights(&old, &sampler, &spans, cap).map(|w| {
                w.iter()
                    .map(|w| (w * 1e4).round() / 1e4)
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(weights(SamplingCorrection::None, 3.0), None);
        for (mode, cap, expected) in [
            (SamplingCorrection::TokenTruncate, 3.0, [2.0, 0.5, 3.0, 1.0]),
            (SamplingCorrection::TokenMask, 3.0, [2.0, 0.5, 0.0, 1.0]),
            (SamplingCorrection::SequenceTruncate, 3.0, [2.0; 4]),
            (SamplingCorrection::SequenceTruncate, 1.5, [1.5; 4]),
            (SamplingCorrection::SequenceMask, 1.5, [0.0; 4]),
        ] {
            assert_eq!(weights(mode, cap), Some(expected.to_vec()), "{mode:?}");
        }
    }
}
