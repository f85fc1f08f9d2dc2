//! A problem with its verified answer, as a flat record.

use serde::{Deserialize, Serialize};

use crate::scenario::question::Split;

/// Which of the testbed's two kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Difficulty {
    /// A word problem of at most three steps: reasoning alone is the cheap way.
    Simple,
    /// A computation that is long by hand: the tool is worth its price.
    Complex,
}

impl Difficulty {
    /// Both, simple first.
    pub const BOTH: [Self; 2] = [Self::Simple, Self::Complex];

    /// `simple` or `complex`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Complex => "complex",
        }
    }
}

/// Where a problem comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Made by this program.
    Generated,
    /// GSM8K.
    Gsm8k,
    /// OpenThoughts-114k.
    OpenThoughts,
}

/// One problem; a row of the problem table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `train/simple/0001`, counted from 0000 within split and difficulty.
    pub id: String,
    /// Training or test.
    pub split: Split,
    /// Simple or complex.
    pub difficulty: Difficulty,
    /// Its family: the generator's name, or the topic of an imported problem.
    pub family: String,
    /// The problem as it is put.
    pub text: String,
    /// The text with slot names in the place of values; the text itself for imported problems.
    pub phrasing: String,
    /// What is computed, without names and wording: `a,b,c`. Empty for imported problems.
    pub parameters: String,
    /// Canonical answer: an integer, a fraction `a/b`, or a decimal.
    pub answer: String,
    /// Python that prints the answer; only the standard library.
    pub program: Option<String>,
    /// Computation steps; for complex problems a lower bound of 4.
    pub steps: u32,
    /// Where it comes from.
    pub source: Source,
}

/// The id of the problem with this number.
pub(crate) fn problem_id(split: Split, difficulty: Difficulty, number: usize) -> String {
    format!("{}/{}/{number:04}", split.name(), difficulty.name())
}
