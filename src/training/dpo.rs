//! Direct preference optimisation (Rafailov et al. 2023): losses over sums of completion log-probabilities.
//!
//! Tensors in, tensors out; where they come from is the trainer's business.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Which function of the preference margin is minimised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DpoLoss {
    /// −log σ(β·h), the published DPO loss, with optional label smoothing (conservative DPO).
    #[default]
    Sigmoid,
    /// max(0, 1 − β·h) (SLiC).
    Hinge,
    /// (h̄ − 1/(2β))², h̄ of log-probabilities averaged over tokens (Azar et al. 2023).
    Ipo,
}

/// Log-probabilities of a batch of pairs, `(B)` each, in f32.
pub struct PairLogProbs<'a> {
    /// Sum over the chosen completion under the policy.
    pub chosen: &'a Tensor,
    /// Sum over the rejected completion under the policy.
    pub rejected: &'a Tensor,
    /// Sum over the chosen completion under the reference.
    pub reference_chosen: &'a Tensor,
    /// Sum over the rejected completion under the reference.
    pub reference_rejected: &'a Tensor,
}

/// What a batch of pairs gives, `(B)` each.
pub struct DpoTerms {
    /// Loss.
    pub losses: Tensor,
    /// β(π_chosen − ref_chosen), without gradient.
    pub chosen_rewards: Tensor,
    /// β(π_rejected − ref_rejected), without gradient.
    pub rejected_rewards: Tensor,
}

/// Loss and implicit rewards of each pair.
///
/// With [`DpoLoss::Ipo`] the caller gives averages over tokens instead of sums.
pub fn dpo(pairs: &PairLogProbs, loss: DpoLoss, beta: f64, label_smoothing: f64) -> DpoTerms {
    let chosen = pairs.chosen - pairs.reference_chosen;
    let rejected = pairs.rejected - pairs.reference_rejected;
    let margin = &chosen - &rejected;
    let losses = match loss {
        DpoLoss::Sigmoid => {
            let kept = (&margin * beta).log_sigmoid() * -(1.0 - label_smoothing);
            let flipped = (&margin * -beta).log_sigmoid() * -label_smoothing;
            kept + flipped
        }
        DpoLoss::Hinge => (margin * -beta + 1.0).relu(),
        DpoLoss::Ipo => (margin - 1.0 / (2.0 * beta)).square(),
    };
    DpoTerms {
        losses,
        chosen_rewards: (chosen.detach() * beta).to_kind(Kind::Float),
        rejected_rewards: (rejected.detach() * beta).to_kind(Kind::Float),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worked_pair() {
        let t = |x: f32| Tensor::from_slice(&[x]);
        let (c, r, rc, rr) = (t(-3.0), t(-5.0), t(-4.0), t(-4.5));
        let pairs = PairLogProbs {
            chosen: &c,
            rejected: &r,
            reference_chosen: &rc,
            reference_rejected: &rr,
        };
        // Margin: (−3 + 4) − (−5 + 4.5) = 1.5.
        let value = |loss, smoothing| dpo(&pairs, loss, 0.1, smoothing).losses.double_value(&[0]);
        let softplus = |x: f64| (1.0 + x.exp()).ln();
        assert!((value(DpoLoss::Sigmoid, 0.0) - softplus(-0.15)).abs() < 1e-6);
        assert!(
            (value(DpoLoss::Sigmoid, 0.2) - (0.8 * softplus(-0.15) + 0.2 * softplus(0.15))).abs()
                < 1e-6
        );
        assert!((value(DpoLoss::Hinge, 0.0) - 0.85).abs() < 1e-6);
        assert!((value(DpoLoss::Ipo, 0.0) - (1.5f64 - 5.0).powi(2)).abs() < 1e-5);
        let terms = dpo(&pairs, DpoLoss::Sigmoid, 0.1, 0.0);
        assert!((terms.chosen_rewards.double_value(&[0]) - 0.1).abs() < 1e-6);
        assert!((terms.rejected_rewards.double_value(&[0]) + 0.05).abs() < 1e-6);
    }
}
