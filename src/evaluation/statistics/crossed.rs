//! Several seeds: a second level of clusters, crossed with the first.
//!
//! Every seed meets the same environments, so seeds are crossed with them and not nested. The intervals beside rates
//! keep all seeds and samples of an environment in its cluster: they say how a rate varies over environments, for these
//! seeds. [`crossed`] says how it varies over both, V = V₁ + V₂, the cluster-robust variances by row and by column. The
//! usual two-way form subtracts the variance by cell (Cameron, Gelbach and Miller, Journal of Business and Economic
//! Statistics 29, 2011), which with few seeds takes away too much; without it, V is too large by what a single decision
//! adds, 1/N of its variance. Degrees of freedom are Satterthwaite's for the sum. With two or three seeds they are few
//! and the interval is wide, as it should be: two seeds say little about seeds.

use std::collections::BTreeMap;

use super::Cluster;
use super::robust::{Robust, ratio};

/// What one cell of rows by columns adds to a ratio.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell {
    /// Environment, game or family.
    pub row: usize,
    /// Seed.
    pub column: usize,
    /// Events or summed differences.
    pub sum: f64,
    /// Trials or pairs.
    pub weight: f64,
}

/// Σ sum / Σ weight with its error over rows and columns. None with fewer than two rows or two columns.
pub fn crossed(cells: &[Cell]) -> Option<Robust> {
    let by = |key: fn(&Cell) -> usize| -> Option<Robust> {
        let mut sums: BTreeMap<usize, Cluster> = BTreeMap::new();
        for cell in cells.iter().filter(|cell| cell.weight > 0.0) {
            let cluster = sums.entry(key(cell)).or_default();
            cluster.sum += cell.sum;
            cluster.weight += cell.weight;
        }
        ratio(&sums.into_values().collect::<Vec<_>>())
    };
    let rows = by(|cell| cell.row)?;
    let columns = by(|cell| cell.column)?;
    let (a, b) = (rows.error.powi(2), columns.error.powi(2));
    let spread = a * a / rows.freedom + b * b / columns.freedom;
    let freedom = if spread > 0.0 {
        (a + b).powi(2) / spread
    } else {
        rows.freedom.min(columns.freedom)
    };
    Some(Robust {
        value: rows.value,
        error: (a + b).sqrt(),
        freedom,
        n: rows.n,
    })
}

#[cfg(test)]
mod tests;
