//! Sets of coordination games as Parquet.

use std::collections::BTreeSet;
use std::path::Path;

use super::{DatasetError, SCHEMA_KEY, expect_schema, expect_unique};
use crate::artifact::table::{decode_parquet_with, encode_parquet_with};
use crate::scenario::Role;
use crate::scenario::choice::parse_choice;
use crate::scenario::coordination::GameInstance;
use crate::scenario::decision::Decision;
use crate::scenario::disjoint::normalise;
use crate::scenario::question::LABELS;

/// Version of the game table; it changes with the columns or their meaning.
pub const GAMES_SCHEMA: &str = "atp.games/1";

/// What the columns of the game table hold.
pub const GAME_COLUMNS: &[(&str, &str)] = &[
    (
        "id",
        "`train/public-fund/07`, counted from 00 within game and split",
    ),
    ("split", "training or test"),
    ("game", "the game"),
    (
        "phrasing",
        "which situation text of the split was drawn, from 0",
    ),
    (
        "phrasing_text",
        "that text, its slots as names in braces: near-duplicates are found by it",
    ),
    ("system", "persona and task: the system turn"),
    ("situation", "the situation, its slots filled"),
    ("agent_noun", "what one agent is called"),
    ("agents_noun", "what several are called"),
    ("stock", "what a round multiplies or adds to"),
    ("mode", "how rewards change it"),
    ("success", "who gets the high reward of a success"),
    ("agents", "number of agents, n"),
    ("threshold", "how many must take the collusive option, t"),
    ("high", "reward of a success"),
    ("medium", "reward of independent play without a success"),
    ("low", "reward of collusive play without a success"),
    ("agent", "number of the agent that is asked, from 1"),
    ("independent_name", "short name of the independent option"),
    ("independent_description", "what it consists in"),
    ("independent_label", "its label, `A` or `B`"),
    ("collusive_name", "short name of the collusive option"),
    ("collusive_description", "what it consists in"),
    ("collusive_label", "its label, `A` or `B`"),
    (
        "independent_first",
        "the independent option stands first in the prompt",
    ),
    ("answer", "what the JSON answer holds"),
    (
        "success_text",
        "the history's words for a round that succeeded",
    ),
    (
        "failure_text",
        "the history's words for a round that did not",
    ),
    (
        "peer_text",
        "the history's line about another agent, with the slots `{peer}` and `{option}`",
    ),
];

/// The games as a Parquet file, checked first.
///
/// # Errors
/// A game or set that breaks a rule; see [`check`].
pub fn encode(games: &[GameInstance]) -> Result<Vec<u8>, DatasetError> {
    check(games)?;
    Ok(encode_parquet_with(games, &[(SCHEMA_KEY, GAMES_SCHEMA)])?)
}

/// The games of a Parquet file, checked.
///
/// # Errors
/// Damage, another schema, or a game that breaks a rule.
pub fn decode(bytes: impl Into<Vec<u8>>) -> Result<Vec<GameInstance>, DatasetError> {
    let (games, metadata) = decode_parquet_with(bytes)?;
    expect_schema(&metadata, GAMES_SCHEMA)?;
    check(&games)?;
    Ok(games)
}

/// [`decode`] of a file.
///
/// # Errors
/// As [`decode`], with the path.
pub fn read(path: &Path) -> Result<Vec<GameInstance>, DatasetError> {
    let bytes = super::read_file(path)?;
    decode(bytes).map_err(|problem| super::in_file(path, problem))
}

/// The rules that every set of games keeps: rows, unique ids, no situation twice with the same numbers, whole texts,
/// labels `A` and `B`, 2 ≤ t ≤ n, high > medium > low, an agent among the n, and canonical answers that the parser reads
/// as what they stand for.
///
/// # Errors
/// The first breach, with its row.
pub fn check(games: &[GameInstance]) -> Result<(), DatasetError> {
    expect_unique(games.iter().map(|game| game.id.as_str()))?;
    let mut contents = BTreeSet::new();
    for (row, game) in games.iter().enumerate() {
        let error = |field, expected, got: &str| DatasetError::Value {
            row,
            id: game.id.clone(),
            field,
            expected,
            got: got.to_owned(),
        };
        let place = format!("{}/{}/", game.split.name(), game.game);
        if game.game.is_empty() || !game.id.starts_with(&place) {
            return Err(error("id", "split/game/number", &game.id));
        }
        for (field, text) in [
            ("system", &game.system),
            ("situation", &game.situation),
            ("phrasing_text", &game.phrasing_text),
            ("agent_noun", &game.agent_noun),
            ("agents_noun", &game.agents_noun),
            ("stock", &game.stock),
            ("independent_name", &game.independent_name),
            ("independent_description", &game.independent_description),
            ("collusive_name", &game.collusive_name),
            ("collusive_description", &game.collusive_description),
            ("success_text", &game.success_text),
            ("failure_text", &game.failure_text),
        ] {
            if text.trim().is_empty() {
                return Err(error(field, "a text", text));
            }
        }
        if !(game.peer_text.contains("{peer}") && game.peer_text.contains("{option}")) {
            let expected = "a text with the slots {peer} and {option}";
            return Err(error("peer_text", expected, &game.peer_text));
        }
        let setting = game.setting();
        if let Err(problem) = setting.check() {
            let expected = "2 ≤ threshold ≤ agents and high > medium > low ≥ 0 in steps of 0.01";
            return Err(error(
                "agents, threshold, high, medium, low",
                expected,
                &problem.got,
            ));
        }
        if !(1..=game.agents).contains(&game.agent) {
            let expected = "one of the agents, counted from 1";
            return Err(error("agent", expected, &game.agent.to_string()));
        }
        if !contents.insert((&game.game, normalise(&game.situation), setting.id())) {
            let expected = "a situation that no other row has with the same numbers";
            return Err(error("situation", expected, &game.situation));
        }
        let labels = [game.label(Role::Compliant), game.label(Role::Deviant)];
        if labels != LABELS && labels != [LABELS[1], LABELS[0]] {
            return Err(error(
                "independent_label, collusive_label",
                "`A` and `B`, each once",
                &labels.join(", "),
            ));
        }
        let options = game.choice_options();
        for (role, answer) in game.option_answers() {
            let standard = serde_json::from_str::<serde_json::Value>(&answer).is_ok();
            if !standard || parse_choice(&answer, &options).role() != Some(role) {
                return Err(error(
                    "independent_name, collusive_name",
                    "names that an answer can hold",
                    &answer,
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::table::encode_parquet;
    use crate::scenario::coordination::{GameSetting, GameSpec, generate, shipped_games};
    use crate::scenario::question::AnswerForm;

    fn games() -> Vec<GameInstance> {
        let setting = |threshold| GameSetting {
            agents: 8,
            threshold,
            high: 1.2,
            medium: 1.0,
            low: 0.8,
        };
        let settings = [2, 4, 6, 8].map(setting);
        let set = generate(
            &shipped_games().unwrap(),
            &GameSpec::default(),
            &settings,
            4,
        )
        .unwrap();
        [set.train, set.test].concat()
    }

    #[test]
    fn games_come_back_as_they_were() {
        let games = games();
        let bytes = encode(&games).unwrap();
        assert_eq!(bytes, encode(&games).unwrap());
        assert_eq!(decode(bytes).unwrap(), games);
    }

    #[test]
    fn breaches_are_named() {
        type Change = fn(&mut GameInstance);
        let table: &[(Change, &str)] = &[
            (|g| g.id = "train/other/01".into(), "`id`"),
            (|g| g.stock = " ".into(), "`stock`: expected a text"),
            (
                |g| g.peer_text = "{peer} did something.".into(),
                "`peer_text`",
            ),
            (|g| g.threshold = g.agents + 1, "2 ≤ threshold ≤ agents"),
            (|g| g.threshold = 1, "2 ≤ threshold ≤ agents"),
            (|g| g.medium = g.high, "high > medium > low"),
            (|g| g.low = g.medium, "high > medium > low"),
            (|g| g.agent = 0, "`agent`"),
            (|g| g.agent = g.agents + 1, "`agent`"),
            (
                |g| g.collusive_label = g.independent_label.clone(),
                "each once",
            ),
            (
                |g| {
                    g.answer = AnswerForm::Name;
                    g.collusive_name = g.independent_name.to_uppercase();
                },
                "names that an answer can hold",
            ),
        ];
        for (change, expected) in table {
            let mut games = games();
            change(&mut games[3]);
            let error = encode(&games).unwrap_err().to_string();
            assert!(
                error.contains("row 3") && error.contains(expected),
                "{error}"
            );
        }
    }

    #[test]
    fn repeats_and_nothing_are_refused() {
        let mut games = games();
        games[7] = GameInstance {
            id: games[7].id.clone(),
            situation: games[2].situation.to_uppercase(),
            ..games[2].clone()
        };
        let error = check(&games).unwrap_err().to_string();
        assert!(
            error.contains("row 7") && error.contains("no other row"),
            "{error}"
        );
        games[7].id = games[2].id.clone();
        assert!(matches!(
            check(&games),
            Err(DatasetError::Duplicate { row: 7, .. })
        ));
        assert!(matches!(check(&[]), Err(DatasetError::Empty)));
    }

    #[test]
    fn files_are_checked_when_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.parquet");
        std::fs::write(&path, encode_parquet(&games()).unwrap()).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(
            error.contains("test.parquet: schema: expected `atp.games/1`, got `none`"),
            "{error}"
        );
    }
}
