//! An outside for tests: what each text is answered is written down beforehand, and so is how long that takes. The unit
//! tests have it from here, the integration tests by its path.

use super::{Completion, Finish, Halt, Onward, Outside, Request};

/// What a text is answered when it halts.
#[derive(Debug, Clone)]
pub struct Answer {
    pub inserted: Vec<u32>,
    /// It halts again after so many tokens.
    pub halts_after: Option<usize>,
    pub seed: u64,
}

/// Answers by text, each list from the first halt on; a text that halts once more ends there.
pub struct Script<'a> {
    answers: &'a [Vec<Answer>],
    /// How often it is looked in vain before an answer is there, taken in turn.
    looks: &'a [usize],
    out: Vec<(usize, usize)>,
    /// Texts as they were when they halted.
    pub told: Vec<(usize, Completion)>,
}

/// Ends a text after so many tokens.
pub fn after(count: usize) -> Halt {
    Halt::new(move |tokens| tokens.len() >= count)
}

impl<'a> Script<'a> {
    pub fn new(answers: &'a [Vec<Answer>], looks: &'a [usize]) -> Self {
        Self {
            answers,
            looks,
            out: vec![],
            told: vec![],
        }
    }
}

impl Outside for Script<'_> {
    fn halted(&mut self, index: usize, text: &Completion) {
        assert_eq!(text.finish, Finish::Halt);
        let looks = self.looks.get(self.told.len() % self.looks.len().max(1));
        self.out.push((looks.copied().unwrap_or(0), index));
        self.told.push((index, text.clone()));
    }

    fn ready(&mut self, wait: bool) -> Vec<(usize, Onward)> {
        let least = self.out.iter().map(|(looks, _)| *looks).min();
        let passed = match (wait, least) {
            (true, None) => panic!("nobody is parked"),
            (true, Some(least)) => least,
            (false, _) => 0,
        };
        let (ready, later) = self.out.drain(..).partition(|(looks, _)| *looks <= passed);
        self.out = later;
        for (looks, _) in &mut self.out {
            *looks -= 1;
        }
        let ready: Vec<(usize, usize)> = ready;
        let answer = |(_, index): (usize, usize)| {
            let halts = self.told.iter().filter(|(other, _)| *other == index);
            let onward = match self.answers[index].get(halts.count() - 1) {
                Some(answer) => Onward::With {
                    inserted: answer.inserted.clone(),
                    halt: answer.halts_after.map(after),
                    seed: answer.seed,
                },
                None => Onward::End,
            };
            (index, onward)
        };
        ready.into_iter().map(answer).collect()
    }
}

/// The same by hand: all texts are generated until each ends or halts, then those that are answered are requests anew.
pub fn in_turns(
    requests: &[Request],
    answers: &[Vec<Answer>],
    generate: impl Fn(&[Request]) -> Vec<Completion>,
) -> Vec<Completion> {
    let nothing = Completion {
        tokens: vec![],
        logprobs: vec![],
        finish: Finish::Length,
    };
    let mut texts = vec![nothing; requests.len()];
    let mut going: Vec<usize> = (0..requests.len()).collect();
    let mut next: Vec<Request> = requests.to_vec();
    for turn in 0.. {
        let parts = generate(&next);
        next.clear();
        for (index, part) in std::mem::take(&mut going).into_iter().zip(parts) {
            let (request, text) = (&requests[index], &mut texts[index]);
            text.tokens.extend(part.tokens);
            text.logprobs.extend(part.logprobs);
            text.finish = part.finish;
            let Some(answer) = answers[index].get(turn) else {
                continue;
            };
            if part.finish != Finish::Halt {
                continue;
            }
            text.tokens.extend(&answer.inserted);
            text.logprobs.resize(text.tokens.len(), 0.0);
            if text.tokens.len() >= request.max_new_tokens {
                text.finish = Finish::Length;
                continue;
            }
            going.push(index);
            next.push(Request {
                prompt: [&request.prompt[..], &text.tokens].concat(),
                max_new_tokens: request.max_new_tokens - text.tokens.len(),
                halt: answer.halts_after.map(after),
                seed: answer.seed,
                ..request.clone()
            });
        }
        if going.is_empty() {
            break;
        }
    }
    texts
}
