//! The calls of texts that are being written: each is executed as soon as it stands there, and answered with its result.

use std::collections::BTreeMap;

use super::{Call, Solution, SolveAsk, SolveError, ToolConfig};
use crate::agent::elicitation::{AskError, GenerationConfig};
use crate::agent::model::LoadedModel;
use crate::generation::{Completion, Finish, GenerationError, Halt, Onward, Outside, Request};
use crate::runtime::seed::derive;
use crate::scenario::tool_use::call;
use crate::text::Specials;
use crate::tool::{Execution, Queue, Status};

/// What ends a call.
const CALL_END: &str = "</tool>";
/// Tokens at the end of a text that can hold the closing tag of a call.
const TAIL: usize = 12;

/// Who writes, and how.
pub(super) struct Desk<'a> {
    pub model: &'a LoadedModel,
    pub generation: &'a GenerationConfig,
    pub tools: &'a ToolConfig,
    pub asks: &'a [SolveAsk],
}

/// The outside of the texts: the tool.
pub(super) struct Calls<'a> {
    desk: &'a Desk<'a>,
    /// Place of each text among the solutions.
    places: &'a [usize],
    solutions: &'a mut [Result<Solution, SolveError>],
    queue: Queue,
    /// Programs that are being executed, by text.
    programs: BTreeMap<usize, String>,
    /// Texts that end where they halted.
    ended: Vec<usize>,
}

impl Desk<'_> {
    /// A solution to be written from its prompt on.
    pub fn request(&self, solution: &Solution, place: usize) -> Request {
        Request {
            prompt: solution.prompt.clone(),
            max_new_tokens: self.generation.max_new_tokens,
            sampling: self.generation.sampling(),
            stop: self.model.codec.stop_ids().to_vec(),
            halt: self.halt(solution),
            seed: self.seed(solution, place),
        }
    }

    /// What ends its next turn: a call, as long as calls are executed.
    fn halt(&self, solution: &Solution) -> Option<Halt> {
        let tokenizer = self.model.codec.tokenizer();
        (solution.calls.len() < self.tools.max_calls as usize).then(|| {
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
        })
    }

    /// Root of its next turn's random stream.
    fn seed(&self, solution: &Solution, place: usize) -> u64 {
        let turn = solution.calls.len();
        derive(self.asks[place].seed, &format!("text/turn-{turn}"))
    }

    /// Take what was written since; gives where it begins in the solution's text.
    fn take(&self, solution: &mut Solution, written: &Completion) -> Result<usize, AskError> {
        let known = solution.tokens.len();
        let text = self.model.codec.decode_turn(&written.tokens[known..])?;
        let from = solution.text.len();
        solution.forged |= call::forged_result(&text).is_some();
        solution.text.push_str(&call::escape_forged(&text));
        solution.tokens.extend(&written.tokens[known..]);
        solution.logprobs.extend(&written.logprobs[known..]);
        solution.finish = if written.finish == Finish::Stop {
            "stop"
        } else {
            "length"
        };
        Ok(from)
    }

    /// Put a result into a solution; gives its tokens.
    fn insert(
        &self,
        solution: &mut Solution,
        code: String,
        execution: Execution,
    ) -> Result<Vec<u32>, SolveError> {
        match execution.status {
            Status::Broken => return Err(SolveError::Sandbox(execution.stderr)),
            Status::Lost => return Err(SolveError::Lost(execution.stderr)),
            _ => {}
        }
        let block = call::result_block(&shown(&execution), self.tools.result_bytes);
        let tokenizer = self.model.codec.tokenizer();
        let ids = tokenizer.encode(&block).map_err(AskError::from)?;
        let start = solution.tokens.len();
        solution.inserted.push(start..start + ids.len());
        solution.tokens.extend(&ids);
        solution.logprobs.resize(solution.tokens.len(), 0.0);
        solution.text.push_str(&block);
        solution.calls.push(Call {
            code,
            status: execution.status,
        });
        Ok(ids)
    }

    /// A text ended: take its last turn.
    pub fn close(
        &self,
        slot: &mut Result<Solution, SolveError>,
        completion: Result<Completion, GenerationError>,
    ) {
        // What failed on the way stays the reason.
        let Ok(solution) = slot else { return };
        let taken = completion
            .map_err(AskError::from)
            .and_then(|written| self.take(solution, &written));
        if let Err(error) = taken {
            *slot = Err(error.into());
        }
    }
}

impl<'a> Calls<'a> {
    pub fn new(
        desk: &'a Desk<'a>,
        places: &'a [usize],
        solutions: &'a mut [Result<Solution, SolveError>],
        queue: Queue,
    ) -> Self {
        Self {
            desk,
            places,
            solutions,
            queue,
            programs: BTreeMap::new(),
            ended: vec![],
        }
    }

    /// The program of the call at the end of a text, if it is one.
    fn program(&mut self, index: usize, text: &Completion) -> Result<Option<String>, SolveError> {
        let Ok(solution) = &mut self.solutions[self.places[index]] else {
            return Ok(None);
        };
        let from = self.desk.take(solution, text)?;
        let call = call::next_call(&solution.text, from, solution.thinking);
        Ok(call.map(|call| call.code))
    }

    /// How a text goes on after its program.
    fn onward(&mut self, index: usize, execution: Execution) -> Result<Onward, SolveError> {
        let (desk, place) = (self.desk, self.places[index]);
        let (Some(code), Ok(solution)) = (self.programs.remove(&index), &mut self.solutions[place])
        else {
            return Ok(Onward::End);
        };
        Ok(Onward::With {
            inserted: desk.insert(solution, code, execution)?,
            halt: desk.halt(solution),
            seed: desk.seed(solution, place),
        })
    }
}

impl Outside for Calls<'_> {
    fn halted(&mut self, index: usize, text: &Completion) {
        match self.program(index, text) {
            Ok(Some(program)) => {
                self.programs.insert(index, program.clone());
                self.queue.put(index, program);
            }
            Ok(None) => self.ended.push(index),
            Err(error) => {
                self.solutions[self.places[index]] = Err(error);
                self.ended.push(index);
            }
        }
    }

    fn ready(&mut self, wait: bool) -> Vec<(usize, Onward)> {
        let ended = self.ended.drain(..).map(|index| (index, Onward::End));
        let mut answers: Vec<_> = ended.collect();
        for (index, execution) in self.queue.done(wait && answers.is_empty()) {
            let onward = self.onward(index, execution).unwrap_or_else(|error| {
                self.solutions[self.places[index]] = Err(error);
                Onward::End
            });
            answers.push((index, onward));
        }
        answers
    }
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
        Status::Lost | Status::Broken => "[no result]".to_owned(),
    };
    let printed = execution.stdout.trim_end();
    match (printed.is_empty(), end.is_empty()) {
        (false, false) => format!("{printed}\n{end}"),
        (false, true) => printed.to_owned(),
        (true, _) => end,
    }
}
