//! Eliciting a decision: free text as in the paper, a constrained choice after free reasoning, or the choice alone.
//!
//! Every way ends in a text that the one answer parser reads. Where options are scored, the choice is one action of
//! the policy: its probability is that of the option's whole answer text, renormalised over the options.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::choosing::choose;
use super::divided::divided;
use super::endpoint::ServedError;
use super::model::LoadedModel;
use crate::generation::{Engine, GenerationError, Request, Sampling};
use crate::model::Adapter;
use crate::runtime::interrupt::Interrupted;
use crate::runtime::ranks::Ended;
use crate::runtime::seed::derive;
use crate::scenario::prompt::AnswerStyle;
use crate::text::{Message, RenderOptions, TextError};

/// How a decision is got out of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Elicitation {
    /// Free text that is to end in the JSON answer, as the paper does it.
    #[default]
    Free,
    /// Free reasoning up to the token limit, then one of the options' answers, drawn by its probability.
    Constrained,
    /// One of the options' answers at once, drawn by its probability.
    Score,
}

/// Settings of generation, as a recipe gives them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerationConfig {
    /// How decisions are elicited.
    pub elicitation: Elicitation,
    /// Most tokens of an answer (of the reasoning, where the choice is constrained).
    pub max_new_tokens: usize,
    /// Temperature; 0 is greedy.
    pub temperature: f64,
    /// Keep the k likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the likeliest tokens up to this probability; 1 keeps all.
    pub top_p: f64,
    /// Keep tokens at least this fraction as likely as the likeliest; 0 keeps all.
    pub min_p: f64,
    /// Thinking mode of models that have one; left to the template where it is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<bool>,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            elicitation: Elicitation::Free,
            max_new_tokens: 1024,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            thinking: None,
        }
    }
}

impl GenerationConfig {
    /// The sampler's part.
    pub fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
        }
    }

    /// What is wrong with the settings, if anything: `(field, problem)`.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        self.sampling().check()?;
        if self.max_new_tokens == 0 && self.elicitation != Elicitation::Score {
            return Err(("max_new_tokens", "expected 1 or more, got 0".into()));
        }
        // No model's context is longer.
        const MOST: usize = 1 << 24;
        if self.max_new_tokens > MOST {
            let got = self.max_new_tokens;
            return Err((
                "max_new_tokens",
                format!("expected up to {MOST}, got {got}"),
            ));
        }
        Ok(())
    }

    /// Most new tokens of an answer that are drawn one by one.
    pub fn new_tokens(&self) -> u64 {
        match self.elicitation {
            Elicitation::Score => 0,
            Elicitation::Free | Elicitation::Constrained => self.max_new_tokens as u64,
        }
    }

    /// How the answer is asked for.
    pub fn answer_style(&self) -> AnswerStyle {
        match self.elicitation {
            Elicitation::Score => AnswerStyle::Direct,
            Elicitation::Free | Elicitation::Constrained => AnswerStyle::Reasoned,
        }
    }

    /// How prompts are rendered.
    pub fn render_options(&self) -> RenderOptions {
        RenderOptions {
            thinking: self.thinking,
            ..RenderOptions::prompt()
        }
    }
}

/// One decision to be made.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// Canonical answer text of each option.
    pub options: Vec<String>,
    /// Root of this decision's random streams.
    pub seed: u64,
}

/// A constrained choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoredChoice {
    /// Ids of each option's answer, as they follow prompt and reasoning.
    pub options: Vec<Vec<u32>>,
    /// Which was drawn.
    pub chosen: usize,
    /// Probability of each, renormalised over the options, at temperature 1.
    pub probabilities: Vec<f64>,
}

/// A decision as the model wrote it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Everything the model wrote, special tokens left out.
    pub text: String,
    /// The prompt ends in a thought that it began.
    pub thinking: bool,
    /// Ids of the prompt.
    pub prompt: Vec<u32>,
    /// Ids that were sampled token by token: the whole answer, the reasoning, or nothing.
    pub sampled: Vec<u32>,
    /// Their log-probabilities as the sampler saw them.
    pub logprobs: Vec<f32>,
    /// How many of `sampled` are text: all but a stop token.
    pub reasoning: usize,
    /// Temperature of the sampler; 1 where it was greedy.
    pub temperature: f64,
    /// Ids between the sampled reasoning and the options' answers.
    pub bridge: Vec<u32>,
    /// The constrained choice, where there was one.
    pub choice: Option<ScoredChoice>,
    /// `stop`, `length`, or of a served model `filtered`.
    #[serde(skip)]
    pub finish: &'static str,
    /// Tokens as a server counted them, where the ids are not known.
    pub usage: Option<Usage>,
}

/// Tokens of a request, as a server counts them; 0 where it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Of the prompt.
    pub prompt: u32,
    /// Of what the model wrote.
    pub completion: u32,
}

/// A text with the opening tag of a thought that its prompt began: what is read for an answer, and kept in rows.
pub(super) fn said(text: &str, thinking: bool) -> Cow<'_, str> {
    match thinking {
        true => Cow::Owned(format!("<think>{text}")),
        false => Cow::Borrowed(text),
    }
}

/// What ends a thought before an answer that the model did not write.
pub(super) const END_OF_THOUGHT: &str = "\n</think>\n\n";

/// What belongs before an answer that is put behind prompts like the `first`: the end of a thought that the prompt began. One
/// template makes all of them.
///
/// # Errors
/// The prompt cannot be rendered.
pub fn before_answer(
    model: &LoadedModel,
    config: &GenerationConfig,
    first: Option<Vec<Message>>,
) -> Result<&'static str, TextError> {
    let Some(messages) = first else {
        return Ok("");
    };
    let rendered = model.codec.render(&messages, &config.render_options())?;
    Ok(match begins_thought(&rendered) {
        true => END_OF_THOUGHT,
        false => "",
    })
}

/// Whether a rendered prompt ends in a thought that it began.
pub(super) fn begins_thought(prompt: &str) -> bool {
    prompt.trim_end().ends_with("<think>")
}

impl Answer {
    /// The text as an answer is read from it: the opening tag before it where the prompt began a thought.
    pub fn said(&self) -> Cow<'_, str> {
        said(&self.text, self.thinking)
    }

    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.usage
            .map_or(self.prompt.len(), |usage| usage.prompt as usize)
    }

    /// Tokens the model wrote.
    pub fn completion_tokens(&self) -> usize {
        if let Some(usage) = self.usage {
            return usage.completion as usize;
        }
        let choice = self
            .choice
            .as_ref()
            .map_or(0, |c| c.options[c.chosen].len());
        self.sampled.len() + self.bridge.len() + choice
    }
}

/// A decision that did not come about. It is a failure, never an answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Generation failed.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// The text could not be rendered or encoded.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A server gave no answer.
    #[error(transparent)]
    Served(#[from] ServedError),
    /// It failed on another rank.
    #[error("{0}")]
    Elsewhere(String),
}

impl AskError {
    /// What is broken, where that is the device itself: then nothing that it had under way is an answer or a failure of the
    /// model.
    pub(super) fn broken(&self) -> Option<String> {
        match self {
            Self::Generation(error @ GenerationError::Device(_)) => Some(error.to_string()),
            _ => None,
        }
    }
}

/// These results, unless what computes broke down under one of them.
pub(super) fn unbroken<T, E>(
    results: Vec<Result<T, E>>,
    broken: impl Fn(&E) -> Option<String>,
) -> Result<Vec<Result<T, E>>, Ended> {
    let mut failures = results.iter().filter_map(|result| result.as_ref().err());
    match failures.find_map(broken) {
        Some(what) => Err(Ended::Broken(what)),
        None => Ok(results),
    }
}

/// Ask for many decisions; answers come in the order of the asks. `progress` is told how many more are done here.
///
/// Among ranks each gets a part of the asks and all get all answers. Asks that follow each other with the same messages
/// (a GRPO group, further attempts) stay together, since their prompt is computed once.
///
/// # Errors
/// A stop on request, a rank that is gone, or a device that broke down.
pub fn ask(
    model: &LoadedModel,
    adapter: Option<&Adapter>,
    config: &GenerationConfig,
    asks: &[Ask],
    progress: impl FnMut(usize),
) -> Result<Vec<Result<Answer, AskError>>, Ended> {
    if model.ranks.is_alone() {
        return ask_here(model, adapter, config, asks, progress);
    }
    let answers = divided(
        &model.ranks,
        asks,
        |ask| &ask.messages,
        config.new_tokens(),
        |answer: &mut Answer| &mut answer.finish,
        |mine| ask_here(model, adapter, config, mine, progress),
    )?;
    let received = answers.into_iter();
    Ok(received.map(|a| a.map_err(AskError::Elsewhere)).collect())
}

/// As [`ask`], on this rank.
fn ask_here(
    model: &LoadedModel,
    adapter: Option<&Adapter>,
    config: &GenerationConfig,
    asks: &[Ask],
    mut progress: impl FnMut(usize),
) -> Result<Vec<Result<Answer, AskError>>, Ended> {
    let mut answers: Vec<Result<Answer, AskError>> =
        asks.iter().map(|ask| open(model, config, ask)).collect();
    if config.elicitation != Elicitation::Score {
        let count_here = config.elicitation == Elicitation::Free;
        generate(model, adapter, config, asks, &mut answers, |n| {
            if count_here {
                progress(n)
            }
        })?;
    }
    if config.elicitation != Elicitation::Free {
        choose(model, adapter, config, asks, &mut answers, progress)?;
    }
    unbroken(answers, AskError::broken)
}

/// The rendered prompt, nothing answered yet.
fn open(model: &LoadedModel, config: &GenerationConfig, ask: &Ask) -> Result<Answer, AskError> {
    let rendered = model
        .codec
        .render(&ask.messages, &config.render_options())?;
    Ok(Answer {
        text: String::new(),
        thinking: begins_thought(&rendered),
        prompt: model.codec.tokenizer().encode(&rendered)?,
        sampled: vec![],
        logprobs: vec![],
        reasoning: 0,
        temperature: if config.temperature > 0.0 {
            config.temperature
        } else {
            1.0
        },
        bridge: vec![],
        choice: None,
        finish: "stop",
        usage: None,
    })
}

/// Sample the free text of every answer.
fn generate(
    model: &LoadedModel,
    adapter: Option<&Adapter>,
    config: &GenerationConfig,
    asks: &[Ask],
    answers: &mut [Result<Answer, AskError>],
    progress: impl FnMut(usize),
) -> Result<(), Interrupted> {
    let mut places = vec![];
    let mut requests = vec![];
    for (place, (ask, answer)) in asks.iter().zip(answers.iter()).enumerate() {
        if let Ok(answer) = answer {
            places.push(place);
            requests.push(Request {
                prompt: answer.prompt.clone(),
                max_new_tokens: config.max_new_tokens,
                sampling: config.sampling(),
                stop: model.codec.stop_ids().to_vec(),
                halt: None,
                seed: derive(ask.seed, "text"),
            });
        }
    }
    let completions = Engine::new(&model.decoder, adapter).generate(&requests, progress)?;
    for (place, completion) in places.into_iter().zip(completions) {
        let filled = completion.map_err(AskError::from).and_then(|completion| {
            let text = model.codec.decode_turn(&completion.tokens)?;
            Ok((completion, text))
        });
        match (filled, &mut answers[place]) {
            (Ok((completion, text)), Ok(answer)) => {
                answer.text = text;
                answer.finish = completion.finish.name();
                answer.sampled = completion.tokens;
                let is_text = |id: &&u32| !model.codec.stop_ids().contains(id);
                answer.reasoning = answer.sampled.iter().take_while(is_text).count();
                answer.logprobs = completion.logprobs;
            }
            (Err(error), slot) => *slot = Err(error),
            (Ok(_), Err(_)) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_broke_down_is_told_apart_from_texts_that_failed() {
        let broken = |error: GenerationError| AskError::from(error).broken();
        let told = broken(GenerationError::Device("an illegal address".into()));
        assert_eq!(
            told.as_deref(),
            Some("the device failed: an illegal address")
        );
        assert_eq!(broken(GenerationError::BadPrompt("is empty".into())), None);
        assert_eq!(broken(GenerationError::OutOfMemory("8 GiB".into())), None);
    }
}
