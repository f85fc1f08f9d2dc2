//! Hand-made pairs with known counts.

use super::*;
use crate::evaluation::observation::tests::{decision, strand};

/// Four clusters of two units: base always has an event in the first unit of each, the trained variant never.
fn strands() -> Vec<Strand<'static>> {
    let of = |variant, event: fn(usize, u32) -> Option<bool>| {
        let decisions = (1..=2).flat_map(|round| {
            (0..8).map(move |unit| decision(unit / 2, unit, round, event(unit, round)))
        });
        strand(variant, decisions.collect())
    };
    vec![
        of("base", |unit, _| Some(unit % 2 == 0)),
        of("dpo", |unit, round| match (unit, round) {
            (0, 1) => None,
            (0..4, 2) => Some(true),
            _ => Some(false),
        }),
    ]
}

#[test]
fn every_round_against_base_and_every_later_round_against_the_first() {
    let found = compare(&strands(), 3);
    let names: Vec<String> = found
        .iter()
        .map(|c| {
            let side = |s: &Side| format!("{}-{}", s.variant, s.round);
            format!("{} {}", side(&c.first), side(&c.second))
        })
        .collect();
    assert_eq!(
        names,
        [
            "base-1 dpo-1",
            "base-2 dpo-2",
            "base-1 base-2",
            "dpo-1 dpo-2"
        ]
    );
    let first = &found[0];
    assert_eq!(
        (first.pairs.gained, first.pairs.lost, first.pairs.same),
        (0, 3, 4)
    );
    assert_eq!(first.dropped, 1);
    assert!((first.difference.value + 3.0 / 7.0).abs() < 1e-12);
    assert!((first.exact - 0.25).abs() < 1e-12);
    assert_eq!(first.over_seeds, None);
    // Clusters 0 and 1 tip whole.
    let last = &found[3];
    assert_eq!(
        (last.pairs.gained, last.pairs.lost, last.pairs.same),
        (3, 0, 4)
    );
    // Nothing changes in base: no certainty, no difference.
    assert_eq!((found[2].difference.value, found[2].p), (0.0, Some(1.0)));
    assert!(found[2].difference.low < 0.0 && found[2].difference.high > 0.0);
}

#[test]
fn a_chain_is_compared_with_what_it_went_on_from() {
    let mut strands = strands();
    let decisions = (1..=2).flat_map(|round| {
        (0..8).map(move |unit| decision(unit / 2, unit, round, Some(unit % 4 == 1)))
    });
    strands.push(strand("dpo-grpo", decisions.collect()));
    let found = compare(&strands, 3);
    let between: Vec<&Comparison> = found
        .iter()
        .filter(|c| (&*c.first.variant, &*c.second.variant) == ("dpo", "dpo-grpo"))
        .collect();
    let rounds: Vec<(u32, u32)> = between
        .iter()
        .map(|c| (c.first.round, c.second.round))
        .collect();
    assert_eq!(rounds, [(1, 1), (2, 2)]);
    // In the second round dpo has its events in units 0 to 3, the chain in 1 and 5.
    let second = between[1];
    assert_eq!(
        (second.pairs.gained, second.pairs.lost, second.pairs.same),
        (1, 3, 4)
    );
    let starts = found.iter().filter(|c| c.first.variant != c.second.variant);
    assert_eq!(starts.count(), 6, "two of dpo, four of the chain");
}

#[test]
fn the_family_is_corrected_and_the_order_of_rows_does_not_matter() {
    let mut strands = strands();
    let found = compare(&strands, 3);
    for comparison in &found {
        let (p, adjusted) = (comparison.p.unwrap(), comparison.adjusted.unwrap());
        assert!(adjusted >= p, "{comparison:?}");
    }
    let smallest = found
        .iter()
        .min_by(|a, b| a.p.unwrap().total_cmp(&b.p.unwrap()))
        .unwrap();
    assert!((smallest.adjusted.unwrap() - (4.0 * smallest.p.unwrap()).min(1.0)).abs() < 1e-12);
    strands[1].observations.reverse();
    assert_eq!(compare(&strands, 3), found);
}

#[test]
fn two_seeds_that_agree_make_no_difference_certain() {
    let mut strands = strands();
    strands.truncate(1);
    let mut second = strands[0].observations.clone();
    second.iter_mut().for_each(|o| o.seed = 2);
    strands[0].observations.extend(second);
    // Base is the same in both rounds, under both seeds.
    let found = compare(&strands, 3);
    let over = found[0].over_seeds.unwrap();
    assert_eq!(over.value, 0.0);
    assert!(over.low < -0.05 && over.high > 0.05, "{over:?}");
}

#[test]
fn seeds_widen_what_clusters_alone_say() {
    // Seed 1 loses everywhere, seed 2 nowhere: clusters agree, seeds do not.
    let mut strands = strands();
    for strand in &mut strands {
        let mut second = strand.observations.clone();
        second.iter_mut().for_each(|o| {
            o.seed = 2;
            o.event = Some(o.unit.0.ends_with(['0', '2', '4', '6']));
        });
        strand.observations.extend(second);
    }
    let found = compare(&strands, 3);
    let over = found[0].over_seeds.unwrap();
    let width = |e: &Estimate| e.high - e.low;
    assert!(width(&over) > width(&found[0].difference), "{:?}", found[0]);
}
