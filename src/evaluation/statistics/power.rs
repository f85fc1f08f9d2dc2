//! What a run could have seen.
//!
//! A comparison of standard error s with G − 1 degrees of freedom finds a true difference δ at the 5 % level with
//! probability 80 % where δ = (t₀.₉₇₅ + t₀.₈)·s (Bloom, Evaluation Review 19, 1995, "minimum detectable effect"). The
//! error is the cluster-robust one, so clustering is in it. More clusters of the same size shrink it by √(G / G′); more
//! decisions in the same clusters do not remove what clusters differ by.

use super::Cluster;
use super::robust::{Robust, ratio};
use super::student::t_quantile;

/// The difference that readers ask for: ten percentage points.
pub const WANTED: f64 = 0.10;

/// Most clusters that [`power`] looks for.
const MOST: usize = 100_000;

/// What a paired comparison could have seen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Power {
    /// The smallest true difference that it finds with probability 80 % at the 5 % level.
    pub detectable: f64,
    /// Clusters of the same size that would be needed to find [`WANTED`]; none beyond 100 000.
    pub clusters: Option<usize>,
    /// Pairs in them.
    pub pairs: Option<usize>,
}

/// The power of a comparison with this error, over its clusters.
pub fn power(comparison: &Robust) -> Power {
    let clusters = comparison.freedom + 1.0;
    let reach = |freedom: f64| t_quantile(0.975, freedom) + t_quantile(0.8, freedom);
    let enough = |g: usize| {
        let error = comparison.error * (clusters / g as f64).sqrt();
        reach(g as f64 - 1.0) * error <= WANTED
    };
    // The reach falls with g, so the first sufficient number is found by halving.
    let needed = enough(MOST).then(|| {
        let (mut low, mut high) = (1_usize, MOST);
        while high - low > 1 {
            let middle = low.midpoint(high);
            if enough(middle) {
                high = middle
            } else {
                low = middle
            }
        }
        high
    });
    let size = comparison.n as f64 / clusters;
    Power {
        detectable: reach(comparison.freedom) * comparison.error,
        clusters: needed,
        pairs: needed.map(|g| (g as f64 * size).ceil() as usize),
    }
}

/// Design effect of a rate (Kish, Survey Sampling, 1965): its cluster-robust variance over that of as many independent
/// decisions, p(1 − p)/n. Above 1, decisions of a cluster resemble each other and n of them are worth n / effect. None
/// with fewer than two clusters, or where all decisions are the same.
pub fn design_effect(clusters: &[Cluster]) -> Option<f64> {
    let found = ratio(clusters)?;
    let plain = found.value * (1.0 - found.value) / found.n as f64;
    (plain > 1e-12).then(|| found.error.powi(2) / plain)
}

#[cfg(test)]
mod tests;
