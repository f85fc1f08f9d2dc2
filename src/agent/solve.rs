//! Solving a problem with a tool at hand: the model writes, its calls are executed, their results are put into its
//! turn, and it writes on. A call is executed while other texts are written; none waits for another.
//!
//! What a tool put in is marked: the model reads it, but it is no action of the policy, and no loss falls on it.

mod calls;

use std::borrow::Cow;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::divided::divided;
use super::elicitation::{AskError, GenerationConfig, begins_thought, said, unbroken};
use super::model::LoadedModel;
use crate::generation::{Engine, Request};
use crate::model::Adapter;
use crate::runtime::ranks::Ended;
use crate::scenario::tool_use::prompt::Way;
use crate::text::Message;
use crate::tool::{Queue, Sandbox, Status};
use calls::{Calls, Desk};

/// How calls are executed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ToolConfig {
    /// Calls of one solution that are executed; later ones are left as they stand.
    pub max_calls: u32,
    /// Bytes of a result that the model is shown.
    pub result_bytes: usize,
}

impl Default for ToolConfig {
    fn default() -> Self {
        Self {
            max_calls: 4,
            result_bytes: 2000,
        }
    }
}

/// One problem to be solved.
#[derive(Debug, Clone)]
pub struct SolveAsk {
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// Root of this solution's random streams.
    pub seed: u64,
}

/// A call that was executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The program.
    pub code: String,
    /// How it ended.
    pub status: Status,
}

/// What a model wrote on a problem, calls and results included.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Solution {
    /// The whole turn, special tokens left out.
    pub text: String,
    /// Ids of the prompt.
    pub prompt: Vec<u32>,
    /// Ids after it, sampled ones and those that a tool put in.
    pub tokens: Vec<u32>,
    /// Log-probability of each as the sampler saw it; 0 for what a tool put in.
    pub logprobs: Vec<f32>,
    /// Places in `tokens` that a tool put in.
    pub inserted: Vec<Range<usize>>,
    /// Calls that were executed.
    pub calls: Vec<Call>,
    /// The model wrote a result's tags itself; in `text` they are escaped.
    pub forged: bool,
    /// The prompt left a think block open.
    pub thinking: bool,
    /// Temperature of the sampler; 1 where it was greedy.
    pub temperature: f64,
    /// `stop` or `length`.
    #[serde(skip)]
    pub finish: &'static str,
}

impl Solution {
    /// The text as an answer is read from it: the opening tag before it where the prompt began a thought.
    pub fn said(&self) -> Cow<'_, str> {
        said(&self.text, self.thinking)
    }

    /// How it was solved: with the tool where a call was executed.
    pub fn way(&self) -> Way {
        if self.calls.is_empty() {
            Way::Direct
        } else {
            Way::Tool
        }
    }
}

/// A solution that did not come about. It is a failure, never an answer.
#[derive(Debug, thiserror::Error)]
pub enum SolveError {
    /// As for any other text.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// A program has no result; it may have brought its worker down itself.
    #[error("a program has no result: {0}")]
    Lost(String),
    /// The sandbox broke down; the program is not to blame.
    #[error("the sandbox failed: {0}")]
    Sandbox(String),
    /// It failed on another rank.
    #[error("{0}")]
    Elsewhere(String),
}

impl SolveError {
    /// What is broken, where the program and the model are not to blame.
    fn broken(&self) -> Option<String> {
        match self {
            Self::Ask(error) => error.broken(),
            Self::Sandbox(_) => Some(self.to_string()),
            Self::Lost(_) | Self::Elsewhere(_) => None,
        }
    }
}

/// Solve many problems; solutions come in the order of the asks. `progress` is told how many more are done here.
///
/// Among ranks each gets a part of the asks, those with the same messages together, and all get all solutions.
///
/// # Errors
/// A stop on request, a rank that is gone, or a device or sandbox that broke down.
pub fn solve(
    model: &LoadedModel,
    adapter: Option<&Adapter>,
    generation: &GenerationConfig,
    tools: &ToolConfig,
    sandbox: &Sandbox,
    asks: &[SolveAsk],
    progress: impl FnMut(usize),
) -> Result<Vec<Result<Solution, SolveError>>, Ended> {
    if model.ranks.is_alone() {
        return solve_here(model, adapter, generation, tools, sandbox, asks, progress);
    }
    let solutions = divided(
        &model.ranks,
        asks,
        |ask| &ask.messages,
        generation.max_new_tokens as u64,
        |solution: &mut Solution| &mut solution.finish,
        |mine| solve_here(model, adapter, generation, tools, sandbox, mine, progress),
    )?;
    let received = solutions.into_iter();
    Ok(received.map(|s| s.map_err(SolveError::Elsewhere)).collect())
}

/// As [`solve`], on this rank.
fn solve_here(
    model: &LoadedModel,
    adapter: Option<&Adapter>,
    generation: &GenerationConfig,
    tools: &ToolConfig,
    sandbox: &Sandbox,
    asks: &[SolveAsk],
    mut progress: impl FnMut(usize),
) -> Result<Vec<Result<Solution, SolveError>>, Ended> {
    let mut slots: Vec<Result<Solution, SolveError>> = asks
        .iter()
        .map(|ask| Ok(open(model, generation, ask)?))
        .collect();
    let writing: Vec<usize> = (0..asks.len()).filter(|&i| slots[i].is_ok()).collect();
    let mut told = asks.len() - writing.len();
    progress(told);
    let desk = Desk {
        model,
        generation,
        tools,
        asks,
    };
    let opened = writing
        .iter()
        .filter_map(|&place| slots[place].as_ref().ok());
    let requests: Vec<Request> = opened
        .zip(&writing)
        .map(|(solution, &place)| desk.request(solution, place))
        .collect();
    let completions = std::thread::scope(|scope| {
        let queue = Queue::new(scope, sandbox, writing.len());
        let mut calls = Calls::new(&desk, &writing, &mut slots, queue);
        Engine::new(&model.decoder, adapter).generate_with(&requests, &mut calls, |more| {
            told += more;
            progress(more);
        })
    })?;
    progress(asks.len() - told);
    for (&place, completion) in writing.iter().zip(completions.0) {
        desk.close(&mut slots[place], completion);
    }
    unbroken(slots, SolveError::broken)
}

/// The rendered prompt, nothing written yet.
fn open(
    model: &LoadedModel,
    generation: &GenerationConfig,
    ask: &SolveAsk,
) -> Result<Solution, AskError> {
    let rendered = model
        .codec
        .render(&ask.messages, &generation.render_options())?;
    Ok(Solution {
        text: String::new(),
        prompt: model.codec.tokenizer().encode(&rendered)?,
        tokens: vec![],
        logprobs: vec![],
        inserted: vec![],
        calls: vec![],
        forged: false,
        thinking: begins_thought(&rendered),
        temperature: if generation.temperature > 0.0 {
            generation.temperature
        } else {
            1.0
        },
        finish: "stop",
    })
}
