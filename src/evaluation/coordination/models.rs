//! The games played by real models.

use super::GameEvaluation;
use super::engine::{Answered, GameAsk, RowNames, play};
use crate::agent::{Answer, Ask, Elicitation, GenerationConfig, ask};
use crate::artifact::Checkpoints;
use crate::evaluation::coordination_row::GameRow;
use crate::evaluation::rounds::{EvaluationError, Subject};
use crate::runtime::progress::Progress;
use crate::scenario::Role;
use crate::scenario::coordination::GameInstance;
use crate::scenario::coordination::seats::AgentKind;
use crate::scenario::prompt::AnswerStyle;

/// Plays all rounds: agents of kind `subject` are the model with the subject's adapter, those of kind `base` the same
/// model without it. All agents of a kind are asked in one batch a round.
///
/// # Errors
/// As [`play`]; a stop that was asked for.
pub fn evaluate_games(
    subject: &Subject,
    instances: &[GameInstance],
    generation: &GenerationConfig,
    config: &GameEvaluation,
    stream_root: u64,
    checkpoints: &Checkpoints,
) -> Result<Vec<GameRow>, EvaluationError> {
    let style = match generation.elicitation {
        Elicitation::Score => AnswerStyle::Direct,
        _ => AnswerStyle::Reasoned,
    };
    let names = RowNames {
        model: subject.name,
        variant: subject.variant,
        seed: subject.seed,
    };
    let decide =
        |round: u32, asks: &[GameAsk]| -> Result<Vec<Result<Answered, String>>, EvaluationError> {
            let label = format!("{}, round {round}", subject.variant);
            let mut progress = Progress::new(label, asks.len());
            let mut answers: Vec<Option<Result<Answered, String>>> = vec![None; asks.len()];
            for with_adapter in [true, false] {
                // Without an adapter the subject is the base, and all are one batch.
                let uses = |kind| kind != AgentKind::Base && subject.adapter.is_some();
                let places: Vec<usize> = (0..asks.len())
                    .filter(|&place| uses(asks[place].kind) == with_adapter)
                    .collect();
                if places.is_empty() {
                    continue;
                }
                let batch: Vec<Ask> = places.iter().map(|&p| asks[p].ask.clone()).collect();
                let adapter = subject.adapter.filter(|_| with_adapter);
                let got = ask(subject.model, adapter, generation, &batch, |n| {
                    progress.add(n)
                })?;
                for (place, answer) in places.into_iter().zip(got) {
                    let roles = &asks[place].roles;
                    answers[place] = Some(
                        answer
                            .map(|answer| answered(answer, roles))
                            .map_err(|error| error.to_string()),
                    );
                }
            }
            progress.finish();
            Ok(answers.into_iter().flatten().collect())
        };
    play(
        config,
        &names,
        instances,
        style,
        stream_root,
        checkpoints,
        decide,
    )
}

fn answered(answer: Answer, roles: &[Role; 2]) -> Answered {
    Answered {
        deviant_probability: answer.choice.as_ref().and_then(|choice| {
            let place = roles.iter().position(|role| *role == Role::Deviant)?;
            choice.probabilities.get(place).copied()
        }),
        finish: answer.finish.to_owned(),
        prompt_tokens: answer.prompt.len() as u32,
        completion_tokens: answer.completion_tokens() as u32,
        text: answer.text,
    }
}
