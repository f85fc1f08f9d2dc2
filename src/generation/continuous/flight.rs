//! What is sent to the device and comes back from it: prompts, steps, outcomes.

use std::time::Instant;

use rand::Rng;
use rayon::prelude::*;

use super::card::Card;
use super::{Batch, Flight, Sequence, Stop, longest};
use crate::generation::engine::{Finish, GenerationError};
use crate::generation::running::Course;
use crate::generation::sampling::{Drawn, NotFinite};
use crate::model::fused::{Draw, PAGE, Prompt};
use crate::runtime::gpu::GpuError;
use crate::runtime::seed::stream;

impl<C: Card> Batch<'_, '_, C> {
    pub(super) fn take_results(&mut self) -> Result<C::Outcome, GpuError> {
        match self.spare.pop() {
            Some(results) => Ok(results),
            None => C::outcome(),
        }
    }

    /// Start slots and compute their prompts.
    pub(super) fn begin(
        &mut self,
        admitted: &[(usize, Vec<u32>, usize)],
        progress: &mut impl FnMut(usize),
    ) -> Result<(), Stop> {
        let started = Instant::now();
        let (requests, slots) = (self.requests, &self.slots);
        let courses: Vec<Course> = admitted
            .iter()
            .filter_map(|(slot, _, _)| {
                let running = &slots[*slot].as_ref()?.running;
                Some(running.course(&requests[running.index]))
            })
            .collect();
        let numbers: Vec<Vec<f64>> = courses.par_iter().map(uniforms).collect();
        let mut changes = Vec::new();
        for (((slot, text, _), course), numbers) in admitted.iter().zip(&courses).zip(&numbers) {
            let pages = slots[*slot].iter().flat_map(|s| &s.pages);
            for (at, &page) in pages.enumerate() {
                changes.push([*slot as i32, at as i32, page as i32]);
            }
            self.fused
                .start(*slot, text.len(), 0, draw(course), numbers)?;
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
    pub(super) fn fly(&mut self, rows: Vec<(usize, u64)>) -> Result<(), Stop> {
        let mut results = self.take_results()?;
        self.fused.fetch(&mut results)?;
        self.flights.push_back(Flight { results, rows });
        Ok(())
    }

    /// One step for all sequences.
    pub(super) fn launch(&mut self, progress: &mut impl FnMut(usize)) -> Result<(), Stop> {
        self.grow(progress)?;
        // Texts whose last token is under way stay out.
        let goes_on = |s: &&Sequence| !s.parked && s.fed < longest(&self.requests[s.running.index]);
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

    pub(super) fn land_all(&mut self, progress: &mut impl FnMut(usize)) -> Result<(), Stop> {
        while !self.flights.is_empty() {
            self.land(progress)?;
        }
        Ok(())
    }

    /// Look at the oldest outcome.
    pub(super) fn land(&mut self, progress: &mut impl FnMut(usize)) -> Result<(), Stop> {
        let Some(flight) = self.flights.pop_front() else {
            return Ok(());
        };
        let outcomes = C::wait(&flight.results, flight.rows.len())?;
        self.spare.push(flight.results);
        for ((slot, turn), (token, logprob, status)) in flight.rows.into_iter().zip(outcomes) {
            let Some(sequence) = self.slots[slot].as_mut().filter(|s| s.turn == turn) else {
                continue;
            };
            if status < 0 {
                continue;
            }
            let drawn = match status {
                3 => Err(NotFinite),
                // The host put this one in, and knows it.
                _ if sequence.running.skip > 0 => {
                    sequence.running.skip -= 1;
                    continue;
                }
                _ => Ok(Drawn { token, logprob }),
            };
            self.stats.new_tokens += usize::from(drawn.is_ok());
            let index = sequence.running.index;
            let ended = match sequence.running.accept(&self.requests[index], drawn) {
                Ok(None) => continue,
                Ok(Some(finish)) => Ok(finish),
                Err(error) => Err(error.into()),
            };
            if status == 0 {
                self.fused.stop(slot)?;
            }
            if matches!(ended, Ok(Finish::Halt)) && self.beyond.answers() {
                self.park(slot);
            } else {
                self.leave(slot, ended, progress);
            }
        }
        Ok(())
    }

    /// A text ends; its slot is free.
    pub(super) fn leave(
        &mut self,
        slot: usize,
        ended: Result<Finish, GenerationError>,
        progress: &mut impl FnMut(usize),
    ) {
        if let Some(sequence) = self.slots[slot].take() {
            self.release(&sequence, ended.is_ok());
            let index = sequence.running.index;
            let running = sequence.running;
            self.results[index] = Some(ended.map(|finish| running.into_completion(finish)));
            progress(1);
        }
    }
}

/// A number for each token, by its place: the tokens that were put in themselves, then the uniform numbers that the plain
/// sampler would take from the text's stream. What the device has is left out, and so is what a greedy text does not need.
pub(super) fn uniforms(course: &Course) -> Vec<f64> {
    let Course {
        request,
        tokens,
        decided,
        ..
    } = *course;
    let greedy = request.sampling.temperature == 0.0;
    if greedy && decided == tokens.len() {
        return Vec::new();
    }
    let until = match greedy {
        true => tokens.len(),
        false => request.max_new_tokens,
    };
    let number = |at: usize| match tokens.get(at) {
        _ if at < decided => 0.0,
        Some(&token) => f64::from(token),
        None => {
            let name = format!("token/{}", at - course.drawn_from);
            stream(course.seed, &name).random()
        }
    };
    (0..until).map(number).collect()
}

/// A text's settings as the kernel reads them.
pub(super) fn draw(course: &Course) -> Draw {
    let request = course.request;
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
        forced_from: course.decided as i32,
        forced_until: course.tokens.len() as i32,
    }
}
