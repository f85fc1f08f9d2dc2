//! A card that computes nothing but a digest of what its pages hold.

use std::cell::RefCell;
use std::ops::Range;

use tch::Tensor;

use crate::generation::continuous::card::Card;
use crate::model::Adapter;
use crate::model::fused::pages::PagePool;
use crate::model::fused::{Draw, MOST_ROWS, PAGE, Prompt};
use crate::runtime::gpu::GpuError;

/// Tokens of the made-up language.
pub const WORDS: u32 = 11;
/// No token.
const BLANK: u32 = u32::MAX;

/// What follows a text: any function of all of it, and of the draw where there is one, will do.
pub fn next(text: &[u32], uniform: Option<f64>) -> u32 {
    let digest = text.iter().fold(0xcbf2_9ce4_8422_2325u64, |digest, token| {
        (digest ^ u64::from(*token))
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(7)
    });
    let drawn = uniform.map_or(0, |uniform| (uniform * 1e6) as u64);
    ((digest >> 20) + drawn) as u32 % WORDS
}

#[derive(Clone, Default)]
pub struct Slot {
    pub active: bool,
    length: usize,
    made: usize,
    token: u32,
    limit: usize,
    stops: Vec<i32>,
    /// Tokens that are known beforehand; their numbers are the tokens.
    forced: Range<usize>,
    greedy: bool,
    uniforms: Vec<f64>,
    table: Vec<u32>,
}

#[derive(Default)]
pub struct Memory {
    pub slots: Vec<Slot>,
    /// What each page holds.
    pages: Vec<[u32; PAGE]>,
    rows: Vec<i32>,
    /// How often the loop came round: it enters pages before every step.
    turns: usize,
    /// Pages were put back, and the text that they are for has not been started.
    restored: bool,
    /// Texts that went on from saved pages in the midst of what was put in.
    pub in_the_midst: usize,
    outcome: Vec<(u32, f32, i32)>,
}

impl Memory {
    /// Draw the next token of a slot whose pages hold its text; its outcome.
    fn draw(&mut self, slot: usize) -> (u32, f32, i32) {
        let length = self.slots[slot].length + 1;
        let table = self.slots[slot].table.clone();
        let text: Vec<u32> = (0..length)
            .map(|at| self.pages[table[at / PAGE] as usize][at % PAGE])
            .collect();
        assert!(
            !text.contains(&BLANK),
            "a page was read before it was written"
        );
        let slot = &mut self.slots[slot];
        let forced = slot.forced.contains(&slot.made);
        slot.token = match (forced, slot.greedy) {
            (true, _) => slot.uniforms[slot.made] as u32,
            (false, true) => next(&text, None),
            (false, false) => next(&text, Some(slot.uniforms[slot.made])),
        };
        slot.length = length;
        slot.made += 1;
        let status = if !forced && slot.stops.contains(&(slot.token as i32)) {
            1
        } else {
            2 * i32::from(slot.made >= slot.limit)
        };
        slot.active = status == 0;
        (slot.token, 0.0, status)
    }
}

/// A card with so many pages at most.
pub struct Paper {
    pub limit: usize,
    pub pool: Option<PagePool>,
    pub memory: RefCell<Memory>,
}

impl Paper {
    pub fn new(limit: usize) -> Self {
        let memory = Memory {
            slots: vec![Slot::default(); MOST_ROWS],
            ..Memory::default()
        };
        Self {
            limit,
            pool: None,
            memory: RefCell::new(memory),
        }
    }
}

impl Card for Paper {
    type Outcome = Vec<(u32, f32, i32)>;

    fn set_adapter(&mut self, _: Option<&Adapter>) -> Result<[f64; 2], GpuError> {
        Ok([1.0, 2.0])
    }

    fn page_bytes(&self) -> usize {
        1
    }

    fn suffices(&self, pages: usize, _: usize, _: usize) -> bool {
        self.pool.as_ref().is_some_and(|pool| pool.len() >= pages)
    }

    fn room(&self) -> Result<usize, GpuError> {
        Ok(self.limit)
    }

    fn reserve(
        &mut self,
        pages: usize,
        least: usize,
        longest: usize,
        new: usize,
    ) -> Result<usize, GpuError> {
        if !self.suffices(pages.min(self.limit), longest, new) {
            let pages = pages.min(self.limit).max(least);
            self.pool = Some(PagePool::new(pages));
            self.memory.borrow_mut().pages = vec![[BLANK; PAGE]; pages];
        }
        Ok(self.pool.as_ref().map_or(0, PagePool::len))
    }

    fn pool(&mut self) -> Option<&mut PagePool> {
        self.pool.as_mut()
    }

    fn start(
        &self,
        slot: usize,
        length: usize,
        made: usize,
        draw: Draw,
        uniforms: &[f64],
    ) -> Result<(), GpuError> {
        let slot = &mut self.memory.borrow_mut().slots[slot];
        assert!(!slot.active, "a slot is given to two texts");
        *slot = Slot {
            active: true,
            length: length - 1,
            made,
            token: BLANK,
            limit: draw.limit as usize,
            stops: draw.stops.to_vec(),
            forced: draw.forced_from as usize..draw.forced_until as usize,
            greedy: draw.temperature == 0.0,
            uniforms: uniforms.to_vec(),
            table: std::mem::take(&mut slot.table),
        };
        Ok(())
    }

    fn resume(
        &self,
        slot: usize,
        length: usize,
        made: usize,
        token: u32,
        draw: Draw,
        uniforms: &[f64],
    ) -> Result<(), GpuError> {
        self.start(slot, length + 1, made, draw, uniforms)?;
        let mut memory = self.memory.borrow_mut();
        memory.slots[slot].token = token;
        let restored = std::mem::take(&mut memory.restored);
        memory.in_the_midst += usize::from(restored && !memory.slots[slot].forced.is_empty());
        Ok(())
    }

    fn stop(&self, slot: usize) -> Result<(), GpuError> {
        self.memory.borrow_mut().slots[slot].active = false;
        Ok(())
    }

    fn set_pages(&self, changes: &[[i32; 3]]) -> Result<(), GpuError> {
        let mut memory = self.memory.borrow_mut();
        memory.turns += 1;
        assert!(memory.turns < 1_000_000, "the loop does not end");
        for &[slot, at, page] in changes {
            let table = &mut memory.slots[slot as usize].table;
            table.resize(table.len().max(at as usize + 1), 0);
            table[at as usize] = page as u32;
        }
        Ok(())
    }

    fn set_rows(&self, rows: &[i32]) -> Result<(), GpuError> {
        self.memory.borrow_mut().rows = rows.to_vec();
        Ok(())
    }

    fn prefill(&mut self, prompts: &[Prompt]) -> Result<(), GpuError> {
        let mut memory = self.memory.borrow_mut();
        let mut outcome = vec![];
        for prompt in prompts {
            assert!(prompt.cached < prompt.tokens.len());
            for (at, &token) in prompt.tokens.iter().enumerate() {
                let cell = &mut memory.pages[prompt.pages[at / PAGE] as usize][at % PAGE];
                match at < prompt.cached {
                    true => assert_eq!(*cell, token, "a shared page holds another text"),
                    false => *cell = token,
                }
            }
            outcome.push(memory.draw(prompt.slot));
        }
        memory.outcome = outcome;
        Ok(())
    }

    fn step(&mut self, rows: usize) -> Result<(), GpuError> {
        let mut memory = self.memory.borrow_mut();
        let mut outcome = vec![];
        for at in 0..rows {
            let row = memory.rows[at];
            let slot = memory.slots[row as usize].clone();
            if !slot.active {
                outcome.push((0, 0.0, -1));
                continue;
            }
            let page = slot.table[slot.length / PAGE] as usize;
            memory.pages[page][slot.length % PAGE] = slot.token;
            outcome.push(memory.draw(row as usize));
        }
        memory.outcome = outcome;
        Ok(())
    }

    fn save_pages(&self, pages: &[u32]) -> Result<Tensor, GpuError> {
        let memory = self.memory.borrow();
        let held = pages.iter().flat_map(|&page| memory.pages[page as usize]);
        let numbers: Vec<i64> = held.map(i64::from).collect();
        Ok(Tensor::from_slice(&numbers).reshape([1, 1, pages.len() as i64, PAGE as i64]))
    }

    fn restore_pages(&self, pages: &[u32], saved: &Tensor) -> Result<(), GpuError> {
        let numbers = Vec::<i64>::try_from(saved.flatten(0, -1))?;
        assert_eq!(
            numbers.len(),
            pages.len() * PAGE,
            "not all that was saved is put back"
        );
        let mut memory = self.memory.borrow_mut();
        memory.restored = true;
        for (&page, held) in pages.iter().zip(numbers.chunks_exact(PAGE)) {
            for (cell, &number) in memory.pages[page as usize].iter_mut().zip(held) {
                *cell = number as u32;
            }
        }
        Ok(())
    }

    fn outcome() -> Result<Self::Outcome, GpuError> {
        Ok(vec![])
    }

    fn fetch(&self, into: &mut Self::Outcome) -> Result<(), GpuError> {
        *into = self.memory.borrow().outcome.clone();
        Ok(())
    }

    fn wait(outcome: &Self::Outcome, rows: usize) -> Result<Vec<(u32, f32, i32)>, GpuError> {
        Ok(outcome.iter().take(rows).copied().collect())
    }
}
