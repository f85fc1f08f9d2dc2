//! A request being decoded: what it has so far, where its random stream stands, and the draw of its next token.

use rayon::prelude::*;
use tch::Tensor;

use super::engine::{Completion, Finish, Halt, Request};
use super::sampling::{Drawn, NotFinite, Sampling, draw};

/// A request being decoded.
pub(super) struct Running {
    /// Which one.
    pub index: usize,
    /// What came after its prompt so far: drawn, or put in.
    pub tokens: Vec<u32>,
    logprobs: Vec<f32>,
    /// What ends it beside stop tokens and its limit.
    halt: Option<Halt>,
    /// Root of its present stream.
    seed: u64,
    /// How many tokens it had when that stream began.
    drawn_from: usize,
    /// How many of the last tokens were put in and are not yet taken by the device, which reads them one a step (GPU).
    pub skip: usize,
    /// Keys and values of its pages, while it waits for pages to go on in.
    pub saved: Option<Tensor>,
}

/// What a draw depends on beside the logits.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    sampling: &'a Sampling,
    seed: u64,
    index: usize,
}

/// What is known of a text's tokens to come: those that were put in, and the stream of the others.
#[derive(Clone, Copy)]
pub(super) struct Course<'a> {
    pub request: &'a Request,
    pub tokens: &'a [u32],
    /// How many of the tokens the device has drawn or taken.
    pub decided: usize,
    pub seed: u64,
    pub drawn_from: usize,
}

impl Running {
    /// One that has nothing yet.
    pub fn new(index: usize, request: &Request) -> Self {
        Self {
            index,
            tokens: Vec::new(),
            logprobs: Vec::new(),
            halt: request.halt.clone(),
            seed: request.seed,
            drawn_from: 0,
            skip: 0,
            saved: None,
        }
    }

    /// Prompt and all that came after it.
    pub fn text(&self, request: &Request) -> Vec<u32> {
        [&request.prompt[..], &self.tokens].concat()
    }

    /// What its next draw depends on.
    pub fn asked<'a>(&self, request: &'a Request) -> Asked<'a> {
        Asked {
            sampling: &request.sampling,
            seed: self.seed,
            index: self.tokens.len() - self.drawn_from,
        }
    }

    /// How many of its tokens the device has drawn or taken.
    pub fn decided(&self) -> usize {
        self.tokens.len() - self.skip
    }

    /// Its tokens to come.
    pub fn course<'a>(&'a self, request: &'a Request) -> Course<'a> {
        Course {
            request,
            tokens: &self.tokens,
            decided: self.decided(),
            seed: self.seed,
            drawn_from: self.drawn_from,
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
        let since = &self.tokens[self.drawn_from..];
        Ok(if request.stop.contains(&drawn.token) {
            Some(Finish::Stop)
        } else if self.halt.as_ref().is_some_and(|halt| halt.ends(since)) {
            Some(Finish::Halt)
        } else {
            self.full(request)
        })
    }

    /// Take what was put in, and go on with this stream; says whether the text ends with it.
    pub fn go_on(
        &mut self,
        request: &Request,
        inserted: &[u32],
        halt: Option<Halt>,
        seed: u64,
    ) -> Option<Finish> {
        self.tokens.extend(inserted);
        self.logprobs.resize(self.tokens.len(), 0.0);
        self.drawn_from = self.tokens.len();
        self.halt = halt;
        self.seed = seed;
        self.full(request)
    }

    fn full(&self, request: &Request) -> Option<Finish> {
        (self.tokens.len() >= request.max_new_tokens).then_some(Finish::Length)
    }

    /// As a completion, if it ended here.
    pub fn so_far(&self, finish: Finish) -> Completion {
        Completion {
            tokens: self.tokens.clone(),
            logprobs: self.logprobs.clone(),
            finish,
        }
    }

    pub fn into_completion(self, finish: Finish) -> Completion {
        Completion {
            tokens: self.tokens,
            logprobs: self.logprobs,
            finish,
        }
    }
}

/// Draw a token from each row of logits; `asked` gives what each draw depends on.
pub(super) fn draw_all(logits: &[f32], asked: &[Asked]) -> Vec<Result<Drawn, NotFinite>> {
    logits
        .par_chunks((logits.len() / asked.len().max(1)).max(1))
        .zip(asked)
        .map(|(row, asked)| draw(row, asked.sampling, asked.seed, asked.index))
        .collect()
}
