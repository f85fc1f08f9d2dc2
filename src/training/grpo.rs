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

/// Advantage of each completion of one group: (r − mean) / (std + 1e-4), std with Bessel's correction.
///
/// A group of one, or one whose rewards are all equal, has advantage 0: it teaches nothing.
pub fn advantages(rewards: &[f64]) -> Vec<f64> {
    if rewards.windows(2).all(|pair| pair[0] == pair[1]) {
        // The rounded mean of equal rewards may differ from each of them.
        return vec![0.0; rewards.len()];
    }
    let n = rewards.len() as f64;
    let mean = rewards.iter().sum::<f64>() / n;
    let variance = rewards.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / (n - 1.0);
    rewards
        .iter()
        .map(|r| (r - mean) / (variance.sqrt() + EPSILON))
        .collect()
}

/// Settings of the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GrpoTerms {
    /// How actions are averaged.
    pub loss: GrpoLoss,
    /// Weight of the KL penalty.
    pub beta: f64,
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
    /// Places of each completion's actions among the N.
    pub spans: &'a [Range<usize>],
}

/// The loss and what one wants to see of it; scalars, sums over this part of the batch.
pub struct GrpoValue {
    /// This part's share of the batch's loss: parts add up to it.
    pub loss: Tensor,
    /// Sum over actions of the k3 estimate of KL(π‖ref).
    pub kl_sum: f64,
    /// Actions clipped from below (advantage negative).
    pub clipped_low: f64,
    /// Actions clipped from above (advantage positive).
    pub clipped_high: f64,
}

/// The clipped loss with its KL penalty.
///
/// Per action: −min(ρA, clip(ρ, 1 − ε_low, 1 + ε_high)·A) + β·k3, ρ = exp(current − old),
/// k3 = exp(ref − current) − (ref − current) − 1.
pub fn grpo(actions: &Actions, terms: &GrpoTerms) -> GrpoValue {
    let ratio = (actions.current - actions.old).exp();
    let clipped = ratio.clamp(1.0 - terms.epsilon_low, 1.0 + terms.epsilon_high);
    let mut losses = -(&ratio * actions.advantages).minimum(&(clipped * actions.advantages));
    let mut kl_sum = 0.0;
    if let Some(reference) = actions.reference {
        let difference = reference - actions.current;
        let kl = difference.exp() - &difference - 1.0;
        kl_sum = kl.sum(Kind::Double).double_value(&[]);
        losses += kl * terms.beta;
    }
    let weights = weights(actions.spans, actions.current.size()[0] as usize, terms);
    let weights = Tensor::from_slice(&weights)
        .to_kind(Kind::Float)
        .to_device(losses.device());
    let count = |mask: Tensor| mask.sum(Kind::Double).double_value(&[]);
    let low = ratio
        .less(1.0 - terms.epsilon_low)
        .logical_and(&actions.advantages.less(0.0));
    let high = ratio
        .greater(1.0 + terms.epsilon_high)
        .logical_and(&actions.advantages.greater(0.0));
    GrpoValue {
        loss: (losses * weights).sum(Kind::Float),
        kl_sum,
        clipped_low: count(low),
        clipped_high: count(high),
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
}
