//! When did the rate change, if it did? A posterior over "no change" and over each gap between rounds.
//!
//! Counts k_r of n_r in round r are binomial. Without a change all rounds share one p; with a change after round c the
//! rounds up to c share p₁ and those after it p₂. Each p has a Beta(1, 1) prior, so the marginal likelihood of a segment
//! with K events of N is B(K + 1, N − K + 1), and the binomial coefficients cancel (Smith, Biometrika 62, 1975). The
//! prior gives "no change" one half and each of the R − 1 gaps an equal part of the other half. A slow drift is not a
//! change-point; it shows as a posterior spread over several gaps.
//!
//! Decisions of a cluster resemble each other and are worth fewer: counts are divided by the mean design effect of the
//! rounds, where it is above 1, so that the posterior is not surer than the data.

use statrs::function::beta::ln_beta;

use super::Level;

/// Prior probability of "no change".
pub const NO_CHANGE: f64 = 0.5;

/// The posterior.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangePoint {
    /// Probability that the rate is the same in all rounds.
    pub none: f64,
    /// Probability that it changes after each round but the last.
    pub after: Vec<(u32, f64)>,
    /// The likeliest of the changes: after this round.
    pub likeliest: u32,
    /// Mean rate before and after the likeliest change, posterior means.
    pub rates: (f64, f64),
    /// What the counts were divided by.
    pub design_effect: f64,
}

/// The posterior of rounds in order, counts divided by their design effect; none with fewer than two rounds that have
/// outcomes.
pub(super) fn of_levels(levels: &[Level]) -> Option<ChangePoint> {
    let effects: Vec<f64> = levels.iter().filter_map(|l| l.design_effect).collect();
    let mean = effects.iter().sum::<f64>() / effects.len().max(1) as f64;
    let counts: Vec<(u32, f64, f64)> = levels
        .iter()
        .filter(|level| level.read > 0)
        .map(|level| (level.round, level.events as f64, level.read as f64))
        .collect();
    change_point(&counts, mean.max(1.0))
}

/// The posterior of `(round, events, decisions)` in order; none with fewer than two rounds.
pub fn change_point(counts: &[(u32, f64, f64)], design_effect: f64) -> Option<ChangePoint> {
    if counts.len() < 2 {
        return None;
    }
    let total = |part: &[(u32, f64, f64)]| {
        part.iter()
            .fold((0.0, 0.0), |(k, n), (_, events, decisions)| {
                (k + events / design_effect, n + decisions / design_effect)
            })
    };
    let marginal = |part: &[(u32, f64, f64)]| {
        let (k, n) = total(part);
        ln_beta(k + 1.0, (n - k).max(0.0) + 1.0)
    };
    let gaps = counts.len() - 1;
    let mut weights = vec![NO_CHANGE.ln() + marginal(counts)];
    weights.extend((1..=gaps).map(|c| {
        let prior = (1.0 - NO_CHANGE) / gaps as f64;
        prior.ln() + marginal(&counts[..c]) + marginal(&counts[c..])
    }));
    let largest = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = weights.iter().map(|w| (w - largest).exp()).sum();
    let posterior: Vec<f64> = weights.iter().map(|w| (w - largest).exp() / sum).collect();
    // The first of equals, so that the answer does not depend on rounding of a sort.
    let best = (1..=gaps).fold(1, |best, c| {
        if posterior[c] > posterior[best] {
            c
        } else {
            best
        }
    });
    let mean = |part: &[(u32, f64, f64)]| {
        let (k, n) = total(part);
        (k + 1.0) / (n + 2.0)
    };
    Some(ChangePoint {
        none: posterior[0],
        after: counts[..gaps]
            .iter()
            .zip(&posterior[1..])
            .map(|((round, ..), p)| (*round, *p))
            .collect(),
        likeliest: counts[best - 1].0,
        rates: (mean(&counts[..best]), mean(&counts[best..])),
        design_effect,
    })
}
