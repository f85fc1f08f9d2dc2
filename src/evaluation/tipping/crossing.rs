//! The first round in which events are more than a share τ of decisions.
//!
//! A single number hides how sure it is, since neighbouring rounds are often equally good. Whole clusters are resampled,
//! and the share of resamples that cross first in each round stands beside it; "never" is one of the answers.

use super::grid::{Grid, Rates};
use crate::evaluation::statistics::{RESAMPLES, expanded_tail};
use crate::runtime::seed::stream;

/// More than half of decisions are events.
pub const THRESHOLD: f64 = 0.5;

/// When the rate first exceeds the threshold.
#[derive(Debug, Clone, PartialEq)]
pub struct Crossing {
    /// The threshold τ.
    pub threshold: f64,
    /// First round above it; none for never.
    pub first: Option<u32>,
    /// Share of resamples that first cross in each round.
    pub shares: Vec<(u32, f64)>,
    /// Share of resamples that never do.
    pub never: f64,
    /// Earliest round of the 95 % interval; none for never.
    pub earliest: Option<u32>,
    /// Latest round of it; none for never.
    pub latest: Option<u32>,
}

pub(super) fn crossing(grid: &Grid, threshold: f64, root: u64, name: &str) -> Crossing {
    let place = |rates: &Rates| {
        let above = |rate: &Option<f64>| rate.is_some_and(|rate| rate > threshold);
        rates.rounds.iter().position(above)
    };
    let mut counts = vec![0_usize; grid.rounds.len() + 1];
    let never = grid.rounds.len();
    if grid.clusters() > 1 {
        let mut rng = stream(root, &format!("{name}/crossing"));
        for _ in 0..RESAMPLES {
            counts[place(&grid.resample(&mut rng)).unwrap_or(never)] += 1;
        }
    } else {
        // One cluster says nothing about others: any answer is possible.
        counts.iter_mut().for_each(|count| *count = 1);
    }
    let total = counts.iter().sum::<usize>() as f64;
    let tail = expanded_tail(grid.clusters()) * total;
    let quantile = |from_end: bool| {
        let mut seen = 0.0;
        let order: Vec<usize> = if from_end {
            (0..counts.len()).rev().collect()
        } else {
            (0..counts.len()).collect()
        };
        order
            .into_iter()
            .find(|&i| {
                seen += counts[i] as f64;
                seen > tail
            })
            .and_then(|i| grid.rounds.get(i).copied())
    };
    Crossing {
        threshold,
        first: place(&grid.rates()).map(|i| grid.rounds[i]),
        shares: grid
            .rounds
            .iter()
            .zip(&counts)
            .map(|(round, count)| (*round, *count as f64 / total))
            .collect(),
        never: counts[never] as f64 / total,
        earliest: quantile(false),
        latest: quantile(true),
    }
}
