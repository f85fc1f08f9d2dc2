//! Batched generation with a KV cache: ids in, ids out.
//!
//! Hopper GPUs and CPUs have a path of their own (`super::continuous`, `super::host`); `super::plain` is for other GPUs.
//! A request's draws depend on its own prompt, seed and settings only; on a CPU its tokens do, bit for bit.

use std::fmt;
use std::sync::Arc;

use super::continuous::{self, Stats};
use super::outside::{Beyond, Outside};
use super::sampling::{NotFinite, Sampling};
use super::{host, plain};
use crate::model::fused::MOST_ROWS;
use crate::model::{Adapter, Decoder};
use crate::runtime::interrupt::Interrupted;
use crate::runtime::memory::gib;

/// Sequences decoded side by side on a CPU: reading the weights and multiplying take about as long then.
const HOST_SLOTS: usize = 32;

/// Says of the tokens generated so far whether the text is to end with the last of them; in a text that went on (see
/// [`Outside`]), of those generated since.
#[derive(Clone)]
pub struct Halt(Arc<Ends>);

type Ends = dyn Fn(&[u32]) -> bool + Send + Sync;

impl Halt {
    /// End where this says so. It is asked after every token, so it should look at the last few only.
    pub fn new(ends: impl Fn(&[u32]) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(ends))
    }

    /// Whether the text ends here.
    pub(super) fn ends(&self, tokens: &[u32]) -> bool {
        (self.0)(tokens)
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
    /// A token was put into the text that the model does not have.
    #[error("token {token} was put into the text, the model knows 0 to {last}")]
    BadInsertion {
        /// The token.
        token: u32,
        /// The last one that it knows.
        last: u32,
    },
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
    /// There was no memory to score its options.
    #[error("no memory to score the options: {0}")]
    OutOfMemory(String),
    /// The device did not do what it was told.
    #[error("the device failed: {0}")]
    Device(String),
}

/// What happened to each request, in the order given.
pub type Completions = Vec<Result<Completion, GenerationError>>;

/// The same, while some are still to come.
pub(super) type Unfinished = Vec<Option<Result<Completion, GenerationError>>>;

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
        self.run(requests, None, progress)
    }

    /// The same with texts that go on after they halted, as the outside says. A completion then holds all that came after
    /// the prompt, what was put in with log-probability 0, and ended as its last part did; `max_new_tokens` counts all of
    /// it. On a CPU a text has the bits that it would have if each part were a request of its own, whose prompt ends with
    /// what was put in.
    pub fn generate_with(
        &self,
        requests: &[Request],
        outside: &mut dyn Outside,
        progress: impl FnMut(usize),
    ) -> Result<(Completions, Stats), Interrupted> {
        self.run(requests, Some(outside), progress)
    }

    fn run(
        &self,
        requests: &[Request],
        outside: Option<&mut dyn Outside>,
        mut progress: impl FnMut(usize),
    ) -> Result<(Completions, Stats), Interrupted> {
        let progress = |more: usize| {
            if more > 0 {
                progress(more);
            }
        };
        let beyond = Beyond::new(outside, self.model.config().vocab_size as u32);
        let results: Unfinished = requests.iter().map(|r| self.refuse(r).map(Err)).collect();
        if let Some(mut fused) = self.model.fused() {
            let slots = self.slots.unwrap_or(MOST_ROWS);
            let (fused, adapter) = (&mut *fused, self.adapter);
            return continuous::generate(
                fused, adapter, slots, requests, results, beyond, progress,
            );
        }
        if let Some(mut host) = self.model.host() {
            let slots = self.slots.unwrap_or(HOST_SLOTS);
            let (host, adapter) = (&mut *host, self.adapter);
            return host::generate(host, adapter, slots, requests, results, beyond, progress);
        }
        let model = (self.model, self.adapter);
        let done = plain::generate(model, self.slots, requests, results, beyond, progress)?;
        Ok((done, Stats::default()))
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
