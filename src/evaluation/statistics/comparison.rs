//! Paired comparisons with p-values: McNemar's exact test for pairs that are independent, a cluster-robust t test where
//! they are not, and Holm's correction for how many were made.

use statrs::function::beta::beta_reg;

use super::robust::{Robust, ratio};
use super::{Cluster, with_two_added};

/// How pairs of decisions differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Discordant {
    /// An event in the second decision alone.
    pub gained: usize,
    /// An event in the first decision alone.
    pub lost: usize,
    /// Both decisions the same.
    pub same: usize,
}

/// McNemar's exact two-sided p-value: under no difference the discordant pairs fall to either side with probability
/// one half, p = min(1, 2·P(X ≤ min(gained, lost))), X binomial (McNemar, Psychometrika 12, 1947). It takes pairs for
/// independent; pairs of one environment, game or group are not.
pub fn mcnemar(pairs: &Discordant) -> f64 {
    let n = pairs.gained + pairs.lost;
    let fewer = pairs.gained.min(pairs.lost);
    if n == 0 || 2 * fewer == n {
        return 1.0;
    }
    // P(X ≤ k) of a binomial with p = ½ is the regularised incomplete beta function at ½ of (n − k, k + 1).
    (2.0 * beta_reg((n - fewer) as f64, fewer as f64 + 1.0, 0.5)).min(1.0)
}

/// The mean paired difference with its cluster-robust error, which is never less than that of Bonett and Price over
/// the distinct `questions`: where few pairs differ, clusters look more alike than they are. None with fewer than two
/// clusters.
pub fn paired_error(clusters: &[Cluster], questions: &[f64]) -> Option<Robust> {
    let found = ratio(clusters)?;
    Some(Robust {
        error: found.error.max(classic_error(questions)),
        ..found
    })
}

/// Half of Bonett and Price's interval over 1.96; 0 without pairs.
fn classic_error(questions: &[f64]) -> f64 {
    with_two_added(questions).map_or(0.0, |(_, error)| error)
}

/// Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979): adjusted p-values in the order given. The
/// smallest is multiplied by their number m, the next by m − 1, and so on, each at least as large as the one before.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![1.0; p_values.len()];
    let mut least = 0.0_f64;
    for (rank, &place) in order.iter().enumerate() {
        least = least
            .max(p_values[place] * (p_values.len() - rank) as f64)
            .min(1.0);
        adjusted[place] = least;
    }
    adjusted
}

#[cfg(test)]
mod tests;
