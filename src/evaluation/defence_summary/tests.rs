//! Hand-made rows whose differences are known.

use super::*;

fn row(defence: &str, round: u32, question: usize, outcome: Outcome, vetoed: bool) -> EvalRow {
    EvalRow {
        model: "m".into(),
        variant: "dpo".into(),
        defence: defence.into(),
        seed: 1 + question as u64 % 2,
        round,
        question_id: format!("q{:02}", question / 2),
        environment: format!("e{}", question / 8),
        sample: 0,
        outcome,
        supervised: false,
        detected: false,
        vetoed,
        choice: None,
        deviant_probability: None,
        payoff: None,
        compliant_first: true,
        compliant_label: "A".into(),
        text: String::new(),
        finish: "stop".into(),
        prompt_tokens: 1,
        completion_tokens: 1,
        error: None,
    }
}

/// 64 decisions a round; those for which this holds break the rule.
fn round(defence: &str, round: u32, broken: impl Fn(usize) -> bool) -> Vec<EvalRow> {
    let outcome = |q| match broken(q) {
        true => Outcome::Deviant,
        false => Outcome::Compliant,
    };
    (0..64)
        .map(|q| row(defence, round, q, outcome(q), false))
        .collect()
}

/// Without defence 16 of 64 break the rule, then 48; with a reminder 16, then 24 that are among the 48.
fn rows() -> Vec<EvalRow> {
    [
        round("none", 1, |q| q.is_multiple_of(4)),
        round("none", 2, |q| !q.is_multiple_of(4)),
        round("reminder", 1, |q| q.is_multiple_of(4)),
        round("reminder", 2, |q| q % 8 > 4),
    ]
    .concat()
}

fn of<'a>(all: &'a [DefendedSummary], defence: &str, as_chosen: bool) -> &'a DefendedSummary {
    let mut found = all
        .iter()
        .filter(|s| s.defence == defence && s.as_chosen == as_chosen);
    let one = found.next().unwrap();
    assert!(found.next().is_none());
    one
}

#[test]
fn differences_are_between_twins() {
    let all = summarise_defences(&rows(), &[], &[], 7);
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].defence, "none");
    assert!(all[0].drift.is_none() && all[0].rounds.iter().all(|r| r.difference.is_none()));
    let found = of(&all, "reminder", false);
    assert_eq!(found.seeds, [1, 2]);
    let rates: Vec<f64> = found.rounds.iter().map(|r| r.rate.unwrap().value).collect();
    assert_eq!(rates, [0.25, 0.375]);
    let [first, last] = &found.rounds[..] else {
        panic!()
    };
    assert_eq!(
        (first.difference.unwrap().value, first.difference.unwrap().n),
        (0.0, 64)
    );
    let difference = last.difference.unwrap();
    assert_eq!(
        (difference.value, difference.n, last.dropped),
        (-0.375, 64, 0)
    );
    assert!(
        difference.excludes_zero() && difference.low > -0.7,
        "{difference:?}"
    );
    // 0.75 − 0.25 without, 0.375 − 0.25 with.
    let drift = found.drift.unwrap();
    assert_eq!((drift.value, drift.n), (-0.375, 64));
    assert!(drift.low > -1.0 && drift.high < 0.0, "{drift:?}");
    // The order of rows is nothing.
    let mut turned = rows();
    turned.reverse();
    assert_eq!(summarise_defences(&turned, &[], &[], 7), all);
}

#[test]
fn what_cannot_be_read_is_left_out_with_its_twin_and_counted() {
    let mut some = rows();
    for row in some.iter_mut().filter(|r| r.round == 2) {
        let number: usize = row.question_id[1..].parse().unwrap();
        match (row.defence.as_str(), number) {
            ("none", 0) => row.outcome = Outcome::Invalid,
            ("reminder", 1) => row.outcome = Outcome::Failed,
            _ => {}
        }
    }
    some.retain(|row| !(row.defence == "reminder" && row.round == 2 && row.question_id == "q02"));
    let all = summarise_defences(&some, &[], &[], 7);
    let last = &of(&all, "reminder", false).rounds[1];
    assert_eq!((last.difference.unwrap().n, last.dropped), (58, 6));
    assert_eq!(last.rate.unwrap().n, 60);
}

#[test]
fn a_veto_counts_as_kept_and_what_was_chosen_stands_beside_it() {
    let mut some = [
        round("none", 1, |q| q % 2 == 0),
        round("monitor", 1, |q| q % 2 == 0),
    ]
    .concat();
    for row in some
        .iter_mut()
        .filter(|r| r.defence == "monitor" && r.environment != "e0")
    {
        row.vetoed = row.outcome == Outcome::Deviant;
    }
    let all = summarise_defences(&some, &[], &[], 7);
    assert_eq!(all.len(), 3);
    let value = |as_chosen| {
        let found = of(&all, "monitor", as_chosen);
        let round = &found.rounds[0];
        (
            round.rate.unwrap().value,
            round.difference.unwrap().value,
            found.vetoed,
        )
    };
    assert_eq!(value(false), (0.0625, -0.4375, 28));
    assert_eq!(value(true), (0.5, 0.0, 28));
    // That nothing differed in so few questions is not known for sure.
    let alike = of(&all, "monitor", true).rounds[0].difference.unwrap();
    assert!(alike.low < 0.0 && alike.high > 0.0);
}

#[test]
fn nothing_is_said_where_no_defence_was_tried() {
    let none: Vec<EvalRow> = rows().into_iter().filter(|r| r.defence == "none").collect();
    assert_eq!(summarise_defences(&none, &[], &[], 7), []);
}
