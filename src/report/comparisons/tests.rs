//! The section on an invented run of all testbeds.

use super::*;
use crate::report::Report;
use crate::report::simulation::testbeds::{full, full_report};
use crate::scenario::Testbed;

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
fn more_points_than_a_rate_has_are_not_stated() {
    let report = full_report();
    let rounds = |c: &&Comparison| {
        c.first.variant == c.second.variant && c.who.is_empty() && c.power.is_some()
    };
    let mut few = report.comparisons.iter().find(rounds).unwrap().clone();
    let with = |few: &mut Comparison, detectable: f64| {
        few.power.as_mut().unwrap().detectable = detectable;
        let few = std::slice::from_ref(few);
        let text = power_notes(few).remove(0).text;
        (text, power(few).groups[0].rows[0][1].clone())
    };
    let (text, cell) = with(&mut few, 4.979);
    assert!(
        text.contains("no change of a rate") && !text.contains("497.9"),
        "{text}"
    );
    assert_eq!(cell, "> 100");
    let (text, cell) = with(&mut few, 0.25);
    assert!(
        text.contains("a change between two rounds of 25.0 points"),
        "{text}"
    );
    assert_eq!(cell, "25.0");
}

#[test]
fn letters_that_no_prompt_shows_have_no_rows() {
    let names = |inputs| {
        let report = Report::new(inputs).unwrap();
        let table = bias(&report.biases);
        let rows = table.groups.iter().flat_map(|g| &g.rows);
        let names: Vec<String> = rows.map(|row| row[0].clone()).collect();
        names.join("\n") + &table.caption
    };
    let shown = names(full());
    assert!(shown.contains("labelled A") && shown.contains("difference, A − B"));
    let mut inputs = full();
    inputs.without_letters = vec![Testbed::Coordination];
    let hidden = names(inputs);
    assert!(
        !hidden.contains("labelled") && !hidden.contains("A − B"),
        "{hidden}"
    );
    for kept in [
        "independent option first",
        "tool described first",
        "difference, first",
    ] {
        assert!(hidden.contains(kept), "{kept}");
    }
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
