//! Proof that training and test questions do not overlap: exactly after normalisation, and nearly.
//!
//! Nearness is the Jaccard index of word n-grams, measured twice for each pair of a test and a training question:
//!
//! - the situations as the model reads them, by 5-grams, below [`NEAR_SITUATION`] = 0.1. Texts written apart share no
//!   run of five words; a copy of 20 words with one exchanged has 11 of 21 5-grams in common (0.52), with two exchanged
//!   still 6 of 26 (0.23).
//! - their phrasings, the texts with slot names in the place of values, by 3-grams, below [`NEAR_PHRASING`] = 0.15.
//!   The first measure alone would be blind: situations have 9 to 19 words and a slot every four or so, and of one
//!   phrasing filled with training's and with the test's values it sees 23 %. Of copies of shipped phrasings with two
//!   words exchanged the second finds 99 %, with three 88 %; 5-grams at 0.1 would find 81 % and 53 %. The tests below
//!   hold these figures.
//!
//! The largest indices that are left are handed out with the proof.

use std::collections::{BTreeMap, BTreeSet};

use super::question::{Question, Split};

/// Words in a shingle of a situation.
pub const SITUATION_WORDS: usize = 5;
/// From this Jaccard index on two situations count as near-duplicates.
pub const NEAR_SITUATION: f64 = 0.1;
/// Words in a shingle of a phrasing.
pub const PHRASING_WORDS: usize = 3;
/// From this Jaccard index on two phrasings count as near-duplicates.
pub const NEAR_PHRASING: f64 = 0.15;

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
    /// A test text is close to one of training.
    #[error(
        "test question {test} is a near-duplicate of {train}: n-gram Jaccard {index:.2} of their {what}s, allowed below \
         {limit}; write the test's text anew"
    )]
    Near {
        /// `situation` or `phrasing`.
        what: &'static str,
        /// The threshold.
        limit: f64,
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
    /// The nearest situations.
    pub situations: Nearest,
    /// The nearest phrasings.
    pub phrasings: Nearest,
}

/// The test and the training question that are nearest to each other.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Nearest {
    /// Their Jaccard index.
    pub index: f64,
    /// Test question, then training question; none where no pair shares anything.
    pub pair: Option<(String, String)>,
}

impl Nearest {
    /// Takes a pair in, or refuses it from `limit` on.
    fn admit(
        &mut self,
        what: &'static str,
        limit: f64,
        index: f64,
        (test, train): (&Question, &Question),
    ) -> Result<(), OverlapError> {
        if index >= limit {
            let (test, train) = (test.id.clone(), train.id.clone());
            return Err(OverlapError::Near {
                what,
                limit,
                test,
                train,
                index,
            });
        }
        if index > self.index {
            *self = Self {
                index,
                pair: Some((test.id.clone(), train.id.clone())),
            };
        }
        Ok(())
    }
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

/// The word n-grams of a text; a shorter text is one shingle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shingles(BTreeSet<String>);

impl Shingles {
    /// The runs of `length` words (at least one) in a text, normalised first.
    pub fn of(text: &str, length: usize) -> Self {
        let text = normalise(text);
        let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
        if words.is_empty() {
            return Self(BTreeSet::new());
        }
        Self(
            words
                .windows(length.clamp(1, words.len()))
                .map(|run| run.join(" "))
                .collect(),
        )
    }

    /// All shingles, in order.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(String::as_str)
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
    let known: Vec<Shingled<'_>> = train.iter().map(Shingled::of).collect();
    let mut found = Disjointness {
        situations: Nearest::default(),
        phrasings: Nearest::default(),
    };
    for a in test.iter().map(Shingled::of) {
        for b in &known {
            let pair = (a.question, b.question);
            let index = a.situation.jaccard(&b.situation);
            found
                .situations
                .admit("situation", NEAR_SITUATION, index, pair)?;
            let index = a.phrasing.jaccard(&b.phrasing);
            found
                .phrasings
                .admit("phrasing", NEAR_PHRASING, index, pair)?;
            if let Some(what) = shared(a.question, b.question) {
                let (test, train) = (a.question.id.clone(), b.question.id.clone());
                return Err(OverlapError::Shared { test, train, what });
            }
        }
    }
    Ok(found)
}

/// A question with its shingles.
struct Shingled<'a> {
    question: &'a Question,
    situation: Shingles,
    phrasing: Shingles,
}

impl<'a> Shingled<'a> {
    fn of(question: &'a Question) -> Self {
        Self {
            question,
            situation: Shingles::of(&question.situation, SITUATION_WORDS),
            phrasing: Shingles::of(&question.phrasing_text, PHRASING_WORDS),
        }
    }
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
    use std::path::Path;

    use rand::Rng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::runtime::seed::stream;
    use crate::scenario::environment::{Environment, load_environments};
    use crate::scenario::slots::{fill, pieces};

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
            Shingles::of(&words.join(" "), 5)
        };
        let whole = with(&[]);
        assert_eq!(whole.0.len(), 16);
        assert_eq!(whole.jaccard(&whole), 1.0);
        assert_eq!(whole.jaccard(&with(&[10])), 11.0 / 21.0);
        assert_eq!(whole.jaccard(&with(&[5, 13])), 6.0 / 26.0);
        assert!(whole.jaccard(&with(&[5, 13])) >= NEAR_SITUATION);
        assert_eq!(
            whole.jaccard(&Shingles::of("quite another text of six words", 5)),
            0.0
        );
        assert_eq!(Shingles::of("", 5).jaccard(&Shingles::of("", 5)), 0.0);
        assert_eq!(
            Shingles::of("Two words", 5).jaccard(&Shingles::of("two, words!", 5)),
            1.0
        );
    }

    /// Share of `trials` in which `near` holds, with shipped phrasings and a random stream.
    fn share(near: impl Fn(&Environment, &str, &mut ChaCha8Rng) -> bool) -> f64 {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/role_play");
        let mut rng = stream(1, "disjoint/tests");
        let (mut found, mut all) = (0, 0);
        for env in load_environments(&folder).unwrap() {
            for text in env
                .train
                .situations
                .iter()
                .flat_map(|text| std::iter::repeat_n(text, 40))
            {
                found += usize::from(near(&env, text, &mut rng));
                all += 1;
            }
        }
        found as f64 / all as f64
    }

    #[test]
    fn copies_with_exchanged_words_are_found_by_their_phrasing() {
        let found = |exchanged: usize, length: usize, limit: f64| {
            share(|_, text, rng| {
                let normal = normalise(text);
                let mut words: Vec<&str> = normal.split(' ').collect();
                for i in rand::seq::index::sample(rng, words.len(), exchanged) {
                    words[i] = "other";
                }
                Shingles::of(text, length).jaccard(&Shingles::of(&words.join(" "), length)) >= limit
            })
        };
        let phrasing = |exchanged| found(exchanged, PHRASING_WORDS, NEAR_PHRASING);
        let by_five = |exchanged| found(exchanged, SITUATION_WORDS, NEAR_SITUATION);
        assert!(phrasing(1) > 0.99 && phrasing(2) > 0.97 && phrasing(3) > 0.84);
        assert!(by_five(2) < 0.86 && by_five(3) < 0.58);
    }

    #[test]
    fn filled_situations_alone_hide_a_copied_phrasing() {
        let seen = share(|env, text, rng| {
            let mut filled = |values: &BTreeMap<String, Vec<String>>| {
                let values = values
                    .iter()
                    .map(|(k, v)| (k.as_str(), v[rng.random_range(0..v.len())].clone()))
                    .collect();
                Shingles::of(
                    &fill(&pieces(text).unwrap(), &values).unwrap(),
                    SITUATION_WORDS,
                )
            };
            filled(&env.train.values).jaccard(&filled(&env.test.values)) >= NEAR_SITUATION
        });
        assert!((0.15..0.3).contains(&seen), "{seen}");
    }
}
