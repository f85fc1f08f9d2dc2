//! Texts that halted: they keep slot and pages until their answer has come, and go on from there.

use rayon::prelude::*;

use super::card::Card;
use super::flight::{draw, uniforms};
use super::{Batch, Stop};
use crate::generation::running::Course;

impl<C: Card> Batch<'_, '_, C> {
    /// A text halted; the device has stopped it. What a step under way makes of it is not looked at: it computes the last
    /// token, as the first step after the answer will again, into the same place.
    pub(super) fn park(&mut self, slot: usize) {
        self.turn += 1;
        if let Some(sequence) = &mut self.slots[slot] {
            let prompt = self.requests[sequence.running.index].prompt.len();
            sequence.fed = prompt + sequence.running.decided() - 1;
            sequence.turn = self.turn;
            sequence.parked = true;
            self.beyond.halted(&sequence.running);
        }
    }

    /// Let those go on whose answers have come; with `wait` at least one has.
    pub(super) fn welcome(
        &mut self,
        wait: bool,
        progress: &mut impl FnMut(usize),
    ) -> Result<(), Stop> {
        if self.occupied() == self.at_work() {
            return Ok(());
        }
        let mut going = vec![];
        for (index, onward) in self.beyond.ready(wait) {
            let mut parked = self.slots.iter_mut().enumerate().filter_map(|(slot, s)| {
                let sequence = s.as_mut().filter(|s| s.parked)?;
                (sequence.running.index == index).then_some((slot, sequence))
            });
            let Some((slot, sequence)) = parked.next() else {
                continue;
            };
            let running = &mut sequence.running;
            let before = running.tokens.len();
            let ended = self.beyond.put_in(running, &self.requests[index], onward);
            // The device knows none of it yet.
            running.skip = running.tokens.len() - before;
            match ended {
                Ok(None) => {
                    sequence.parked = false;
                    going.push(slot);
                }
                Ok(Some(finish)) => self.leave(slot, Ok(finish), progress),
                Err(error) => self.leave(slot, Err(error), progress),
            }
        }
        self.resume(&going)
    }

    /// Start the device on slots whose pages hold their texts, but for the token that is fed next.
    pub(super) fn resume(&self, going: &[usize]) -> Result<(), Stop> {
        let started: Vec<(usize, usize, Course)> = going
            .iter()
            .filter_map(|&slot| {
                let sequence = self.slots[slot].as_ref()?;
                let running = &sequence.running;
                let course = running.course(&self.requests[running.index]);
                Some((slot, sequence.fed, course))
            })
            .collect();
        let numbers: Vec<Vec<f64>> = started.par_iter().map(|s| uniforms(&s.2)).collect();
        for ((slot, fed, course), numbers) in started.iter().zip(&numbers) {
            let made = course.decided;
            let newest = course.tokens[..made].last().copied().unwrap_or(0);
            self.fused
                .resume(*slot, *fed, made, newest, draw(course), numbers)?;
        }
        Ok(())
    }
}
