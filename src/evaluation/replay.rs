//! The prompts of a finished evaluation, made again from its rows.
//!
//! Rows hold what a model wrote, not what it was asked. Nothing is lost by that: a prompt is a function of the question,
//! the agent's earlier rows and the settings. An evaluation that goes on from a checkpoint already rests on this, as it
//! makes its next prompts from the rows it finds there. The same functions make them here, so a prompt that is shown is
//! the one that was put, for rows and settings of one evaluation; a change in how prompts read raises the format of the
//! evaluation stage, and with it makes old rows run again. To store prompts would make the tables some ten times larger
//! and give a second truth that could differ. What a chat template adds around the turns is the model's and is not shown.
//!
//! [`crate::evaluation::coordination::prompts`] does the same for games.

use std::collections::BTreeMap;

use super::rounds::{EvaluationConfig, EvaluationError, prompt};
use super::row::EvalRow;
use super::tool_row::ToolRow;
use super::tool_use::{ToolEvaluation, history};
use crate::scenario::defence::Defence;
use crate::scenario::defence::record::Record;
use crate::scenario::prompt::AnswerStyle;
use crate::scenario::question::Question;
use crate::scenario::tool_use::Problem;
use crate::scenario::tool_use::prompt::{Costs, ToolPromptOptions};
use crate::text::Message;

/// Hands the prompt of every row of one role-play evaluation to `each`, by the row's place.
///
/// # Errors
/// A row whose question is not among `questions`.
pub fn role_play(
    questions: &[Question],
    rows: &[EvalRow],
    config: &EvaluationConfig,
    defence: &Defence,
    style: AnswerStyle,
    each: &mut dyn FnMut(usize, &[Message]),
) -> Result<(), EvaluationError> {
    let known: BTreeMap<&str, &Question> = questions.iter().map(|q| (q.id.as_str(), q)).collect();
    let mut agents: BTreeMap<(&str, u32), Vec<usize>> = BTreeMap::new();
    for (place, row) in rows.iter().enumerate() {
        let key = (row.question_id.as_str(), row.sample);
        agents.entry(key).or_default().push(place);
    }
    for ((id, _), mut places) in agents {
        let question = known
            .get(id)
            .ok_or_else(|| missing("question", id, places[0]))?;
        places.sort_by_key(|&place| rows[place].round);
        for (at, &place) in places.iter().enumerate() {
            let earlier = places[..at].iter().map(|&place| &rows[place]);
            let messages = prompt(
                question,
                earlier,
                config,
                defence,
                style,
                rows[place].supervised,
            );
            each(place, &messages);
        }
    }
    Ok(())
}

/// Hands the prompt of every row of one tool-use evaluation to `each`, by the row's place. `stream_root` is that of the
/// evaluation.
///
/// # Errors
/// A row whose problem is not among `problems`.
pub fn tool_use(
    problems: &[Problem],
    rows: &[ToolRow],
    config: &ToolEvaluation,
    costs: Costs,
    defence: &Defence,
    stream_root: u64,
    each: &mut dyn FnMut(usize, &[Message]),
) -> Result<(), EvaluationError> {
    let known: BTreeMap<&str, &Problem> = problems.iter().map(|p| (p.id.as_str(), p)).collect();
    let options = ToolPromptOptions {
        costs,
        shown: config.shown,
        window: config.window,
        record: Record::default(),
        steer: None,
        seed: stream_root,
    };
    let mut agents: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (place, row) in rows.iter().enumerate() {
        agents.entry(row.agent).or_default().push(place);
    }
    for (agent, mut places) in agents {
        places.sort_by_key(|&place| (rows[place].round, rows[place].step));
        for (at, &place) in places.iter().enumerate() {
            let id = rows[place].problem_id.as_str();
            let problem = known.get(id).ok_or_else(|| missing("problem", id, place))?;
            let earlier = places[..at].iter().map(|&place| &rows[place]);
            let history = history(earlier, agent);
            each(
                place,
                &defence.tool_use(problem, &history, &options).messages,
            );
        }
    }
    Ok(())
}

fn missing(what: &str, id: &str, place: usize) -> EvaluationError {
    EvaluationError::Data(format!(
        "row {place}: expected {what} `{id}` in the test set, got none; the rows and the test set are not of one run"
    ))
}
