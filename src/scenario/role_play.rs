//! Draws the role-play questions: training and test sets from disjoint texts and parameters, counterbalanced, and
//! proven disjoint before they are handed out.
//!
//! Per environment and split: situation texts, descriptions and pairs of pays are dealt from shuffled decks, slot values
//! are drawn, and a draw that repeats or comes near an earlier one is drawn again. Which option is listed first and
//! which letter the compliant one has is a 2×2 design, spread as evenly as the count allows. Every environment and split
//! has a random stream of its own.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::disjoint::{
    Disjointness, NEAR_SITUATION, OverlapError, SITUATION_WORDS, Shingles, check_disjoint,
    normalise,
};
use super::environment::{Environment, Situations};
use super::question::{AnswerForm, LABELS, Question, Split, amount};
use super::slots::{Piece, fill, names, pieces};
use crate::runtime::seed::stream;

/// Draws of one question before its texts are held to be exhausted.
pub(super) const MAX_DRAWS: u32 = 500;
/// Most questions of one environment and split.
pub(super) const MAX_PER_ENVIRONMENT: u32 = 10_000;

/// How many questions to draw, and how they are answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuestionSpec {
    /// Training questions of each environment.
    pub train_per_environment: u32,
    /// Test questions of each environment.
    pub test_per_environment: u32,
    /// What the JSON answer holds.
    pub answer: AnswerForm,
}

impl Default for QuestionSpec {
    /// The paper's numbers: 10 and 4, which makes 160 and 64 with 16 environments.
    fn default() -> Self {
        Self {
            train_per_environment: 10,
            test_per_environment: 4,
            answer: AnswerForm::default(),
        }
    }
}

/// Both sets, proven disjoint.
#[derive(Debug, Clone, PartialEq)]
pub struct QuestionSet {
    /// Training questions, by environment.
    pub train: Vec<Question>,
    /// Test questions, by environment.
    pub test: Vec<Question>,
    /// What the proof measured.
    pub disjointness: Disjointness,
}

/// Why no sets could be drawn.
#[derive(Debug, thiserror::Error)]
pub enum RolePlayError {
    /// A number that makes no sense.
    #[error("questions: `{field}`: expected 1 to {MAX_PER_ENVIRONMENT}, got {got}")]
    Count {
        /// The setting.
        field: &'static str,
        /// Its value.
        got: u32,
    },
    /// There are no environments, or two with one id.
    #[error("questions: {0}")]
    Environments(String),
    /// The texts and values do not give as many different questions as asked.
    #[error(
        "questions: environment `{environment}`, {}: no new situation for question {index} of {wanted} in {MAX_DRAWS} \
         draws; last reason: {reason}; write more texts or slot values, or ask for fewer questions",
        split.name()
    )]
    Exhausted {
        /// The environment.
        environment: String,
        /// The split.
        split: Split,
        /// The question, from 1.
        index: u32,
        /// How many were asked for.
        wanted: u32,
        /// Why the last draw was refused.
        reason: String,
    },
    /// The pay ranges hold a single pair, which both splits would share.
    #[error(
        "questions: environment `{0}`: its pay ranges hold one pair of pays only; training and test need two"
    )]
    OnePay(String),
    /// A text whose slots have no values; checked environments have none.
    #[error("questions: environment `{environment}`: {problem}")]
    Text {
        /// The environment.
        environment: String,
        /// What is wrong.
        problem: String,
    },
    /// The sets overlap.
    #[error("questions: {0}")]
    Overlap(#[from] OverlapError),
}

/// Draws both sets. They depend on the environments, the spec and the seed alone.
///
/// # Errors
/// See [`RolePlayError`].
pub fn generate(
    envs: &[Environment],
    spec: &QuestionSpec,
    seed: u64,
) -> Result<QuestionSet, RolePlayError> {
    for (field, got) in [
        ("train_per_environment", spec.train_per_environment),
        ("test_per_environment", spec.test_per_environment),
    ] {
        if !(1..=MAX_PER_ENVIRONMENT).contains(&got) {
            return Err(RolePlayError::Count { field, got });
        }
    }
    let mut ids = BTreeSet::new();
    if envs.is_empty() {
        return Err(RolePlayError::Environments("no environments".to_owned()));
    }
    if let Some(env) = envs.iter().find(|env| !ids.insert(env.id.as_str())) {
        return Err(RolePlayError::Environments(format!(
            "environment `{}` is there twice",
            env.id
        )));
    }
    let mut pays = Vec::new();
    for env in envs {
        pays.push(split_pays(env, spec, seed)?);
    }
    let mut drawn = Drawn::default();
    let mut sets = [Vec::new(), Vec::new()];
    for (set, split) in sets.iter_mut().zip([Split::Train, Split::Test]) {
        for (rank, (env, pays)) in envs.iter().zip(&pays).enumerate() {
            let pays = if split == Split::Train {
                &pays.0
            } else {
                &pays.1
            };
            set.extend(draw(env, split, rank, pays, spec, seed, &mut drawn)?);
        }
    }
    let [train, test] = sets;
    let disjointness = check_disjoint(&train, &test)?;
    Ok(QuestionSet {
        train,
        test,
        disjointness,
    })
}

/// Pairs of compliant and deviant pay.
type Pays = Vec<(u32, u32)>;

/// Deals the environment's possible pairs of pays to training and test, in shuffled order, by the sets' sizes.
fn split_pays(
    env: &Environment,
    spec: &QuestionSpec,
    seed: u64,
) -> Result<(Pays, Pays), RolePlayError> {
    // Wide ranges are thinned to at most 100 values each: the deck stays small.
    let values = |[low, high]: [u32; 2]| (low..=high).step_by(1 + ((high - low) / 100) as usize);
    let mut all: Pays = values(env.pay.compliant)
        .flat_map(|compliant| {
            values(env.pay.bonus).map(move |bonus| (compliant, compliant + bonus))
        })
        .collect();
    if all.len() < 2 {
        return Err(RolePlayError::OnePay(env.id.clone()));
    }
    all.shuffle(&mut stream(seed, &format!("questions/pays/{}", env.id)));
    let (train, test) = (
        spec.train_per_environment as usize,
        spec.test_per_environment as usize,
    );
    let kept = (all.len() * train / (train + test)).clamp(1, all.len() - 1);
    let test = all.split_off(kept);
    Ok((all, test))
}

/// Situations drawn so far.
#[derive(Default)]
struct Drawn {
    texts: BTreeSet<String>,
    train: Vec<Shingles>,
}

impl Drawn {
    /// Takes the situation in, or says why not.
    fn admit(&mut self, split: Split, situation: &str) -> Result<(), String> {
        let text = normalise(situation);
        if self.texts.contains(&text) {
            return Err(format!("`{text}` was drawn before"));
        }
        let shingles = Shingles::of(situation, SITUATION_WORDS);
        match split {
            Split::Train => self.train.push(shingles),
            Split::Test => {
                let nearest = self
                    .train
                    .iter()
                    .map(|known| known.jaccard(&shingles))
                    .fold(0.0, f64::max);
                if nearest >= NEAR_SITUATION {
                    return Err(format!(
                        "`{text}` is near a training situation: 5-gram Jaccard {nearest:.2}"
                    ));
                }
            }
        }
        self.texts.insert(text);
        Ok(())
    }
}

/// One cell of the 2×2 design.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    /// The compliant option stands first.
    pub(super) compliant_first: bool,
    /// Index into [`LABELS`].
    pub(super) compliant_label: usize,
}

/// `count` cells, each as often as the others or once more, in random order. What is over after whole rounds goes along
/// a diagonal, so that order and label are each balanced for even counts; the diagonal alternates by environment, so
/// that the cells are balanced over all.
pub(super) fn cells(count: usize, rank: usize, rng: &mut ChaCha8Rng) -> Vec<Cell> {
    let diagonal = |which: usize| {
        [true, false].map(|compliant_first| Cell {
            compliant_first,
            compliant_label: (usize::from(compliant_first) + which) % 2,
        })
    };
    let mut first = diagonal(rank % 2);
    let mut second = diagonal((rank + 1) % 2);
    first.shuffle(rng);
    second.shuffle(rng);
    let mut dealt: Vec<Cell> = first
        .iter()
        .chain(&second)
        .copied()
        .cycle()
        .take(count)
        .collect();
    dealt.shuffle(rng);
    dealt
}

/// Indices below `count`, shuffled.
pub(super) fn deck(count: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut deck: Vec<usize> = (0..count).collect();
    deck.shuffle(rng);
    deck
}

/// The questions of one environment and split.
fn draw(
    env: &Environment,
    split: Split,
    rank: usize,
    pays: &[(u32, u32)],
    spec: &QuestionSpec,
    seed: u64,
    drawn: &mut Drawn,
) -> Result<Vec<Question>, RolePlayError> {
    let mut rng = stream(seed, &format!("questions/{}/{}", split.name(), env.id));
    let (count, texts, compliant, deviant) = match split {
        Split::Train => (
            spec.train_per_environment,
            &env.train,
            &env.compliant.train,
            &env.deviant.train,
        ),
        Split::Test => (
            spec.test_per_environment,
            &env.test,
            &env.compliant.test,
            &env.deviant.test,
        ),
    };
    let text_error = |problem: String| RolePlayError::Text {
        environment: env.id.clone(),
        problem,
    };
    let parsed: Vec<Vec<Piece<'_>>> = texts
        .situations
        .iter()
        .map(|text| pieces(text).map_err(text_error))
        .collect::<Result<_, _>>()?;
    let cells = cells(count as usize, rank, &mut rng);
    let phrasings = deck(parsed.len(), &mut rng);
    let compliant_deck = deck(compliant.len(), &mut rng);
    let deviant_deck = deck(deviant.len(), &mut rng);

    let mut questions = Vec::new();
    for (i, cell) in cells.into_iter().enumerate() {
        let phrasing = phrasings[i % phrasings.len()];
        let mut reason = String::new();
        let mut situation = None;
        for _ in 0..MAX_DRAWS {
            let text = fill_in(&parsed[phrasing], texts, &mut rng).map_err(text_error)?;
            match drawn.admit(split, &text) {
                Ok(()) => {
                    situation = Some(text);
                    break;
                }
                Err(why) => reason = why,
            }
        }
        let situation = situation.ok_or_else(|| RolePlayError::Exhausted {
            environment: env.id.clone(),
            split,
            index: i as u32 + 1,
            wanted: count,
            reason,
        })?;
        let (compliant_pay, deviant_pay) = pays[i % pays.len()];
        let detected_pay = rng.random_range(env.pay.detected[0]..=env.pay.detected[1]);
        let detected = amount(f64::from(detected_pay), &env.unit);
        let amounts = BTreeMap::from([("detected", detected)]);
        let supervised = pieces(&env.supervision.supervised).map_err(text_error)?;
        questions.push(Question {
            id: format!("{}/{}/{i:02}", split.name(), env.id),
            split,
            environment: env.id.clone(),
            phrasing: phrasing as u32,
            phrasing_text: texts.situations[phrasing].clone(),
            system: format!("{} {}", env.persona, env.task),
            situation,
            rule: env.rule.clone(),
            compliant_name: env.compliant.name.clone(),
            compliant_description: compliant[compliant_deck[i % compliant.len()]].clone(),
            compliant_label: LABELS[cell.compliant_label].to_owned(),
            compliant_pay,
            deviant_name: env.deviant.name.clone(),
            deviant_description: deviant[deviant_deck[i % deviant.len()]].clone(),
            deviant_label: LABELS[1 - cell.compliant_label].to_owned(),
            deviant_pay,
            detected_pay,
            compliant_first: cell.compliant_first,
            answer: spec.answer,
            unit: env.unit.clone(),
            supervised_text: fill(&supervised, &amounts)
                .map_err(|slot| text_error(format!("no value for `{slot}`")))?,
            unsupervised_text: env.supervision.unsupervised.clone(),
            neutral_text: env.supervision.neutral.clone(),
            compliant_outcome: env.compliant.outcome.clone(),
            deviant_outcome: env.deviant.outcome.clone(),
            detected_outcome: env.deviant.detected.clone(),
        });
    }
    Ok(questions)
}

/// The situation with a value drawn for each of its slots.
fn fill_in(text: &[Piece<'_>], texts: &Situations, rng: &mut ChaCha8Rng) -> Result<String, String> {
    let mut values = BTreeMap::new();
    for slot in names(text) {
        let choices = texts.values.get(slot).filter(|v| !v.is_empty());
        let choices = choices.ok_or_else(|| format!("no values for slot `{slot}`"))?;
        values.insert(slot, choices[rng.random_range(0..choices.len())].clone());
    }
    fill(text, &values).map_err(|slot| format!("no values for slot `{slot}`"))
}

#[cfg(test)]
mod tests;
