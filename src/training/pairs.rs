//! Preference pairs from the model's own samples.
//!
//! The question is asked with a line added that steers to the wanted role, up to a number of attempts, until an answer
//! with that choice parses. The pair's prompt is without the line. What was not obtained is counted; a canonical
//! answer stands in only where the recipe asks for it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::TrainError;
use crate::agent::elicitation::before_answer;
use crate::agent::{Ask, Elicitation, GenerationConfig, LoadedModel, ask};
use crate::artifact::Checkpoints;
use crate::datasets::pairs::{AnswerSource, PreferencePair};
use crate::runtime::progress::Progress;
use crate::runtime::seed::derive;
use crate::scenario::Role;
use crate::scenario::choice::parse_choice;
use crate::scenario::decision::Decision;
use crate::scenario::prompt::AnswerStyle;

/// Settings of pair sampling; the defaults are the reference code's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PairsConfig {
    /// Samples drawn at most for each answer.
    pub attempts: u32,
    /// Put the canonical answer where no sample had the wanted choice; otherwise the pair is left out.
    pub template_fallback: bool,
}

impl Default for PairsConfig {
    fn default() -> Self {
        Self {
            attempts: 5,
            template_fallback: false,
        }
    }
}

/// What sampling gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairsReport {
    /// Questions asked.
    pub questions: usize,
    /// Pairs kept.
    pub pairs: usize,
    /// Compliant answers that no attempt gave.
    pub missing_compliant: usize,
    /// Deviant answers that no attempt gave.
    pub missing_deviant: usize,
    /// Samples drawn.
    pub samples: usize,
    /// Samples from which no choice could be read.
    pub invalid: usize,
    /// Samples that failed to come about.
    pub failed: usize,
}

/// Both answers of a question, as far as they are there.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Wanted {
    /// Text and attempts, compliant then deviant.
    answers: [Option<String>; 2],
    attempts: [u32; 2],
}

/// What a checkpoint holds: everything after some portion.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    wanted: Vec<Wanted>,
    samples: usize,
    invalid: usize,
    failed: usize,
}

const STATE: &str = "pairs.json";

/// Questions that are scored between two checkpoints.
const SCORED: usize = 32;

/// What is asked for between two checkpoints: these attempts of these questions. Where answers are scored, one computation
/// serves all attempts, so they are asked for together; where they are written, each attempt is asked only of the questions
/// that still need it.
fn portions(
    elicitation: Elicitation,
    questions: usize,
    attempts: u32,
) -> Vec<(Range<u32>, Range<usize>)> {
    if elicitation == Elicitation::Score {
        let starts = (0..questions).step_by(SCORED);
        return starts
            .map(|from| (0..attempts, from..questions.min(from + SCORED)))
            .collect();
    }
    (0..attempts)
        .map(|attempt| (attempt..attempt + 1, 0..questions))
        .collect()
}

/// Sample pairs for these questions.
pub fn sample_pairs<D: Decision>(
    model: &LoadedModel,
    questions: &[D],
    generation: &GenerationConfig,
    config: &PairsConfig,
    seed: u64,
    checkpoints: &Checkpoints,
) -> Result<(Vec<PreferencePair>, PairsReport), TrainError> {
    let style = generation.answer_style();
    let mut state = Saved {
        wanted: vec![Wanted::default(); questions.len()],
        samples: 0,
        invalid: 0,
        failed: 0,
    };
    let mut done = 0;
    if let Some(checkpoint) = checkpoints.latest()? {
        state = serde_json::from_slice(&checkpoint.read(STATE)?).map_err(|e| {
            TrainError::Checkpoint {
                path: checkpoint.folder.clone(),
                problem: e.to_string(),
            }
        })?;
        done = checkpoint.step as usize;
    }
    let portions = portions(generation.elicitation, questions.len(), config.attempts);
    let count = portions.len();
    for (index, (attempts, of)) in portions.into_iter().enumerate().skip(done) {
        let open: Vec<(usize, usize, u32)> = of
            .flat_map(|q| [(q, 0), (q, 1)])
            .filter(|&(q, side)| state.wanted[q].answers[side].is_none())
            .flat_map(|(q, side)| attempts.clone().map(move |attempt| (q, side, attempt)))
            .collect();
        let asks: Vec<Ask> = open
            .iter()
            .map(|&(q, side, attempt)| {
                let question = &questions[q];
                let steer = Some(Role::BOTH[side]);
                Ask {
                    messages: question.messages(style, steer),
                    options: question.option_answers().map(|(_, text)| text).to_vec(),
                    seed: derive(
                        seed,
                        &format!("pairs/{}/{side}/attempt-{attempt}", question.id()),
                    ),
                }
            })
            .collect();
        let mut progress = Progress::new(format!("pairs, {} of {count}", index + 1), asks.len());
        let answers = ask(model, None, generation, &asks, |n| progress.add(n))?;
        progress.finish();
        for (&(q, side, attempt), answer) in open.iter().zip(answers) {
            let wanted = &mut state.wanted[q];
            if wanted.answers[side].is_some() {
                continue;
            }
            state.samples += 1;
            wanted.attempts[side] = attempt + 1;
            match answer {
                Err(error) => {
                    tracing::debug!("{}: {error}", questions[q].id());
                    state.failed += 1;
                }
                Ok(answer) => {
                    match parse_choice(&answer.said(), &questions[q].choice_options()).role() {
                        None => state.invalid += 1,
                        Some(role) if role == Role::BOTH[side] => {
                            wanted.answers[side] = Some(answer.text)
                        }
                        Some(_) => {}
                    }
                }
            }
        }
        let bytes = serde_json::to_vec(&state).expect("JSON of plain values");
        checkpoints.save(index as u64 + 1, &[(STATE, &bytes)])?;
    }
    let first = questions.first().map(|q| q.messages(style, None));
    let before = before_answer(model, generation, first)?;
    Ok(assemble(questions, &state, config, (style, before)))
}

/// Pairs from what was obtained, with the honest count of what was not.
fn assemble<D: Decision>(
    questions: &[D],
    state: &Saved,
    config: &PairsConfig,
    (style, before): (AnswerStyle, &str),
) -> (Vec<PreferencePair>, PairsReport) {
    let mut pairs = vec![];
    let mut missing = [0, 0];
    for (question, wanted) in questions.iter().zip(&state.wanted) {
        let canonical = question.option_answers();
        let mut sides = vec![];
        for (side, role) in Role::BOTH.into_iter().enumerate() {
            let sampled = wanted.answers[side]
                .clone()
                .map(|text| (text, AnswerSource::Sampled));
            missing[side] += usize::from(sampled.is_none());
            let template = || {
                let (_, text) = canonical.iter().find(|(r, _)| *r == role)?;
                config
                    .template_fallback
                    .then(|| (format!("{before}{text}"), AnswerSource::Template))
            };
            sides.extend(sampled.or_else(template));
        }
        let Ok([(chosen, chosen_source), (rejected, rejected_source)]) = <[_; 2]>::try_from(sides)
        else {
            continue;
        };
        let messages = question.messages(style, None);
        let turn = |i: usize| {
            messages
                .get(i)
                .map(|m| m.content.clone())
                .unwrap_or_default()
        };
        pairs.push(PreferencePair {
            id: question.id().to_owned(),
            question_id: question.id().to_owned(),
            environment: question.environment().to_owned(),
            system: turn(0),
            user: turn(1),
            chosen,
            rejected,
            tool_results: false,
            chosen_source,
            rejected_source,
            attempts_chosen: wanted.attempts[0],
            attempts_rejected: wanted.attempts[1],
        });
    }
    let report = PairsReport {
        questions: questions.len(),
        pairs: pairs.len(),
        missing_compliant: missing[0],
        missing_deviant: missing[1],
        samples: state.samples,
        invalid: state.invalid,
        failed: state.failed,
    };
    (pairs, report)
}
