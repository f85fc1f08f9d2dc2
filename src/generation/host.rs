//! Continuous batching on a CPU: prompts in stretches, then one token for every sequence a pass.
//!
//! A text finds the pages of its beginning where an earlier one computed it: the group of a GRPO prompt, a system prompt
//! common to agents, the last round's history, its own before it halted. Since what is computed for a token depends on its
//! own text alone, that changes no bit of the result.

use std::collections::VecDeque;
use std::time::Instant;

use super::continuous::Stats;
use super::engine::{Completions, GenerationError, Request, Unfinished};
use super::outside::Beyond;
use super::running::{Running, draw_all};
use super::sampling::{Drawn, NotFinite};
use crate::model::Adapter;
use crate::model::fused::PAGE;
use crate::model::fused::pages::{Key, keys};
use crate::model::host::{Host, Stretch};
use crate::runtime::interrupt::{Interrupted, check};
use crate::runtime::memory::available_on_host;

/// Tokens of prompts in one pass.
const BUDGET: usize = 384;
/// Bytes of keys and values that are kept for later texts, at most.
const KEPT: usize = 1 << 30;

struct Sequence {
    running: Running,
    /// All tokens that are known: what came in, and what was drawn since.
    text: Vec<u32>,
    /// How many it came in with.
    came: usize,
    pages: Vec<u32>,
    /// Tokens whose keys and values are in the pages.
    fed: usize,
}

impl Sequence {
    /// Whether what it came in with is still to be computed.
    fn fills(&self) -> bool {
        self.fed < self.came
    }

    /// Whether that is a prompt, not a text that comes back.
    fn is_new(&self) -> bool {
        self.running.tokens.is_empty()
    }
}

struct Batch<'a, 'o> {
    host: &'a mut Host,
    requests: &'a [Request],
    results: Unfinished,
    waiting: VecDeque<Running>,
    running: Vec<Sequence>,
    beyond: Beyond<'o>,
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
    beyond: Beyond,
    mut progress: impl FnMut(usize),
) -> Result<(Completions, Stats), Interrupted> {
    let started = Instant::now();
    let weights = host.set_adapter(adapter);
    let waiting: VecDeque<Running> = (0..requests.len())
        .filter(|&i| results[i].is_none())
        .map(|i| Running::new(i, &requests[i]))
        .collect();
    let mut sizes: Vec<usize> = waiting
        .iter()
        .map(|r| pages_of(&requests[r.index]))
        .collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let wanted: usize = sizes.iter().take(slots).sum();
    let bytes = host.cache().page_bytes();
    let kept = KEPT.min(available_on_host().unwrap_or(KEPT) / 8) / bytes;
    host.cache().reserve(wanted + kept);
    let mut batch = Batch {
        host,
        requests,
        results,
        waiting,
        running: Vec::new(),
        beyond,
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

impl Batch<'_, '_> {
    fn run(&mut self, progress: &mut impl FnMut(usize)) -> Result<(), Interrupted> {
        loop {
            check()?;
            if self.beyond.has_parked() {
                let idle = self.running.is_empty() && self.waiting.is_empty();
                let (waiting, results) = (&mut self.waiting, &mut self.results);
                progress(self.beyond.collect(idle, self.requests, waiting, results));
            }
            self.admit();
            if !self.running.is_empty() {
                self.pass(progress);
            } else if !self.beyond.has_parked() {
                return Ok(());
            }
        }
    }

    /// Let waiting texts in, in their order. A page is known as soon as it is given out: texts are computed in the order
    /// in which they come in, so whoever shares it comes after it, or together with it.
    fn admit(&mut self) {
        while self.running.len() < self.slots
            && let Some(running) = self.waiting.pop_front()
        {
            let request = &self.requests[running.index];
            let text = running.text(request);
            let names = keys(&self.weights, &text, PAGE);
            let pool = &mut self.host.cache().pool;
            // At least one token is computed, for its logits.
            let mut pages: Vec<u32> = names
                .iter()
                .take((text.len() - 1) / PAGE)
                .map_while(|name| pool.share(name))
                .collect();
            let fed = pages.len() * PAGE;
            // There is a page for every token of as many sequences as there are slots.
            for at in pages.len()..pages_of(request) {
                if let Some(page) = pool.take() {
                    if let Some(name) = names.get(at) {
                        pool.name(page, *name);
                    }
                    pages.push(page);
                }
            }
            self.stats.shared_tokens += fed;
            self.running.push(Sequence {
                running,
                came: text.len(),
                text,
                pages,
                fed,
            });
        }
    }

    /// Compute the next tokens of texts that came in, and one token for each of the others. Those wait while there are
    /// prompts; what a text that comes back lacks is little, and is computed along with them.
    fn pass(&mut self, progress: &mut impl FnMut(usize)) {
        let started = Instant::now();
        let prompts = self.running.iter().any(|s| s.fills() && s.is_new());
        let mut stretches = Vec::new();
        let mut rows = Vec::new();
        let mut room = BUDGET;
        for (at, sequence) in self.running.iter().enumerate() {
            let (fed, text) = (sequence.fed, &sequence.text);
            let count = match (sequence.fills(), prompts) {
                (true, _) => (text.len() - fed).min(room),
                (false, true) => 0,
                (false, false) => 1,
            };
            if count == 0 {
                continue;
            }
            if sequence.fills() {
                room -= count;
            }
            let logits = fed + count == text.len();
            stretches.push(Stretch {
                tokens: &text[fed..fed + count],
                position: fed,
                pages: &sequence.pages,
                logits,
            });
            rows.push((at, count, logits));
        }
        let logits = self.host.forward(&stretches);
        let ended: Vec<usize> = rows.iter().filter(|r| r.2).map(|r| r.0).collect();
        let asked: Vec<_> = ended
            .iter()
            .map(|&at| {
                let running = &self.running[at].running;
                running.asked(&self.requests[running.index])
            })
            .collect();
        let drawn = draw_all(logits, &asked);
        for (at, count, _) in rows {
            self.running[at].fed += count;
        }
        self.stats.prompt_tokens += BUDGET - room;
        self.stats.steps += usize::from(!prompts);
        self.accept(ended.into_iter().zip(drawn).collect(), progress);
        if prompts {
            self.stats.prompt_seconds += started.elapsed().as_secs_f64();
        }
    }

    /// Take what was drawn; sequences that end leave.
    fn accept(
        &mut self,
        drawn: Vec<(usize, Result<Drawn, NotFinite>)>,
        progress: &mut impl FnMut(usize),
    ) {
        let mut left = Vec::new();
        for (at, drawn) in drawn {
            let sequence = &mut self.running[at];
            let request = &self.requests[sequence.running.index];
            let ended = match sequence.running.accept(request, drawn) {
                Ok(None) => {
                    sequence.text.extend(sequence.running.tokens.last());
                    self.stats.new_tokens += 1;
                    continue;
                }
                Ok(Some(finish)) => Ok(finish),
                Err(error) => Err(GenerationError::from(error)),
            };
            self.stats.new_tokens += usize::from(ended.is_ok());
            left.push((at, ended));
        }
        // The last first, so that places stay.
        for (at, ended) in left.into_iter().rev() {
            let sequence = self.running.remove(at);
            self.release(&sequence, ended.is_ok());
            let results = &mut self.results;
            progress(self.beyond.leave(sequence.running, ended, results));
        }
    }

    /// Let go of a sequence's pages; a finished one's stay known.
    fn release(&mut self, sequence: &Sequence, finished: bool) {
        // What was drawn last was never computed.
        let text = match finished {
            true => &sequence.text[..sequence.fed],
            false => &[],
        };
        let names = keys(&self.weights, text, PAGE);
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
