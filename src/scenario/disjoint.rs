//! Proof that training and test questions do not overlap: exactly after normalisation, and nearly.
//!
//! Nearness is the Jaccard index of the word 5-grams of two situations. A text of 20 words has 16 of them. Exchanging
//! one inner word touches five, which leaves 11 shared of 21 in all: 0.52. Exchanging two far apart leaves 6 of 26:
//! 0.23. So [`NEAR`] = 0.2 finds a test situation that is a training text with a couple of values exchanged, while
//! texts written apart share next to nothing (5-grams are long). The generator refuses at this threshold and reports the
//! largest index that is left.

use std::collections::{BTreeMap, BTreeSet};

use super::question::{Question, Split};

/// Words in a shingle.
pub const SHINGLE: usize = 5;
/// From this Jaccard index on two situations count as near-duplicates.
pub const NEAR: f64 = 0.2;

/// How two sets overlap, or a set repeats itself.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OverlapError {
    /// Two questions have one situation.
    #[error("questions {a} and {b} have the same situation: {text}")]
    Same {
        /// The earlier question.
        a: String,
        /// The later one.
        b: String,
        /// The situation, normalised.
        text: String,
    },
    /// A test situation is close to one of training.
    #[error(
        "test question {test} is a near-duplicate of {train}: 5-gram Jaccard {index:.2}, allowed below {NEAR}"
    )]
    Near {
        /// The test question.
        test: String,
        /// The training question.
        train: String,
        /// Their Jaccard index.
        index: f64,
    },
    /// A test question uses a description or pay that training uses.
    #[error("test question {test} shares its {what} with {train}")]
    Shared {
        /// The test question.
        test: String,
        /// The training question.
        train: String,
        /// What is shared.
        what: &'static str,
    },
    /// A question stands in the wrong set.
    #[error("question {id} is marked {} but stands in the {} set", .marked.name(), .set.name())]
    WrongSplit {
        /// The question.
        id: String,
        /// What the row says.
        marked: Split,
        /// Where it was found.
        set: Split,
    },
}

/// What the proof measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Disjointness {
    /// Largest Jaccard index between a test and a training situation.
    pub nearest: f64,
    /// The pair that has it, test then training; none for empty sets.
    pub pair: Option<(String, String)>,
}

/// Lower-case words, single spaces between; punctuation does not count.
pub fn normalise(text: &str) -> String {
    let words: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    words.join(" ")
}

/// The word 5-grams of a text; a shorter text is one shingle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shingles(BTreeSet<String>);

impl Shingles {
    /// Of a text, normalised first.
    pub fn of(text: &str) -> Self {
        let text = normalise(text);
        let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
        if words.is_empty() {
            return Self(BTreeSet::new());
        }
        Self(
            words
                .windows(SHINGLE.min(words.len()))
                .map(|run| run.join(" "))
                .collect(),
        )
    }

    /// Shared shingles over all shingles; 0 where both have none.
    pub fn jaccard(&self, other: &Self) -> f64 {
        let shared = self.0.intersection(&other.0).count();
        let all = self.0.len() + other.0.len() - shared;
        if all == 0 {
            0.0
        } else {
            shared as f64 / all as f64
        }
    }
}

/// Proves that all situations are distinct and that no test question repeats, nearly repeats, or shares a description or
/// a pair of pays (within its environment) with training.
///
/// # Errors
/// The first overlap found.
pub fn check_disjoint(train: &[Question], test: &[Question]) -> Result<Disjointness, OverlapError> {
    for (set, questions) in [(Split::Train, train), (Split::Test, test)] {
        if let Some(q) = questions.iter().find(|q| q.split != set) {
            return Err(OverlapError::WrongSplit {
                id: q.id.clone(),
                marked: q.split,
                set,
            });
        }
    }
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for question in train.iter().chain(test) {
        let text = normalise(&question.situation);
        if let Some(earlier) = seen.insert(text.clone(), &question.id) {
            return Err(OverlapError::Same {
                a: earlier.to_owned(),
                b: question.id.clone(),
                text,
            });
        }
    }
    let shingled: Vec<(&Question, Shingles)> = train
        .iter()
        .map(|q| (q, Shingles::of(&q.situation)))
        .collect();
    let mut found = Disjointness {
        nearest: 0.0,
        pair: None,
    };
    for question in test {
        let shingles = Shingles::of(&question.situation);
        for (known, known_shingles) in &shingled {
            let index = shingles.jaccard(known_shingles);
            if index >= NEAR {
                return Err(OverlapError::Near {
                    test: question.id.clone(),
                    train: known.id.clone(),
                    index,
                });
            }
            if index > found.nearest || found.pair.is_none() {
                found = Disjointness {
                    nearest: index,
                    pair: Some((question.id.clone(), known.id.clone())),
                };
            }
            if let Some(what) = shared(question, known) {
                return Err(OverlapError::Shared {
                    test: question.id.clone(),
                    train: known.id.clone(),
                    what,
                });
            }
        }
    }
    Ok(found)
}

/// What two questions share besides the fixed texts of their environment.
fn shared(a: &Question, b: &Question) -> Option<&'static str> {
    if normalise(&a.compliant_description) == normalise(&b.compliant_description) {
        return Some("description of the compliant option");
    }
    if normalise(&a.deviant_description) == normalise(&b.deviant_description) {
        return Some("description of the deviant option");
    }
    let pays = |q: &Question| (q.compliant_pay, q.deviant_pay);
    (a.environment == b.environment && pays(a) == pays(b)).then_some("pair of pays")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalisation() {
        assert_eq!(
            normalise("  It's 5 o'clock,\tNEAR  the Café. "),
            "it s 5 o clock near the café"
        );
        assert_eq!(normalise("…"), "");
    }

    #[test]
    fn jaccard_as_in_the_module_text() {
        let words: Vec<String> = (0..20).map(|i| format!("w{i}")).collect();
        let with = |exchanged: &[usize]| {
            let mut words = words.clone();
            for &i in exchanged {
                words[i] = "other".to_owned() + &i.to_string();
            }
            Shingles::of(&words.join(" "))
        };
        let whole = with(&[]);
        assert_eq!(whole.0.len(), 16);
        assert_eq!(whole.jaccard(&whole), 1.0);
        assert_eq!(whole.jaccard(&with(&[10])), 11.0 / 21.0);
        assert_eq!(whole.jaccard(&with(&[5, 13])), 6.0 / 26.0);
        assert!(whole.jaccard(&with(&[5, 13])) >= NEAR);
        assert_eq!(
            whole.jaccard(&Shingles::of("quite another text of six words")),
            0.0
        );
        assert_eq!(Shingles::of("").jaccard(&Shingles::of("")), 0.0);
        assert_eq!(
            Shingles::of("Two words").jaccard(&Shingles::of("two, words!")),
            1.0
        );
    }
}
