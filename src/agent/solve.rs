//! Solving a problem with a tool at hand: the model writes, its calls are executed, their results are put into its
//! turn, and it writes on.
//!
//! What a tool put in is marked: the model reads it, but it is no action of the policy, and no loss falls on it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::divided::divided;
use super::elicitation::{AskError, GenerationConfig};
use super::model::LoadedModel;
use crate::generation::{Engine, Finish, Halt, Request};
use crate::model::Adapter;
use crate::runtime::interrupt::{Interrupted, check};
use crate::runtime::ranks::Ended;
use crate::runtime::seed::derive;
use crate::scenario::tool_use::call;
use crate::scenario::tool_use::prompt::Way;
use crate::text::{Message, Specials};
use crate::tool::{Execution, Sandbox, Status};

/// What ends a call.
const CALL_END: &str = "</tool>";
/// Tokens at the end of a text that can hold the closing tag of a call.
const TAIL: usize = 12;

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
    /// The sandbox broke down; the program is not to blame.
    #[error("the sandbox failed: {0}")]
    Sandbox(String),
    /// It failed on another rank.
    #[error("{0}")]
    Elsewhere(String),
}

/// Solve many problems; solutions come in the order of the asks. `progress` is told how many more are done here.
///
/// Among ranks each gets a part of the asks, those with the same messages together, and all get all solutions.
///
/// # Errors
/// A stop on request, or a rank that is gone.
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
        let here = solve_here(model, adapter, generation, tools, sandbox, asks, progress);
        return Ok(here?);
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
) -> Result<Vec<Result<Solution, SolveError>>, Interrupted> {
    let mut slots: Vec<Result<Solution, SolveError>> = asks
        .iter()
        .map(|ask| Ok(open(model, generation, ask)?))
        .collect();
    let mut writing: Vec<usize> = (0..asks.len()).filter(|&i| slots[i].is_ok()).collect();
    progress(asks.len() - writing.len());
    for turn in 0.. {
        let written = write(
            model, adapter, generation, tools, asks, &writing, &mut slots, turn,
        )?;
        progress(writing.len() - written.len());
        if written.is_empty() {
            break;
        }
        check()?;
        let codes: Vec<&str> = written.iter().map(|(_, code)| code.as_str()).collect();
        let executions = sandbox.run(&codes);
        writing.clear();
        for ((place, code), execution) in written.into_iter().zip(executions) {
            match insert(model, generation, tools, &mut slots[place], code, execution) {
                Ok(true) => writing.push(place),
                Ok(false) => progress(1),
                Err(error) => {
                    slots[place] = Err(error);
                    progress(1);
                }
            }
        }
    }
    Ok(slots)
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
        thinking: rendered.trim_end().ends_with("<think>"),
        temperature: if generation.temperature > 0.0 {
            generation.temperature
        } else {
            1.0
        },
        finish: "stop",
    })
}

/// Let the model write on until each text is done or calls the tool. Gives the calls: place and program.
#[allow(clippy::too_many_arguments)] // all of `solve`'s, and where it stands
fn write(
    model: &LoadedModel,
    adapter: Option<&Adapter>,
    generation: &GenerationConfig,
    tools: &ToolConfig,
    asks: &[SolveAsk],
    writing: &[usize],
    slots: &mut [Result<Solution, SolveError>],
    turn: usize,
) -> Result<Vec<(usize, String)>, Interrupted> {
    let tokenizer = model.codec.tokenizer();
    let mut requests = vec![];
    for &place in writing {
        let Ok(solution) = &slots[place] else {
            continue;
        };
        let halt = (solution.calls.len() < tools.max_calls as usize).then(|| {
            let (tokenizer, before) = (tokenizer.clone(), solution.text.clone());
            let thinking = solution.thinking;
            Halt::new(move |tokens| {
                let tail = &tokens[tokens.len().saturating_sub(TAIL)..];
                let text = |ids: &[u32]| tokenizer.decode(ids, Specials::Skip).unwrap_or_default();
                // The whole text is looked at only where a call may have ended.
                text(tail).contains(CALL_END) && {
                    let whole = format!("{before}{}", call::escape_forged(&text(tokens)));
                    call::next_call(&whole, before.len(), thinking).is_some()
                }
            })
        });
        requests.push(Request {
            prompt: [&solution.prompt[..], &solution.tokens].concat(),
            max_new_tokens: generation.max_new_tokens - solution.tokens.len(),
            sampling: generation.sampling(),
            stop: model.codec.stop_ids().to_vec(),
            halt,
            seed: derive(asks[place].seed, &format!("text/turn-{turn}")),
        });
    }
    let completions = Engine::new(&model.decoder, adapter).generate(&requests, |_| ())?;
    let mut calls = vec![];
    for (&place, completion) in writing.iter().zip(completions) {
        let taken = completion.map_err(AskError::from).and_then(|completion| {
            let text = model.codec.decode_turn(&completion.tokens)?;
            Ok((completion, text))
        });
        match (taken, &mut slots[place]) {
            (Ok((completion, text)), Ok(solution)) => {
                let from = solution.text.len();
                solution.forged |= call::forged_result(&text).is_some();
                solution.text.push_str(&call::escape_forged(&text));
                solution.tokens.extend(completion.tokens);
                solution.logprobs.extend(completion.logprobs);
                solution.finish = if completion.finish == Finish::Stop {
                    "stop"
                } else {
                    "length"
                };
                if completion.finish == Finish::Halt
                    && let Some(call) = call::next_call(&solution.text, from, solution.thinking)
                {
                    calls.push((place, call.code));
                }
            }
            (Err(error), slot) => *slot = Err(error.into()),
            (Ok(_), Err(_)) => {}
        }
    }
    Ok(calls)
}

/// Put a result into a text; says whether there is room to write on.
fn insert(
    model: &LoadedModel,
    generation: &GenerationConfig,
    tools: &ToolConfig,
    slot: &mut Result<Solution, SolveError>,
    code: String,
    execution: Execution,
) -> Result<bool, SolveError> {
    let Ok(solution) = slot else { return Ok(false) };
    if execution.status == Status::Broken {
        return Err(SolveError::Sandbox(execution.stderr));
    }
    let block = call::result_block(&shown(&execution), tools.result_bytes);
    let ids = model
        .codec
        .tokenizer()
        .encode(&block)
        .map_err(AskError::from)?;
    let start = solution.tokens.len();
    solution.inserted.push(start..start + ids.len());
    solution
        .logprobs
        .extend(std::iter::repeat_n(0.0, ids.len()));
    solution.tokens.extend(ids);
    solution.text.push_str(&block);
    solution.calls.push(Call {
        code,
        status: execution.status,
    });
    let room = solution.tokens.len() < generation.max_new_tokens;
    if !room {
        solution.finish = "length";
    }
    Ok(room)
}

/// What the model is told of an execution: what was printed, and how it ended where that was not by itself.
fn shown(execution: &Execution) -> String {
    let error = execution.stderr.trim_end().lines().last().unwrap_or("");
    let end = match execution.status {
        Status::Finished => String::new(),
        Status::Raised { code } if error.is_empty() => format!("[exit code {code}]"),
        Status::Raised { .. } => error.to_owned(),
        Status::TimedOut => "[stopped: it took too long]".to_owned(),
        Status::OutOfMemory => "MemoryError".to_owned(),
        Status::OutputLimit => "[stopped: it wrote too much]".to_owned(),
        Status::Killed { signal } => format!("[stopped by signal {signal}]"),
        Status::Refused => "[stopped: not allowed]".to_owned(),
        Status::Broken => "[no result]".to_owned(),
    };
    let printed = execution.stdout.trim_end();
    match (printed.is_empty(), end.is_empty()) {
        (false, false) => format!("{printed}\n{end}"),
        (false, true) => printed.to_owned(),
        (true, _) => end,
    }
}
