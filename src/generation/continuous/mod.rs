//! Continuous batching on a GPU: requests enter and leave a running batch, the host one step behind the device.
//!
//! A turn of the loop: admit what finds a slot and pages, prompts packed up to a token budget; see that every sequence
//! has a page for its next token; launch a step; then look at the outcome of the step before. The device ends texts
//! itself, by stop tokens and limits; what the host ends (a [`super::Halt`]) has one token too many on the device, which
//! is not looked at. When pages run out, the youngest text gives its pages back; what was in them waits on the host, and
//! its draws are named by their index, so it goes on as it would have.
//!
//! A text that halts and is answered ([`super::Outside`]) keeps its slot and its pages and stands out of the steps. It goes
//! on without a prompt: what was put in is fed by ordinary steps, whose draws are overruled on the device, so that no
//! prefill holds up the others, and no bit of the text depends on when its answer came. A parked text gives no pages back:
//! if others find none, they give way or wait until its answer has come.

mod card;
mod flight;
mod paging;
mod parking;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::Instant;

use super::engine::{Completions, GenerationError, Request, Unfinished};
use super::outside::Beyond;
use super::running::Running;
use crate::model::Adapter;
use crate::model::fused::pages::Key;
use crate::model::fused::{MOST_ROWS, PAGE, PROMPT_TOKENS};
use crate::runtime::device::is_deterministic;
use crate::runtime::gpu::GpuError;
use crate::runtime::interrupt::{Interrupted, check};
use card::Card;

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
    /// Seconds before the first prompt: adapters, and memory where it is not there yet.
    pub setup_seconds: f64,
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
    /// Told apart from whoever had the slot before, and from itself before it was parked.
    turn: u64,
    /// It came in after those with a smaller one.
    age: u64,
    /// It halted, and its answer has not come.
    parked: bool,
    pages: Vec<u32>,
    /// Tokens in the cache once all launched steps are through.
    fed: usize,
}

/// A step or a prefill whose outcome is still to be looked at.
struct Flight<O> {
    results: O,
    /// Slot and turn of each row.
    rows: Vec<(usize, u64)>,
}

/// One call of the engine.
struct Batch<'a, 'o, C: Card> {
    fused: &'a mut C,
    requests: &'a [Request],
    results: Unfinished,
    waiting: VecDeque<Running>,
    slots: Vec<Option<Sequence>>,
    beyond: Beyond<'o>,
    flights: VecDeque<Flight<C::Outcome>>,
    spare: Vec<C::Outcome>,
    /// Name of the weights.
    weights: Key,
    share: bool,
    budget: usize,
    turn: u64,
    rows: Vec<i32>,
    stats: Stats,
}

/// Generate all requests that are not refused yet; `results` has those that are.
pub(super) fn generate<C: Card>(
    fused: &mut C,
    adapter: Option<&Adapter>,
    slots: usize,
    requests: &[Request],
    results: Unfinished,
    beyond: Beyond,
    mut progress: impl FnMut(usize),
) -> Result<(Completions, Stats), Interrupted> {
    let started = Instant::now();
    if results.iter().all(Option::is_some) {
        return Ok((results.into_iter().flatten().collect(), Stats::default()));
    }
    let mut batch = match Batch::new(fused, adapter, slots, requests, results, beyond) {
        Ok(batch) => batch,
        Err((error, results)) => {
            let message = error.to_string();
            let fail =
                |r: Option<_>| r.unwrap_or_else(|| Err(GenerationError::Device(message.clone())));
            return Ok((results.into_iter().map(fail).collect(), Stats::default()));
        }
    };
    batch.stats.setup_seconds = started.elapsed().as_secs_f64();
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

fn pages_for(tokens: usize) -> usize {
    tokens.div_ceil(PAGE)
}

/// Tokens whose keys a request's text needs: all but the last one.
fn longest(request: &Request) -> usize {
    request.prompt.len() + request.max_new_tokens - 1
}

impl<'a, 'o, C: Card> Batch<'a, 'o, C> {
    fn new(
        fused: &'a mut C,
        adapter: Option<&Adapter>,
        slots: usize,
        requests: &'a [Request],
        mut results: Unfinished,
        beyond: Beyond<'o>,
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
        let new = |&i: &usize| requests[i].max_new_tokens;
        let most_new = open(&results).iter().map(new).max().unwrap_or(1);
        let reserved = (|| {
            let fingerprint = fused.set_adapter(adapter)?;
            let bytes = fused.page_bytes();
            let wanted: usize = sizes.iter().take(slots).sum();
            let tokens = sizes.first().copied().unwrap_or(1) * PAGE;
            if !fused.suffices(wanted.max(1), tokens, most_new) {
                // A request that could never have all its pages is refused, with the figures.
                let room = fused.room()?;
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
            }
            let wanted: usize = sizes.iter().take(slots).sum();
            let least = sizes.first().copied().unwrap_or(1);
            let pages = fused.reserve(wanted.max(1), least, least * PAGE, most_new)?;
            let mut weights = [0u8; 32];
            weights[..8].copy_from_slice(&fingerprint[0].to_le_bytes());
            weights[8..16].copy_from_slice(&fingerprint[1].to_le_bytes());
            Ok((pages * bytes, weights))
        })();
        let (cache_bytes, weights) = match reserved {
            Ok(reserved) => reserved,
            Err(error) => return Err((error, results)),
        };
        // Texts that may become the longest come first, or some would be written alone in the end; equals keep their order.
        let mut order = open(&results);
        order.sort_by_key(|&i| Reverse(requests[i].max_new_tokens));
        let waiting = order
            .into_iter()
            .map(|i| Running::new(i, &requests[i]))
            .collect();
        // Under the deterministic mode each prompt is computed alone, so that nothing depends on the others.
        let exact = is_deterministic();
        Ok(Self {
            fused,
            requests,
            results,
            waiting,
            slots: (0..slots).map(|_| None).collect(),
            beyond,
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
            self.welcome(false, progress)?;
            let before = self.waiting.len();
            self.admit(progress)?;
            if self.at_work() == 0 && self.flights.is_empty() {
                if self.waiting.is_empty() && self.occupied() == 0 {
                    return Ok(());
                }
                // What was admitted may have ended or halted at once.
                if self.waiting.len() < before {
                    continue;
                }
                if self.occupied() > 0 {
                    self.welcome(true, progress)?;
                    continue;
                }
                let why = "a text found no pages although nothing else is under way";
                return Err(Stop::Device(GpuError::Unsupported(why.into())));
            }
            if self.at_work() > 0 {
                self.launch(progress)?;
            }
            // One step stays under way while the host works.
            let ahead = usize::from(self.at_work() > 0);
            while self.flights.len() > ahead {
                self.land(progress)?;
            }
        }
    }

    fn occupied(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// Texts in slots that are not parked.
    fn at_work(&self) -> usize {
        self.slots.iter().flatten().filter(|s| !s.parked).count()
    }

    /// Pages that are left to the texts in slots when another one is let in: none where all are parked, since nothing
    /// would be computed then.
    fn left_to_others(&self) -> usize {
        match self.at_work() {
            0 => 0,
            _ => self.occupied(),
        }
    }

    /// Let waiting requests into free slots.
    fn admit(&mut self, progress: &mut impl FnMut(usize)) -> Result<(), Stop> {
        // Small prefills cost nearly as much as large ones, so a few slots are let stand empty for a while.
        let mut enough = match self.at_work() {
            0 => 1,
            _ => self.waiting.len().min(self.slots.len() / 16).max(1),
        };
        self.readmit()?;
        loop {
            let free: Vec<usize> = (0..self.slots.len())
                .filter(|&s| self.slots[s].is_none())
                .collect();
            if self.waiting.is_empty() || free.len() < enough {
                return Ok(());
            }
            let mut admitted = Vec::new();
            let (mut tokens, mut whole) = (0, 0);
            for slot in free {
                let Some(next) = self.waiting.front().filter(|next| next.saved.is_none()) else {
                    break;
                };
                let text: Vec<u32> = self.requests[next.index].prompt.clone();
                // Room for growth too, as long as others are running.
                let reserve = match self.left_to_others() {
                    0 => 0,
                    others => others + 1,
                };
                let Some((pages, cached)) = self.pages_of(&text, reserve) else {
                    break;
                };
                let own = text.len() - cached;
                // Keys of whole texts are gathered where some are cached, so these are bounded too.
                if tokens > 0 && (tokens + own > self.budget || whole + text.len() > 4 * BUDGET) {
                    self.give_back(&pages, cached);
                    break;
                }
                let Some(running) = self.waiting.pop_front() else {
                    break;
                };
                tokens += own;
                whole += text.len();
                self.stats.shared_tokens += cached;
                self.turn += 1;
                self.slots[slot] = Some(Sequence {
                    running,
                    turn: self.turn,
                    age: self.turn,
                    parked: false,
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
            enough = 1;
        }
    }

    /// Leave nothing under way, whatever has happened.
    fn clear(&mut self) -> Result<(), GpuError> {
        let mut landed = Ok(());
        for flight in self.flights.drain(..) {
            landed = landed.and(C::wait(&flight.results, 0).map(|_| ()));
        }
        for slot in 0..self.slots.len() {
            if let Some(sequence) = self.slots[slot].take() {
                // Its prompt may not have been computed.
                self.give_back(&sequence.pages, 0);
                landed = landed.and(self.fused.stop(slot));
            }
        }
        landed
    }
}
