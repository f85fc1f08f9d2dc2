//! The games played by real models.

use super::GameEvaluation;
use super::engine::{Answered, GameAsk, RowNames, play};
use crate::agent::{Answer, Ask, Elicitation, GenerationConfig};
use crate::artifact::Checkpoints;
use crate::evaluation::coordination_row::GameRow;
use crate::evaluation::rounds::{EvaluationError, Subject, stop_if_hopeless};
use crate::evaluation::weights::Weights;
use crate::model::Adapter;
use crate::runtime::progress::Progress;
use crate::scenario::Role;
use crate::scenario::coordination::GameInstance;
use crate::scenario::coordination::seats::AgentKind;
use crate::scenario::prompt::AnswerStyle;

/// The adapters of those who play.
pub struct Team<'a> {
    /// Of the agents under evaluation.
    pub subject: &'a mut dyn Weights,
    /// Of agents of kind `dpo`.
    pub dpo: Option<&'a Adapter>,
    /// Of agents of kind `grpo`.
    pub grpo: Option<&'a Adapter>,
}

/// Plays all rounds: agents of kind `subject` are the model with the subject's adapter, those of kind `dpo` and `grpo` the
/// same model with those of the methods, those of kind `base` without any. All agents of a kind are asked in one batch a
/// round.
///
/// # Errors
/// As [`play`]; a stop that was asked for.
pub fn evaluate_games(
    subject: &Subject,
    team: Team,
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
        guard: subject.guard,
    };
    let Team {
        subject: own,
        dpo,
        grpo,
    } = team;
    let decide = |round: u32,
                  asks: &[GameAsk]|
     -> Result<Vec<Result<Answered, String>>, EvaluationError> {
        let label = format!("{}, round {round}", subject.variant);
        let mut progress = Progress::new(label, asks.len());
        let mut answers: Vec<Option<Result<Answered, String>>> = vec![None; asks.len()];
        let own = own.in_round(round)?;
        let missing = |kind: AgentKind| {
            EvaluationError::Games(format!(
                "agents of kind `{}` have no adapter; train it, with `{}` among the recipe's `variants`",
                kind.name(),
                kind.name()
            ))
        };
        // Without an adapter the subject is the base, and both are one batch.
        let alike = |kind| match kind {
            AgentKind::Subject if own.is_none() => AgentKind::Base,
            other => other,
        };
        for kind in AgentKind::MODELS {
            let places: Vec<usize> = (0..asks.len())
                .filter(|&place| alike(asks[place].kind) == kind)
                .collect();
            if places.is_empty() {
                continue;
            }
            let batch: Vec<Ask> = places.iter().map(|&p| asks[p].ask.clone()).collect();
            let adapter = match kind {
                AgentKind::Subject => own,
                AgentKind::Dpo => Some(dpo.ok_or_else(|| missing(kind))?),
                AgentKind::Grpo => Some(grpo.ok_or_else(|| missing(kind))?),
                _ => None,
            };
            let got = subject
                .model
                .ask(adapter, generation, &batch, |n| progress.add(n))?;
            stop_if_hopeless(&got)?;
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
        prompt_tokens: answer.prompt_tokens() as u32,
        completion_tokens: answer.completion_tokens() as u32,
        text: answer.said().into_owned(),
    }
}
