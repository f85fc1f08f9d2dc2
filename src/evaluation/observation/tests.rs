//! Invented decisions for the tests of what is computed from them.

use std::sync::LazyLock;

use super::*;

static NAMES: LazyLock<Vec<String>> =
    LazyLock::new(|| (0..400).map(|i| format!("n{i:03}")).collect());

/// A name that sorts as its number.
pub(crate) fn name(i: usize) -> &'static str {
    &NAMES[i]
}

/// A decision about `unit` of `cluster` in `round`.
pub(crate) fn decision(
    cluster: usize,
    unit: usize,
    round: u32,
    event: Option<bool>,
) -> Observation<'static> {
    let unit = (name(unit), 0, 0);
    Observation {
        seed: 1,
        cluster: name(cluster),
        unit,
        actor: unit,
        round,
        event,
        failed: false,
        first: true,
        label: Some("A"),
    }
}

/// These decisions as one strand.
pub(crate) fn strand(
    variant: &'static str,
    observations: Vec<Observation<'static>>,
) -> Strand<'static> {
    Strand {
        model: "m",
        variant,
        measure: Measure::Violation,
        who: String::new(),
        settings: "all".into(),
        observations,
    }
}

#[test]
fn clusters_count_what_has_an_outcome() {
    let strand = strand(
        "base",
        vec![
            decision(1, 0, 1, Some(true)),
            decision(0, 1, 1, Some(false)),
            decision(0, 2, 1, None),
            decision(0, 2, 2, Some(true)),
        ],
    );
    let found = strand.clusters(|o| o.round == 1);
    let pairs: Vec<(f64, f64)> = found.iter().map(|c| (c.sum, c.weight)).collect();
    assert_eq!(pairs, [(0.0, 1.0), (1.0, 1.0)]);
    assert_eq!(strand.rounds(), [1, 2]);
}
