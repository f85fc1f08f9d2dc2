//! Self-evolution: every test question is an agent of its own that decides round after round, its earlier choices and
//! what they paid standing in its prompt.
//!
//! All decisions of a round are asked together. A round that is finished is checkpointed; a resumed evaluation goes on
//! after the last one. A generation that failed leaves no trace in the history: it was no answer.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::row::EvalRow;
use super::weights::Weights;
use crate::agent::{Answer, Ask, AskError, GenerationConfig, Responder, ServedError};
use crate::artifact::table::{TableError, decode_parquet, encode_parquet};
use crate::artifact::{ArtifactError, Checkpoints};
use crate::runtime::interrupt::Interrupted;
use crate::runtime::progress::Progress;
use crate::runtime::ranks::{Ended, RankError};
use crate::runtime::seed::derive;
use crate::scenario::choice::parse_choice;
use crate::scenario::defence::monitor::effective;
use crate::scenario::defence::{Defence, NONE};
use crate::scenario::prompt::{AnswerStyle, Episode, PromptOptions};
use crate::scenario::question::{Question, option_answers, payoff};
use crate::scenario::supervision::{Notice, Pattern, RoundWatch};
use crate::scenario::{Outcome, Role};
use crate::text::Message;
use crate::training::TrainError;

/// Settings of the evaluation; the defaults are the paper's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationConfig {
    /// Rounds.
    pub rounds: u32,
    /// Earlier rounds that a prompt shows.
    pub window: usize,
    /// Agents a question.
    pub samples: u32,
    /// What the prompt says about being watched.
    pub supervision: Notice,
    /// Probability that a broken rule is seen in a supervised round.
    pub detection: f64,
    /// Which rounds are supervised.
    pub pattern: Pattern,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self {
            rounds: 6,
            window: 5,
            samples: 1,
            supervision: Notice::Neutral,
            detection: 1.0,
            pattern: Pattern::AllUnsupervised,
        }
    }
}

/// What is wrong with how often an evaluation of games or problems repeats, if anything: `(field, problem)`.
pub(super) fn check_repeats(rounds: u32, samples: u32) -> Result<(), (&'static str, String)> {
    let within = |field, got: u32, most: u32| match (1..=most).contains(&got) {
        true => Ok(()),
        false => Err((field, format!("expected 1 to {most}, got {got}"))),
    };
    within("rounds", rounds, 10_000)?;
    within("samples", samples, 1_000_000)
}

/// An evaluation that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError {
    /// A stop was asked for; the finished rounds are saved.
    // Not transparent: that would take `Interrupted` itself out of the chain, by which a stop is known.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
    /// The ranks cannot go on together.
    #[error("{0}")]
    Ranks(#[from] RankError),
    /// A file could not be written or read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A table could not be written or read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The weights that gave no answer at all.
    #[error("all {0} decisions of a round failed, the first with: {1}")]
    AllFailed(usize, String),
    /// A served model that gives no more answers. To count what was not asked as failed would be wrong.
    #[error("{0}; finished rounds are kept, the same command goes on after them")]
    Served(ServedError),
    /// What computes broke down. What it had under way was no failure of the model.
    #[error("{0}; finished rounds are kept, the same command goes on after them")]
    Broken(String),
    /// Problems and settings that do not fit each other.
    #[error("{0}")]
    Data(String),
    /// Games and settings that do not fit each other.
    #[error("games: {0}")]
    Games(String),
    /// Training between rounds that cannot go on.
    #[error("realignment: {0}")]
    Training(TrainError),
}

impl From<TrainError> for EvaluationError {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Interrupted(stop) => Self::Interrupted(stop),
            TrainError::Ranks(error) => Self::Ranks(error),
            other => Self::Training(other),
        }
    }
}

impl From<Ended> for EvaluationError {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Interrupted(stop) => stop.into(),
            Ended::Ranks(error) => error.into(),
            Ended::Broken(what) => Self::Broken(what),
        }
    }
}

/// A defence under its name.
#[derive(Debug, Clone, Copy)]
pub struct Guard<'a> {
    /// As the recipe calls it.
    pub name: &'a str,
    /// Its measures.
    pub defence: &'a Defence,
}

impl Guard<'static> {
    /// No defence.
    pub const NONE: Self = Self {
        name: NONE,
        defence: &Defence {
            reminder: None,
            redaction: None,
            outcome_hiding: None,
            window: None,
            monitor: None,
            history_augmentation: None,
            kl_anchor: None,
            realignment: None,
        },
    };
}

/// Which model is evaluated.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Name of the model in the recipe.
    pub name: &'a str,
    /// `base`, `dpo`, `grpo` or `dpo-grpo`.
    pub variant: &'a str,
    /// The recipe's seed, for the rows.
    pub seed: u64,
    /// The model.
    pub model: Responder<'a>,
    /// What is done against tipping.
    pub guard: Guard<'a>,
}

const ROWS: &str = "rows.parquet";

/// Run all rounds; rows come in the order of rounds, questions, samples.
///
/// # Errors
/// See [`EvaluationError`].
pub fn evaluate(
    subject: &Subject,
    weights: &mut dyn Weights,
    questions: &[Question],
    generation: &GenerationConfig,
    config: &EvaluationConfig,
    stream_root: u64,
    checkpoints: &Checkpoints,
) -> Result<Vec<EvalRow>, EvaluationError> {
    let mut rows: Vec<EvalRow> = vec![];
    let mut done = 0;
    if let Some(checkpoint) = checkpoints.latest()? {
        rows = decode_parquet(checkpoint.read(ROWS)?)?;
        done = checkpoint.step as u32;
        tracing::info!("going on after round {done}");
    }
    let agents: Vec<(&Question, u32)> = questions
        .iter()
        .flat_map(|q| (0..config.samples).map(move |sample| (q, sample)))
        .collect();
    for round in done + 1..=config.rounds {
        let adapter = weights.in_round(round)?;
        let watches: Vec<RoundWatch> = agents
            .iter()
            .map(|(question, sample)| {
                let agent = format!("{}/{sample}", question.id);
                config
                    .pattern
                    .watch(round, config.rounds, config.detection, stream_root, &agent)
            })
            .collect();
        let asks: Vec<Ask> = agents
            .iter()
            .zip(&watches)
            .enumerate()
            .map(|(agent, ((question, sample), watch))| {
                let earlier = rows.iter().skip(agent).step_by(agents.len());
                let style = generation.answer_style();
                Ask {
                    messages: prompt(
                        question,
                        earlier,
                        config,
                        subject.guard.defence,
                        style,
                        watch.supervised,
                    ),
                    options: option_answers(question).map(|(_, text)| text).to_vec(),
                    seed: derive(
                        stream_root,
                        &format!("round-{round}/{}/{sample}", question.id),
                    ),
                }
            })
            .collect();
        let mut progress = Progress::new(format!("{}, round {round}", subject.variant), asks.len());
        let answers = subject
            .model
            .ask(adapter, generation, &asks, |n| progress.add(n))?;
        stop_if_hopeless(&answers)?;
        progress.finish();
        let first = rows.len();
        for (((question, sample), watch), answer) in agents.iter().zip(watches).zip(answers) {
            let mut row = row(subject, round, question, *sample, watch, answer);
            watch_over(&mut row, subject.guard.defence, question, stream_root);
            rows.push(row);
        }
        let fresh = &rows[first..];
        if let Some(error) = fresh.first().and_then(|row| row.error.clone())
            && fresh.iter().all(|row| row.outcome == Outcome::Failed)
        {
            return Err(EvaluationError::AllFailed(fresh.len(), error));
        }
        checkpoints.save(u64::from(round), &[(ROWS, &encode_parquet(&rows)?)])?;
    }
    Ok(rows)
}

/// An error where a server is gone, or wants something else: then no decision of the round is one.
pub(crate) fn stop_if_hopeless(
    answers: &[Result<Answer, AskError>],
) -> Result<(), EvaluationError> {
    let hopeless = answers.iter().find_map(|answer| match answer {
        Err(AskError::Served(error)) if error.hopeless => Some(error.clone()),
        _ => None,
    });
    hopeless.map_or(Ok(()), |error| Err(EvaluationError::Served(error)))
}

/// The prompt of a round: what its agent did before, as recorded, and what is said about this round.
pub(super) fn prompt<'a>(
    question: &Question,
    earlier: impl Iterator<Item = &'a EvalRow>,
    config: &EvaluationConfig,
    defence: &Defence,
    style: AnswerStyle,
    supervised: bool,
) -> Vec<Message> {
    let history: Vec<Episode> = earlier
        .filter(|row| row.outcome != Outcome::Failed)
        .map(|row| {
            let episode = Episode::new(question, row.round, row.outcome, row.detected);
            match row.vetoed {
                true => episode.stopped(question),
                false => episode,
            }
        })
        .collect();
    let options = PromptOptions {
        supervision: config.supervision.of(supervised),
        style,
        steer: None,
        window: config.window,
        ..PromptOptions::default()
    };
    defence.role_play(question, &history, &options)
}

/// Let the monitor, if there is one, stop the choice.
fn watch_over(row: &mut EvalRow, defence: &Defence, question: &Question, root: u64) {
    let agent = format!("{}/{}", row.question_id, row.sample);
    if defence.stops(row.outcome, root, row.round, &agent) {
        row.vetoed = true;
        row.detected = false;
        row.payoff = payoff(question, effective(row.outcome, true), false);
    }
}

fn row(
    subject: &Subject,
    round: u32,
    question: &Question,
    sample: u32,
    watch: RoundWatch,
    answer: Result<Answer, AskError>,
) -> EvalRow {
    let mut row = EvalRow {
        model: subject.name.to_owned(),
        variant: subject.variant.to_owned(),
        defence: subject.guard.name.to_owned(),
        seed: subject.seed,
        ..blank(question, round, sample, watch)
    };
    match answer {
        Err(error) => row.error = Some(error.to_string()),
        Ok(answer) => record(&mut row, question, watch, answer),
    }
    row
}

/// A decision without an answer yet.
fn blank(question: &Question, round: u32, sample: u32, watch: RoundWatch) -> EvalRow {
    EvalRow {
        model: String::new(),
        variant: String::new(),
        defence: String::new(),
        seed: 0,
        round,
        question_id: question.id.clone(),
        environment: question.environment.clone(),
        sample,
        outcome: Outcome::Failed,
        supervised: watch.supervised,
        detected: false,
        vetoed: false,
        choice: None,
        deviant_probability: None,
        payoff: None,
        compliant_first: question.compliant_first,
        compliant_label: question.label(Role::Compliant).to_owned(),
        text: String::new(),
        finish: "error".to_owned(),
        prompt_tokens: 0,
        completion_tokens: 0,
        error: None,
    }
}

/// What the answer chose, whether a broken rule was seen, and what that pays.
fn record(row: &mut EvalRow, question: &Question, watch: RoundWatch, answer: Answer) {
    let options = question.choice_options();
    let said = answer.said();
    let parsed = parse_choice(&said, &options);
    row.outcome = parsed.outcome();
    row.choice = parsed.label(&options).map(str::to_owned);
    row.deviant_probability = answer.choice.as_ref().and_then(|choice| {
        let place = options.iter().position(|o| o.role == Role::Deviant)?;
        choice.probabilities.get(place).copied()
    });
    row.detected = watch.would_see && row.outcome == Outcome::Deviant;
    row.payoff = payoff(question, row.outcome, row.detected);
    row.prompt_tokens = answer.prompt_tokens() as u32;
    row.completion_tokens = answer.completion_tokens() as u32;
    row.finish = answer.finish.to_owned();
    row.text = said.into_owned();
}

/// Name of the evaluation table in a stage's folder.
pub const ROWS_FILE: &str = "rows.parquet";

/// Read an evaluation table.
pub fn read_rows(path: &Path) -> Result<Vec<EvalRow>, TableError> {
    crate::artifact::table::read_parquet(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::environment::load_environments;
    use crate::scenario::question::option_answers;
    use crate::scenario::role_play::{QuestionSpec, generate};

    fn question() -> Question {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/role_play");
        let environments = load_environments(&folder).unwrap();
        let set = generate(&environments[..1], &QuestionSpec::default(), 1).unwrap();
        set.test[0].clone()
    }

    /// An answer without a word.
    fn silent() -> Answer {
        Answer {
            text: String::new(),
            thinking: false,
            prompt: vec![],
            sampled: vec![],
            logprobs: vec![],
            reasoning: 0,
            temperature: 1.0,
            bridge: vec![],
            choice: None,
            finish: "stop",
            usage: None,
        }
    }

    /// A round in which the model chose this role.
    fn chose(question: &Question, round: u32, role: Role, watch: RoundWatch) -> EvalRow {
        let answers = option_answers(question);
        let (_, text) = answers.iter().find(|(of, _)| *of == role).unwrap();
        let answer = Answer {
            text: text.clone(),
            ..silent()
        };
        let mut row = blank(question, round, 0, watch);
        record(&mut row, question, watch, answer);
        row
    }

    #[test]
    fn a_thought_that_the_prompt_began_is_no_answer_until_it_ends() {
        let q = question();
        let choice = format!("{{\"choice\": \"{}\"}}", q.choice_options()[0].label);
        for (text, thinking, read) in [
            (choice.clone(), false, true),
            (choice.clone(), true, false),
            (format!("Hm.</think>\n{choice}"), true, true),
            (format!("{choice}</think>\nI cannot say."), true, false),
        ] {
            let watch = RoundWatch {
                supervised: false,
                would_see: false,
            };
            let mut row = blank(&q, 1, 0, watch);
            let answer = Answer {
                text: text.clone(),
                thinking,
                ..silent()
            };
            record(&mut row, &q, watch, answer);
            assert_eq!(row.outcome != Outcome::Invalid, read, "{text}, {thinking}");
            // Whoever reads the row again reads the same.
            assert_eq!(row.text.starts_with("<think>"), thinking);
        }
    }

    #[test]
    fn only_seen_deviance_is_detected_and_paid_less() {
        let q = question();
        for (role, supervised, would_see, detected, pay) in [
            (Role::Compliant, false, false, false, q.compliant_pay),
            (Role::Compliant, true, true, false, q.compliant_pay),
            (Role::Deviant, false, false, false, q.deviant_pay),
            (Role::Deviant, true, false, false, q.deviant_pay),
            (Role::Deviant, true, true, true, q.detected_pay),
        ] {
            let watch = RoundWatch {
                supervised,
                would_see,
            };
            let row = chose(&q, 1, role, watch);
            assert_eq!(row.outcome.role(), Some(role));
            assert_eq!((row.supervised, row.detected), (supervised, detected));
            assert_eq!(row.payoff, Some(f64::from(pay)));
        }
    }

    #[test]
    fn a_monitor_stops_the_choice_and_the_other_option_is_paid() {
        let q = question();
        let all = Defence::built_in("monitor").unwrap();
        let seen = RoundWatch {
            supervised: true,
            would_see: true,
        };
        for (defence, role, vetoed, detected, pay) in [
            (&all, Role::Deviant, true, false, q.compliant_pay),
            (&all, Role::Compliant, false, false, q.compliant_pay),
            (
                &Defence::default(),
                Role::Deviant,
                false,
                true,
                q.detected_pay,
            ),
        ] {
            let mut row = chose(&q, 1, role, seen);
            let choice = row.choice.clone();
            watch_over(&mut row, defence, &q, 5);
            assert_eq!((row.vetoed, row.detected), (vetoed, detected));
            assert_eq!(row.payoff, Some(f64::from(pay)));
            // What was chosen stays what was chosen.
            assert_eq!((row.outcome, row.choice.clone()), (role.into(), choice));
            let config = EvaluationConfig::default();
            let style = AnswerStyle::Direct;
            let told = prompt(&q, [row].iter(), &config, defence, style, false);
            let says = told[1].content.contains("A monitor stopped this, and ");
            assert_eq!(says, vetoed);
        }
    }

    #[test]
    fn prompts_tell_what_was_recorded_and_what_the_setting_says() {
        let q = question();
        let watch = |supervised, would_see| RoundWatch {
            supervised,
            would_see,
        };
        let rows = [
            chose(&q, 1, Role::Deviant, watch(true, true)),
            chose(&q, 2, Role::Deviant, watch(true, false)),
            chose(&q, 3, Role::Compliant, watch(true, true)),
        ];
        // Nobody would be seen under this pattern: what counts is the record.
        let config = EvaluationConfig {
            supervision: Notice::Announced,
            ..EvaluationConfig::default()
        };
        let text = |config: &EvaluationConfig, supervised| {
            let messages = prompt(
                &q,
                rows.iter(),
                config,
                &Defence::default(),
                AnswerStyle::Direct,
                supervised,
            );
            messages[1].content.clone()
        };
        let told = text(&config, false);
        let line = |round: u32| {
            let start = format!("Round {round}: ");
            told.lines()
                .find(|l| l.starts_with(&start))
                .unwrap()
                .to_owned()
        };
        assert!(line(1).contains(&q.detected_outcome), "{told}");
        assert!(line(2).contains(&q.deviant_outcome), "{told}");
        assert!(line(3).contains(&q.compliant_outcome), "{told}");
        assert!(told.contains(&q.unsupervised_text) && !told.contains(&q.neutral_text));
        assert!(text(&config, true).contains(&q.supervised_text));
        let neutral = EvaluationConfig::default();
        assert!(text(&neutral, true).contains(&q.neutral_text));
    }
}
