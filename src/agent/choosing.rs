//! The choice as one action: options are scored as they would follow what was written, and one of them is drawn.
//!
//! Asks that follow each other with the same prompt and options (a group, further attempts) share one computation.

use std::ops::Range;

use super::elicitation::{Answer, Ask, AskError, END_OF_THOUGHT, GenerationConfig, ScoredChoice};
use super::model::LoadedModel;
use super::scoring::Scorer;
use crate::generation::{GenerationError, sampling::draw_option};
use crate::model::logprobs::Targets;
use crate::model::{Adapter, Packed};
use crate::runtime::gpu::GpuError;
use crate::runtime::interrupt::Interrupted;
use crate::runtime::seed::derive;

/// What was written so far, and the options' answers as they would follow it.
#[derive(Debug, PartialEq)]
struct Choice {
    prefix: Vec<u32>,
    options: Vec<Vec<u32>>,
}

impl Choice {
    /// The options behind the prefix, and all their tokens.
    fn packed(&self) -> (Packed, Targets) {
        let mut batch = Packed::new();
        let root = batch.root(&self.prefix);
        let children: Vec<_> = self.options.iter().map(|o| batch.child(root, o)).collect();
        let options = children
            .into_iter()
            .zip(self.options.iter().map(Vec::as_slice));
        let targets = Targets::of_children(&batch, options);
        (batch, targets)
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
    let scorer = match Scorer::new(model, adapter) {
        Ok(scorer) => scorer,
        Err(error) => {
            let error = failed(&error);
            let open = of.iter().flatten();
            open.for_each(|&(place, _)| answers[place] = Err(error.clone().into()));
            return Ok(());
        }
    };
    let items: Vec<(Packed, Targets)> = choices.iter().map(Choice::packed).collect();
    scorer.score(&items, |at, scored| {
        // Of each option's whole text.
        let sum = |span: &Range<usize>, all: &[f32]| {
            all[span.clone()].iter().map(|&l| f64::from(l)).sum()
        };
        let spans = items[at].1.spans().iter();
        let logprobs: Result<Vec<f64>, GenerationError> = match scored {
            Ok(all) => Ok(spans.map(|span| sum(span, &all)).collect()),
            Err(error) => Err(failed(&error)),
        };
        for &(place, bridge) in &of[at] {
            let drawn = logprobs.clone().and_then(|logprobs| {
                let seed = derive(asks[place].seed, "choice");
                draw_option(&logprobs, config.temperature, seed).map_err(GenerationError::from)
            });
            match (drawn, &mut answers[place]) {
                (Ok((chosen, probabilities)), Ok(answer)) => {
                    answer.text.push_str(bridge);
                    answer.text.push_str(&asks[place].options[chosen]);
                    answer.choice = Some(ScoredChoice {
                        options: choices[at].options.clone(),
                        chosen,
                        probabilities,
                    });
                }
                (Err(error), slot) => *slot = Err(error.into()),
                (Ok(_), Err(_)) => {}
            }
        }
        progress(of[at].len());
        Ok(())
    })
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
        (_, true) => END_OF_THOUGHT,
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

fn failed(error: &GpuError) -> GenerationError {
    match error.is_out_of_memory() {
        true => GenerationError::OutOfMemory(error.to_string()),
        false => GenerationError::Device(error.to_string()),
    }
}
