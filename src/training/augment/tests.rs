//! Pairs with histories, of all testbeds.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::datasets::pairs::{AnswerSource, encode};
use crate::scenario::coordination::{GameSetting, GameSpec, generate as draw_games, shipped_games};
use crate::scenario::environment::load_environments;
use crate::scenario::role_play::{QuestionSpec, generate};
use crate::scenario::tool_use::{ProblemSpec, generate as draw_problems};

fn pair(id: &str, environment: &str, messages: &[Message]) -> PreferencePair {
    PreferencePair {
        id: id.to_owned(),
        question_id: id.to_owned(),
        environment: environment.to_owned(),
        system: messages[0].content.clone(),
        user: messages[1].content.clone(),
        chosen: "kept".into(),
        rejected: "broken".into(),
        tool_results: false,
        chosen_source: AnswerSource::Sampled,
        rejected_source: AnswerSource::Sampled,
        attempts_chosen: 1,
        attempts_rejected: 1,
    }
}

const SPEC: Augmentation = Augmentation {
    copies: 2,
    rounds: [1, 3],
    deviant: 1.0,
};

/// Each pair stays, followed by two copies whose prompt has a history and is otherwise the same.
fn check(pairs: &[PreferencePair], found: &[PreferencePair], head: &str) {
    assert_eq!(found.len(), 3 * pairs.len());
    let mut lengths = BTreeSet::new();
    for (pair, copies) in pairs.iter().zip(found.chunks(3)) {
        assert_eq!(&copies[0], pair);
        for (copy, number) in copies[1..].iter().zip(1..) {
            assert_eq!(copy.id, format!("{}+h{number}", pair.id));
            let part = format!("\n\n{head}\n");
            let at = copy
                .user
                .find(&part)
                .unwrap_or_else(|| panic!("{}", copy.user));
            let end = at + 2 + copy.user[at + 2..].find("\n\n").unwrap();
            lengths.insert(copy.user[at..end].matches("ound ").count());
            let same = PreferencePair {
                id: pair.id.clone(),
                user: pair.user.clone(),
                ..copy.clone()
            };
            assert_eq!(
                &same, pair,
                "answers, system turn and sources are the pair's"
            );
            // Only what tells of the rounds is new.
            let rest = format!("{}{}", &copy.user[..at], &copy.user[end..]);
            let words = |text: &str| text.split(". Your ").next().unwrap().to_owned();
            assert_eq!(words(&rest), words(&pair.user));
        }
    }
    assert!(lengths.len() > 1, "{lengths:?}");
    assert!(
        found
            .chunks(3)
            .any(|copies| copies[1].user != copies[2].user),
        "copies differ"
    );
    encode(found).expect("a set that keeps the rules of pairs");
}

#[test]
fn every_pair_is_followed_by_copies_with_histories() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/role_play");
    let environments = load_environments(&folder).unwrap();
    let questions = generate(&environments[..3], &QuestionSpec::default(), 1)
        .unwrap()
        .train;
    let style = AnswerStyle::Direct;
    let of = |d: &dyn Decision| pair(d.id(), d.environment(), &d.messages(style, None));
    let pairs: Vec<_> = questions.iter().map(|q| of(q)).collect();
    let found = augmented_pairs(&pairs, &questions, &SPEC, style, 5).unwrap();
    check(&pairs, &found, "Earlier rounds:");
    assert_eq!(
        found,
        augmented_pairs(&pairs, &questions, &SPEC, style, 5).unwrap()
    );
    assert_ne!(
        found,
        augmented_pairs(&pairs, &questions, &SPEC, style, 6).unwrap()
    );
    let told = augmented_pairs(&pairs, &questions[1..], &SPEC, style, 5).unwrap_err();
    assert!(
        told.to_string()
            .contains(&format!("question `{}`", pairs[0].id)),
        "{told}"
    );

    let setting = GameSetting {
        agents: 4,
        threshold: 2,
        high: 1.2,
        medium: 1.0,
        low: 0.8,
    };
    let shipped = shipped_games().unwrap();
    let games = draw_games(&shipped[..2], &GameSpec::default(), &[setting], 1)
        .unwrap()
        .train;
    let pairs: Vec<_> = games[..20].iter().map(|g| of(g)).collect();
    let found = augmented_pairs(&pairs, &games, &SPEC, style, 5).unwrap();
    check(&pairs, &found, "Earlier rounds:");

    let problems = draw_problems(&ProblemSpec::default(), 1).unwrap().train;
    let costs = Costs { tool: 7, direct: 2 };
    let options = ToolPromptOptions {
        costs,
        seed: 99,
        ..ToolPromptOptions::default()
    };
    let pairs: Vec<_> = problems[..20]
        .iter()
        .map(|p| pair(&p.id, &p.family, &ask(p, &[], &options).messages))
        .collect();
    let found = augmented_tool_pairs(&pairs, &problems, &SPEC, costs, 5).unwrap();
    check(&pairs, &found, "What worked in earlier rounds:");
    assert!(
        found[1].user.contains("correct; cost 2 units."),
        "{}",
        found[1].user
    );
}
