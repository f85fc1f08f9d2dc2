//! Proof that training and test problems do not overlap.
//!
//! Templated problems of one family are alike by nature, so the proof has three parts: no text is there twice; no
//! computation (family and parameters) is there twice, over both sets; and no test phrasing comes near a training
//! phrasing, by the Jaccard index of their word 3-grams with slot names in the place of values. Imported problems have no
//! parameters; their texts are their phrasings.

use std::collections::BTreeMap;

use serde::Serialize;

use super::problem::{Problem, Source};
use crate::scenario::disjoint::{Nearest, PHRASING_WORDS, Shingles, normalise};
use crate::scenario::question::Split;

/// From this Jaccard index on two phrasings of generated problems count as near-duplicates. Those of one family share
/// its terms (`rectangle`, `how many dollars`), so the limit is above that of whole situations; a copy of eleven words
/// with two exchanged is at 0.5.
pub const NEAR_GENERATED: f64 = 0.3;
/// The same for imported texts.
pub const NEAR_IMPORTED: f64 = 0.5;

/// How the sets overlap, or repeat themselves.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ProblemOverlap {
    /// Two problems have one text.
    #[error("problems {a} and {b} have the same text: {text}")]
    SameText {
        /// The earlier one.
        a: String,
        /// The later one.
        b: String,
        /// The text, normalised.
        text: String,
    },
    /// Two problems ask for one computation.
    #[error("problems {a} and {b} are the same computation: {family} of {parameters}")]
    SameComputation {
        /// The earlier one.
        a: String,
        /// The later one.
        b: String,
        /// Their family.
        family: String,
        /// Their parameters.
        parameters: String,
    },
    /// A test phrasing is close to one of training.
    #[error(
        "test problem {test} is worded nearly as {train}: 3-gram Jaccard {index:.2}, allowed below {limit}; write the \
         test's phrasing anew or leave the problem out"
    )]
    Near {
        /// The test problem.
        test: String,
        /// The training problem.
        train: String,
        /// Their Jaccard index.
        index: f64,
        /// The threshold.
        limit: f64,
    },
    /// A problem stands in the wrong set.
    #[error("problem {id} is marked {} but stands in the {} set", .marked.name(), .set.name())]
    WrongSplit {
        /// The problem.
        id: String,
        /// What the row says.
        marked: Split,
        /// Where it was found.
        set: Split,
    },
}

/// What the proof found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProblemDisjointness {
    /// Different texts over both sets: as many as there are problems.
    pub texts: usize,
    /// Different computations over both sets: as many as there are generated problems.
    pub computations: usize,
    /// The test and the training phrasing that are nearest.
    pub phrasings: Nearest,
}

/// Proves that all texts and computations are distinct and that no test phrasing comes near training's.
///
/// # Errors
/// The first overlap found.
pub fn check_disjoint(
    train: &[Problem],
    test: &[Problem],
) -> Result<ProblemDisjointness, ProblemOverlap> {
    for (set, problems) in [(Split::Train, train), (Split::Test, test)] {
        if let Some(p) = problems.iter().find(|p| p.split != set) {
            return Err(ProblemOverlap::WrongSplit {
                id: p.id.clone(),
                marked: p.split,
                set,
            });
        }
    }
    let mut texts: BTreeMap<String, &str> = BTreeMap::new();
    let mut computations: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for problem in train.iter().chain(test) {
        let text = distinguishing(&problem.text);
        if let Some(earlier) = texts.insert(text.clone(), &problem.id) {
            return Err(ProblemOverlap::SameText {
                a: earlier.to_owned(),
                b: problem.id.clone(),
                text,
            });
        }
        if problem.parameters.is_empty() {
            continue;
        }
        let key = (problem.family.as_str(), problem.parameters.as_str());
        if let Some(earlier) = computations.insert(key, &problem.id) {
            return Err(ProblemOverlap::SameComputation {
                a: earlier.to_owned(),
                b: problem.id.clone(),
                family: problem.family.clone(),
                parameters: problem.parameters.clone(),
            });
        }
    }
    Ok(ProblemDisjointness {
        texts: texts.len(),
        computations: computations.len(),
        phrasings: nearest(train, test)?,
    })
}

/// Lower case, white space as single spaces; signs and punctuation stay, since they tell matrices apart.
fn distinguishing(text: &str) -> String {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    words.join(" ")
}

/// The nearest phrasings, each different one looked at once.
fn nearest(train: &[Problem], test: &[Problem]) -> Result<Nearest, ProblemOverlap> {
    let known = Phrasings::of(train);
    let mut found = Nearest::default();
    let mut seen = std::collections::BTreeSet::new();
    for problem in test.iter().filter(|p| seen.insert(normalise(&p.phrasing))) {
        let Some((index, near)) = known.nearest(&problem.phrasing) else {
            continue;
        };
        let limit = match problem.source {
            Source::Generated => NEAR_GENERATED,
            Source::Gsm8k | Source::OpenThoughts => NEAR_IMPORTED,
        };
        if index >= limit {
            return Err(ProblemOverlap::Near {
                test: problem.id.clone(),
                train: near.to_owned(),
                index,
                limit,
            });
        }
        if index > found.index {
            found = Nearest {
                index,
                pair: Some((problem.id.clone(), near.to_owned())),
            };
        }
    }
    Ok(found)
}

/// Phrasings by their 3-grams, so that a text meets only those it shares one with.
pub(crate) struct Phrasings<'a> {
    /// Id of the first problem with a phrasing, and how many 3-grams it has.
    items: Vec<(&'a str, usize)>,
    by_shingle: BTreeMap<String, Vec<u32>>,
}

impl<'a> Phrasings<'a> {
    /// The different phrasings of some problems.
    pub(crate) fn of(problems: &'a [Problem]) -> Self {
        let mut this = Self {
            items: Vec::new(),
            by_shingle: BTreeMap::new(),
        };
        let mut seen = std::collections::BTreeSet::new();
        for problem in problems {
            if !seen.insert(problem.phrasing.as_str()) {
                continue;
            }
            let shingles = Shingles::of(&problem.phrasing, PHRASING_WORDS);
            let item = this.items.len() as u32;
            this.items.push((&problem.id, shingles.iter().len()));
            for shingle in shingles.iter() {
                this.by_shingle
                    .entry(shingle.to_owned())
                    .or_default()
                    .push(item);
            }
        }
        this
    }

    /// The highest Jaccard index with this text, and whose it is.
    pub(crate) fn nearest(&self, text: &str) -> Option<(f64, &'a str)> {
        let shingles = Shingles::of(text, PHRASING_WORDS);
        let mut shared: BTreeMap<u32, usize> = BTreeMap::new();
        for shingle in shingles.iter() {
            for item in self.by_shingle.get(shingle).into_iter().flatten() {
                *shared.entry(*item).or_default() += 1;
            }
        }
        let own = shingles.iter().len();
        let index = |(item, shared): (u32, usize)| {
            let (id, size) = self.items[item as usize];
            (shared as f64 / (own + size - shared) as f64, id)
        };
        // Of equals the first.
        shared
            .into_iter()
            .map(index)
            .fold(None, |best, next| match best {
                Some((most, _)) if most >= next.0 => best,
                _ => Some(next),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::super::problem::{Difficulty, Source};
    use super::*;

    fn problem(id: &str, split: Split, text: &str, parameters: &str) -> Problem {
        Problem {
            id: id.into(),
            split,
            difficulty: Difficulty::Complex,
            family: "sums".into(),
            text: text.into(),
            phrasing: text.into(),
            parameters: parameters.into(),
            answer: "100".into(),
            program: None,
            steps: 4,
            source: Source::Generated,
        }
    }

    #[test]
    fn overlaps_are_named() {
        let a = problem(
            "train/1",
            Split::Train,
            "What is the sum of the numbers from one to nine?",
            "1,9",
        );
        let other = |text: &str, parameters: &str| problem("test/1", Split::Test, text, parameters);
        let check = |b: Problem| check_disjoint(std::slice::from_ref(&a), &[b]);
        let apart = "Add up everything between two and twelve.";
        let found = check(other(apart, "2,12")).unwrap();
        assert_eq!(
            (found.texts, found.computations, found.phrasings.index),
            (2, 2, 0.0)
        );
        let same = "what is the  SUM of the numbers from one to nine?";
        assert!(matches!(
            check(other(same, "2,9")),
            Err(ProblemOverlap::SameText { .. })
        ));
        assert!(matches!(
            check(other(apart, "1,9")),
            Err(ProblemOverlap::SameComputation { .. })
        ));
        // Two words exchanged.
        let near = "What is the sum of the numbers from two to eight?";
        let Err(ProblemOverlap::Near { index, .. }) = check(other(near, "2,8")) else {
            panic!("a near copy was let through");
        };
        assert_eq!(index, 0.5);
        let wrong = problem("test/1", Split::Train, apart, "2,12");
        assert!(matches!(
            check(wrong),
            Err(ProblemOverlap::WrongSplit { .. })
        ));
    }
}
