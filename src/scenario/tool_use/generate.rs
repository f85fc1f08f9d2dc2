//! Draws the problem sets: families balanced, training and test computations apart, every answer computed twice.
//!
//! What is computed decides the split: the digest of family and parameters puts an instance into training or test for
//! good, whatever the seed, so sets of different runs do not leak into each other either. Texts of training and test use
//! different phrasings. Problems are dealt round by round, a family once a round, the order rotated so that each
//! family's problems alternate between even and odd numbers (the prompt's counterbalancing goes by them).

use std::collections::{BTreeMap, BTreeSet};

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::criteria::simple_criteria;
use super::disjointness::{ProblemDisjointness, ProblemOverlap, check_disjoint};
use super::families::{Drawn, Family, all};
use super::problem::{Difficulty, Problem, Source, problem_id};
use crate::runtime::seed::{derive, stream};
use crate::scenario::question::Split;
use crate::scenario::slots::{fill, pieces};

/// Draws of one problem before its family is held to be exhausted.
const MAX_DRAWS: u32 = 5000;
/// Most problems of one split and difficulty.
const MAX_PROBLEMS: u32 = 9999;
/// Least size of a complex problem's answer: smaller ones can be guessed.
const LEAST_COMPLEX: i128 = 100;
/// Eighths of the computations that are kept for the test: the share that the default numbers need.
const TEST_EIGHTHS: u64 = 3;

/// How many problems to draw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProblemSpec {
    /// Simple training problems.
    pub train_simple: u32,
    /// Complex training problems.
    pub train_complex: u32,
    /// Simple test problems.
    pub test_simple: u32,
    /// Complex test problems.
    pub test_complex: u32,
}

impl Default for ProblemSpec {
    /// 2000 training problems for 2000 pairs; the paper's 500 and 300 for the test.
    fn default() -> Self {
        Self {
            train_simple: 1250,
            train_complex: 750,
            test_simple: 500,
            test_complex: 300,
        }
    }
}

impl ProblemSpec {
    /// How many of this kind.
    pub fn count(&self, split: Split, difficulty: Difficulty) -> u32 {
        match (split, difficulty) {
            (Split::Train, Difficulty::Simple) => self.train_simple,
            (Split::Train, Difficulty::Complex) => self.train_complex,
            (Split::Test, Difficulty::Simple) => self.test_simple,
            (Split::Test, Difficulty::Complex) => self.test_complex,
        }
    }
}

/// Both sets, proven disjoint.
#[derive(Debug, Clone, PartialEq)]
pub struct ProblemSet {
    /// Training problems, the simple ones first.
    pub train: Vec<Problem>,
    /// Test problems, the simple ones first.
    pub test: Vec<Problem>,
    /// What the proof measured.
    pub disjointness: ProblemDisjointness,
}

/// Why no sets could be made.
#[derive(Debug, thiserror::Error)]
pub enum ProblemError {
    /// A number that makes no sense.
    #[error("problems: `{field}`: expected at most {MAX_PROBLEMS}, got {got}")]
    Count {
        /// The setting.
        field: &'static str,
        /// Its value.
        got: u32,
    },
    /// Nothing was asked for.
    #[error(
        "problems: all counts are 0; ask for some problems in at least one of train_simple, train_complex, test_simple, test_complex"
    )]
    Nothing,
    /// A family does not have as many problems as asked.
    #[error(
        "problems: family `{family}`, {}: no new problem for number {index} of {wanted} in {MAX_DRAWS} draws; last \
         reason: {reason}; ask for fewer problems",
        split.name()
    )]
    Exhausted {
        /// The family.
        family: &'static str,
        /// The split.
        split: Split,
        /// The problem, from 1.
        index: u32,
        /// How many were asked for.
        wanted: u32,
        /// Why the last draw was refused.
        reason: String,
    },
    /// The two computations of an answer differ: a fault of the program.
    #[error(
        "problems: family `{family}`, parameters {parameters}: one way of computing gives {first}, the other {second}"
    )]
    Disagreement {
        /// The family.
        family: &'static str,
        /// The instance.
        parameters: String,
        /// The first answer.
        first: String,
        /// The second answer.
        second: String,
    },
    /// A phrasing asks for a slot that its family does not fill: a fault of the program.
    #[error("problems: family `{family}`: {problem}")]
    Phrasing {
        /// The family.
        family: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The sets overlap.
    #[error("problems: {0}")]
    Overlap(#[from] ProblemOverlap),
}

/// The split that a computation belongs to.
pub fn split_of(family: &str, parameters: &str) -> Split {
    // A fixed root: the partition is the same in every run.
    let digest = derive(0, &format!("problems/split/{family}/{parameters}"));
    if digest % 8 < TEST_EIGHTHS {
        Split::Test
    } else {
        Split::Train
    }
}

/// Draws both sets. They depend on the spec and the seed alone.
///
/// # Errors
/// See [`ProblemError`].
pub fn generate(spec: &ProblemSpec, seed: u64) -> Result<ProblemSet, ProblemError> {
    for (field, got) in [
        ("train_simple", spec.train_simple),
        ("train_complex", spec.train_complex),
        ("test_simple", spec.test_simple),
        ("test_complex", spec.test_complex),
    ] {
        if got > MAX_PROBLEMS {
            return Err(ProblemError::Count { field, got });
        }
    }
    let families = all();
    let mut sets = [Vec::new(), Vec::new()];
    for (set, split) in sets.iter_mut().zip([Split::Train, Split::Test]) {
        for difficulty in Difficulty::BOTH {
            let of: Vec<&Family> = families
                .iter()
                .filter(|f| f.difficulty == difficulty)
                .collect();
            set.extend(draw_kind(
                &of,
                split,
                difficulty,
                spec.count(split, difficulty),
                seed,
            )?);
        }
    }
    let [train, test] = sets;
    if train.is_empty() && test.is_empty() {
        return Err(ProblemError::Nothing);
    }
    let disjointness = check_disjoint(&train, &test)?;
    Ok(ProblemSet {
        train,
        test,
        disjointness,
    })
}

/// The problems of one split and difficulty.
fn draw_kind(
    families: &[&Family],
    split: Split,
    difficulty: Difficulty,
    count: u32,
    seed: u64,
) -> Result<Vec<Problem>, ProblemError> {
    let order = deal(families.len(), count as usize);
    let mut dealt: Vec<std::vec::IntoIter<Problem>> = Vec::new();
    for (i, family) in families.iter().enumerate() {
        let wanted = order.iter().filter(|f| **f == i).count() as u32;
        dealt.push(draw_family(family, split, wanted, seed)?.into_iter());
    }
    let mut problems = Vec::new();
    for family in order {
        problems.extend(dealt[family].next().map(|problem| Problem {
            id: problem_id(split, difficulty, problems.len()),
            ..problem
        }));
    }
    Ok(problems)
}

/// The family of each problem. With an even number of families every round is rotated by one, so that a family's
/// problems stand at even and odd places in turn; with an odd number they do so anyway.
fn deal(families: usize, count: usize) -> Vec<usize> {
    (0..count)
        .map(|i| {
            let (round, place) = (i / families, i % families);
            let turn = if families.is_multiple_of(2) {
                round % families
            } else {
                0
            };
            (place + families - turn) % families
        })
        .collect()
}

/// The problems of one family and split, without their ids.
fn draw_family(
    family: &Family,
    split: Split,
    wanted: u32,
    seed: u64,
) -> Result<Vec<Problem>, ProblemError> {
    let mut rng = stream(seed, &format!("problems/{}/{}", split.name(), family.name));
    let phrasings = match split {
        Split::Train => family.train,
        Split::Test => family.test,
    };
    let mut deck: Vec<usize> = Vec::new();
    let mut known = BTreeSet::new();
    let mut problems = Vec::new();
    for index in 1..=wanted {
        // Each phrasing once before any comes again, in a new order every time.
        if deck.is_empty() {
            deck = (0..phrasings.len()).collect();
            deck.shuffle(&mut rng);
        }
        let phrasing = phrasings[deck.pop().unwrap_or(0)];
        let mut reason = "the parameters drawn were refused".to_owned();
        let mut found = None;
        for _ in 0..MAX_DRAWS {
            let Some(drawn) = (family.draw)(&mut rng) else {
                continue;
            };
            match admit(family, split, phrasing, drawn, &mut known)? {
                Ok(problem) => {
                    found = Some(problem);
                    break;
                }
                Err(why) => reason = why,
            }
        }
        problems.push(found.ok_or(ProblemError::Exhausted {
            family: family.name,
            split,
            index,
            wanted,
            reason,
        })?);
    }
    Ok(problems)
}

/// The drawn instance as a problem, or why it is not taken.
fn admit(
    family: &Family,
    split: Split,
    phrasing: &str,
    drawn: Drawn,
    known: &mut BTreeSet<String>,
) -> Result<Result<Problem, String>, ProblemError> {
    let Drawn {
        parameters,
        slots,
        answers: [first, second],
        program,
    } = drawn;
    if first != second {
        return Err(ProblemError::Disagreement {
            family: family.name,
            parameters,
            first: first.to_string(),
            second: second.to_string(),
        });
    }
    if split_of(family.name, &parameters) != split {
        return Ok(Err("the parameters belong to the other split".into()));
    }
    if known.contains(&parameters) {
        return Ok(Err(format!("parameters {parameters} were drawn before")));
    }
    let phrasing_error = |problem| ProblemError::Phrasing {
        family: family.name,
        problem,
    };
    let values: BTreeMap<&str, String> = slots.into_iter().collect();
    let text = fill(&pieces(phrasing).map_err(phrasing_error)?, &values)
        .map_err(|slot| phrasing_error(format!("no value for slot `{slot}`")))?;
    let answer = first.to_string();
    match family.difficulty {
        Difficulty::Simple => {
            if let Err(criterion) = simple_criteria(&text, family.steps, &answer) {
                return Ok(Err(format!("a simple problem has {criterion}: {text}")));
            }
        }
        Difficulty::Complex => {
            let large = first
                .as_ratio()
                .is_some_and(|(n, d)| d == 1 && n.abs() >= LEAST_COMPLEX);
            if !large {
                return Ok(Err(format!("the answer {answer} could be guessed")));
            }
        }
    }
    known.insert(parameters.clone());
    Ok(Ok(Problem {
        id: String::new(),
        split,
        difficulty: family.difficulty,
        family: family.name.to_owned(),
        text,
        phrasing: phrasing.to_owned(),
        parameters,
        answer,
        program: Some(program),
        steps: family.steps,
        source: Source::Generated,
    }))
}

#[cfg(test)]
mod tests;
