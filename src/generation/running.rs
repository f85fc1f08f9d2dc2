//! A request being decoded, and the draw of its next token.

use rayon::prelude::*;
use tch::Tensor;

use super::engine::{Completion, Finish, Request};
use super::sampling::{Drawn, NotFinite, draw};

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
        } else if request.halt.as_ref().is_some_and(|h| h.ends(&self.tokens)) {
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

/// Draw a token from each row of logits; `asked` gives each row's request and how many tokens it has already.
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
