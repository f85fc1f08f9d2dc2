//! Drift: how many points the rate of events moves a round.
//!
//! b of the least-squares line event = a + b·round over all decisions with an outcome (a linear probability model: its
//! slope is the mean change of the rate, whatever the course), with a cluster-robust error and t with G − 1 degrees of
//! freedom. All decisions of a cluster, over rounds as well, are one score of the sandwich, so that the same agents
//! standing in every round need no further model.
//!
//! Where every cluster moves alike that error is zero, which says nothing of clusters that were not seen. The interval is
//! then what G alike leave open: of all clusters, a share of up to 1 − 0.025^(1/G) may do otherwise (Clopper and Pearson 1934,
//! none of G), each by as much as b and the steepest line there is the other way, which has all events after the mean round.

use std::collections::{BTreeMap, BTreeSet};

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

/// An error below this is rounding.
const NOTHING: f64 = 1e-9;

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
    if slope.error < NOTHING {
        return Some(alike(slope.value, &data));
    }
    Some(Slope {
        per_round: slope.estimate(),
        p: slope.p_value(),
    })
}

/// The slope that all clusters share.
fn alike(value: f64, data: &[Datum]) -> Slope {
    let clusters: BTreeSet<usize> = data.iter().map(|d| d.cluster).collect();
    let clusters = clusters.len() as f64;
    let value = if value.abs() < NOTHING { 0.0 } else { value };
    let mean = data.iter().map(|d| d.x).sum::<f64>() / data.len() as f64;
    let (late, squares) = data.iter().fold((0.0, 0.0), |(late, squares), d| {
        let from = d.x - mean;
        (late + from.max(0.0), squares + from * from)
    });
    let half = (1.0 - 0.025_f64.powf(1.0 / clusters)) * (value.abs() + late / squares);
    Slope {
        per_round: Estimate {
            value,
            low: value - half,
            high: value + half,
            n: data.len(),
        },
        // All moved the same way, as coins would in two of 2^G cases.
        p: match value == 0.0 {
            true => 1.0,
            false => (2.0 * 0.5_f64.powf(clusters)).min(1.0),
        },
    }
}
