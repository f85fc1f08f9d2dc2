//! Batched generation with a KV cache: ids in, ids out.
//!
//! Hopper GPUs and CPUs have a path of their own (`super::continuous`, `super::host`); the plain one here is for other
//! GPUs. `step` = admit waiting requests into free slots, compute one token for every running one, sample, retire those
//! that ended. A request's draws depend on its own prompt, seed and settings only; on a CPU its tokens do, bit for bit.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use super::continuous::{self, Stats};
use super::host;
use super::sampling::{Drawn, NotFinite, Sampling, draw};
use crate::model::fused::MOST_ROWS;
use crate::model::{Adapter, Decoder, KvCache};
use crate::runtime::interrupt::{Interrupted, check};
use crate::runtime::memory::gib;

/// Sequences decoded side by side on a CPU: reading the weights and multiplying take about as long then.
const HOST_SLOTS: usize = 32;

/// Says of the tokens generated so far whether the text is to end with the last of them.
#[derive(Clone)]
pub struct Halt(Arc<Ends>);

type Ends = dyn Fn(&[u32]) -> bool + Send + Sync;

impl Halt {
    /// End where this says so. It is asked after every token, so it should look at the last few only.
    pub fn new(ends: impl Fn(&[u32]) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(ends))
    }
}

impl fmt::Debug for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Halt")
    }
}

/// One text to be continued.
#[derive(Debug, Clone)]
pub struct Request {
    /// Token ids of the prompt; not empty.
    pub prompt: Vec<u32>,
    /// Most tokens to generate.
    pub max_new_tokens: usize,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Tokens that end the text; the one met is kept as the last token.
    pub stop: Vec<u32>,
    /// What else ends the text.
    pub halt: Option<Halt>,
    /// Root of this request's random stream.
    pub seed: u64,
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A stop token came.
    Stop,
    /// The request's [`Halt`] said so.
    Halt,
    /// The token limit was reached.
    Length,
}

impl Finish {
    /// As tables write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Halt => "halt",
            Self::Length => "length",
        }
    }

    /// The name again, after it was read from somewhere; one that is none counts as a limit.
    pub fn named(name: &str) -> &'static str {
        let known = [Self::Stop, Self::Halt, Self::Length].map(Self::name);
        known
            .into_iter()
            .find(|known| *known == name)
            .unwrap_or(Self::Length.name())
    }
}

/// A generated continuation.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Generated ids, the stop token included.
    pub tokens: Vec<u32>,
    /// Log-probability of each, at the sampling temperature, before filters.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: Finish,
}

/// A request that gave no completion. It is a failure, never an answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GenerationError {
    /// Prompt and completion do not fit the model's context.
    #[error("prompt of {prompt} tokens and {new} new ones exceed the model's context of {context}")]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Requested new tokens.
        new: usize,
        /// Context of the model.
        context: usize,
    },
    /// Nothing to continue, or a token the model does not have.
    #[error("the prompt {0}")]
    BadPrompt(String),
    /// The model's logits are not numbers.
    #[error(transparent)]
    NotFinite(#[from] NotFinite),
    /// Its keys and values alone are more than there is memory for.
    #[error(
        "keys and values of the request need {:.2} GiB of GPU memory, {:.2} GiB can be had beside the weights",
        gib(*.needed), gib(*.room)
    )]
    NoRoom {
        /// Bytes needed.
        needed: usize,
        /// Bytes that can be had.
        room: usize,
    },
    /// The GPU did not do what it was told.
    #[error("the GPU failed: {0}")]
    Device(String),
}

/// What happened to each request, in the order given.
pub type Completions = Vec<Result<Completion, GenerationError>>;

/// A request being decoded.
pub(super) struct Running {
    /// Which one.
    pub index: usize,
    /// What it has so far.
    pub tokens: Vec<u32>,
    logprobs: Vec<f32>,
    /// Keys and values of its pages, while it waits for pages to go on in.
    pub saved: Option<Tensor>,
}

/// A batch of requests on one model.
pub struct Engine<'a> {
    model: &'a Decoder,
    adapter: Option<&'a Adapter>,
    /// Sequences decoded side by side; as suits the path by default.
    slots: Option<usize>,
}

impl<'a> Engine<'a> {
    /// An engine with the number of slots that suits the device.
    pub fn new(model: &'a Decoder, adapter: Option<&'a Adapter>) -> Self {
        Self {
            model,
            adapter,
            slots: None,
        }
    }

    /// With another number of sequences decoded side by side.
    pub fn with_slots(self, slots: usize) -> Self {
        Self {
            slots: Some(slots.max(1)),
            ..self
        }
    }

    /// Generate all requests; `progress` is told how many more are done.
    pub fn generate(
        &self,
        requests: &[Request],
        progress: impl FnMut(usize),
    ) -> Result<Completions, Interrupted> {
        Ok(self.generate_measured(requests, progress)?.0)
    }

    /// The same, and what was done for it where the model has the fast path.
    pub fn generate_measured(
        &self,
        requests: &[Request],
        progress: impl FnMut(usize),
    ) -> Result<(Completions, Stats), Interrupted> {
        let results: Vec<Option<Result<Completion, GenerationError>>> =
            requests.iter().map(|r| self.refuse(r).map(Err)).collect();
        if let Some(mut fused) = self.model.fused() {
            let (adapter, slots) = (self.adapter, self.slots.unwrap_or(MOST_ROWS));
            return continuous::generate(&mut *fused, adapter, slots, requests, results, progress);
        }
        if let Some(mut host) = self.model.host() {
            let (adapter, slots) = (self.adapter, self.slots.unwrap_or(HOST_SLOTS));
            return host::generate(&mut host, adapter, slots, requests, results, progress);
        }
        Ok((
            self.generate_plainly(requests, results, progress)?,
            Stats::default(),
        ))
    }

    fn generate_plainly(
        &self,
        requests: &[Request],
        mut results: Vec<Option<Result<Completion, GenerationError>>>,
        mut progress: impl FnMut(usize),
    ) -> Result<Completions, Interrupted> {
        let mut waiting: VecDeque<usize> = (0..requests.len())
            .filter(|&i| results[i].is_none())
            .collect();
        let room = waiting
            .iter()
            .map(|&i| requests[i].prompt.len() + requests[i].max_new_tokens)
            .max();
        let Some(capacity) = room else {
            return Ok(results.into_iter().flatten().collect());
        };
        let usual = if self.model.device() == Device::Cpu {
            16
        } else {
            64
        };
        let slots = self.slots.unwrap_or(usual).min(waiting.len());
        let guard = tch::no_grad_guard();
        let mut cache = KvCache::new(
            self.model.config(),
            slots,
            capacity,
            self.model.kind(),
            self.model.device(),
        );
        let mut free: Vec<usize> = (0..slots).rev().collect();
        let mut running: Vec<(usize, Running)> = Vec::new();
        while !(waiting.is_empty() && running.is_empty()) {
            check()?;
            // Admit. Requests with the prompt of the one just computed copy its cache.
            let mut computed: Option<(usize, usize, Tensor)> = None;
            while let Some(&slot) = free.last()
                && let Some(index) = waiting.pop_front()
            {
                let request = &requests[index];
                let same = computed
                    .take()
                    .filter(|(other, _, _)| requests[*other].prompt == request.prompt);
                let logits = match same {
                    Some((_, from, logits)) => {
                        cache.fork(from, slot);
                        logits
                    }
                    None => {
                        let hidden =
                            self.model
                                .prefill(&request.prompt, &mut cache, slot, self.adapter);
                        self.model.next_token_logits(&hidden)
                    }
                };
                let mut fresh = Running::new(index);
                let drawn = draw_rows(&logits, &[(request, 0)]).pop();
                computed = Some((index, slot, logits));
                free.pop();
                match drawn.map(|d| fresh.accept(request, d)) {
                    Some(Ok(None)) => running.push((slot, fresh)),
                    Some(Ok(Some(finish))) => {
                        results[index] = Some(Ok(fresh.into_completion(finish)));
                        // The slot's prompt may serve the next request of the group, so it is freed after this one.
                        free.push(slot);
                        progress(1);
                    }
                    Some(Err(error)) => {
                        results[index] = Some(Err(error.into()));
                        free.push(slot);
                        progress(1);
                    }
                    None => {}
                }
            }
            if running.is_empty() {
                continue;
            }
            // One token for each.
            let tokens: Vec<u32> = running
                .iter()
                .filter_map(|(_, r)| r.tokens.last().copied())
                .collect();
            let rows: Vec<usize> = running.iter().map(|(slot, _)| *slot).collect();
            let hidden = self.model.step(&tokens, &rows, &mut cache, self.adapter);
            let logits = self.model.next_token_logits(&hidden);
            let asked: Vec<_> = running
                .iter()
                .map(|(_, r)| (&requests[r.index], r.tokens.len()))
                .collect();
            let drawn = draw_rows(&logits, &asked);
            // Retire.
            let mut still = Vec::with_capacity(running.len());
            for ((slot, mut request), drawn) in running.drain(..).zip(drawn) {
                match request.accept(&requests[request.index], drawn) {
                    Ok(None) => still.push((slot, request)),
                    Ok(Some(finish)) => {
                        free.push(slot);
                        let index = request.index;
                        results[index] = Some(Ok(request.into_completion(finish)));
                        progress(1);
                    }
                    Err(error) => {
                        free.push(slot);
                        results[request.index] = Some(Err(error.into()));
                        progress(1);
                    }
                }
            }
            running = still;
        }
        drop(guard);
        Ok(results.into_iter().flatten().collect())
    }

    /// Why a request cannot be served, if it cannot.
    fn refuse(&self, request: &Request) -> Option<GenerationError> {
        let context = self.model.config().max_position as usize;
        let (prompt, new) = (request.prompt.len(), request.max_new_tokens);
        if prompt == 0 {
            return Some(GenerationError::BadPrompt("is empty".into()));
        }
        if new == 0 {
            return Some(GenerationError::BadPrompt(
                "is to be continued by no token: max_new_tokens is 0".into(),
            ));
        }
        let vocab = self.model.config().vocab_size as u32;
        if let Some(bad) = request.prompt.iter().find(|&&t| t >= vocab) {
            return Some(GenerationError::BadPrompt(format!(
                "has token {bad}, the model knows 0 to {}",
                vocab - 1
            )));
        }
        (prompt.saturating_add(new) > context).then_some(GenerationError::TooLong {
            prompt,
            new,
            context,
        })
    }
}

impl Running {
    /// One that has nothing yet.
    pub fn new(index: usize) -> Self {
        Self {
            index,
            tokens: Vec::new(),
            logprobs: Vec::new(),
            saved: None,
        }
    }

    /// Take a drawn token; says whether the text ends with it.
    pub fn accept(
        &mut self,
        request: &Request,
        drawn: Result<Drawn, NotFinite>,
    ) -> Result<Option<Finish>, NotFinite> {
        let drawn = drawn?;
        self.tokens.push(drawn.token);
        self.logprobs.push(drawn.logprob);
        Ok(if request.stop.contains(&drawn.token) {
            Some(Finish::Stop)
        } else if request.halt.as_ref().is_some_and(|h| (h.0)(&self.tokens)) {
            Some(Finish::Halt)
        } else if self.tokens.len() >= request.max_new_tokens {
            Some(Finish::Length)
        } else {
            None
        })
    }

    pub fn into_completion(self, finish: Finish) -> Completion {
        Completion {
            tokens: self.tokens,
            logprobs: self.logprobs,
            finish,
        }
    }
}

/// Draw a token a row; `asked` gives each row's request and how many tokens it has already.
fn draw_rows(logits: &Tensor, asked: &[(&Request, usize)]) -> Vec<Result<Drawn, NotFinite>> {
    let vocab = logits.size()[1] as usize;
    let mut numbers = vec![0f32; asked.len() * vocab];
    logits
        .to_device(Device::Cpu)
        .to_kind(Kind::Float)
        .contiguous()
        .copy_data(&mut numbers, asked.len() * vocab);
    draw_all(&numbers, asked)
}

/// The same of logits in memory, a row after the other.
pub(super) fn draw_all(
    logits: &[f32],
    asked: &[(&Request, usize)],
) -> Vec<Result<Drawn, NotFinite>> {
    logits
        .par_chunks((logits.len() / asked.len().max(1)).max(1))
        .zip(asked)
        .map(|(row, (request, index))| draw(row, &request.sampling, request.seed, *index))
        .collect()
}
