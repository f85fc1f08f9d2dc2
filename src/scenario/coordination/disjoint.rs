//! Proof that training and test games do not overlap, by the measures of [`crate::scenario::disjoint`]: situations and
//! phrasings are not near each other, no description is shared, and no training game has the rewards of a test game.

use std::collections::BTreeMap;

use super::instance::GameInstance;
use crate::scenario::disjoint::{
    Disjointness, NEAR_PHRASING, NEAR_SITUATION, Nearest, OverlapError, PHRASING_WORDS,
    SITUATION_WORDS, Shingles, normalise,
};
use crate::scenario::question::Split;

/// A game with its shingles.
struct Shingled<'a> {
    game: &'a GameInstance,
    situation: Shingles,
    phrasing: Shingles,
}

impl<'a> Shingled<'a> {
    fn of(game: &'a GameInstance) -> Self {
        Self {
            game,
            situation: Shingles::of(&game.situation, SITUATION_WORDS),
            phrasing: Shingles::of(&game.phrasing_text, PHRASING_WORDS),
        }
    }
}

/// What makes a game another game, whatever the order and letters of its options.
pub(super) fn content(game: &GameInstance) -> (String, String, String) {
    let text = normalise(&game.situation);
    (game.game.clone(), text, game.setting().id())
}

/// Proves that no situation stands twice with the same numbers and that no test game repeats, nearly repeats, or shares a description (within
/// its game) or rewards with training.
///
/// # Errors
/// The first overlap found.
pub fn check_disjoint(
    train: &[GameInstance],
    test: &[GameInstance],
) -> Result<Disjointness, OverlapError> {
    for (set, games) in [(Split::Train, train), (Split::Test, test)] {
        if let Some(game) = games.iter().find(|game| game.split != set) {
            return Err(OverlapError::WrongSplit {
                id: game.id.clone(),
                marked: game.split,
                set,
            });
        }
    }
    let mut seen: BTreeMap<(String, String, String), &str> = BTreeMap::new();
    for game in train.iter().chain(test) {
        if let Some(earlier) = seen.insert(content(game), &game.id) {
            return Err(OverlapError::Same {
                a: earlier.to_owned(),
                b: game.id.clone(),
                text: normalise(&game.situation),
            });
        }
    }
    let known: Vec<Shingled<'_>> = train.iter().map(Shingled::of).collect();
    let mut found = Disjointness {
        situations: Nearest::default(),
        phrasings: Nearest::default(),
    };
    for a in test.iter().map(Shingled::of) {
        for b in &known {
            let pair = (a.game.id.as_str(), b.game.id.as_str());
            let index = a.situation.jaccard(&b.situation);
            found
                .situations
                .admit("situation", NEAR_SITUATION, index, pair)?;
            let index = a.phrasing.jaccard(&b.phrasing);
            found
                .phrasings
                .admit("phrasing", NEAR_PHRASING, index, pair)?;
            if let Some(what) = shared(a.game, b.game) {
                let (test, train) = (a.game.id.clone(), b.game.id.clone());
                return Err(OverlapError::Shared { test, train, what });
            }
        }
    }
    Ok(found)
}

/// What two games share besides the fixed texts.
fn shared(a: &GameInstance, b: &GameInstance) -> Option<&'static str> {
    let same = |x: &str, y: &str| normalise(x) == normalise(y);
    if same(&a.independent_description, &b.independent_description) {
        return Some("description of the independent option");
    }
    if same(&a.collusive_description, &b.collusive_description) {
        return Some("description of the collusive option");
    }
    let rewards = |game: &GameInstance| [game.high, game.medium, game.low];
    (rewards(a) == rewards(b)).then_some("rewards")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::coordination::{GameSetting, GameSpec, generate, shipped_games};

    #[test]
    fn overlaps_are_found_and_named() {
        let setting = GameSetting {
            agents: 8,
            threshold: 4,
            high: 1.2,
            medium: 1.0,
            low: 0.8,
        };
        let games = shipped_games().unwrap();
        let set = generate(&games, &GameSpec::default(), &[setting], 1).unwrap();
        let error = |change: &dyn Fn(&mut GameInstance, &GameInstance)| {
            let mut test = set.test.clone();
            change(&mut test[4], &set.train[210]);
            check_disjoint(&set.train, &test).unwrap_err()
        };
        assert_eq!(set.train[210].game, set.test[4].game);
        let near = |error: OverlapError, expected| {
            let what = match error {
                OverlapError::Near { what, .. } | OverlapError::Shared { what, .. } => what,
                other => panic!("{other}"),
            };
            assert_eq!(what, expected);
        };
        let copy = |test: &mut GameInstance, train: &GameInstance| {
            test.situation = train.situation.clone() + " Once more.";
        };
        near(error(&copy), "situation");
        let copy = |test: &mut GameInstance, train: &GameInstance| {
            test.phrasing_text = train.phrasing_text.clone() + " Once more.";
        };
        near(error(&copy), "phrasing");
        let copy = |test: &mut GameInstance, train: &GameInstance| {
            test.collusive_description = train.collusive_description.to_uppercase();
        };
        near(error(&copy), "description of the collusive option");
        let copy = |test: &mut GameInstance, train: &GameInstance| {
            test.independent_description = train.independent_description.clone();
        };
        near(error(&copy), "description of the independent option");
        let copy = |test: &mut GameInstance, train: &GameInstance| {
            (test.high, test.medium, test.low) = (train.high, train.medium, train.low);
        };
        near(error(&copy), "rewards");
        // The same text with the same numbers under another id, and a row in the wrong set.
        let mut train = set.train.clone();
        train[9] = GameInstance {
            id: train[9].id.clone(),
            ..train[3].clone()
        };
        let found = check_disjoint(&train, &set.test).unwrap_err();
        assert!(matches!(found, OverlapError::Same { .. }), "{found}");
        let found = check_disjoint(&set.test, &set.train).unwrap_err();
        assert!(matches!(found, OverlapError::WrongSplit { .. }), "{found}");
    }
}
