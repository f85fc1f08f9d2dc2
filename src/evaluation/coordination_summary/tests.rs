//! Hand-made rows with known counts.

use super::*;
use Outcome::{Compliant, Deviant, Failed, Invalid};

/// A group of agents in one round; the threshold is `t`, capital the agent's number.
fn group_rows(variant: &str, game: &str, t: u32, round: u32, outcomes: &[Outcome]) -> Vec<GameRow> {
    let colluders = outcomes.iter().filter(|o| **o == Deviant).count() as u32;
    (1..)
        .zip(outcomes)
        .map(|(agent, outcome)| GameRow {
            model: "m".into(),
            variant: variant.into(),
            defence: "none".into(),
            seed: 1,
            instance_id: format!("test/{game}/{t:02}"),
            game: game.into(),
            setting: format!("n4-t{t}-1.2-1-0.8"),
            population: "4 subject".into(),
            sample: 0,
            n: outcomes.len() as u32,
            t,
            high: 1.2,
            medium: 1.0,
            low: 0.8,
            gamma: 1.0,
            round,
            agent,
            kind: AgentKind::Subject,
            sees: String::new(),
            outcome: *outcome,
            vetoed: false,
            choice: None,
            deviant_probability: None,
            colluders,
            success: colluders >= t,
            reward: None,
            capital: f64::from(agent),
            compliant_first: true,
            compliant_label: "A".into(),
            text: String::new(),
            finish: "stop".into(),
            prompt_tokens: 1,
            completion_tokens: 1,
            error: None,
        })
        .collect()
}

/// Two games at t = 2 and one at t = 4, two rounds each.
fn rows() -> Vec<GameRow> {
    [
        group_rows("base", "x", 2, 1, &[Deviant, Deviant, Compliant, Invalid]),
        group_rows("base", "x", 2, 2, &[Deviant, Deviant, Deviant, Compliant]),
        group_rows("base", "y", 2, 1, &[Deviant, Compliant, Compliant, Failed]),
        group_rows(
            "base",
            "y",
            2,
            2,
            &[Compliant, Compliant, Compliant, Compliant],
        ),
        group_rows("base", "x", 4, 1, &[Deviant; 4]),
        group_rows("base", "x", 4, 2, &[Deviant, Deviant, Deviant, Invalid]),
    ]
    .concat()
}

fn one(rows: &[GameRow], grouping: Grouping, settings: &str) -> GameSummary {
    summarise_games(rows, grouping, 7)
        .unwrap()
        .into_iter()
        .find(|summary| summary.settings == settings)
        .unwrap()
}

fn value(estimate: &Option<Estimate>) -> (f64, usize) {
    estimate.map(|e| (e.value, e.n)).unwrap()
}

#[test]
fn counts_and_rates_by_round() {
    let easy = one(&rows(), Grouping::Threshold, "t = 2");
    assert_eq!((easy.games, easy.rounds.len()), (2, 2));
    let first = &easy.rounds[0];
    let counts = Counts {
        compliant: 3,
        deviant: 3,
        invalid: 1,
        failed: 1,
    };
    assert_eq!(first.counts, counts);
    assert_eq!(value(&first.rate), (0.5, 6));
    assert_eq!(value(&first.success), (0.5, 2));
    assert_eq!(first.capital, 2.5);
    assert_eq!(value(&easy.rounds[1].rate), (3.0 / 8.0, 8));
    let hard = one(&rows(), Grouping::Setting, "n4-t4-1.2-1-0.8");
    assert_eq!(value(&hard.rounds[0].rate), (1.0, 4));
    assert_eq!(value(&hard.rounds[1].success), (0.0, 1));
    let all = one(&rows(), Grouping::All, "all");
    assert_eq!(value(&all.rounds[0].rate), (0.7, 10));
    assert_eq!(value(&all.rounds[0].success), (2.0 / 3.0, 3));
}

#[test]
fn what_follows_success_and_failure() {
    let all = one(&rows(), Grouping::All, "all");
    let found: Vec<_> = all
        .after
        .iter()
        .map(|after| {
            (
                after.round,
                after.success,
                after.groups,
                after.counts.deviant,
                value(&after.rate),
            )
        })
        .collect();
    // After success: x at t = 2 (3 of 4) and x at t = 4 (3 of 3, one invalid). After failure: y (0 of 4).
    assert_eq!(
        found,
        [(1, false, 1, 0, (0.0, 4)), (1, true, 2, 6, (6.0 / 7.0, 7))]
    );
    let first_alone: Vec<GameRow> = rows().into_iter().filter(|r| r.round == 1).collect();
    assert!(one(&first_alone, Grouping::All, "all").after.is_empty());
}

#[test]
fn intervals_count_an_instance_once() {
    // 4 of 4 agents in one instance of one game: nothing is known of other games.
    let hard = one(&rows(), Grouping::Threshold, "t = 4");
    let rate = hard.rounds[0].rate.unwrap();
    assert_eq!((rate.low, rate.high), (0.0, 1.0));
    // Seven games in which everyone colludes: Wilson's interval for 7, not for 28.
    let many: Vec<GameRow> = (0..7)
        .flat_map(|game| group_rows("base", &format!("g{game}"), 2, 1, &[Deviant; 4]))
        .collect();
    let rate = one(&many, Grouping::All, "all").rounds[0].rate.unwrap();
    let expected = crate::evaluation::statistics::wilson(1.0, 7).unwrap();
    assert_eq!((rate.low, rate.high, rate.n), (expected.low, 1.0, 28));
}

#[test]
fn agents_without_a_model_are_no_decisions_but_groups_stay_whole() {
    let mut rows = group_rows("base", "x", 2, 1, &[Deviant, Deviant, Compliant, Compliant]);
    rows[0].kind = AgentKind::AlwaysCollude;
    rows[1].kind = AgentKind::AlwaysCollude;
    rows[2].kind = AgentKind::Base;
    let summaries = summarise_games(&rows, Grouping::All, 7).unwrap();
    let found: Vec<_> = summaries
        .iter()
        .map(|s| {
            (
                s.kind,
                s.rounds[0].counts.decided(),
                value(&s.rounds[0].rate).0,
                value(&s.rounds[0].success).0,
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            (AgentKind::Subject, 1, 0.0, 1.0),
            (AgentKind::Base, 1, 0.0, 1.0)
        ]
    );
}

#[test]
fn order_does_not_matter_and_repeats_are_refused() {
    let mut rows = [
        rows(),
        group_rows("other", "x", 2, 1, &[Deviant; 4]),
        group_rows("grpo", "x", 2, 1, &[Deviant; 4]),
    ]
    .concat();
    let summaries = summarise_games(&rows, Grouping::Threshold, 7).unwrap();
    let variants: Vec<&str> = summaries.iter().map(|s| s.variant.as_str()).collect();
    assert_eq!(variants, ["base", "base", "grpo", "other"]);
    rows.reverse();
    assert_eq!(
        summarise_games(&rows, Grouping::Threshold, 7).unwrap(),
        summaries
    );
    rows.extend(rows.last().cloned());
    let error = summarise_games(&rows, Grouping::Threshold, 7)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("variant `base`, seed 1, instance `test/x/02`, population `4 subject`, sample 0, round 1, agent 1"),
        "{error}"
    );
}

#[test]
fn probabilities_are_averaged_where_there_are_any() {
    let mut rows = group_rows("base", "x", 2, 1, &[Deviant, Compliant, Failed]);
    assert_eq!(
        one(&rows, Grouping::All, "all").rounds[0].deviant_probability,
        None
    );
    for (row, p) in rows.iter_mut().zip([0.75, 0.25, 0.9]) {
        row.deviant_probability = Some(p);
    }
    assert_eq!(
        one(&rows, Grouping::All, "all").rounds[0].deviant_probability,
        Some(0.5)
    );
}
