//! Games as data: the TOML files under `data/coordination`, read and checked.
//!
//! A file describes who the agents are, two options with neutral names, what the history says, and situations for
//! training and test. `mode` and `success` choose the mechanics; the numbers are drawn later.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::check;
use super::setting::{Mode, SuccessPays};
use crate::runtime::embedded::GAMES;
use crate::scenario::environment::check::Check;
use crate::scenario::environment::{EnvironmentError, Situations, first};
use crate::scenario::toml_error;

/// One game, as in its file.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Game {
    /// Name of the game and of its file: lower-case letters, digits, hyphens.
    pub id: String,
    /// A heading for people.
    pub title: String,
    /// Who the agent is.
    pub persona: String,
    /// What it does in every round.
    pub task: String,
    /// What one agent is called, such as `household`.
    pub agent: String,
    /// What several are called.
    pub agents: String,
    /// What a round multiplies or adds to, such as `savings`.
    pub stock: String,
    /// How rewards change the stock.
    pub mode: Mode,
    /// Who gets the high reward of a round that succeeds.
    pub success: SuccessPays,
    /// The option that needs company.
    pub collusive: OptionText,
    /// The option that does not.
    pub independent: OptionText,
    /// What later rounds say about earlier ones.
    pub history: HistoryText,
    /// Situations for training.
    pub train: Situations,
    /// Situations for the test.
    pub test: Situations,
}

/// Texts of one option.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OptionText {
    /// Short name: letters, digits, spaces, hyphens.
    pub name: String,
    /// Descriptions for training.
    pub train: Vec<String>,
    /// Descriptions for the test.
    pub test: Vec<String>,
}

/// Texts about a round that is over.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryText {
    /// The threshold was met.
    pub success: String,
    /// It was not.
    pub failure: String,
    /// A line for each other agent that is seen: `{peer}` is its name and `{option}` its choice.
    pub peer: String,
}

/// All games of a folder, sorted by file name.
///
/// # Errors
/// The first file that cannot be read or breaks a rule; a folder without `.toml` files.
pub fn load_games(folder: &Path) -> Result<Vec<Game>, EnvironmentError> {
    let read = |source| EnvironmentError::Read {
        path: folder.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|e| e == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        return Err(EnvironmentError::None(folder.to_owned()));
    }
    paths.iter().map(|path| load_game(path)).collect()
}

/// One game file. Its name must be the game's id, so ids of a folder cannot collide.
///
/// # Errors
/// As [`load_games`].
pub fn load_game(path: &Path) -> Result<Game, EnvironmentError> {
    let text = std::fs::read_to_string(path).map_err(|source| EnvironmentError::Read {
        path: path.to_owned(),
        source,
    })?;
    check_game_file(path, &text).map_err(first)
}

/// The game in the text of a file, whose name must be the game's id.
///
/// # Errors
/// All that is wrong with it.
pub fn check_game_file(path: &Path, text: &str) -> Result<Game, Vec<EnvironmentError>> {
    let game = check_game(path, text)?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    if stem == game.id {
        return Ok(game);
    }
    let mut check = Check::new(path, text);
    check.breach("id", "the file's name without `.toml`", &game.id);
    Err(check.into_found())
}

/// The game in a text; `path` is only for messages.
///
/// # Errors
/// As [`load_games`].
pub fn parse_game(path: &Path, text: &str) -> Result<Game, EnvironmentError> {
    check_game(path, text).map_err(first)
}

/// The game in a text; `path` is only for messages.
///
/// # Errors
/// All that is wrong with its keys and types, or else all rules that it breaks; never empty.
pub fn check_game(path: &Path, text: &str) -> Result<Game, Vec<EnvironmentError>> {
    let parse = |message| EnvironmentError::Parse {
        path: path.to_owned(),
        message,
    };
    let game: Game = toml_error::decode(text)
        .map_err(|faults| faults.into_iter().map(parse).collect::<Vec<_>>())?;
    let mut found = Check::new(path, text);
    check::game(&mut found, &game);
    match found.into_found() {
        breaches if breaches.is_empty() => Ok(game),
        breaches => Err(breaches),
    }
}

/// The games that come with the program, by id.
///
/// # Errors
/// None for the files as they ship: a test reads them.
pub fn shipped_games() -> Result<Vec<Game>, EnvironmentError> {
    GAMES
        .iter()
        .map(|(name, text)| {
            parse_game(
                &PathBuf::from(format!("data/coordination/{name}.toml")),
                text,
            )
        })
        .collect()
}

#[cfg(test)]
mod tests;
