//! Pages of the sequences: shared beginnings, growth, and who gives way when there are none left.

use super::card::Card;
use super::{Batch, Sequence, Stop, longest, pages_for};
use crate::model::fused::PAGE;
use crate::model::fused::pages::keys;

impl<C: Card> Batch<'_, '_, C> {
    /// Pages for a text that is to be computed, and how many of its tokens are there. The full pages are named at once:
    /// whoever shares them is computed after this text, or together with it.
    pub(super) fn pages_of(&mut self, text: &[u32], reserve: usize) -> Option<(Vec<u32>, usize)> {
        let share = self.share;
        let names = keys(&self.weights, text, PAGE);
        let pool = self.fused.pool()?;
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
        if pool.free() < needed + reserve {
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
    pub(super) fn give_back(&mut self, pages: &[u32], cached: usize) {
        if let Some(pool) = self.fused.pool() {
            for (index, &page) in pages.iter().enumerate() {
                if index >= cached / PAGE {
                    pool.forget(page);
                }
                pool.drop(page);
            }
        }
    }

    /// Let those go on that gave way, as long as there is room for one and a little more.
    pub(super) fn readmit(&mut self) -> Result<(), Stop> {
        while let Some(slot) = self.slots.iter().position(Option::is_none)
            && let Some(next) = self.waiting.front()
            && let Some(saved) = &next.saved
        {
            let request = &self.requests[next.index];
            let fed = request.prompt.len() + next.decided() - 1;
            let saved = saved.shallow_clone();
            let needed = pages_for(fed + 1);
            let others = self.left_to_others();
            let Some(pool) = self.fused.pool() else {
                return Ok(());
            };
            if pool.free() < needed + others {
                return Ok(());
            }
            let pages: Vec<u32> = (0..needed).filter_map(|_| pool.take()).collect();
            let Some(mut running) = self.waiting.pop_front() else {
                return Ok(());
            };
            running.saved = None;
            let used = saved.size()[2] as usize;
            self.turn += 1;
            // In its slot first: whatever fails, its pages are found there.
            self.slots[slot] = Some(Sequence {
                running,
                turn: self.turn,
                age: self.turn,
                parked: false,
                pages: pages.clone(),
                fed,
            });
            self.fused
                .restore_pages(&pages[..used.min(pages.len())], &saved)?;
            let changes: Vec<[i32; 3]> = pages
                .iter()
                .enumerate()
                .map(|(at, &page)| [slot as i32, at as i32, page as i32])
                .collect();
            self.fused.set_pages(&changes)?;
            self.resume(&[slot])?;
        }
        Ok(())
    }

    /// See that every sequence has a page for its next token.
    pub(super) fn grow(&mut self, progress: &mut impl FnMut(usize)) -> Result<(), Stop> {
        let mut changes = Vec::new();
        let mut slot = 0;
        while slot < self.slots.len() {
            let lacking = self.slots[slot].as_ref().is_some_and(|s| {
                !s.parked
                    && s.pages.len() <= s.fed / PAGE
                    && s.fed < longest(&self.requests[s.running.index])
            });
            if !lacking {
                slot += 1;
                continue;
            }
            let page = self.fused.pool().and_then(|pool| pool.take());
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
                    if self.fused.pool().is_some_and(|pool| pool.free() == 0) {
                        self.preempt()?;
                    }
                }
            }
        }
        Ok(self.fused.set_pages(&changes)?)
    }

    /// The youngest sequence at work gives its pages back and waits.
    pub(super) fn preempt(&mut self) -> Result<(), Stop> {
        let youngest = (0..self.slots.len())
            .filter_map(|slot| Some((self.slots[slot].as_ref().filter(|s| !s.parked)?.age, slot)))
            .max();
        if let Some((_, slot)) = youngest
            && let Some(sequence) = &self.slots[slot]
        {
            // What lies in the pages goes with it, so that it goes on from the same bits.
            let used = pages_for(sequence.fed).min(sequence.pages.len());
            let saved = self.fused.save_pages(&sequence.pages[..used])?;
            if let Some(mut sequence) = self.slots[slot].take() {
                sequence.running.saved = Some(saved);
                self.release(&sequence, false);
                self.waiting.push_front(sequence.running);
                self.stats.preempted += 1;
                self.fused.stop(slot)?;
            }
        }
        Ok(())
    }

    /// Let go of a sequence's pages; a finished one's stay known.
    pub(super) fn release(&mut self, sequence: &Sequence, finished: bool) {
        let text: Vec<u32> = match finished && self.share {
            true => {
                let (request, running) =
                    (&self.requests[sequence.running.index], &sequence.running);
                let all = request.prompt.iter().chain(&running.tokens).copied();
                // The last token was never fed, nor was what was put in last, if the text ended with it.
                all.take(request.prompt.len() + running.decided() - 1)
                    .collect()
            }
            false => Vec::new(),
        };
        let names = keys(&self.weights, &text, PAGE);
        if let Some(pool) = self.fused.pool() {
            for (&page, name) in sequence.pages.iter().zip(names) {
                pool.name(page, name);
            }
            // The end first, so that beginnings stay the longest.
            for &page in sequence.pages.iter().rev() {
                pool.drop(page);
            }
        }
    }
}
