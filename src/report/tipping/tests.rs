//! The section on an invented run of all testbeds.

use super::tables::mass_name;
use super::*;
use crate::evaluation::observation::Measure;
use crate::evaluation::tipping::critical_mass::Fit;
use crate::report::simulation::testbeds::full_report;

fn found() -> Section {
    let report = full_report();
    section(&report.tipping, &report.masses).unwrap()
}

#[test]
fn tables_are_rectangular_and_every_measure_is_in_each() {
    for table in found().tables {
        for row in table.groups.iter().flat_map(|g| &g.rows) {
            assert_eq!(row.len(), table.columns.len(), "{}: {row:?}", table.caption);
        }
        if !table.caption.starts_with("Critical mass") {
            for measure in [
                Measure::Violation,
                Measure::Collusion,
                Measure::WithoutTool,
                Measure::Unsolved,
            ] {
                let name = words::measure(measure);
                assert!(
                    table.groups.iter().any(|g| g.name.starts_with(name)),
                    "{name}: {}",
                    table.caption
                );
            }
        }
    }
}

#[test]
fn csv_lines_have_as_many_fields_as_the_header() {
    for (name, text) in found().csv {
        let mut lines = text.lines();
        let columns = lines.next().unwrap().split(',').count();
        assert!(text.lines().count() > 20, "{name}");
        assert!(
            lines.all(|line| line.split(',').count() == columns),
            "{name}"
        );
    }
}

#[test]
fn mixed_populations_give_a_critical_mass_and_no_sentence() {
    let report = full_report();
    let masses = &report.masses;
    let names: Vec<_> = masses.iter().map(mass_name).collect();
    assert_eq!(
        names,
        [
            "base, t = 4, towards always-collude",
            "DPO, t = 4, towards always-collude",
            "GRPO, t = 4, towards always-collude"
        ]
    );
    let shares: Vec<f64> = masses[1].shares.iter().map(|s| s.share).collect();
    assert_eq!(shares, [0.0, 0.25, 0.5, 0.75]);
    // More agents that always collude, more of the others who do.
    assert!(
        masses
            .iter()
            .all(|m| matches!(m.fit, Fit::Logistic(_, slope) if slope > 0.0))
    );
    let section = section(&report.tipping, masses).unwrap();
    assert!(
        section
            .paragraphs
            .iter()
            .all(|p| !p.lead.contains("always-collude"))
    );
    // Populations with one threshold are not shown twice.
    let mixed: Vec<_> = report
        .tipping
        .iter()
        .filter(|t| !t.who.is_empty())
        .collect();
    assert!(mixed.len() == 9 && mixed.iter().all(|t| t.settings == "all"));
}

#[test]
fn sentences_read_in_every_case() {
    let half = |value: f64, low: f64, high: f64, rounds| HalfLife {
        gain: Estimate {
            value: 0.3,
            low: 0.1,
            high: 0.5,
            n: 9,
        },
        lost: 0.5,
        per_round: Estimate {
            value,
            low,
            high,
            n: 9,
        },
        rounds,
    };
    let sure = lost(&half(0.2, 0.1, 0.3, [Some(3.1), Some(1.9), Some(6.6)]));
    assert!(
        sure.contains("gain of 30.0 points") && sure.ends_with("3.1 (1.9 to 6.6)."),
        "{sure}"
    );
    let unsure = lost(&half(0.2, -0.1, 0.3, [Some(3.1), Some(1.9), None]));
    assert!(
        unsure.contains("from nothing") && unsure.ends_with("(1.9 to never)."),
        "{unsure}"
    );
    assert!(lost(&half(-0.1, -0.2, 0.1, [None, Some(6.6), None])).contains("nothing was lost"));
    assert_eq!(in_round(None, Some(4), None), "in no round (4 to never)");
    assert_eq!(in_round(None, None, None), "in no round");
    assert_eq!(in_round(Some(2), Some(1), Some(3)), "in round 2 (1 to 3)");
}
