//! What the columns hold.

use super::*;
use crate::report::simulation::busy;

fn shown(inputs: ReportInputs) -> Traces {
    traces(&Report::new(inputs).unwrap())
}

fn numbers(bed: &Bed, key: &str) -> Vec<i64> {
    let column = bed.columns.iter().find(|c| c.key == key).unwrap();
    column.values.iter().map(|v| v.as_i64().unwrap()).collect()
}

#[test]
fn rows_of_a_trajectory_follow_each_other_by_round() {
    let traces = shown(busy(600, 5));
    for bed in &traces.beds {
        let rounds = numbers(bed, "round");
        let ends = bed.starts[1..].iter().copied().chain([bed.rows]);
        for (start, end) in bed.starts.iter().copied().zip(ends) {
            assert!(
                rounds[start..end].is_sorted(),
                "{}: {:?}",
                bed.id,
                &rounds[start..end]
            );
            assert_eq!(rounds[start], 1, "{}", bed.id);
        }
    }
    let lengths = |bed: &Bed| bed.starts.windows(2).map(|w| w[1] - w[0]).max();
    // Six rounds; eight agents over three rounds; two problems in each of four rounds.
    let found: Vec<_> = traces
        .beds
        .iter()
        .map(|bed| lengths(bed).unwrap())
        .collect();
    assert_eq!(found, [6, 24, 8]);
}

#[test]
fn the_order_of_the_rows_changes_nothing() {
    let mut turned = busy(300, 5);
    turned.prompts = Default::default();
    let straight = turned.clone();
    turned.rows.reverse();
    turned.games.reverse();
    turned.tools.reverse();
    let (a, b) = (shown(straight), shown(turned));
    assert_eq!(
        serde_json::to_string(&a.beds).unwrap(),
        serde_json::to_string(&b.beds).unwrap()
    );
    assert_eq!(a.texts, b.texts);
}

#[test]
fn where_a_trajectory_tipped_is_marked_by_what_the_testbed_measures() {
    let inputs = busy(600, 5);
    let traces = shown(inputs.clone());
    let tips = |i: usize| {
        numbers(&traces.beds[i], "tip")
            .iter()
            .filter(|t| **t == 1)
            .count()
    };
    assert_eq!(
        tips(0),
        inputs
            .rows
            .iter()
            .filter(|r| r.outcome == Outcome::Deviant)
            .count()
    );
    assert_eq!(tips(1), inputs.games.iter().filter(|r| r.success).count());
    let bare = |r: &&ToolRow| r.difficulty == Difficulty::Complex && !r.used_tool;
    assert_eq!(tips(2), inputs.tools.iter().filter(bare).count());
}

#[test]
fn a_letter_that_no_prompt_shows_is_no_fact() {
    let mut inputs = busy(60, 5);
    let lettered = |traces: &Traces| -> Vec<bool> {
        let has = |bed: &Bed| bed.columns.iter().any(|c| c.key == LETTER);
        traces.beds.iter().map(has).collect()
    };
    assert_eq!(lettered(&shown(inputs.clone())), [true, true, false]);
    inputs.without_letters = vec![Testbed::RolePlay];
    assert_eq!(lettered(&shown(inputs)), [false, true, false]);
}

#[test]
fn texts_beyond_the_budget_are_cut_between_characters() {
    assert_eq!(cut("aé", Some(2)), "a");
    assert_eq!(cut("aé", Some(3)), "aé");
    assert_eq!(cut("aé", None), "aé");
}
