//! Direct preference optimisation (Rafailov et al. 2023): losses over sums of completion log-probabilities.
//!
//! Numbers in, numbers out, with the slope in closed form: a batch has a few dozen of them, and autograd's operations would
//! keep a GPU waiting. Where they come from is the trainer's business.

use serde::{Deserialize, Serialize};

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

/// Log-probabilities of a pair's completions: sums over their tokens, with [`DpoLoss::Ipo`] means.
#[derive(Debug, Clone, Copy)]
pub struct PairLogProbs {
    /// The chosen one's under the policy.
    pub chosen: f64,
    /// The rejected one's under the policy.
    pub rejected: f64,
    /// The chosen one's under the reference.
    pub reference_chosen: f64,
    /// The rejected one's under the reference.
    pub reference_rejected: f64,
}

/// What a pair gives.
#[derive(Debug, Clone, Copy)]
pub struct DpoTerms {
    /// Loss.
    pub loss: f64,
    /// ∂ loss / ∂ `chosen`, which is −∂ loss / ∂ `rejected`: all losses are functions of their difference.
    pub slope: f64,
    /// β(π_chosen − ref_chosen).
    pub chosen_reward: f64,
    /// β(π_rejected − ref_rejected).
    pub rejected_reward: f64,
}

/// log σ(x), without overflow.
fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// σ(x).
fn sigmoid(x: f64) -> f64 {
    log_sigmoid(x).exp()
}

/// Loss, its slope and the implicit rewards of a pair.
pub fn dpo(pair: &PairLogProbs, loss: DpoLoss, beta: f64, label_smoothing: f64) -> DpoTerms {
    let chosen = pair.chosen - pair.reference_chosen;
    let rejected = pair.rejected - pair.reference_rejected;
    let margin = chosen - rejected;
    let scaled = beta * margin;
    let (loss, slope) = match loss {
        DpoLoss::Sigmoid => {
            let (kept, flipped) = (1.0 - label_smoothing, label_smoothing);
            (
                -kept * log_sigmoid(scaled) - flipped * log_sigmoid(-scaled),
                beta * (flipped * sigmoid(scaled) - kept * sigmoid(-scaled)),
            )
        }
        DpoLoss::Hinge if scaled >= 1.0 => (0.0, 0.0),
        // What is no number stays none.
        DpoLoss::Hinge => (1.0 - scaled, -beta),
        DpoLoss::Ipo => {
            let distance = margin - 1.0 / (2.0 * beta);
            (distance * distance, 2.0 * distance)
        }
    };
    DpoTerms {
        loss,
        slope,
        chosen_reward: beta * chosen,
        rejected_reward: beta * rejected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Margin: (−3 + 4) − (−5 + 4.5) = 1.5.
    const PAIR: PairLogProbs = PairLogProbs {
        chosen: -3.0,
        rejected: -5.0,
        reference_chosen: -4.0,
        reference_rejected: -4.5,
    };

    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-9, "{got}, not {expected}");
    }

    #[test]
    fn a_worked_pair() {
        let value = |loss, smoothing| dpo(&PAIR, loss, 0.1, smoothing).loss;
        let softplus = |x: f64| (1.0 + x.exp()).ln();
        close(value(DpoLoss::Sigmoid, 0.0), softplus(-0.15));
        let smoothed = 0.8 * softplus(-0.15) + 0.2 * softplus(0.15);
        close(value(DpoLoss::Sigmoid, 0.2), smoothed);
        close(value(DpoLoss::Hinge, 0.0), 0.85);
        close(value(DpoLoss::Ipo, 0.0), (1.5f64 - 5.0).powi(2));
        let terms = dpo(&PAIR, DpoLoss::Sigmoid, 0.1, 0.0);
        close(terms.chosen_reward, 0.1);
        close(terms.rejected_reward, -0.05);
    }

    #[test]
    fn slopes_are_those_of_the_losses() {
        for loss in [DpoLoss::Sigmoid, DpoLoss::Hinge, DpoLoss::Ipo] {
            for (beta, smoothing) in [(0.1, 0.0), (0.1, 0.2), (2.0, 0.1)] {
                let at = |chosen: f64, rejected: f64| {
                    let pair = PairLogProbs {
                        chosen,
                        rejected,
                        ..PAIR
                    };
                    dpo(&pair, loss, beta, smoothing)
                };
                let (step, here) = (1e-6, at(PAIR.chosen, PAIR.rejected));
                let between = |more: f64, less: f64| (more - less) / (2.0 * step);
                let by_chosen = between(
                    at(PAIR.chosen + step, PAIR.rejected).loss,
                    at(PAIR.chosen - step, PAIR.rejected).loss,
                );
                let by_rejected = between(
                    at(PAIR.chosen, PAIR.rejected + step).loss,
                    at(PAIR.chosen, PAIR.rejected - step).loss,
                );
                assert!((by_chosen - here.slope).abs() < 1e-7, "{loss:?} {beta}");
                assert!((by_rejected + here.slope).abs() < 1e-7, "{loss:?} {beta}");
            }
        }
    }

    #[test]
    fn what_is_no_number_gives_none() {
        let pair = PairLogProbs {
            chosen: f64::NAN,
            ..PAIR
        };
        for loss in [DpoLoss::Sigmoid, DpoLoss::Hinge, DpoLoss::Ipo] {
            assert!(dpo(&pair, loss, 0.1, 0.0).loss.is_nan(), "{loss:?}");
        }
    }

    #[test]
    fn far_from_the_reference_it_is_still_a_number() {
        for far in [-1e4, 1e4] {
            let pair = PairLogProbs {
                chosen: far,
                ..PAIR
            };
            let terms = dpo(&pair, DpoLoss::Sigmoid, 0.5, 0.0);
            assert!(terms.loss.is_finite() && terms.slope.is_finite());
        }
    }
}
