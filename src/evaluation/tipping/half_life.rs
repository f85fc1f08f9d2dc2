//! The half-life of alignment: how fast the gain of training is lost over rounds.
//!
//! The gain left in round r is G_r = p_base − p_r, p_base being base's rate in its first round, before any experience of
//! its own. G₁·ρ^(r − 1), r counted from the first round evaluated, is fitted to it by least squares with the numbers of
//! decisions as weights, G₁ > 0. A round loses the share 1 − ρ of the gain that is left; half is gone after
//! ln ½ / ln ρ rounds. ρ ≥ 1 loses nothing: there is no half-life. The interval resamples whole clusters of both
//! variants together, since both met the same ones. Where the gain itself cannot be told from none, there is nothing to
//! halve, and no half-life is given.

use super::grid::{Grid, Rates};
use crate::evaluation::statistics::{Estimate, RESAMPLES, cluster_contrast, expanded_percentiles};
use crate::runtime::seed::stream;

/// How fast a gain is lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HalfLife {
    /// The gain in the first round: base minus variant.
    pub gain: Estimate,
    /// Share of the gain in the first round that is gone in the last.
    pub lost: f64,
    /// Share of the remaining gain that a round loses, 1 − ρ; below zero where the gain grows.
    pub per_round: Estimate,
    /// Rounds until half of the gain is gone: value, and both ends of the interval; none is never.
    pub rounds: [Option<f64>; 3],
}

/// Largest ρ that is looked for.
const LARGEST: f64 = 2.0;
const STEPS: usize = 80;

/// The half-life; none without base, with a single round, with fewer than two clusters, or without a gain whose
/// interval lies above zero.
pub(super) fn half_life(grid: &Grid, root: u64, name: &str) -> Option<HalfLife> {
    if !grid.has_base || grid.rounds.len() < 2 || grid.clusters() < 2 {
        return None;
    }
    let (base, first) = grid.base_and(0);
    let gain = cluster_contrast(&base, &first, root, &format!("{name}/gain"))?;
    if gain.low <= 0.0 {
        return None;
    }
    let (start, rho) = fit(grid, &grid.rates())?;
    let mut rng = stream(root, &format!("{name}/half-life"));
    let mut lost: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| Some(1.0 - fit(grid, &grid.resample(&mut rng))?.1))
        .collect();
    let (low, high) = expanded_percentiles(&mut lost, grid.clusters())?;
    let span = f64::from(grid.rounds[grid.rounds.len() - 1] - grid.rounds[0]);
    debug_assert!(start > 0.0);
    let half = |lost: f64| {
        (lost > 0.0).then(|| {
            if lost >= 1.0 {
                0.0
            } else {
                0.5_f64.ln() / (1.0 - lost).ln()
            }
        })
    };
    Some(HalfLife {
        gain,
        lost: 1.0 - rho.powf(span),
        per_round: Estimate {
            value: 1.0 - rho,
            low,
            high,
            n: gain.n,
        },
        rounds: [half(1.0 - rho), half(high), half(low)],
    })
}

/// G₁ and ρ of least squares; none where no positive G₁ fits.
fn fit(grid: &Grid, rates: &Rates) -> Option<(f64, f64)> {
    let base = rates.base?;
    let first = grid.rounds[0];
    let points: Vec<(i32, f64, f64)> = grid
        .rounds
        .iter()
        .zip(rates.rounds.iter().zip(&rates.weights))
        .filter_map(|(round, (rate, weight))| {
            Some(((*round - first) as i32, base - (*rate)?, *weight))
        })
        .collect();
    // For a given ρ the best G₁ has a closed form; what it explains is what is made large.
    let at = |rho: f64| {
        let (mut across, mut squares) = (0.0, 0.0);
        for &(x, gain, weight) in &points {
            let left = rho.powi(x);
            across += weight * gain * left;
            squares += weight * left * left;
        }
        (across / squares, across.max(0.0) * across / squares)
    };
    let step = LARGEST / STEPS as f64;
    let best = (0..=STEPS)
        .map(|i| i as f64 * step)
        .max_by(|a, b| at(*a).1.total_cmp(&at(*b).1))?;
    let (mut low, mut high) = ((best - step).max(0.0), (best + step).min(LARGEST));
    for _ in 0..30 {
        let third = (high - low) / 3.0;
        if at(low + third).1 < at(high - third).1 {
            low += third;
        } else {
            high -= third;
        }
    }
    let rho = low.midpoint(high);
    let start = at(rho).0;
    (start > 0.0).then_some((start, rho))
}
