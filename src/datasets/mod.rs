//! Data sets as Parquet: question sets, games, problems and preference pairs, checked when they are written and when they
//! are read; exports, cards, and problems imported from the hub.

pub mod card;
pub mod export;
pub mod games;
pub mod import;
pub mod inspect;
pub mod pairs;
pub mod problems;
pub mod questions;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::artifact::table::TableError;

/// Key of the schema version in a file's metadata.
pub const SCHEMA_KEY: &str = "atp.schema";

/// What can be wrong with a data set.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The table itself.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A problem inside a file that was read from disk.
    #[error("{}: {problem}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: Box<DatasetError>,
    },
    /// Another kind of table, or another version of this one.
    #[error(
        "schema: expected `{expected}`, got `{got}`; make the file again with this version of the program"
    )]
    Schema {
        /// This version's schema.
        expected: &'static str,
        /// The file's.
        got: String,
    },
    /// A set without rows.
    #[error("the set has no rows")]
    Empty,
    /// Two rows with one id.
    #[error("row {row}: id `{id}` is there twice")]
    Duplicate {
        /// The later row, from 0.
        row: usize,
        /// The id.
        id: String,
    },
    /// A value breaks a rule.
    #[error("row {row} (`{id}`): `{field}`: expected {expected}, got `{got}`")]
    Value {
        /// The row, from 0.
        row: usize,
        /// Its id.
        id: String,
        /// The field.
        field: &'static str,
        /// What must hold.
        expected: &'static str,
        /// What stands there.
        got: String,
    },
}

/// The file's schema is the expected one.
fn expect_schema(
    metadata: &BTreeMap<String, String>,
    expected: &'static str,
) -> Result<(), DatasetError> {
    match metadata.get(SCHEMA_KEY) {
        Some(got) if got == expected => Ok(()),
        got => Err(DatasetError::Schema {
            expected,
            got: got.map_or("none", String::as_str).to_owned(),
        }),
    }
}

/// There are rows, and no id is there twice.
fn expect_unique<'a>(ids: impl Iterator<Item = &'a str>) -> Result<(), DatasetError> {
    let mut seen = BTreeSet::new();
    for (row, id) in ids.enumerate() {
        if !seen.insert(id) {
            return Err(DatasetError::Duplicate {
                row,
                id: id.to_owned(),
            });
        }
    }
    if seen.is_empty() {
        Err(DatasetError::Empty)
    } else {
        Ok(())
    }
}

/// The bytes of a file.
fn read_file(path: &Path) -> Result<Vec<u8>, DatasetError> {
    Ok(std::fs::read(path).map_err(|source| TableError::Read {
        path: path.to_owned(),
        source,
    })?)
}

/// The problem with its file.
fn in_file(path: &Path, problem: DatasetError) -> DatasetError {
    DatasetError::InFile {
        path: path.to_owned(),
        problem: Box::new(problem),
    }
}
