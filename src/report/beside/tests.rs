//! Verdicts on an invented run, and on one that repeats the paper.

use super::*;
use crate::report::simulation::rates;
use crate::report::simulation::testbeds::{full, full_report};

#[test]
fn every_exhibit_with_numbers_is_compared() {
    let found = beside(&full_report());
    let count = |exhibit: &str| found.iter().filter(|b| b.exhibit == exhibit).count();
    // Six rounds and a change, three variants, two models of the paper.
    assert_eq!(count("Table 1"), 42);
    assert_eq!(count("Table 2"), 24);
    // A highest rate and two courses for each of three variants.
    assert_eq!(count("Figure 3"), 9);
    assert_eq!(count("Figure 4"), 3);
    let section = section(&full_report()).unwrap();
    for table in &section.tables {
        for row in table.groups.iter().flat_map(|g| &g.rows) {
            assert_eq!(row.len(), table.columns.len());
        }
    }
    let text = &section.csv[0].1;
    let columns = text.lines().next().unwrap().split(',').count();
    for line in text.lines().filter(|line| !line.contains('"')) {
        assert_eq!(line.split(',').count(), columns, "{line}");
    }
}

#[test]
fn a_run_that_repeats_the_paper_never_differs_and_another_does() {
    let row = TABLE_1[0];
    let shares: Vec<f64> = row.rates.iter().map(|rate| rate / 100.0).collect();
    let found = beside(&rates(&[("base", &shares)]));
    let own: Vec<_> = found
        .iter()
        .filter(|b| b.paper_model == "Qwen3-8B")
        .collect();
    assert_eq!(own.len(), 7);
    assert!(own.iter().all(|b| b.verdict != Verdict::Differs));
    assert!(
        own.iter().any(|b| b.verdict == Verdict::Agrees),
        "at 64 prompts an equal rate agrees"
    );
    let other = beside(&rates(&[("base", &[0.0; 6])]));
    let rounds = other.iter().filter(|b| b.quantity.starts_with("violation"));
    assert!(
        rounds.clone().count() == 12 && rounds.into_iter().all(|b| b.verdict == Verdict::Differs)
    );
}

#[test]
fn a_change_over_other_rounds_than_the_papers_has_no_verdict() {
    let verdict = |shares: &[f64]| {
        let report = rates(&[("base", shares)]);
        verdict_rows(&report, &TABLE_1[0], 8).remove(0).pop()
    };
    for other in [&[0.0, 0.9][..], &[0.0, 0.3, 0.6, 0.9], &[0.5; 8]] {
        assert_eq!(verdict(other).as_deref(), Some(crate::report::tables::NONE));
    }
    assert_ne!(
        verdict(&[0.5; 6]).as_deref(),
        Some(crate::report::tables::NONE)
    );
}

#[test]
fn a_model_of_the_paper_is_compared_with_itself_alone() {
    let mut inputs = full();
    inputs.models[0].is_reference_model = true;
    inputs.models[0].source = "meta-llama/Llama-3.1-8B-Instruct".into();
    let report = Report::new(inputs).unwrap();
    let found = beside(&report);
    assert!(
        found.iter().all(|b| b.paper_model != "Qwen3-8B"),
        "Table 2 has no other model"
    );
    assert_eq!(found.iter().filter(|b| b.exhibit == "Table 1").count(), 21);
    let caveat = |p: &Paragraph| p.kind == Kind::Caveat;
    assert!(!section(&report).unwrap().paragraphs.iter().any(caveat));
    assert!(
        section(&full_report())
            .unwrap()
            .paragraphs
            .iter()
            .any(caveat)
    );
}

#[test]
fn charts_of_the_paper_show_its_values_dashed() {
    let figures = exhibits::figures(&full_report());
    let files: Vec<&str> = figures.iter().map(|f| f.file.as_str()).collect();
    assert_eq!(
        files,
        [
            "paper-table-1-1.svg",
            "paper-table-1-2.svg",
            "paper-table-2-usage.svg",
            "paper-table-2-accuracy.svg",
            "paper-figure-4.svg",
            "paper-figure-5.svg",
            "paper-figure-6-1.svg",
            "paper-figure-6-2.svg",
            "paper-figure-6-3.svg"
        ]
    );
    let dashed =
        |chart: &crate::report::svg::Chart| chart.lines.iter().filter(|l| l.dashed).count();
    assert_eq!(dashed(&figures[0].wide), 3);
    assert_eq!(dashed(&figures[5].wide), 1);
    assert_eq!(figures[4].wide.bands.len(), 1);
    let trace = figures[5].wide.lines.iter().find(|l| l.dashed).unwrap();
    let shares: Vec<f64> = trace.points.iter().map(|p| p.y).collect();
    assert_eq!(shares, [62.5, 87.5, 100.0]);
    let grounds: Vec<f64> = figures[0].wide.lines[1]
        .points
        .iter()
        .map(|p| p.y)
        .collect();
    assert_eq!(grounds[0], 42.2);
}
