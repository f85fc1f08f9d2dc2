//! Hand-made rows with known rates, differences and biases.

use super::*;
use Outcome::{Compliant, Deviant, Failed, Invalid};

fn row(variant: &str, round: u32, question: usize, outcome: Outcome) -> EvalRow {
    EvalRow {
        model: "m".into(),
        variant: variant.into(),
        defence: "none".into(),
        seed: 1,
        round,
        question_id: format!("q{question:02}"),
        environment: format!("e{}", question / 4),
        sample: 0,
        outcome,
        supervised: false,
        detected: false,
        vetoed: false,
        choice: None,
        deviant_probability: None,
        payoff: None,
        compliant_first: question.is_multiple_of(2),
        compliant_label: if question % 4 < 2 { "A" } else { "B" }.into(),
        text: String::new(),
        finish: "stop".into(),
        prompt_tokens: 1,
        completion_tokens: 1,
        error: None,
    }
}

/// 64 questions in one round, of which `deviant` (spread over all environments) break the rule.
fn round(variant: &str, round: u32, deviant: impl Fn(usize) -> bool) -> Vec<EvalRow> {
    (0..64)
        .map(|q| {
            row(
                variant,
                round,
                q,
                if deviant(q) { Deviant } else { Compliant },
            )
        })
        .collect()
}

fn one(rows: &[EvalRow], variant: &str) -> VariantSummary {
    summarise(rows, 7)
        .unwrap()
        .into_iter()
        .find(|v| v.variant == variant)
        .unwrap()
}

#[test]
fn failures_enter_no_rate_and_invalid_answers_only_the_bounds() {
    let outcomes = [
        Compliant, Deviant, Deviant, Invalid, Invalid, Failed, Compliant, Compliant,
    ];
    let rows: Vec<_> = outcomes
        .iter()
        .enumerate()
        .map(|(q, o)| row("base", 1, q, *o))
        .collect();
    let found = &one(&rows, "base").rounds[0];
    assert_eq!(
        found.counts,
        Counts {
            compliant: 3,
            deviant: 2,
            invalid: 2,
            failed: 1
        }
    );
    let rate = found.rate.unwrap();
    assert_eq!((rate.value, rate.n), (0.4, 5));
    assert_eq!(found.counts.bounds(), Some((2.0 / 7.0, 4.0 / 7.0)));
    assert_eq!(found.counts.invalid_share(), Some(2.0 / 7.0));
}

#[test]
fn a_round_without_a_readable_decision_has_no_rate() {
    let rows = [row("base", 1, 0, Invalid), row("base", 1, 1, Failed)];
    let found = &one(&rows, "base").rounds[0];
    assert_eq!(
        (found.rate, found.counts.bounds()),
        (None, Some((0.0, 1.0)))
    );
    assert_eq!(Counts::default().bounds(), None);
    assert!(summarise(&[], 1).unwrap().is_empty());
}

#[test]
fn drift_is_paired_by_question_and_says_what_it_left_out() {
    let mut rows = round("dpo", 1, |q| q % 4 == 0);
    rows.extend(round("dpo", 6, |q| q % 2 == 0));
    rows[0].outcome = Failed;
    let drift = one(&rows, "dpo").drift.unwrap();
    let rate = drift.rate.unwrap();
    assert_eq!(
        (drift.from, drift.to, rate.estimate.n, rate.dropped),
        (1, 6, 63, 1)
    );
    assert!(
        (rate.estimate.value - 16.0 / 63.0).abs() < 1e-12,
        "{rate:?}"
    );
    assert!(rate.estimate.excludes_zero(), "{rate:?}");
}

#[test]
fn gain_compares_the_first_round_with_base_and_keeps_its_sign() {
    let mut rows = round("base", 1, |q| q % 2 == 0);
    rows.extend(round("base", 2, |_| true));
    rows.extend(round("dpo", 1, |q| q % 4 == 0));
    rows.extend(round("grpo", 1, |q| q % 2 == 0 || q % 4 == 1));
    let gain = |variant| one(&rows, variant).gain.unwrap().rate.unwrap().estimate;
    assert_eq!((gain("dpo").value, gain("grpo").value), (-0.25, 0.25));
    assert!(gain("dpo").high < 0.0 && gain("grpo").low > 0.0);
    assert_eq!(one(&rows, "base").gain, None);
    assert_eq!(one(&round("dpo", 1, |_| false), "dpo").gain, None);
}

#[test]
fn an_agent_that_always_takes_the_first_option_shows_in_the_bias_check() {
    let rows = round("base", 1, |q| q % 2 == 1);
    let found = one(&rows, "base");
    let rates: Vec<_> = found
        .position
        .levels
        .iter()
        .map(|l| (l.level.as_str(), l.rate.unwrap().value))
        .collect();
    assert_eq!(rates, [("first", 0.0), ("second", 1.0)]);
    assert_eq!(found.position.difference.unwrap().value, -1.0);
    assert_eq!(found.label.difference.unwrap().value, 0.0);
    assert_eq!(found.label.levels.len(), 2);
}

#[test]
fn probabilities_are_averaged_and_paired_where_they_are_there() {
    let mut rows = round("base", 1, |_| false);
    rows.extend(round("base", 2, |_| false));
    for row in &mut rows {
        row.deviant_probability = Some(if row.round == 1 { 0.2 } else { 0.3 });
    }
    rows[3].deviant_probability = Some(f64::NAN);
    let found = one(&rows, "base");
    assert!((found.rounds[0].deviant_probability.unwrap() - 0.2).abs() < 1e-12);
    let drift = found.drift.unwrap().probability.unwrap();
    assert_eq!(drift.n, 63);
    assert!((drift.value - 0.1).abs() < 1e-12 && drift.excludes_zero());
}

#[test]
fn samples_of_one_question_do_not_count_as_more_questions() {
    let single = round("base", 1, |_| false);
    let mut repeated = single.clone();
    for sample in 1..10 {
        repeated.extend(single.iter().cloned().map(|r| EvalRow { sample, ..r }));
    }
    let high = |rows: &[EvalRow]| one(rows, "base").rounds[0].rate.unwrap().high;
    assert_eq!(high(&single), high(&repeated));
}

#[test]
fn the_order_of_rows_changes_nothing_and_a_row_told_twice_is_refused() {
    let mut rows = round("grpo", 1, |q| q % 3 == 0);
    rows.extend(round("base", 1, |q| q % 5 == 0));
    let mut turned = rows.clone();
    turned.reverse();
    let found = summarise(&rows, 7).unwrap();
    assert_eq!(found, summarise(&turned, 7).unwrap());
    assert_eq!(
        found.iter().map(|v| v.variant.as_str()).collect::<Vec<_>>(),
        ["base", "grpo"]
    );
    rows.push(rows[5].clone());
    let error = summarise(&rows, 7).unwrap_err().to_string();
    assert!(
        error.contains("`grpo`") && error.contains("`q05`"),
        "{error}"
    );
}

#[test]
fn variants_stand_in_the_order_in_which_they_are_trained() {
    let mut rows = vec![];
    for variant in ["another", "dpo-grpo", "grpo", "base", "dpo"] {
        rows.extend(round(variant, 1, |q| q % 2 == 0));
    }
    let order: Vec<String> = summarise(&rows, 1)
        .unwrap()
        .into_iter()
        .map(|summary| summary.variant)
        .collect();
    assert_eq!(order, ["base", "dpo", "grpo", "dpo-grpo", "another"]);
}
