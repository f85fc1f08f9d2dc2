//! The prompts of games that were played, made again from their rows by what made them first; see
//! [`crate::evaluation::replay`].

use super::GameEvaluation;
use super::engine::{groups, history};
use crate::evaluation::coordination_row::GameRow;
use crate::evaluation::rounds::EvaluationError;
use crate::scenario::coordination::GameInstance;
use crate::scenario::coordination::prompt::GamePrompt;
use crate::scenario::defence::Defence;
use crate::scenario::prompt::AnswerStyle;
use crate::text::Message;

/// Hands the prompt of every row of one evaluation to `each`, by the row's place; agents without a model have none. `root`
/// is the evaluation's.
///
/// # Errors
/// Settings or instances that do not fit, rows that are not those of these games in the order they were played.
pub fn prompts(
    config: &GameEvaluation,
    instances: &[GameInstance],
    rows: &[GameRow],
    defence: &Defence,
    style: AnswerStyle,
    root: u64,
    each: &mut dyn FnMut(usize, &[Message]),
) -> Result<(), EvaluationError> {
    let groups = groups(config, instances, root)?;
    let options = GamePrompt {
        style,
        steer: None,
        window: config.window,
        ..GamePrompt::default()
    };
    let seats: Vec<(usize, usize)> = groups
        .iter()
        .enumerate()
        .flat_map(|(place, group)| (0..group.seats.len()).map(move |agent| (place, agent)))
        .collect();
    for (at, row) in rows.iter().enumerate() {
        let (place, agent) = seats[at % seats.len()];
        let (group, before) = (&groups[place], at / seats.len() * seats.len());
        let seat = &group.seats[agent];
        let round = (at / seats.len()) as u32 + 1;
        if (row.agent, row.round, &row.compliant_label)
            != (seat.agent, round, &seat.independent_label)
        {
            return Err(EvaluationError::Games(format!(
                "row {at}: expected agent {} in round {round}, got agent {} in round {}; the rows are not those of these \
                 games and settings",
                seat.agent, row.agent, row.round
            )));
        }
        if group.kinds[agent].fixed().is_none() {
            let past = history(config, &groups, &rows[..before], place, agent);
            each(at, &defence.game(seat, &past, &options));
        }
    }
    Ok(())
}
