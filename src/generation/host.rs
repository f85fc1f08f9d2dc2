//! Continuous batching on a CPU: prompts in stretches, then one token for every sequence a pass.
//!
//! A text finds the pages of its beginning where an earlier one computed it: the group of a GRPO prompt, a system prompt
//! common to agents, the last round's history. Since what is computed for a token depends on its own text alone, that
//! changes no bit of the result.

use std::collections::VecDeque;
use std::time::Instant;

use super::continuous::Stats;
use super::engine::{Completions, GenerationError, Request, Unfinished};
use super::running::{Running, draw_all};
use crate::model::Adapter;
use crate::model::fused::PAGE;
use crate::model::fused::pages::{Key, keys};
use crate::model::host::{Host, Stretch, free_bytes};
use crate::runtime::interrupt::{Interrupted, check};

/// Tokens of prompts in one pass.
const BUDGET: usize = 384;
/// Bytes of keys and values that are kept for later texts, at most.
const KEPT: usize = 1 << 30;

struct Sequence {
    running: Running,
    pages: Vec<u32>,
    /// Tokens whose keys and values are in the pages.
    fed: usize,
}

struct Batch<'a> {
    host: &'a mut Host,
    requests: &'a [Request],
    results: Unfinished,
    waiting: VecDeque<usize>,
    running: Vec<Sequence>,
    slots: usize,
    weights: Key,
    stats: Stats,
}

/// Generate all requests that are not refused yet; `results` has those that are.
pub(super) fn generate(
    host: &mut Host,
    adapter: Option<&Adapter>,
    slots: usize,
    requests: &[Request],
    results: Unfinished,
    mut progress: impl FnMut(usize),
) -> Result<(Completions, Stats), Interrupted> {
    let started = Instant::now();
    let weights = host.set_adapter(adapter);
    let waiting: VecDeque<usize> = (0..requests.len())
        .filter(|&i| results[i].is_none())
        .collect();
    let mut sizes: Vec<usize> = waiting.iter().map(|&i| pages_of(&requests[i])).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let wanted: usize = sizes.iter().take(slots).sum();
    let bytes = host.cache().page_bytes();
    let kept = KEPT.min(free_bytes().unwrap_or(KEPT) / 8) / bytes;
    host.cache().reserve(wanted + kept);
    let mut batch = Batch {
        host,
        requests,
        results,
        waiting,
        running: Vec::new(),
        slots,
        weights,
        stats: Stats {
            setup_seconds: started.elapsed().as_secs_f64(),
            ..Stats::default()
        },
    };
    let outcome = batch.run(&mut progress);
    if outcome.is_err() {
        // Pages may be named whose keys were never computed.
        batch.host.release();
    }
    outcome?;
    let mut stats = batch.stats;
    stats.cache_bytes = batch.host.cache().bytes();
    stats.seconds = started.elapsed().as_secs_f64();
    tracing::debug!(?stats, "generated");
    Ok((batch.results.into_iter().flatten().collect(), stats))
}

/// Pages for all that a request may have in the cache: its last token never is.
fn pages_of(request: &Request) -> usize {
    (request.prompt.len() + request.max_new_tokens - 1).div_ceil(PAGE)
}

impl Batch<'_> {
    fn run(&mut self, progress: &mut impl FnMut(usize)) -> Result<(), Interrupted> {
        loop {
            check()?;
            self.admit();
            if self.running.is_empty() {
                return Ok(());
            }
            let started = Instant::now();
            let filling = self.running.iter().any(|s| s.fed < self.prompt(s).len());
            match filling {
                true => self.fill(progress),
                false => self.step(progress),
            }
            if filling {
                self.stats.prompt_seconds += started.elapsed().as_secs_f64();
            }
        }
    }

    fn prompt(&self, sequence: &Sequence) -> &[u32] {
        &self.requests[sequence.running.index].prompt
    }

    /// Let waiting requests in, in their order. A page is known as soon as it is given out: prompts are computed in the
    /// order in which they come in, so whoever shares it comes after it, or together with it.
    fn admit(&mut self) {
        while self.running.len() < self.slots
            && let Some(index) = self.waiting.pop_front()
        {
            let request = &self.requests[index];
            let names = keys(&self.weights, &request.prompt, PAGE);
            let pool = &mut self.host.cache().pool;
            // At least one token is computed, for its logits.
            let pages: Vec<u32> = names
                .iter()
                .take((request.prompt.len() - 1) / PAGE)
                .map_while(|name| pool.share(name))
                .collect();
            let fed = pages.len() * PAGE;
            let mut sequence = Sequence {
                running: Running::new(index),
                pages,
                fed,
            };
            // There is a page for every token of as many sequences as there are slots.
            for at in sequence.pages.len()..pages_of(request) {
                if let Some(page) = pool.take() {
                    if let Some(name) = names.get(at) {
                        pool.name(page, *name);
                    }
                    sequence.pages.push(page);
                }
            }
            self.stats.shared_tokens += fed;
            self.running.push(sequence);
        }
    }

    /// Compute the next tokens of prompts.
    fn fill(&mut self, progress: &mut impl FnMut(usize)) {
        let mut stretches = Vec::new();
        let mut rows = Vec::new();
        let mut room = BUDGET;
        for (at, sequence) in self.running.iter().enumerate() {
            let prompt = &self.requests[sequence.running.index].prompt;
            let count = (prompt.len() - sequence.fed.min(prompt.len())).min(room);
            if count == 0 {
                continue;
            }
            room -= count;
            let end = sequence.fed + count;
            stretches.push(Stretch {
                tokens: &prompt[sequence.fed..end],
                position: sequence.fed,
                pages: &sequence.pages,
                logits: end == prompt.len(),
            });
            rows.push((at, count, end == prompt.len()));
        }
        let logits = self.host.forward(&stretches);
        self.stats.prompt_tokens += BUDGET - room;
        let ended: Vec<usize> = rows.iter().filter(|r| r.2).map(|r| r.0).collect();
        let drawn = {
            let asked: Vec<_> = ended
                .iter()
                .map(|&at| (&self.requests[self.running[at].running.index], 0))
                .collect();
            draw_all(logits, &asked)
        };
        for (at, count, _) in rows {
            self.running[at].fed += count;
        }
        self.accept(ended.into_iter().zip(drawn).collect(), progress);
    }

    /// One token for each.
    fn step(&mut self, progress: &mut impl FnMut(usize)) {
        let newest: Vec<[u32; 1]> = self
            .running
            .iter()
            .map(|s| [s.running.tokens.last().copied().unwrap_or(0)])
            .collect();
        let stretches: Vec<Stretch> = (self.running.iter().zip(&newest))
            .map(|(sequence, tokens)| Stretch {
                tokens,
                position: sequence.fed,
                pages: &sequence.pages,
                logits: true,
            })
            .collect();
        let logits = self.host.forward(&stretches);
        let asked: Vec<_> = (self.running.iter())
            .map(|s| (&self.requests[s.running.index], s.running.tokens.len()))
            .collect();
        let drawn = draw_all(logits, &asked);
        for sequence in &mut self.running {
            sequence.fed += 1;
        }
        self.stats.steps += 1;
        self.accept(drawn.into_iter().enumerate().collect(), progress);
    }

    /// Take what was drawn; sequences that end leave.
    fn accept(
        &mut self,
        drawn: Vec<(usize, Result<super::sampling::Drawn, super::NotFinite>)>,
        progress: &mut impl FnMut(usize),
    ) {
        let mut left = Vec::new();
        for (at, drawn) in drawn {
            let running = &mut self.running[at].running;
            let index = running.index;
            let ended = match running.accept(&self.requests[index], drawn) {
                Ok(None) => continue,
                Ok(Some(finish)) => Ok(finish),
                Err(error) => Err(GenerationError::from(error)),
            };
            left.push((at, ended));
        }
        // The last first, so that places stay.
        for (at, ended) in left.into_iter().rev() {
            let sequence = self.running.remove(at);
            let index = sequence.running.index;
            self.release(&sequence, ended.is_ok());
            self.stats.new_tokens += sequence.running.tokens.len();
            self.results[index] =
                Some(ended.map(|finish| sequence.running.into_completion(finish)));
            progress(1);
        }
    }

    /// Let go of a sequence's pages; a finished one's stay known.
    fn release(&mut self, sequence: &Sequence, finished: bool) {
        let prompt = self.prompt(sequence);
        let text: Vec<u32> = match finished {
            true => {
                let all = prompt.iter().chain(&sequence.running.tokens).copied();
                all.take(sequence.fed).collect()
            }
            false => Vec::new(),
        };
        let names = keys(&self.weights, &text, PAGE);
        let pool = &mut self.host.cache().pool;
        if !finished {
            // What is not finite is nobody else's.
            sequence.pages.iter().for_each(|&page| pool.forget(page));
        }
        for (&page, name) in sequence.pages.iter().zip(names) {
            pool.name(page, name);
        }
        // The end first, so that beginnings stay the longest.
        for &page in sequence.pages.iter().rev() {
            pool.drop(page);
        }
    }
}
