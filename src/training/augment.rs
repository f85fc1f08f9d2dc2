//! History-augmented preference pairs: each pair again under prompts with simulated deviant histories, its two answers as
//! they are.

use std::collections::BTreeMap;

use super::TrainError;
use crate::datasets::pairs::PreferencePair;
use crate::scenario::decision::Decision;
use crate::scenario::defence::augmentation::{Augmentation, copy_id, remembered};
use crate::scenario::prompt::AnswerStyle;
use crate::scenario::tool_use::Problem;
use crate::scenario::tool_use::prompt::{Costs, ToolPromptOptions, ask};
use crate::text::Message;

/// Pairs of decisions, each followed by its copies. `decisions` are those that the pairs were sampled on; histories are
/// drawn from streams of `root`.
///
/// # Errors
/// A pair of a decision that is not there.
pub fn augmented_pairs<D: Decision>(
    pairs: &[PreferencePair],
    decisions: &[D],
    spec: &Augmentation,
    style: AnswerStyle,
    root: u64,
) -> Result<Vec<PreferencePair>, TrainError> {
    let copies = remembered(decisions, spec, root);
    let by_id: BTreeMap<&str, _> = copies.iter().map(|copy| (copy.id(), copy)).collect();
    augmented(pairs, spec, |id, _, _| {
        Some(by_id.get(id)?.messages(style, None))
    })
}

/// As [`augmented_pairs`], of problems.
///
/// # Errors
/// A pair of a problem that is not there.
pub fn augmented_tool_pairs(
    pairs: &[PreferencePair],
    problems: &[Problem],
    spec: &Augmentation,
    costs: Costs,
    root: u64,
) -> Result<Vec<PreferencePair>, TrainError> {
    let by_id: BTreeMap<&str, &Problem> = problems.iter().map(|p| (p.id.as_str(), p)).collect();
    // The order of the two ways stands in the system turn, which is the pair's own.
    let options = ToolPromptOptions {
        costs,
        ..ToolPromptOptions::default()
    };
    augmented(pairs, spec, |_, question, copy| {
        let problem = by_id.get(question)?;
        let history = spec.tool_use(costs, &mut Augmentation::stream(root, question, copy));
        Some(ask(problem, &history, &options).messages)
    })
}

/// `prompt` gives the conversation of a copy by its id, its question and its number.
fn augmented(
    pairs: &[PreferencePair],
    spec: &Augmentation,
    prompt: impl Fn(&str, &str, u32) -> Option<Vec<Message>>,
) -> Result<Vec<PreferencePair>, TrainError> {
    let mut all = Vec::with_capacity(pairs.len() * (1 + spec.copies as usize));
    for pair in pairs {
        all.push(pair.clone());
        for copy in 1..=spec.copies {
            let id = copy_id(&pair.question_id, copy);
            let Some(user) = prompt(&id, &pair.question_id, copy)
                .and_then(|messages| messages.into_iter().nth(1))
            else {
                return Err(TrainError::Data(format!(
                    "pair `{}` is of question `{}`, which the training set does not hold; sample the pairs again",
                    pair.id, pair.question_id
                )));
            };
            all.push(PreferencePair {
                id: copy_id(&pair.id, copy),
                user: user.content,
                ..pair.clone()
            });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
