//! Many asks among ranks: each computes a part of them, and all get all results.

use std::fmt::Display;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::generation::Finish;
use crate::runtime::ranks::{Ended, Ranks};
use crate::text::Message;

/// Divide asks among ranks, those that follow each other with the same messages together, since their prompt is computed
/// once. `here` computes this rank's; results come in the order of the asks, failures as their messages. A result's finish,
/// which is a name of this program's, travels apart.
///
/// # Errors
/// A stop on request, a rank that is gone, or what `here` ends with.
pub(super) fn divided<A: Clone, R: Serialize + DeserializeOwned, E: Display>(
    ranks: &Ranks,
    asks: &[A],
    messages: impl Fn(&A) -> &[Message],
    new_tokens: u64,
    finish: impl Fn(&mut R) -> &mut &'static str,
    here: impl FnOnce(&[A]) -> Result<Vec<Result<R, E>>, Ended>,
) -> Result<Vec<Result<R, String>>, Ended> {
    type Posted<R> = Result<(R, String), String>;
    let groups: Vec<&[A]> = asks.chunk_by(|a, b| messages(a) == messages(b)).collect();
    let costs: Vec<u64> = groups
        .iter()
        .map(|group| prompt_cost(messages(&group[0])) + group.len() as u64 * new_tokens)
        .collect();
    let done: Vec<Vec<Posted<R>>> = ranks.share(&costs, |mine| {
        let own: Vec<A> = mine.iter().flat_map(|&g| groups[g].to_vec()).collect();
        let mut posted = here(&own)?.into_iter().map(|result| {
            let mut result = result.map_err(|error| error.to_string())?;
            let name = (*finish(&mut result)).to_owned();
            Ok((result, name))
        });
        let parts = mine
            .iter()
            .map(|&g| posted.by_ref().take(groups[g].len()).collect());
        Ok::<_, Ended>(parts.collect())
    })?;
    let received = done.into_iter().flatten().map(|result| {
        let (mut result, name) = result?;
        *finish(&mut result) = Finish::named(&name);
        Ok(result)
    });
    Ok(received.collect())
}

/// About how many tokens a prompt has.
fn prompt_cost(messages: &[Message]) -> u64 {
    messages.iter().map(|m| m.content.len() as u64 / 4).sum()
}
