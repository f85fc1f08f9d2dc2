//! Differences where the truth is known.

use super::*;
use crate::artifact::digest_bytes;
use crate::report::simulation::simulated;
use crate::scenario::Outcome;

fn rows(model: &str) -> Vec<EvalRow> {
    let mut rows = simulated().rows;
    rows.iter_mut().for_each(|row| row.model = model.into());
    rows
}

fn run(name: &str, set: &str, rows: &[EvalRow]) -> RunRows {
    RunRows {
        name: name.into(),
        rows: rows.to_vec(),
        test_sets: [((Testbed::RolePlay, 7), digest_bytes(set.as_bytes()))].into(),
        ..RunRows::default()
    }
}

/// Every rule that was kept in the first `n` questions of each environment is broken.
fn worse(rows: &[EvalRow], n: &str) -> Vec<EvalRow> {
    let mut rows = rows.to_vec();
    for row in &mut rows {
        if row.question_id.as_str().ends_with(n) && row.outcome == Outcome::Compliant {
            row.outcome = Outcome::Deviant;
        }
    }
    rows
}

#[test]
fn a_run_beside_itself_differs_by_nothing() {
    let rows = rows("m");
    let found = compare(&run("a", "x", &rows), &run("b", "x", &rows)).unwrap();
    assert_eq!(found.lines.len(), 3 * 7);
    for line in &found.lines {
        let difference = line.difference.unwrap();
        assert_eq!(difference.value, 0.0);
        // Even where no pair differs, something could have been missed.
        assert!(
            difference.low < -0.01 && difference.high > 0.01,
            "{difference:?}"
        );
        assert_eq!(line.a, line.b);
        assert!(line.paired);
    }
    assert!(found.same_test_set["role-play"]);
    assert!(
        found
            .text()
            .contains("0 of 21 differences can be told from none")
    );
}

#[test]
fn the_difference_is_counted_over_pairs_and_points_from_a_to_b() {
    let before = rows("m");
    let after = worse(&before, "/03");
    let found = compare(&run("a", "x", &before), &run("b", "x", &after)).unwrap();
    let line = found
        .lines
        .iter()
        .find(|l| l.variant == "dpo" && l.round == Some(1))
        .unwrap();
    let kept = |row: &&EvalRow| row.outcome == Outcome::Compliant;
    let of = || before.iter().filter(|r| r.variant == "dpo" && r.round == 1);
    let read = of().filter(|r| r.outcome.role().is_some()).count();
    let changed = of()
        .filter(kept)
        .filter(|r| r.question_id.ends_with("/03"))
        .count();
    let difference = line.difference.unwrap();
    assert_eq!(difference.n, read);
    assert!((difference.value - changed as f64 / read as f64).abs() < 1e-12);
    assert!(difference.low > 0.0, "{difference:?}");
    // Paired, the same rates are told apart far better than unpaired.
    let apart = compare(&run("a", "x", &before), &run("b", "y", &after)).unwrap();
    let loose = apart
        .lines
        .iter()
        .find(|l| l.variant == "dpo" && l.round == Some(1))
        .unwrap();
    assert!(!loose.paired && !apart.same_test_set["role-play"]);
    let unpaired = loose.difference.unwrap();
    assert!((unpaired.value - difference.value).abs() < 1e-9);
    assert!(unpaired.high - unpaired.low > difference.high - difference.low);
}

#[test]
fn one_model_each_is_compared_by_any_name_and_several_by_theirs() {
    let (one, other) = (rows("small"), rows("large"));
    let found = compare(&run("a", "x", &one), &run("b", "x", &other)).unwrap();
    assert_eq!(found.lines[0].model, "small | large");
    let both = [one.clone(), other.clone()].concat();
    let found = compare(&run("a", "x", &both), &run("b", "x", &other)).unwrap();
    assert!(found.lines.iter().all(|l| l.model == "large"));
    assert_eq!(found.unmatched.len(), 3);
    assert!(
        found
            .text()
            .contains("only `a`: small, base, violation rate")
    );
    let third = [rows("x"), rows("y")].concat();
    let error = compare(&run("a", "x", &both), &run("b", "x", &third)).unwrap_err();
    assert!(error.to_string().contains("nothing to compare"), "{error}");
}

#[test]
fn the_page_holds_both_runs_and_no_markup_of_theirs() {
    let rows = rows("<b>m</b>");
    let found = compare(
        &run("<i>a</i>", "x", &rows),
        &run("b", "x", &worse(&rows, "/03")),
    )
    .unwrap();
    let page = found.html();
    assert!(!page.contains("<i>a") && page.contains("&lt;i&gt;a"));
    assert!(!page.contains("<b>m") && page.contains("data-label=\"A\""));
    assert_eq!(page.matches("<figure>").count(), 3);
    let text = serde_json::to_value(&found).unwrap();
    assert!(text["lines"][0]["difference"]["low"].is_number());
}
