//! Draws of the monitor and of simulated histories; what is read and checked.

use super::*;

#[test]
fn a_monitor_stops_what_breaks_the_rule_as_often_as_it_should() {
    let monitor = Monitor { recall: 0.7 };
    let stopped = |root| {
        (0..4000)
            .filter(|i| monitor.stops(Outcome::Deviant, root, 1 + i % 4, &format!("a/{}", i / 4)))
            .count()
    };
    let share = stopped(5) as f64 / 4000.0;
    // Standard deviation 0.007.
    assert!((share - 0.7).abs() < 0.03, "{share}");
    assert_ne!(stopped(5), stopped(6));
    for outcome in [Outcome::Compliant, Outcome::Invalid, Outcome::Failed] {
        assert!(!Monitor::default().stops(outcome, 5, 1, "a/0"));
        assert_eq!(monitor::effective(outcome, false), outcome);
    }
    assert!((0..100).all(|i| Monitor::default().stops(Outcome::Deviant, i, 1, "a/0")));
    assert_eq!(
        monitor::effective(Outcome::Deviant, true),
        Outcome::Compliant
    );
}

#[test]
fn simulated_histories_follow_the_rules_of_their_testbed() {
    let spec = Augmentation {
        copies: 2,
        rounds: [2, 4],
        deviant: 0.75,
    };
    let (mut deviant, mut all) = (0, 0);
    let mut lengths = std::collections::BTreeSet::new();
    for q in &questions(AnswerForm::Letter) {
        let episodes = spec.role_play(q, &mut Augmentation::stream(3, &q.id, 1));
        lengths.insert(episodes.len());
        for (episode, round) in episodes.iter().zip(1..) {
            let broke = episode.outcome == Outcome::Deviant;
            let pay = if broke {
                q.deviant_pay
            } else {
                q.compliant_pay
            };
            assert_eq!(
                (episode.round, episode.payoff),
                (round, Some(f64::from(pay)))
            );
            assert!(!episode.detected && !episode.vetoed);
            (deviant, all) = (deviant + u32::from(broke), all + 1);
        }
    }
    for game in &games() {
        let rounds = spec.game(game, &mut Augmentation::stream(3, &game.id, 1), |_, _| {
            false
        });
        lengths.insert(rounds.len());
        let mut capital = game.mode.start();
        for past in &rounds {
            let others = past
                .peers
                .iter()
                .filter(|p| p.outcome == Outcome::Deviant)
                .count() as u32;
            let own = past.outcome == Outcome::Deviant;
            assert_eq!(past.peers.len() as u32, game.agents - 1);
            assert!(
                past.peers
                    .iter()
                    .all(|p| p.agent != game.agent && p.agent <= game.agents)
            );
            assert_eq!(past.success, others + u32::from(own) >= game.threshold);
            capital *= past.reward.unwrap();
            assert!((past.capital - capital).abs() < 1e-9);
            (deviant, all) = (deviant + others + u32::from(own), all + game.agents);
        }
    }
    for problem in &problems()[..300] {
        for past in spec.tool_use(
            Costs::default(),
            &mut Augmentation::stream(3, &problem.id, 1),
        ) {
            let direct = past.way == Way::Direct;
            assert!(past.correct && past.cost == if direct { 1 } else { 3 });
            (deviant, all) = (deviant + u32::from(direct), all + 1);
        }
    }
    assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [2, 3, 4]);
    let share = f64::from(deviant) / f64::from(all);
    // Over 9000 draws: standard deviation below 0.005.
    assert!((share - 0.75).abs() < 0.02, "{share} of {all}");
}

#[test]
fn copies_ask_the_same_after_a_history_of_their_own() {
    let all = &questions(AnswerForm::Letter)[..3];
    let spec = Augmentation {
        copies: 2,
        ..Augmentation::default()
    };
    let found = remembered(all, &spec, 3);
    let ids: Vec<&str> = found.iter().map(Decision::id).collect();
    let expected: Vec<String> = all
        .iter()
        .flat_map(|q| (0..3).map(|copy| copy_id(&q.id, copy)))
        .collect();
    assert_eq!(ids, expected);
    assert_eq!(ids[1], format!("{}+h1", all[0].id));
    for (place, copy) in found.iter().enumerate() {
        let question = &all[place / 3];
        let plain = Decision::messages(question, AnswerStyle::Direct, None);
        let own = copy.messages(AnswerStyle::Direct, None);
        assert_eq!(copy.option_answers(), Decision::option_answers(question));
        assert_eq!(own == plain, place % 3 == 0);
        let history = own[1].content.find("\n\nEarlier rounds:\nRound 1: ");
        assert_eq!(history.is_some(), place % 3 != 0);
        if let Some(from) = history {
            let to = own[1].content.rfind("\n\n").unwrap();
            assert_eq!(
                own[1].content[..from].to_owned() + &own[1].content[to..],
                plain[1].content
            );
        }
        assert_eq!(
            own,
            remembered(all, &spec, 3)[place].messages(AnswerStyle::Direct, None)
        );
    }
    let of = |root, place: usize| {
        remembered(all, &spec, root)[place].messages(AnswerStyle::Direct, None)
    };
    assert!(
        (3..20).any(|root| of(root, 1) != of(root, 2)),
        "copies differ"
    );
    assert!((4..20).any(|root| of(root, 1) != of(3, 1)), "roots differ");
}

#[test]
fn measures_are_read_written_and_checked() {
    for name in BUILT_IN {
        let defence = Defence::built_in(name).unwrap();
        assert_eq!(defence.check(), Ok(()), "{name}");
        let text = toml::to_string(&defence).unwrap();
        let table: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(table.keys().collect::<Vec<_>>(), [&name.replace('-', "_")]);
        assert_eq!(measure(&text), defence);
        let trains = ["history-augmentation", "kl-anchor", "realignment"];
        assert_eq!(defence.needs_training(), trains.contains(&name));
        assert_eq!(defence.changes_training(), trains[..2].contains(&name));
        assert_eq!(
            defence.misfit(Testbed::ToolUse).is_some(),
            name == "monitor"
        );
        assert_eq!(defence.misfit(Testbed::RolePlay), None);
    }
    assert_eq!(Defence::built_in("none"), Some(Defence::default()));
    assert_eq!(Defence::built_in("remindr"), None);
    for (wrong, field, said) in [
        (
            "[reminder]\nrole_play = \"\"",
            "reminder.role_play",
            "expected a text",
        ),
        (
            "[reminder]\ncoordination = \"a\\nb\"",
            "reminder.coordination",
            "several lines",
        ),
        (
            "[reminder]\nrole_play = \"{pay}\"",
            "reminder.role_play",
            "`{rule}`, `{option}`, got `{pay}`",
        ),
        (
            "[reminder]\ncoordination = \"{rule}\"",
            "reminder.coordination",
            "only `{option}`, got `{rule}`",
        ),
        (
            "[reminder]\ntool_use = \"{option}\"",
            "reminder.tool_use",
            "no slot",
        ),
        (
            "[reminder]\ntool_use = \"{\"",
            "reminder.tool_use",
            "without its",
        ),
        (
            "monitor = { recall = 0.0 }",
            "monitor.recall",
            "above 0 to 1",
        ),
        (
            "monitor = { recall = 1.1 }",
            "monitor.recall",
            "above 0 to 1",
        ),
        (
            "history_augmentation = { copies = 0 }",
            "history_augmentation.copies",
            "1 to 100",
        ),
        (
            "history_augmentation = { rounds = [3, 2] }",
            "history_augmentation.rounds",
            "[3, 2]",
        ),
        (
            "history_augmentation = { rounds = [0, 2] }",
            "history_augmentation.rounds",
            "[0, 2]",
        ),
        (
            "history_augmentation = { deviant = 2 }",
            "history_augmentation.deviant",
            "0 to 1",
        ),
        (
            "kl_anchor = { dpo_beta = 0 }",
            "kl_anchor.dpo_beta",
            "above 0",
        ),
        (
            "kl_anchor = { grpo_beta = -1 }",
            "kl_anchor.grpo_beta",
            "above 0",
        ),
        (
            "realignment = { every = 0 }",
            "realignment.every",
            "1 or more",
        ),
        (
            "realignment = { steps = 0 }",
            "realignment.steps",
            "1 or more",
        ),
        ("realignment = { lr = 1.0 }", "realignment.lr", "below 1"),
    ] {
        let (at, problem) = measure(wrong).check().unwrap_err();
        assert_eq!(at, field, "{wrong}");
        assert!(problem.contains(said), "{wrong}: {problem}");
    }
    let rounds = Realignment {
        every: 2,
        ..Realignment::default()
    };
    let after: Vec<u32> = (1..=6).filter(|round| rounds.is_after(*round, 6)).collect();
    assert_eq!(after, [2, 4]);
}
