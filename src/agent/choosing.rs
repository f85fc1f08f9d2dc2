//! The choice as one action: options are scored as they would follow what was written, and one of them is drawn.
//!
//! Distinct choices are scored many at a time, packed one behind the other; asks that follow each other with the same prompt
//! and options (a group, further attempts) share one.

use std::ops::Range;

use tch::{Device, Kind};

use super::elicitation::{Answer, Ask, AskError, GenerationConfig, ScoredChoice};
use super::model::LoadedModel;
use crate::generation::{GenerationError, sampling::draw_option};
use crate::model::backprop::Live;
use crate::model::logprobs::{Predictors, Targets, sums};
use crate::model::{Adapter, Packed};
use crate::runtime::device::is_deterministic;
use crate::runtime::gpu::GpuError;
use crate::runtime::interrupt::{Interrupted, check};
use crate::runtime::seed::derive;

/// Tokens that are computed together: enough to keep the device busy, few enough to stop soon on a CPU and to fit beside a
/// GPU's cache of keys and values.
const TOKENS_CPU: usize = 1024;
const TOKENS_GPU: usize = 8192;

/// What was written so far, and the options' answers as they would follow it.
#[derive(Debug, PartialEq)]
struct Choice {
    prefix: Vec<u32>,
    options: Vec<Vec<u32>>,
}

impl Choice {
    fn tokens(&self) -> usize {
        self.prefix.len() + self.options.iter().map(Vec::len).sum::<usize>()
    }
}

/// Draw an option for every answer that is under way, after what it has so far.
pub(super) fn choose(
    model: &LoadedModel,
    adapter: Option<&Adapter>,
    config: &GenerationConfig,
    asks: &[Ask],
    answers: &mut [Result<Answer, AskError>],
    mut progress: impl FnMut(usize),
) -> Result<(), Interrupted> {
    let mut choices: Vec<Choice> = vec![];
    // Asks of each choice; they follow each other.
    let mut of: Vec<Vec<(usize, &'static str)>> = vec![];
    for (place, (ask, slot)) in asks.iter().zip(answers.iter_mut()).enumerate() {
        let Ok(answer) = slot else {
            progress(1);
            continue;
        };
        match prepare(model, ask, answer) {
            Err(error) => {
                *slot = Err(error);
                progress(1);
            }
            Ok((bridge, choice)) => {
                if choices.last() != Some(&choice) {
                    choices.push(choice);
                    of.push(vec![]);
                }
                of.last_mut().expect("its choice").push((place, bridge));
            }
        }
    }
    let scorer = Scorer::new(model, adapter);
    for pack in packs(&choices, scorer.tokens()) {
        check()?;
        let scored = scorer.score(&choices[pack.clone()]);
        for ((asked, choice), logprobs) in of[pack.clone()].iter().zip(&choices[pack]).zip(scored) {
            for &(place, bridge) in asked {
                let drawn = logprobs.clone().and_then(|logprobs| {
                    let seed = derive(asks[place].seed, "choice");
                    draw_option(&logprobs, config.temperature, seed).map_err(GenerationError::from)
                });
                match (drawn, &mut answers[place]) {
                    (Ok((chosen, probabilities)), Ok(answer)) => {
                        answer.text.push_str(bridge);
                        answer.text.push_str(&asks[place].options[chosen]);
                        answer.choice = Some(ScoredChoice {
                            options: choice.options.clone(),
                            chosen,
                            probabilities,
                        });
                    }
                    (Err(error), slot) => *slot = Err(error.into()),
                    (Ok(_), Err(_)) => {}
                }
            }
            progress(asked.len());
        }
    }
    Ok(())
}

/// What stands between an answer's text and its options, which is entered in it; and the choice.
fn prepare(
    model: &LoadedModel,
    ask: &Ask,
    answer: &mut Answer,
) -> Result<(&'static str, Choice), AskError> {
    let tokenizer = model.codec.tokenizer();
    // The reasoning without its stop token, a thinking block closed, a line of its own for the answer.
    let reasoning = &answer.sampled[..answer.reasoning];
    let begun = answer.thinking || answer.text.contains("<think>");
    let thinking_open = begun && !answer.text.contains("</think>");
    let bridge = match (reasoning.is_empty(), thinking_open) {
        (_, true) => "\n</think>\n\n",
        (false, false) => "\n",
        (true, false) => "",
    };
    answer.bridge = if bridge.is_empty() {
        vec![]
    } else {
        tokenizer.encode(bridge)?
    };
    let options = ask
        .options
        .iter()
        .map(|text| tokenizer.encode(text))
        .collect::<Result<Vec<_>, _>>()?;
    let prefix = [&answer.prompt[..], reasoning, &answer.bridge].concat();
    let longest = options.iter().map(Vec::len).max().unwrap_or(0);
    let context = model.decoder.config().max_position as usize;
    if prefix.len() + longest > context {
        return Err(GenerationError::TooLong {
            prompt: prefix.len(),
            new: longest,
            context,
        }
        .into());
    }
    Ok((bridge, Choice { prefix, options }))
}

/// Which choices are scored together, so that they have no more than so many tokens, or are one.
fn packs(choices: &[Choice], most: usize) -> Vec<Range<usize>> {
    let mut packs: Vec<Range<usize>> = vec![];
    let mut tokens = 0;
    for (index, choice) in choices.iter().enumerate() {
        let own = choice.tokens();
        match packs.last_mut() {
            Some(pack) if tokens + own <= most => {
                pack.end += 1;
                tokens += own;
            }
            _ => {
                packs.push(index..index + 1);
                tokens = own;
            }
        }
    }
    packs
}

/// A model with an adapter, for the time of one call.
struct Scorer<'a> {
    model: &'a LoadedModel,
    live: Result<Option<Live>, GpuError>,
}

impl<'a> Scorer<'a> {
    fn new(model: &'a LoadedModel, adapter: Option<&Adapter>) -> Self {
        let live = adapter.map(|adapter| Live::new(adapter, &model.decoder));
        Self {
            model,
            live: live.transpose(),
        }
    }

    /// Most tokens at once. Under the deterministic mode each choice is computed alone, so that nothing depends on the others.
    fn tokens(&self) -> usize {
        match self.model.decoder.device().is_cuda() {
            true if is_deterministic() => 0,
            true => TOKENS_GPU,
            false => TOKENS_CPU,
        }
    }

    /// Log-probabilities of the options' whole texts, by choice.
    fn score(&self, choices: &[Choice]) -> Vec<Result<Vec<f64>, GenerationError>> {
        match self.try_score(choices) {
            Ok(all) => all.into_iter().map(Ok).collect(),
            // What fails together, as for lack of memory, may succeed alone.
            Err(_) if choices.len() > 1 => {
                let (first, second) = choices.split_at(choices.len() / 2);
                [self.score(first), self.score(second)]
                    .into_iter()
                    .flatten()
                    .collect()
            }
            Err(error) => choices.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    fn try_score(&self, choices: &[Choice]) -> Result<Vec<Vec<f64>>, GenerationError> {
        let device = |e: &GpuError| match e.is_out_of_memory() {
            true => GenerationError::OutOfMemory(e.to_string()),
            false => GenerationError::Device(e.to_string()),
        };
        let live = self.live.as_ref().map_err(device)?.as_ref();
        let found = || -> Result<Vec<f64>, GpuError> {
            let mut batch = Packed::new();
            let mut targets = Targets::default();
            for choice in choices {
                let root = batch.root(&choice.prefix);
                for option in &choice.options {
                    let child = batch.child(root, option);
                    targets.push(&batch.predictors(child), option, 1.0);
                }
            }
            let decoder = &self.model.decoder;
            let tape = decoder.forward_kept(&batch, live, None)?;
            let scored = Predictors::new(decoder, tape.hidden(), &targets)?.score()?;
            let logprobs = scored.logprobs.f_to_device(Device::Cpu)?;
            let sums = sums(&logprobs, targets.spans()).f_to_kind(Kind::Double)?;
            Ok(Vec::<f64>::try_from(sums)?)
        };
        let mut all = found().map_err(|e| device(&e))?.into_iter();
        let counts = choices.iter().map(|choice| choice.options.len());
        Ok(counts.map(|n| all.by_ref().take(n).collect()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_packed_in_order_up_to_the_most() {
        let of = |tokens: usize| Choice {
            prefix: vec![0; tokens - 2],
            options: vec![vec![1], vec![2]],
        };
        let choices = [of(5), of(4), of(3), of(20), of(9), of(2)];
        assert_eq!(packs(&choices, 10), [0..2, 2..3, 3..4, 4..5, 5..6]);
        assert_eq!(packs(&choices, 12), [0..3, 3..4, 4..6]);
        assert_eq!(packs(&choices, 0).len(), 6);
        assert!(packs(&[], 10).is_empty());
    }
}
