//! Texts that go on: what stands outside the engine answers texts that halt, while the others are decoded.
//!
//! A text whose [`Halt`] ended it is *parked*: the outside is told of it, and asked from then on, once a pass, whether its
//! answer is there. The answer puts tokens in, which the model reads as if it had written them, and the text goes on with
//! draws of a stream of its own; or it ends the text. No other text waits for it.

use std::collections::{BTreeMap, VecDeque};

use super::engine::{Completion, Finish, GenerationError, Halt, Request, Unfinished};
use super::running::Running;

/// Whoever answers texts that halt: a tool, say.
///
/// What a text becomes depends on its answers alone, never on when they come.
pub trait Outside {
    /// A text halted. `text` is what came after its prompt so far, as it would be given back if it ended here.
    fn halted(&mut self, index: usize, text: &Completion);

    /// Answers that have come since, with the indices of their requests; each parked text has one answer.
    ///
    /// With `wait` at least one is waited for: it is asked so only while some are parked and nothing else can be done.
    /// Once a stop was asked for ([`crate::runtime::interrupt::check`]) it gives none, within a fraction of a second.
    fn ready(&mut self, wait: bool) -> Vec<(usize, Onward)>;
}

/// How a text that halted goes on.
#[derive(Debug, Clone)]
pub enum Onward {
    /// With these tokens put in, then drawn ones.
    With {
        /// What is put in. It counts for the limit; where it reaches it, the text ends there with [`Finish::Length`].
        inserted: Vec<u32>,
        /// What ends the text from here on; it is asked of the tokens after those put in.
        halt: Option<Halt>,
        /// Root of the random stream from here on: draws are named as those of a new request are.
        seed: u64,
    },
    /// It ends where it halted.
    End,
}

/// The outside of one call of the engine, if it has any, and the texts that are parked with nothing of their own.
pub(super) struct Beyond<'a> {
    outside: Option<&'a mut dyn Outside>,
    /// Tokens that the model knows.
    vocabulary: u32,
    parked: BTreeMap<usize, Running>,
}

impl<'a> Beyond<'a> {
    pub fn new(outside: Option<&'a mut dyn Outside>, vocabulary: u32) -> Self {
        Self {
            outside,
            vocabulary,
            parked: BTreeMap::new(),
        }
    }

    /// Whether texts that halt are answered.
    pub fn answers(&self) -> bool {
        self.outside.is_some()
    }

    /// Tell of a text that halted.
    pub fn halted(&mut self, running: &Running) {
        if let Some(outside) = &mut self.outside {
            outside.halted(running.index, &running.so_far(Finish::Halt));
        }
    }

    /// Answers that have come.
    pub fn ready(&mut self, wait: bool) -> Vec<(usize, Onward)> {
        match &mut self.outside {
            Some(outside) => outside.ready(wait),
            None => vec![],
        }
    }

    /// Put an answer into its text; says whether the text ends.
    pub fn put_in(
        &self,
        running: &mut Running,
        request: &Request,
        onward: Onward,
    ) -> Result<Option<Finish>, GenerationError> {
        match onward {
            Onward::End => Ok(Some(Finish::Halt)),
            Onward::With {
                inserted,
                halt,
                seed,
            } => {
                if let Some(&token) = inserted.iter().find(|&&t| t >= self.vocabulary) {
                    return Err(GenerationError::BadInsertion {
                        token,
                        last: self.vocabulary - 1,
                    });
                }
                Ok(running.go_on(request, &inserted, halt, seed))
            }
        }
    }

    /// A text leaves where it was computed: parked, if its halt ended it and somebody answers, else for good, with its
    /// result. Gives how many are done.
    pub fn leave(
        &mut self,
        running: Running,
        ended: Result<Finish, GenerationError>,
        results: &mut Unfinished,
    ) -> usize {
        if matches!(ended, Ok(Finish::Halt)) && self.answers() {
            self.halted(&running);
            self.parked.insert(running.index, running);
            return 0;
        }
        let index = running.index;
        results[index] = Some(ended.map(|finish| running.into_completion(finish)));
        1
    }

    /// Whether texts are parked here.
    pub fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Take in the answers that have come: texts that go on stand before all that wait, the others have their results.
    /// Gives how many are done.
    pub fn collect(
        &mut self,
        wait: bool,
        requests: &[Request],
        waiting: &mut VecDeque<Running>,
        results: &mut Unfinished,
    ) -> usize {
        let mut done = 0;
        // The last first, so that the first answer is the first to go on.
        for (index, onward) in self.ready(wait).into_iter().rev() {
            let Some(mut running) = self.parked.remove(&index) else {
                continue;
            };
            let ended = match self.put_in(&mut running, &requests[index], onward) {
                Ok(None) => {
                    waiting.push_front(running);
                    continue;
                }
                Ok(Some(finish)) => Ok(running.into_completion(finish)),
                Err(error) => Err(error),
            };
            results[index] = Some(ended);
            done += 1;
        }
        done
    }
}
