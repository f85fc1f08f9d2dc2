//! Drift: how many points the rate of events moves a round.
//!
//! b of the least-squares line event = a + b·round over all decisions with an outcome (a linear probability model: its
//! slope is the mean change of the rate, whatever the course), with a cluster-robust error and t with G − 1 degrees of
//! freedom. All decisions of a cluster, over rounds as well, are one score of the sandwich, so that the same agents
//! standing in every round need no further model.
//!
//! Where clusters look alike, and most of all where nothing varies, that error is too small. As for a paired difference,
//! the interval is therefore at each end the wider of that one and the classic one for independent questions: b is the
//! mean of the questions' own slopes b_q, so its classic variance is theirs over their number. Bonett and Price's
//! question that gains and question that loses are those of the steepest slope that zeros and ones can have, ±B. Over two
//! rounds b_q is the difference of a pair, B is 1, and this is the interval of the paired comparison.

use std::collections::BTreeMap;

use crate::evaluation::observation::Strand;
use crate::evaluation::statistics::robust::{Datum, LineFit, linear};
use crate::evaluation::statistics::student::t_two_sided;
use crate::evaluation::statistics::{Estimate, bonett_price, with_two_added};

/// The drift of one strand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slope {
    /// Change of the rate a round, with its interval.
    pub per_round: Estimate,
    /// Two-sided p-value of no drift: the larger of that by cluster and the classic one.
    pub p: f64,
}

/// The slope; none with a single round or fewer than two clusters.
pub fn slope(strand: &Strand<'_>) -> Option<Slope> {
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    for o in &strand.observations {
        let next = numbers.len();
        numbers.entry(o.cluster).or_insert(next);
    }
    let (questions, data): (Vec<&str>, Vec<Datum>) = strand
        .observations
        .iter()
        .filter_map(|o| {
            let datum = Datum {
                cluster: numbers[o.cluster],
                x: f64::from(o.round),
                y: f64::from(u8::from(o.event?)),
            };
            Some((o.unit.0, datum))
        })
        .unzip();
    let fit = linear(&data)?;
    let by_cluster = fit.slope();
    let found = by_cluster.estimate();
    let (own, steepest) = own_slopes(&questions, &data, &fit);
    let classic = bonett_price(&own)?;
    let (centre, error) = with_two_added(&own)?;
    Some(Slope {
        per_round: Estimate {
            low: found.low.min(classic.low * steepest),
            high: found.high.max(classic.high * steepest),
            ..found
        },
        p: by_cluster
            .p_value()
            .max(t_two_sided(centre / error, f64::INFINITY)),
    })
}

/// Each question's own slope in units of the steepest, and the steepest: that of events in all decisions after the mean
/// round and in none before. A question that misses rounds counts with its part of the fit, so that the mean stays b.
fn own_slopes(questions: &[&str], data: &[Datum], fit: &LineFit) -> (Vec<f64>, f64) {
    let mean = data.iter().map(|d| d.x).sum::<f64>() / data.len() as f64;
    let spread: f64 = data.iter().map(|d| (d.x - mean).powi(2)).sum();
    let steepest = data.iter().map(|d| (d.x - mean).abs()).sum::<f64>() / 2.0 / spread;
    let mut parts: BTreeMap<&str, f64> = BTreeMap::new();
    for (&question, d) in questions.iter().zip(data) {
        let residual = d.y - fit.intercept - fit.slope * d.x;
        *parts.entry(question).or_default() += (d.x - mean) * residual / spread;
    }
    let count = parts.len() as f64;
    let own = parts.values().map(|part| fit.slope + count * part);
    (own.map(|slope| slope / steepest).collect(), steepest)
}
