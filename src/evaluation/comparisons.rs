//! Which variants and rounds differ: all paired comparisons of a run, corrected for their number.
//!
//! Of each strand: every trained variant against base in the same round, and against the variant that its training went on
//! from, where that is another; and every later round against the first; on the same units (questions, agents, problems).
//! Each comparison has
//!
//! - the mean difference d with the interval of [`paired_interval`] (clusters drawn whole);
//! - McNemar's exact p-value, which takes pairs for independent, for those who look for it;
//! - the p-value of the cluster-robust t test, d / error with G − 1 degrees of freedom, which is the one to read;
//! - Holm's correction of the latter over the family: all comparisons of one model and measure;
//! - with two seeds or more, the interval over clusters and seeds ([`crossed`]);
//! - what it could have seen ([`power`]).

use std::collections::BTreeMap;

use super::observation::{Key, Measure, Observation, Strand, sums};
use super::statistics::comparison::{Discordant, holm, mcnemar, paired_error};
use super::statistics::crossed::{Cell, crossed};
use super::statistics::power::{Power, power};
use super::statistics::robust::Robust;
use super::statistics::{Estimate, paired_interval};
use super::summary::BASE;

/// A variant in a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// Variant.
    pub variant: String,
    /// Round.
    pub round: u32,
}

/// One paired comparison; differences are second minus first.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Model.
    pub model: String,
    /// What counts as an event.
    pub measure: Measure,
    /// Which agents of a mixed population.
    pub who: String,
    /// What is compared with.
    pub first: Side,
    /// What is compared.
    pub second: Side,
    /// How the pairs differ.
    pub pairs: Discordant,
    /// Pairs in which one decision has no outcome or is missing.
    pub dropped: usize,
    /// Difference of the rates, with its interval over clusters.
    pub difference: Estimate,
    /// McNemar's exact p-value.
    pub exact: f64,
    /// The cluster-robust p-value; none with fewer than two clusters.
    pub p: Option<f64>,
    /// It, after Holm's correction over the family.
    pub adjusted: Option<f64>,
    /// The interval over clusters and seeds; none with a single seed.
    pub over_seeds: Option<Estimate>,
    /// What the comparison could have seen; none with fewer than two clusters.
    pub power: Option<Power>,
}

/// All comparisons of strands that take all settings together; `strands` as [`super::observation`] orders them.
pub fn compare(strands: &[Strand<'_>], root: u64) -> Vec<Comparison> {
    let mut families: BTreeMap<(&str, &str, Measure), Vec<&Strand<'_>>> = BTreeMap::new();
    for strand in strands.iter().filter(|strand| strand.settings == "all") {
        families
            .entry((strand.model, &strand.who, strand.measure))
            .or_default()
            .push(strand);
    }
    families
        .into_values()
        .flat_map(|family| correct(compare_family(&family, root)))
        .collect()
}

fn compare_family(family: &[&Strand<'_>], root: u64) -> Vec<Comparison> {
    let base = family.iter().find(|strand| strand.variant == BASE);
    let trained = family.iter().filter(|strand| strand.variant != BASE);
    let in_every_round = |before, after: &'_ Strand<'_>| -> Vec<Comparison> {
        let rounds = after.rounds().into_iter();
        rounds
            .filter_map(|round| pair((before, round), (after, round), root))
            .collect()
    };
    let against_base = base.into_iter().flat_map(|base| {
        trained
            .clone()
            .flat_map(|strand| in_every_round(base, strand))
    });
    let against_start = trained.clone().flat_map(|strand| {
        let start = started_from(strand.variant);
        let start = family.iter().find(|other| start == Some(other.variant));
        start
            .into_iter()
            .flat_map(|start| in_every_round(start, strand))
    });
    let over_rounds = family.iter().flat_map(|strand| {
        let rounds = strand.rounds();
        let first = rounds.first().copied();
        let later: Vec<u32> = rounds.into_iter().skip(1).collect();
        later
            .into_iter()
            .filter_map(move |round| pair((strand, first?), (strand, round), root))
    });
    against_base
        .chain(against_start)
        .chain(over_rounds)
        .collect()
}

/// The trained variant whose adapter another one's training went on from.
fn started_from(variant: &str) -> Option<&'static str> {
    (variant == "dpo-grpo").then_some("dpo")
}

/// Adjusts the p-values of one family.
fn correct(mut family: Vec<Comparison>) -> Vec<Comparison> {
    let p_values: Vec<f64> = family.iter().filter_map(|c| c.p).collect();
    let adjusted = holm(&p_values);
    family
        .iter_mut()
        .filter(|c| c.p.is_some())
        .zip(adjusted)
        .for_each(|(comparison, p)| comparison.adjusted = Some(p));
    family
}

type Paired<'a, 'b> = (&'b Observation<'a>, &'b Observation<'a>);

/// One comparison; none without a pair of outcomes.
fn pair(
    (before, first): (&Strand<'_>, u32),
    (after, second): (&Strand<'_>, u32),
    root: u64,
) -> Option<Comparison> {
    let at = |strand: &'_ Strand<'_>, round: u32| -> BTreeMap<(u64, String, u32, u32), usize> {
        let in_round = strand.observations.iter().enumerate();
        in_round
            .filter(|(_, o)| o.round == round)
            .map(|(i, o)| {
                let (unit, sample, agent): Key<'_> = o.unit;
                ((o.seed, unit.to_owned(), sample, agent), i)
            })
            .collect()
    };
    let (earlier, later) = (at(before, first), at(after, second));
    let both: Vec<Paired<'_, '_>> = later
        .iter()
        .filter_map(|(key, &i)| {
            let j = *earlier.get(key)?;
            Some((&before.observations[j], &after.observations[i]))
        })
        .collect();
    let differences: Vec<(&Observation<'_>, f64)> = both
        .iter()
        .filter_map(|(b, a)| {
            let value = |event: bool| f64::from(u8::from(event));
            Some((*a, value(a.event?) - value(b.event?)))
        })
        .collect();
    if differences.is_empty() {
        return None;
    }
    let count = |of: f64| differences.iter().filter(|(_, d)| *d == of).count();
    let pairs = Discordant {
        gained: count(1.0),
        lost: count(-1.0),
        same: count(0.0),
    };
    let clusters = sums(differences.iter().map(|(o, d)| (o.cluster, *d)));
    let mut by_unit: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for (o, d) in &differences {
        let (sum, n) = by_unit.entry(o.unit.0).or_default();
        (*sum, *n) = (*sum + d, *n + 1.0);
    }
    let units: Vec<f64> = by_unit.into_values().map(|(sum, n)| sum / n).collect();
    let all: std::collections::BTreeSet<_> = earlier.keys().chain(later.keys()).collect();
    let robust = paired_error(&clusters, &units);
    let difference = paired_interval(
        &clusters,
        &units,
        root,
        &stream(before, first, after, second),
    )?;
    Some(Comparison {
        model: after.model.into(),
        measure: after.measure,
        who: after.who.clone(),
        first: Side {
            variant: before.variant.into(),
            round: first,
        },
        second: Side {
            variant: after.variant.into(),
            round: second,
        },
        pairs,
        dropped: all.len() - differences.len(),
        difference,
        exact: mcnemar(&pairs),
        p: robust.map(|r| r.p_value()),
        adjusted: None,
        over_seeds: robust.and_then(|r| over_seeds(&differences, r.error)),
        power: robust.map(|r| power(&r)),
    })
}

/// Over clusters and seeds, and never with less than the error over clusters alone: where nothing varies between seeds, two of
/// them do not make a difference certain.
fn over_seeds(differences: &[(&Observation<'_>, f64)], least: f64) -> Option<Estimate> {
    let numbers = |names: std::collections::BTreeSet<String>| -> BTreeMap<String, usize> {
        names.into_iter().zip(0..).collect()
    };
    let rows = numbers(
        differences
            .iter()
            .map(|(o, _)| o.cluster.to_owned())
            .collect(),
    );
    let columns = numbers(
        differences
            .iter()
            .map(|(o, _)| o.seed.to_string())
            .collect(),
    );
    let cells: Vec<Cell> = differences
        .iter()
        .map(|(o, d)| Cell {
            row: rows[o.cluster],
            column: columns[&o.seed.to_string()],
            sum: *d,
            weight: 1.0,
        })
        .collect();
    let found = crossed(&cells)?;
    let found = Robust {
        error: found.error.max(least),
        ..found
    };
    let found = found.estimate();
    Some(Estimate {
        low: found.low.max(-1.0),
        high: found.high.min(1.0),
        ..found
    })
}

/// Stream of a comparison's bootstrap. Where the role-play summary makes the same comparison, both draw the same.
fn stream(before: &Strand<'_>, first: u32, after: &Strand<'_>, second: u32) -> String {
    let rounds = after.rounds();
    if after.measure == Measure::Violation {
        let name = format!("report/{}/{}", after.model, after.variant);
        if before.variant == after.variant && rounds.last() == Some(&second) {
            return format!("{name}/drift/rate");
        }
        if before.variant == BASE && after.variant != BASE && rounds.first() == Some(&second) {
            return format!("{name}/gain/rate");
        }
    }
    format!(
        "{}/compare/{}-{first}/{second}",
        after.stream(),
        before.variant
    )
}

#[cfg(test)]
mod tests;
