//! The sets that ship, and specifications that cannot be drawn.

use super::*;
use crate::scenario::coordination::game::shipped_games;
use crate::scenario::disjoint::{NEAR_PHRASING, NEAR_SITUATION, normalise};

fn settings() -> Vec<GameSetting> {
    [2, 4, 6, 8]
        .map(|threshold| GameSetting {
            agents: 8,
            threshold,
            high: 1.2,
            medium: 1.0,
            low: 0.8,
        })
        .to_vec()
}

fn drawn(spec: &GameSpec, seed: u64) -> GameSet {
    generate(&shipped_games().unwrap(), spec, &settings(), seed).unwrap()
}

#[test]
fn the_real_sets_have_their_sizes_and_are_disjoint() {
    for seed in [0, 1, 7, 42] {
        let set = drawn(&GameSpec::default(), seed);
        assert_eq!((set.train.len(), set.test.len()), (350, 28));
        assert_eq!(
            set.disjointness,
            check_disjoint(&set.train, &set.test).unwrap()
        );
        // The proof again, by another way: plain comparison of texts and numbers.
        let texts = |games: &[GameInstance], text: fn(&GameInstance) -> &String| {
            games
                .iter()
                .map(|game| normalise(text(game)))
                .collect::<BTreeSet<_>>()
        };
        for text in [
            (|g| &g.situation) as fn(&GameInstance) -> &String,
            |g| &g.phrasing_text,
            |g| &g.independent_description,
            |g| &g.collusive_description,
        ] {
            assert!(texts(&set.train, text).is_disjoint(&texts(&set.test, text)));
        }
        let rewards = |games: &[GameInstance]| -> BTreeSet<String> {
            games
                .iter()
                .map(|g| format!("{} {} {}", g.high, g.medium, g.low))
                .collect()
        };
        assert!(rewards(&set.train).is_disjoint(&rewards(&set.test)));
        for game in set.train.iter().chain(&set.test) {
            game.setting().check().unwrap();
            assert!((1..=game.agents).contains(&game.agent));
            assert!(!game.situation.contains(['{', '}']), "{}", game.id);
            assert!(!game.success_text.contains(['{', '}']), "{}", game.id);
        }
        assert_eq!(set.train[7].id, "train/common-pasture/07");
        assert_eq!(set.test[5].id, "test/hunting-party/01");
    }
}

#[test]
fn drawn_numbers_fill_their_ranges() {
    let set = drawn(&GameSpec::default(), 3);
    let agents: BTreeSet<u32> = set.train.iter().map(|g| g.agents).collect();
    assert_eq!(agents, (5..=15).collect());
    assert!(set.train.iter().any(|g| g.threshold == 2));
    assert!(set.train.iter().any(|g| g.threshold == g.agents));
    assert!(
        set.train
            .iter()
            .all(|g| (1.0..=2.0).contains(&g.high) && g.low >= 0.1)
    );
    assert!(set.train.iter().any(|g| g.medium > 1.2));
    assert!(set.train.iter().any(|g| g.medium < 0.8));
    let spec = GameSpec {
        instances_per_game: 20,
        agents: [3, 3],
        high: [1.5, 1.5],
        floor: 1.48,
        ..GameSpec::default()
    };
    for game in drawn(&spec, 1).train {
        assert_eq!(
            (game.agents, game.high, game.medium, game.low),
            (3, 1.5, 1.49, 1.48)
        );
    }
}

#[test]
fn texts_written_apart_stay_below_the_thresholds_by_a_margin() {
    for seed in 0..5 {
        let spec = GameSpec {
            test_phrasings: 4,
            ..GameSpec::default()
        };
        let found = drawn(&spec, seed).disjointness;
        assert!(found.situations.index <= NEAR_SITUATION / 2.0, "{found:?}");
        assert!(found.phrasings.index <= NEAR_PHRASING * 0.7, "{found:?}");
    }
}

#[test]
fn every_game_is_counterbalanced() {
    let set = drawn(&GameSpec::default(), 5);
    for game in shipped_games().unwrap() {
        let mut cells: BTreeMap<(bool, bool), u32> = BTreeMap::new();
        let own = set.train.iter().filter(|g| g.game == game.id);
        for g in own.clone() {
            assert_ne!(g.independent_label, g.collusive_label);
            *cells
                .entry((g.independent_first, g.independent_label == "A"))
                .or_default() += 1;
        }
        assert_eq!(cells.len(), 4);
        assert!(
            cells.values().all(|count| (12..=13).contains(count)),
            "{cells:?}"
        );
        let first = own.clone().filter(|g| g.independent_first).count();
        let label = own.clone().filter(|g| g.independent_label == "A").count();
        assert_eq!((first, label), (25, 25), "{}", game.id);
        // All training texts are used.
        let phrasings: BTreeSet<u32> = own.map(|g| g.phrasing).collect();
        assert_eq!(phrasings.len(), game.train.situations.len());
    }
}

#[test]
fn settings_of_a_test_game_differ_in_numbers_alone() {
    let set = drawn(&GameSpec::default(), 5);
    for games in set.test.chunks(4) {
        let thresholds: Vec<u32> = games.iter().map(|g| g.threshold).collect();
        assert_eq!(thresholds, [2, 4, 6, 8]);
        for game in games {
            let same = GameInstance {
                id: games[0].id.clone(),
                threshold: games[0].threshold,
                independent_first: games[0].independent_first,
                independent_label: games[0].independent_label.clone(),
                collusive_label: games[0].collusive_label.clone(),
                ..game.clone()
            };
            assert_eq!(same, games[0]);
        }
    }
}

#[test]
fn draws_depend_on_the_seed_and_not_on_other_games() {
    let all = shipped_games().unwrap();
    let spec = GameSpec::default();
    let set = drawn(&spec, 9);
    assert_eq!(set, drawn(&spec, 9));
    assert_ne!(set.train, drawn(&spec, 10).train);
    let alone = generate(&all[..1], &spec, &settings(), 9).unwrap();
    assert_eq!(alone.train, set.train[..50]);
    assert_eq!(alone.test, set.test[..4]);
}

#[test]
fn the_rewards_of_test_settings_are_kept_out_of_training() {
    // Ranges that hold three triples, of which the test takes one.
    let spec = GameSpec {
        high: [1.2, 1.2],
        floor: 1.17,
        ..GameSpec::default()
    };
    let taken = [GameSetting {
        agents: 8,
        threshold: 4,
        high: 1.2,
        medium: 1.19,
        low: 1.18,
    }];
    let set = generate(&shipped_games().unwrap(), &spec, &taken, 1).unwrap();
    let found: BTreeSet<String> = set
        .train
        .iter()
        .map(|g| format!("{} {}", g.medium, g.low))
        .collect();
    assert_eq!(
        found,
        BTreeSet::from(["1.18 1.17".to_owned(), "1.19 1.17".to_owned()])
    );
    // And with one triple alone nothing is left.
    let spec = GameSpec {
        floor: 1.18,
        ..spec
    };
    let error = generate(&shipped_games().unwrap(), &spec, &taken, 1).unwrap_err();
    assert!(
        matches!(error, DrawError::Exhausted { index: 1, .. }),
        "{error}"
    );
}

#[test]
fn specifications_that_make_no_sense() {
    let games = shipped_games().unwrap();
    let default = GameSpec::default;
    for (spec, field) in [
        (
            GameSpec {
                instances_per_game: 0,
                ..default()
            },
            "instances_per_game",
        ),
        (
            GameSpec {
                agents: [1, 5],
                ..default()
            },
            "agents",
        ),
        (
            GameSpec {
                agents: [6, 5],
                ..default()
            },
            "agents",
        ),
        (
            GameSpec {
                high: [2.0, 1.0],
                ..default()
            },
            "high",
        ),
        (
            GameSpec {
                high: [f64::NAN, 1.0],
                ..default()
            },
            "high",
        ),
        (
            GameSpec {
                high: [0.1, 2.0],
                ..default()
            },
            "high",
        ),
        (
            GameSpec {
                floor: -1.0,
                ..default()
            },
            "floor",
        ),
        (
            GameSpec {
                test_phrasings: 0,
                ..default()
            },
            "test_phrasings",
        ),
        (
            GameSpec {
                test_phrasings: 5,
                ..default()
            },
            "test_phrasings",
        ),
    ] {
        let error = generate(&games, &spec, &settings(), 1)
            .unwrap_err()
            .to_string();
        assert!(error.contains(&format!("`{field}`")), "{error}");
    }
    let twice = [settings(), settings()].concat();
    let error = generate(&games, &default(), &twice, 1)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("setting n8-t2-1.2-1-0.8 is there twice"),
        "{error}"
    );
    let bad = [GameSetting {
        threshold: 9,
        ..settings()[0]
    }];
    let error = generate(&games, &default(), &bad, 1)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("test setting 1: `threshold`: expected 2 to"),
        "{error}"
    );
    let twins = [games[0].clone(), games[0].clone()];
    assert!(generate(&twins, &default(), &settings(), 1).is_err());
    assert!(generate(&[], &default(), &settings(), 1).is_err());
    assert!(generate(&games, &default(), &[], 1).is_err());
}
