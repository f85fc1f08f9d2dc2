//! Drift: how many points the rate of events moves a round.
//!
//! b of the least-squares line event = a + b·round over all decisions with an outcome (a linear probability model: its
//! slope is the mean change of the rate, whatever the course), with a cluster-robust error and t with G − 1 degrees of
//! freedom. All decisions of a cluster, over rounds as well, are one score of the sandwich, so that the same agents
//! standing in every round need no further model.

use std::collections::BTreeMap;

use crate::evaluation::observation::Strand;
use crate::evaluation::statistics::Estimate;
use crate::evaluation::statistics::robust::{Datum, linear};

/// The drift of one strand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slope {
    /// Change of the rate a round, with its interval.
    pub per_round: Estimate,
    /// Two-sided p-value of no drift.
    pub p: f64,
}

/// The slope; none with a single round or fewer than two clusters.
pub fn slope(strand: &Strand<'_>) -> Option<Slope> {
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    for o in &strand.observations {
        let next = numbers.len();
        numbers.entry(o.cluster).or_insert(next);
    }
    let data: Vec<Datum> = strand
        .observations
        .iter()
        .filter_map(|o| {
            Some(Datum {
                cluster: numbers[o.cluster],
                x: f64::from(o.round),
                y: f64::from(u8::from(o.event?)),
            })
        })
        .collect();
    let slope = linear(&data)?.slope();
    Some(Slope {
        per_round: slope.estimate(),
        p: slope.p_value(),
    })
}
