//! Continuous batching on a GPU: requests enter and leave a running batch, the host one step behind the device.
//!
//! A turn of the loop: admit what finds a slot and pages, prompts packed up to a token budget; see that every sequence
//! has a page for its next token; launch a step; then look at the outcome of the step before. The device ends texts
//! itself, by stop tokens and limits; what the host ends (a [`super::Halt`]) has one token too many on the device, which
//! is not looked at. When pages run out, the youngest text gives its pages back and is computed again later: its draws
//! are named by their index, so it goes on as it would have.

use std::collections::VecDeque;
use std::time::Instant;

use rand::Rng;
use rayon::prelude::*;

use super::engine::{Completion, Completions, GenerationError, Request, Running};
use super::sampling::Drawn;
use super::sampling::NotFinite;
use crate::model::Adapter;
use crate::model::fused::pages::{Key, keys};
use crate::model::fused::{Draw, Fused, MOST_ROWS, PAGE, PROMPT_TOKENS, Prompt, Results};
use crate::runtime::device::is_deterministic;
use crate::runtime::gpu::GpuError;
use crate::runtime::interrupt::{Interrupted, check};
use crate::runtime::seed::stream;

/// Tokens of prompts that are computed together, at most; one longer prompt is computed alone.
const BUDGET: usize = PROMPT_TOKENS;

/// What a call did, for benchmarks and logs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    /// Tokens of prompts that were computed.
    pub prompt_tokens: usize,
    /// Tokens of prompts that were found in the cache.
    pub shared_tokens: usize,
    /// Tokens generated.
    pub new_tokens: usize,
    /// Steps of the batch.
    pub steps: usize,
    /// Sequences that gave their pages back for a while.
    pub preempted: usize,
    /// Seconds in which prompts were computed; the host waits for them.
    pub prompt_seconds: f64,
    /// Seconds in all.
    pub seconds: f64,
    /// Bytes of keys and values reserved.
    pub cache_bytes: usize,
}

/// A request in a slot.
struct Sequence {
    running: Running,
    /// Told apart from whoever had the slot before.
    turn: u64,
    pages: Vec<u32>,
    /// Tokens in the cache once all launched steps are through.
    fed: usize,
}

/// A step or a prefill whose outcome is still to be looked at.
struct Flight {
    results: Results,
    /// Slot and turn of each row.
    rows: Vec<(usize, u64)>,
}

/// One call of the engine.
struct Batch<'a> {
    fused: &'a mut Fused,
    requests: &'a [Request],
    results: Vec<Option<Result<Completion, GenerationError>>>,
    waiting: VecDeque<Running>,
    slots: Vec<Option<Sequence>>,
    flights: VecDeque<Flight>,
    spare: Vec<Results>,
    /// Name of the weights.
    weights: Key,
    share: bool,
    budget: usize,
    turn: u64,
    rows: Vec<i32>,
    stats: Stats,
}

/// Generate all requests that are not refused yet; `results` has those that are.
pub(super) fn generate(
    fused: &mut Fused,
    adapter: Option<&Adapter>,
    slots: usize,
    requests: &[Request],
    results: Vec<Option<Result<Completion, GenerationError>>>,
    mut progress: impl FnMut(usize),
) -> Result<(Completions, Stats), Interrupted> {
    let started = Instant::now();
    let mut batch = match Batch::new(fused, adapter, slots, requests, results) {
        Ok(batch) => batch,
        Err((error, results)) => {
            let message = error.to_string();
            let fail =
                |r: Option<_>| r.unwrap_or_else(|| Err(GenerationError::Device(message.clone())));
            return Ok((results.into_iter().map(fail).collect(), Stats::default()));
        }
    };
    let outcome = batch.run(&mut progress);
    let cleared = batch.clear();
    if let Err(Stop::Interrupted(interrupted)) = outcome {
        return Err(interrupted);
    }
    let failure = match (outcome, cleared) {
        (Err(Stop::Device(error)), _) | (Ok(()), Err(error)) => Some(error.to_string()),
        _ => None,
    };
    let fail = || {
        Err(GenerationError::Device(
            failure
                .clone()
                .unwrap_or_else(|| "the text was lost".into()),
        ))
    };
    let Batch {
        results, mut stats, ..
    } = batch;
    stats.seconds = started.elapsed().as_secs_f64();
    tracing::debug!(?stats, "generated");
    Ok((
        results
            .into_iter()
            .map(|r| r.unwrap_or_else(fail))
            .collect(),
        stats,
    ))
}

/// Why the loop ended early.
enum Stop {
    Interrupted(Interrupted),
    Device(GpuError),
}

impl From<GpuError> for Stop {
    fn from(error: GpuError) -> Self {
        Self::Device(error)
    }
}

type Unfinished = Vec<Option<Result<Completion, GenerationError>>>;

fn pages_for(tokens: usize) -> usize {
    tokens.div_ceil(PAGE)
}

/// Tokens whose keys a request's text needs: all but the last one.
fn longest(request: &Request) -> usize {
    request.prompt.len() + request.max_new_tokens - 1
}

impl<'a> Batch<'a> {
    fn new(
        fused: &'a mut Fused,
        adapter: Option<&Adapter>,
        slots: usize,
        requests: &'a [Request],
        mut results: Unfinished,
    ) -> Result<Self, (GpuError, Unfinished)> {
        let slots = slots.min(MOST_ROWS);
        let open = |results: &Unfinished| -> Vec<usize> {
            (0..requests.len())
                .filter(|&i| results[i].is_none())
                .collect()
        };
        let mut sizes: Vec<usize> = open(&results)
            .iter()
            .map(|&i| pages_for(longest(&requests[i])))
            .collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let most_new = requests.iter().map(|r| r.max_new_tokens).max().unwrap_or(1);
        let reserved = (|| {
            let fingerprint = fused.set_adapter(adapter)?;
            // A request that could never have all its pages is refused, with the figures.
            let (room, bytes) = (
                fused.room()?.max(fused.state().map_or(0, |s| s.pages())),
                fused.page_bytes(),
            );
            for index in open(&results) {
                let needed = pages_for(longest(&requests[index]));
                if needed > room {
                    results[index] = Some(Err(GenerationError::NoRoom {
                        needed: needed * bytes,
                        room: room * bytes,
                    }));
                }
            }
            sizes.retain(|&s| s <= room);
            let wanted: usize = sizes.iter().take(slots).sum();
            let least = sizes.first().copied().unwrap_or(1);
            let tokens = least * PAGE;
            let (pages, _) = fused.reserve(wanted.max(1), least, tokens, most_new)?;
            let mut weights = [0u8; 32];
            weights[..8].copy_from_slice(&fingerprint[0].to_le_bytes());
            weights[8..16].copy_from_slice(&fingerprint[1].to_le_bytes());
            Ok((pages * bytes, weights))
        })();
        let (cache_bytes, weights) = match reserved {
            Ok(reserved) => reserved,
            Err(error) => return Err((error, results)),
        };
        let waiting = open(&results).into_iter().map(Running::new).collect();
        // Under the deterministic mode each prompt is computed alone, so that nothing depends on the others.
        let exact = is_deterministic();
        Ok(Self {
            fused,
            requests,
            results,
            waiting,
            slots: (0..slots).map(|_| None).collect(),
            flights: VecDeque::new(),
            spare: Vec::new(),
            weights,
            share: !exact,
            budget: if exact { 1 } else { BUDGET },
            turn: 0,
            rows: Vec::new(),
            stats: Stats {
                cache_bytes,
                ..Stats::default()
            },
        })
    }

    fn run(&mut self, progress: &mut impl FnMut(usize)) -> Result<(), Stop> {
        loop {
            check().map_err(Stop::Interrupted)?;
            self.admit(progress)?;
            if self.occupied() > 0 {
                self.launch(progress)?;
            }
            let idle = self.occupied() == 0;
            while self.flights.len() > usize::from(!idle) {
                self.land(progress)?;
            }
            if self.waiting.is_empty() && self.occupied() == 0 && self.flights.is_empty() {
                return Ok(());
            }
        }
    }

    fn occupied(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    fn take_results(&mut self) -> Result<Results, GpuError> {
        match self.spare.pop() {
            Some(results) => Ok(results),
            None => Results::new(),
        }
    }

    /// Let waiting requests into free slots.
    fn admit(&mut self, progress: &mut impl FnMut(usize)) -> Result<(), Stop> {
        loop {
            let free: Vec<usize> = (0..self.slots.len())
                .filter(|&s| self.slots[s].is_none())
                .collect();
            // Small prefills cost nearly as much as large ones, so a few slots are let stand empty for a while.
            let enough = self.waiting.len().min(self.slots.len() / 16).max(1);
            if self.waiting.is_empty() || free.len() < enough {
                return Ok(());
            }
            let mut admitted = Vec::new();
            let mut tokens = 0;
            for slot in free {
                let Some(next) = self.waiting.front() else {
                    break;
                };
                let request = &self.requests[next.index];
                let text: Vec<u32> = request.prompt.iter().chain(&next.tokens).copied().collect();
                // Room for growth too, as long as others are running.
                let reserve = if self.occupied() > 0 {
                    self.occupied() + 1
                } else {
                    1
                };
                let Some((pages, cached)) = self.pages_of(&text, reserve) else {
                    break;
                };
                if tokens > 0 && tokens + text.len() - cached > self.budget {
                    self.give_back(&pages, cached);
                    break;
                }
                let Some(running) = self.waiting.pop_front() else {
                    break;
                };
                tokens += text.len() - cached;
                self.stats.shared_tokens += cached;
                self.turn += 1;
                self.slots[slot] = Some(Sequence {
                    running,
                    turn: self.turn,
                    pages,
                    fed: text.len(),
                });
                admitted.push((slot, text, cached));
            }
            if admitted.is_empty() {
                return Ok(());
            }
            self.stats.prompt_tokens += tokens;
            self.begin(&admitted, progress)?;
        }
    }

    /// Pages for a text that is to be computed, and how many of its tokens are there. The full pages are named at once:
    /// whoever shares them is computed after this text, or together with it.
    fn pages_of(&mut self, text: &[u32], reserve: usize) -> Option<(Vec<u32>, usize)> {
        let share = self.share;
        let names = keys(&self.weights, text, PAGE);
        let pool = &mut self.fused.state()?.pool;
        let mut pages = Vec::with_capacity(pages_for(text.len()));
        // At least one token is computed, for its logits.
        for name in names
            .iter()
            .take((text.len() - 1) / PAGE)
            .take_while(|_| share)
        {
            match pool.share(name) {
                Some(page) => pages.push(page),
                None => break,
            }
        }
        let cached = pages.len() * PAGE;
        let needed = pages_for(text.len()) - pages.len();
        if pool.free() < needed + reserve && pool.free() < pool.len() {
            for page in pages {
                pool.drop(page);
            }
            return None;
        }
        for index in pages.len()..pages_for(text.len()) {
            let page = pool.take()?;
            if share && let Some(name) = names.get(index) {
                pool.name(page, *name);
            }
            pages.push(page);
        }
        Some((pages, cached))
    }

    /// Let go of pages that were not computed, but for those of the first `cached` tokens.
    fn give_back(&mut self, pages: &[u32], cached: usize) {
        if let Some(state) = self.fused.state() {
            for (index, &page) in pages.iter().enumerate() {
                if index >= cached / PAGE {
                    state.pool.forget(page);
                }
                state.pool.drop(page);
            }
        }
    }

    /// Start slots and compute their prompts.
    fn begin(
        &mut self,
        admitted: &[(usize, Vec<u32>, usize)],
        progress: &mut impl FnMut(usize),
    ) -> Result<(), Stop> {
        let started = Instant::now();
        let requests: Vec<&Request> = admitted
            .iter()
            .filter_map(|(slot, _, _)| {
                Some(&self.requests[self.slots[*slot].as_ref()?.running.index])
            })
            .collect();
        let uniforms: Vec<Vec<f64>> = requests.into_par_iter().map(uniforms).collect();
        let mut changes = Vec::new();
        for ((slot, text, _), uniforms) in admitted.iter().zip(&uniforms) {
            let Some(sequence) = &self.slots[*slot] else {
                continue;
            };
            for (at, &page) in sequence.pages.iter().enumerate() {
                changes.push([*slot as i32, at as i32, page as i32]);
            }
            let request = &self.requests[sequence.running.index];
            let made = sequence.running.tokens.len();
            self.fused
                .start(*slot, text.len(), made, draw(request), uniforms)?;
        }
        self.fused.set_pages(&changes)?;
        let mut from = 0;
        let mut size = admitted.len();
        while from < admitted.len() {
            let part = &admitted[from..(from + size).min(admitted.len())];
            let prompts: Vec<Prompt> = part
                .iter()
                .filter_map(|(slot, text, cached)| {
                    let pages = &self.slots[*slot].as_ref()?.pages;
                    Some(Prompt {
                        slot: *slot,
                        tokens: text,
                        cached: *cached,
                        pages,
                    })
                })
                .collect();
            match self.fused.prefill(&prompts) {
                Ok(()) => {}
                Err(e) if e.is_out_of_memory() && part.len() > 1 => {
                    crate::runtime::memory::empty_cache();
                    size = part.len() / 2;
                    self.budget = (self.budget / 2).max(PAGE);
                    tracing::warn!(
                        "GPU memory does not hold the prompts; going on with {size} at a time"
                    );
                    continue;
                }
                Err(e) => return Err(e.into()),
            }
            let rows = part
                .iter()
                .filter_map(|(slot, _, _)| Some((*slot, self.slots[*slot].as_ref()?.turn)))
                .collect();
            self.fly(rows)?;
            from += size;
            // The outcome buffer is overwritten by what comes next on the device only after it was copied.
            self.land_all(progress)?;
        }
        self.stats.prompt_seconds += started.elapsed().as_secs_f64();
        Ok(())
    }

    /// Have an outcome copied, to be looked at later.
    fn fly(&mut self, rows: Vec<(usize, u64)>) -> Result<(), Stop> {
        let mut results = self.take_results()?;
        self.fused.fetch(&mut results)?;
        self.flights.push_back(Flight { results, rows });
        Ok(())
    }

    /// One step for all sequences.
    fn launch(&mut self, progress: &mut impl FnMut(usize)) -> Result<(), Stop> {
        self.grow(progress)?;
        // Texts whose last token is under way stay out.
        let goes_on = |s: &&Sequence| s.fed < longest(&self.requests[s.running.index]);
        let rows: Vec<(usize, u64)> = (self.slots.iter().enumerate())
            .filter_map(|(slot, s)| Some((slot, s.as_ref().filter(goes_on)?.turn)))
            .collect();
        if rows.is_empty() {
            return self.land_all(progress);
        }
        let numbers: Vec<i32> = rows.iter().map(|(slot, _)| *slot as i32).collect();
        if numbers != self.rows {
            self.fused.set_rows(&numbers)?;
            self.rows = numbers;
        }
        self.fused.step(rows.len())?;
        for (slot, _) in &rows {
            if let Some(sequence) = &mut self.slots[*slot] {
                sequence.fed += 1;
            }
        }
        self.stats.steps += 1;
        self.fly(rows)
    }

    /// See that every sequence has a page for its next token.
    fn grow(&mut self, progress: &mut impl FnMut(usize)) -> Result<(), Stop> {
        let mut changes = Vec::new();
        let mut slot = 0;
        while slot < self.slots.len() {
            let lacking = self.slots[slot].as_ref().is_some_and(|s| {
                s.pages.len() <= s.fed / PAGE && s.fed < longest(&self.requests[s.running.index])
            });
            if !lacking {
                slot += 1;
                continue;
            }
            let page = self.fused.state().and_then(|state| state.pool.take());
            match (page, &mut self.slots[slot]) {
                (Some(page), Some(sequence)) => {
                    changes.push([slot as i32, sequence.pages.len() as i32, page as i32]);
                    sequence.pages.push(page);
                    slot += 1;
                }
                _ => {
                    // What has been given out is entered first: the sequences may change.
                    self.fused.set_pages(&std::mem::take(&mut changes))?;
                    self.land_all(progress)?;
                    if self
                        .fused
                        .state()
                        .is_some_and(|state| state.pool.free() == 0)
                    {
                        self.preempt()?;
                    }
                }
            }
        }
        Ok(self.fused.set_pages(&changes)?)
    }

    /// The youngest sequence gives its pages back and waits.
    fn preempt(&mut self) -> Result<(), Stop> {
        let youngest = (0..self.slots.len())
            .filter_map(|slot| Some((self.slots[slot].as_ref()?.turn, slot)))
            .max();
        if let Some((_, slot)) = youngest
            && let Some(sequence) = self.slots[slot].take()
        {
            self.fused.stop(slot)?;
            self.release(&sequence, false);
            self.waiting.push_front(sequence.running);
            self.stats.preempted += 1;
        }
        Ok(())
    }

    /// Let go of a sequence's pages; a finished one's stay known.
    fn release(&mut self, sequence: &Sequence, finished: bool) {
        let text: Vec<u32> = match finished && self.share {
            true => {
                let request = &self.requests[sequence.running.index];
                let all = request
                    .prompt
                    .iter()
                    .chain(&sequence.running.tokens)
                    .copied();
                // The last token was never fed.
                all.take(request.prompt.len() + sequence.running.tokens.len() - 1)
                    .collect()
            }
            false => Vec::new(),
        };
        let names = keys(&self.weights, &text, PAGE);
        if let Some(state) = self.fused.state() {
            for (&page, name) in sequence.pages.iter().zip(names) {
                state.pool.name(page, name);
            }
            // The end first, so that beginnings stay the longest.
            for &page in sequence.pages.iter().rev() {
                state.pool.drop(page);
            }
        }
    }

    fn land_all(&mut self, progress: &mut impl FnMut(usize)) -> Result<(), Stop> {
        while !self.flights.is_empty() {
            self.land(progress)?;
        }
        Ok(())
    }

    /// Look at the oldest outcome.
    fn land(&mut self, progress: &mut impl FnMut(usize)) -> Result<(), Stop> {
        let Some(flight) = self.flights.pop_front() else {
            return Ok(());
        };
        let outcomes: Vec<_> = flight.results.wait()?.take(flight.rows.len()).collect();
        self.spare.push(flight.results);
        for ((slot, turn), (token, logprob, status)) in flight.rows.into_iter().zip(outcomes) {
            let Some(sequence) = self.slots[slot].as_mut().filter(|s| s.turn == turn) else {
                continue;
            };
            if status < 0 {
                continue;
            }
            let drawn = if status == 3 {
                Err(NotFinite)
            } else {
                Ok(Drawn { token, logprob })
            };
            let index = sequence.running.index;
            let ended = match sequence.running.accept(&self.requests[index], drawn) {
                Ok(None) => continue,
                Ok(Some(finish)) => Ok(finish),
                Err(error) => Err(error.into()),
            };
            let Some(sequence) = self.slots[slot].take() else {
                continue;
            };
            if status == 0 {
                self.fused.stop(slot)?;
            }
            self.release(&sequence, ended.is_ok());
            self.stats.new_tokens += sequence.running.tokens.len();
            self.results[index] =
                Some(ended.map(|finish| sequence.running.into_completion(finish)));
            progress(1);
        }
        Ok(())
    }

    /// Leave nothing under way, whatever has happened.
    fn clear(&mut self) -> Result<(), GpuError> {
        let landed = self
            .flights
            .drain(..)
            .try_for_each(|f| f.results.wait().map(|_| ()));
        for slot in 0..self.slots.len() {
            if let Some(sequence) = self.slots[slot].take() {
                self.fused.stop(slot)?;
                // Its prompt may not have been computed.
                let pages = sequence.pages;
                self.give_back(&pages, 0);
            }
        }
        landed
    }
}

/// The uniform numbers that the plain sampler would take from the request's stream, one a token.
fn uniforms(request: &Request) -> Vec<f64> {
    if request.sampling.temperature == 0.0 {
        return Vec::new();
    }
    (0..request.max_new_tokens)
        .map(|index| stream(request.seed, &format!("token/{index}")).random())
        .collect()
}

fn draw(request: &Request) -> Draw {
    let mut stops = [-1i32; 8];
    for (to, &stop) in stops.iter_mut().zip(&request.stop) {
        *to = stop as i32;
    }
    Draw {
        temperature: request.sampling.temperature,
        top_p: request.sampling.top_p,
        min_p: request.sampling.min_p,
        uniforms: 0,
        top_k: request.sampling.top_k.min(i32::MAX as usize) as i32,
        limit: request.max_new_tokens as i32,
        stops,
    }
}
