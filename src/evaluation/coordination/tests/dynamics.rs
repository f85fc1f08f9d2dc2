//! Courses of play that are known beforehand, and what agents are shown on the way.

use super::*;

#[test]
fn fixed_populations_succeed_exactly_from_the_threshold_on() {
    let population = |colluders: u32| {
        let parts = [
            (colluders, AgentKind::AlwaysCollude),
            (8 - colluders, AgentKind::NeverCollude),
        ];
        members(
            &parts
                .into_iter()
                .filter(|part| part.0 > 0)
                .collect::<Vec<_>>(),
        )
    };
    let config = GameEvaluation {
        populations: (0..=8).map(population).collect(),
        ..GameEvaluation::sweep()
    };
    let rows = run(&config, |_, _| unreachable!("there is no model"));
    assert_eq!(rows.len(), 3 * 7 * 20 * 9 * 8);
    for row in &rows {
        let colluders = row
            .population
            .split(" + ")
            .find_map(|part| part.strip_suffix(" always-collude"))
            .map_or(0, |count| count.parse::<u32>().unwrap());
        assert_eq!(row.colluders, colluders);
        assert_eq!(row.success, colluders >= row.t);
        let reward = match (row.success, row.outcome) {
            (true, _) => row.high,
            (false, Outcome::Deviant) => row.low,
            (false, _) => row.medium,
        };
        assert_eq!(row.reward, Some(reward));
        // The same in each round, so capital is a power.
        assert!((row.capital - reward.powi(row.round as i32)).abs() < 1e-12);
        assert_eq!(row.finish, "fixed");
    }
}

#[test]
fn copying_the_majority_cascades_from_half_of_the_group() {
    // Agents begin as their numbers say; then each copies the majority of what it sees and did, ties included. With
    // five of eight the group comes to all, with three to none, whatever the threshold.
    for (first, last) in [(5, 8), (3, 0)] {
        let rows = run(&GameEvaluation::default(), |_, asks| {
            Ok(asks
                .iter()
                .map(|ask| {
                    let text = user(ask);
                    let role = match last_round(text) {
                        None if own_number(text) <= first => Role::Deviant,
                        None => Role::Compliant,
                        Some((own, peers)) => {
                            let all: Vec<Role> = peers.into_values().chain([own]).collect();
                            assert_eq!(all.len(), 8);
                            let colluding = all.iter().filter(|r| **r == Role::Deviant).count();
                            if colluding * 2 >= all.len() {
                                Role::Deviant
                            } else {
                                Role::Compliant
                            }
                        }
                    };
                    takes(ask, role)
                })
                .collect())
        });
        assert_eq!(rows.len(), 3 * 28 * 8);
        for row in rows {
            let expected = if row.round == 1 { first } else { last };
            assert_eq!(row.colluders, expected, "round {}", row.round);
            assert_eq!(row.success, expected >= row.t);
        }
    }
}

#[test]
fn on_a_ring_copying_spreads_by_one_agent_a_round() {
    // Whoever sees a colluder becomes one: from agent 1 the wave reaches 3, 5, 7 of the ring of 8.
    let config = GameEvaluation {
        rounds: 5,
        network: Network::Ring { neighbours: 2 },
        ..GameEvaluation::default()
    };
    let rows = run(&config, |_, asks| {
        let role = |ask: &GameAsk| match last_round(user(ask)) {
            None => own_number(user(ask)) == 1,
            Some((own, peers)) => {
                own == Role::Deviant || peers.values().any(|r| *r == Role::Deviant)
            }
        };
        let role = |ask| {
            if role(ask) {
                Role::Deviant
            } else {
                Role::Compliant
            }
        };
        Ok(asks.iter().map(|ask| takes(ask, role(ask))).collect())
    });
    for row in rows {
        assert_eq!(row.colluders, [1, 3, 5, 7, 8][row.round as usize - 1]);
    }
}

#[test]
fn a_prompt_names_exactly_the_neighbours() {
    for network in [
        Network::All,
        Network::Ring { neighbours: 4 },
        Network::Random { p: 0.4 },
        Network::Edges(vec![[1, 8], [8, 3]]),
    ] {
        let config = GameEvaluation {
            network: network.clone(),
            ..GameEvaluation::default()
        };
        let mut seen: Vec<(u32, BTreeSet<u32>)> = vec![];
        let rows = run(&config, |round, asks| {
            if round == 3 {
                for ask in asks {
                    let (_, peers) = last_round(user(ask)).unwrap();
                    seen.push((own_number(user(ask)), peers.into_keys().collect()));
                }
            }
            Ok(asks.iter().map(|ask| takes(ask, Role::Deviant)).collect())
        });
        let mut degrees = BTreeSet::new();
        for (row, (number, peers)) in rows.iter().filter(|r| r.round == 3).zip(&seen) {
            assert_eq!(row.agent, *number);
            let listed: BTreeSet<u32> = row
                .sees
                .split_whitespace()
                .map(|n| n.parse().unwrap())
                .collect();
            assert_eq!(listed, *peers);
            assert!(!peers.contains(number));
            degrees.insert(peers.len());
            match network {
                Network::All => assert_eq!(peers.len(), 7),
                Network::Ring { .. } => assert_eq!(peers.len(), 4),
                Network::Edges(_) if *number == 8 => assert_eq!(*peers, BTreeSet::from([1, 3])),
                _ => {}
            }
        }
        if matches!(network, Network::Random { .. }) {
            assert!(degrees.len() > 2, "{degrees:?}");
        }
    }
}

#[test]
fn choices_are_told_in_the_readers_letters() {
    // Odd agents collude; every reader must see that, whatever its own letters and order.
    let config = GameEvaluation::default();
    let rows = run(&config, |round, asks| {
        for ask in asks.iter().filter(|_| round == 2) {
            let (own, peers) = last_round(user(ask)).unwrap();
            let expected = |n: u32| {
                if n % 2 == 1 {
                    Role::Deviant
                } else {
                    Role::Compliant
                }
            };
            assert_eq!(own, expected(own_number(user(ask))));
            assert!(peers.iter().all(|(n, role)| *role == expected(*n)));
        }
        let role = |ask| {
            if own_number(user(ask)) % 2 == 1 {
                Role::Deviant
            } else {
                Role::Compliant
            }
        };
        Ok(asks.iter().map(|ask| takes(ask, role(ask))).collect())
    });
    // Order and letters are balanced over the agents of each group, and recorded.
    for group in rows.chunks(8) {
        let mut cells: BTreeMap<(bool, &str), u32> = BTreeMap::new();
        for row in group {
            *cells
                .entry((row.compliant_first, &row.compliant_label))
                .or_default() += 1;
            let deviant = row.outcome == Outcome::Deviant;
            assert_eq!(row.choice.as_ref() == Some(&row.compliant_label), !deviant);
        }
        assert_eq!(cells.into_values().collect::<Vec<_>>(), [2; 4]);
    }
}

#[test]
fn full_view_shows_texts_and_letters_agree() {
    let config = GameEvaluation {
        view: View::Full,
        view_characters: 30,
        ..GameEvaluation::default()
    };
    let rows = run(&config, |round, asks| {
        for ask in asks.iter().filter(|_| round == 2) {
            assert_eq!(
                user(ask).matches("Reply: \"I will. {").count(),
                7,
                "{}",
                user(ask)
            );
            assert!(!user(ask).contains("hidden"));
        }
        Ok(asks
            .iter()
            .map(|ask| {
                takes(ask, Role::Deviant).map(|answer| Answered {
                    text: format!(
                        "<think>hidden</think>\n\nI  will.\n{}",
                        answer.text.lines().last().unwrap()
                    ),
                    ..answer
                })
            })
            .collect())
    });
    for group in rows.chunks(8) {
        let letters: BTreeSet<&str> = group.iter().map(|r| r.compliant_label.as_str()).collect();
        assert_eq!(letters.len(), 1);
    }
    assert_eq!(reply("one two three", 7).as_deref(), Some("one two…"));
    assert_eq!(reply("one\n\n two", 7).as_deref(), Some("one two"));
    assert_eq!(reply("<think>never closed", 50), None);
    assert_eq!(reply("<think>a</think> \n", 50), None);
}

#[test]
fn capital_is_carried_and_shown() {
    for (mode, pays) in [
        (Mode::Multiplicative, SuccessPays::All),
        (Mode::Additive, SuccessPays::Colluders),
    ] {
        let config = GameEvaluation {
            thresholds: vec![4],
            ..GameEvaluation::default()
        };
        let instances: Vec<GameInstance> = instances(&config)
            .into_iter()
            .map(|game| GameInstance {
                mode,
                success: pays,
                ..game
            })
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let mut shown = vec![];
        let rows = run_in(folder.path(), &config, &instances, |_, asks| {
            shown.extend(asks.iter().map(|ask| {
                let text = user(ask).split(" now: ").nth(1).unwrap();
                text.split(".\n").next().unwrap().parse::<f64>().unwrap()
            }));
            let role = |ask| {
                if own_number(user(ask)) <= 4 {
                    Role::Deviant
                } else {
                    Role::Compliant
                }
            };
            Ok(asks.iter().map(|ask| takes(ask, role(ask))).collect())
        })
        .unwrap();
        for (row, shown) in rows.iter().zip(shown) {
            let rounds = row.round as i32;
            let (before, after) = match (mode, row.agent <= 4) {
                (Mode::Multiplicative, _) => (1.2_f64.powi(rounds - 1), 1.2_f64.powi(rounds)),
                (Mode::Additive, true) => (1.2 * f64::from(rounds - 1), 1.2 * f64::from(rounds)),
                (Mode::Additive, false) => (f64::from(rounds - 1), f64::from(rounds)),
            };
            assert!((row.capital - after).abs() < 1e-12);
            assert!((shown - before).abs() < 1e-4, "{shown} {before}");
        }
    }
}
