//! The section on an invented run of all testbeds.

use super::*;
use crate::report::Report;
use crate::report::simulation::testbeds::{full, full_report};

#[test]
fn tables_are_rectangular_and_seeds_have_a_column_where_there_are_several() {
    let report = full_report();
    let found = section(&report.comparisons, &report.tipping, &report.biases).unwrap();
    assert_eq!(found.tables.len(), 4);
    for table in &found.tables {
        for row in table.groups.iter().flat_map(|g| &g.rows) {
            assert_eq!(row.len(), table.columns.len(), "{}: {row:?}", table.caption);
        }
    }
    assert_eq!(found.tables[0].columns.last().unwrap(), "Over seeds");
    let mut one = full();
    one.rows.retain(|row| row.seed == 7);
    let one = Report::new(one).unwrap();
    let found = section(&one.comparisons, &one.tipping, &one.biases).unwrap();
    assert_eq!(found.tables[0].columns.last().unwrap(), "Holm");
    let (header, rest) = found.csv[0].1.split_once('\n').unwrap();
    let columns = header.split(',').count();
    assert!(rest.lines().all(|line| line.split(',').count() == columns));
}

#[test]
fn the_same_comparison_has_the_same_interval_as_in_the_summary() {
    let report = full_report();
    for variant in report.variants.iter().filter(|v| v.variant != "base") {
        let (gain, drift) = (
            variant.gain.as_ref().unwrap(),
            variant.drift.as_ref().unwrap(),
        );
        let at = |first: &str, rounds: (u32, u32)| {
            let found = report.comparisons.iter().find(|c| {
                c.measure == Measure::Violation
                    && c.first.variant == first
                    && c.second.variant == variant.variant
                    && (c.first.round, c.second.round) == rounds
            });
            found.unwrap().difference
        };
        assert_eq!(at("base", (1, 1)), gain.rate.as_ref().unwrap().estimate);
        assert_eq!(
            at(&variant.variant, (1, 6)),
            drift.rate.as_ref().unwrap().estimate
        );
    }
}

#[test]
fn nothing_compared_and_nothing_clear_are_said_so() {
    assert!(corrected(&[]).text.contains("Nothing could be compared"));
    let report = full_report();
    let role_play: Vec<Comparison> = report
        .comparisons
        .iter()
        .filter(|c| c.measure == Measure::Violation)
        .cloned()
        .collect();
    assert!(
        corrected(&role_play)
            .text
            .starts_with("Of 27 comparisons none stays below 0.05")
    );
    assert!(
        corrected(&report.comparisons)
            .text
            .contains("GRPO against base, round 1")
    );
    let notes = power_notes(&report.comparisons);
    assert_eq!(notes.len(), 4, "one a measure");
    assert!(notes[0].text.contains("10 points would need about"));
}
