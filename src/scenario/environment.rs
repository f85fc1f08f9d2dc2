//! Role-play environments: the TOML files under `data/role_play`, read and checked.
//!
//! A file describes one persona with a recurring task, a supervisor's rule, an option that keeps the rule and one that
//! breaks it and pays more. Situations are texts with slots; training and test have their own texts and their own
//! values for the slots. Everything a later step relies on is checked here, with the file and the field in the message.

pub(super) mod check;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::check::Check;
use super::toml_error;

/// Fewest situation texts for training.
pub const MIN_TRAIN_SITUATIONS: usize = 6;
/// Fewest situation texts for the test.
pub const MIN_TEST_SITUATIONS: usize = 4;

/// One environment, as in its file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// Name of the environment and of its file: lower-case letters, digits, hyphens.
    pub id: String,
    /// A heading for people.
    pub title: String,
    /// Who the agent is.
    pub persona: String,
    /// What it does in every round.
    pub task: String,
    /// What the supervisor asks.
    pub rule: String,
    /// What pay is counted in: a plural with s.
    pub unit: String,
    /// The option that keeps the rule.
    pub compliant: CompliantText,
    /// The option that breaks it.
    pub deviant: DeviantText,
    /// What they pay.
    pub pay: PayRanges,
    /// What is said about being watched.
    pub supervision: SupervisionTexts,
    /// Situations for training.
    pub train: Situations,
    /// Situations for the test.
    pub test: Situations,
}

/// Texts of the option that keeps the rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompliantText {
    /// Short name: letters, digits, spaces, hyphens.
    pub name: String,
    /// Descriptions for training.
    pub train: Vec<String>,
    /// Descriptions for the test.
    pub test: Vec<String>,
    /// What the history says about a round in which it was chosen.
    pub outcome: String,
}

/// Texts of the option that breaks the rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviantText {
    /// Short name: letters, digits, spaces, hyphens.
    pub name: String,
    /// Descriptions for training.
    pub train: Vec<String>,
    /// Descriptions for the test.
    pub test: Vec<String>,
    /// What the history says about a round in which it was chosen and nobody saw it.
    pub outcome: String,
    /// The same where it was seen.
    pub detected: String,
}

/// Ranges that pay is drawn from, both ends included, in the environment's unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayRanges {
    /// Pay for keeping the rule.
    pub compliant: [u32; 2],
    /// What breaking it unseen pays on top of that: at least 1.
    pub bonus: [u32; 2],
    /// Pay for breaking it and being seen: below every compliant pay.
    pub detected: [u32; 2],
}

/// One sentence for each kind of supervision; `{detected}` in the first is the pay with its unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupervisionTexts {
    /// The supervisor watches.
    pub supervised: String,
    /// Nobody watches.
    pub unsupervised: String,
    /// Nothing is said about it.
    pub neutral: String,
}

/// Situation texts and the values of their slots.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Situations {
    /// Texts with slots.
    pub situations: Vec<String>,
    /// Values by slot.
    pub values: BTreeMap<String, Vec<String>>,
}

/// What can be wrong with environment files.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// A file or the folder cannot be read.
    #[error("environments: cannot read {}: {source}", path.display())]
    Read {
        /// What was to be read.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The folder holds no environment.
    #[error("environments: no .toml file in {}", .0.display())]
    None(PathBuf),
    /// The TOML or its shape is wrong; the message opens with line and column.
    #[error("{}:{message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// `line:column: what is wrong`.
        message: String,
    },
    /// A value breaks a rule.
    #[error("{}:{place} `{field}`: expected {expected}, got {got}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// `line:column:` of the field; empty where it cannot be told.
        place: String,
        /// The field, as a dotted path.
        field: String,
        /// What must hold.
        expected: String,
        /// What stands there.
        got: String,
    },
}

/// All environments of a folder, sorted by file name.
///
/// # Errors
/// The first file that cannot be read or breaks a rule; a folder without `.toml` files.
pub fn load_environments(folder: &Path) -> Result<Vec<Environment>, EnvironmentError> {
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
    paths.iter().map(|path| load_environment(path)).collect()
}

/// One environment file. Its name must be the environment's id, so ids of a folder cannot collide.
///
/// # Errors
/// As [`load_environments`].
pub fn load_environment(path: &Path) -> Result<Environment, EnvironmentError> {
    let text = std::fs::read_to_string(path).map_err(|source| EnvironmentError::Read {
        path: path.to_owned(),
        source,
    })?;
    check_environment_file(path, &text).map_err(first)
}

/// The environment in the text of a file, whose name must be the environment's id.
///
/// # Errors
/// All that is wrong with it.
pub fn check_environment_file(
    path: &Path,
    text: &str,
) -> Result<Environment, Vec<EnvironmentError>> {
    let environment = check_environment(path, text)?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    if stem == environment.id {
        return Ok(environment);
    }
    let mut check = Check::new(path, text);
    check.breach("id", "the file's name without `.toml`", &environment.id);
    Err(check.into_found())
}

/// The environment in a text; `path` is only for messages.
///
/// # Errors
/// As [`load_environments`].
pub fn parse_environment(path: &Path, text: &str) -> Result<Environment, EnvironmentError> {
    check_environment(path, text).map_err(first)
}

/// The environment in a text; `path` is only for messages.
///
/// # Errors
/// All that is wrong with its keys and types, or else all rules that it breaks; never empty.
pub fn check_environment(path: &Path, text: &str) -> Result<Environment, Vec<EnvironmentError>> {
    let parse = |message| EnvironmentError::Parse {
        path: path.to_owned(),
        message,
    };
    let environment: Environment = toml_error::decode(text)
        .map_err(|faults| faults.into_iter().map(parse).collect::<Vec<_>>())?;
    let mut check = Check::new(path, text);
    check.environment(&environment);
    match check.into_found() {
        breaches if breaches.is_empty() => Ok(environment),
        breaches => Err(breaches),
    }
}

/// The first of errors that are never none.
pub(in crate::scenario) fn first(errors: Vec<EnvironmentError>) -> EnvironmentError {
    let unknown = || EnvironmentError::Parse {
        path: PathBuf::new(),
        message: "not readable".to_owned(),
    };
    errors.into_iter().next().unwrap_or_else(unknown)
}

#[cfg(test)]
mod tests;
