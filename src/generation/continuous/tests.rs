//! The scheduler on a card that computes nothing but a digest of what its pages hold: whatever is admitted, shared,
//! preempted and readmitted, each text is the one that its own tokens lead to, and no page is lost.

use std::cell::RefCell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use tch::Tensor;

use super::card::Card;
use super::generate;
use crate::generation::engine::{Completion, Finish, Halt, Request};
use crate::generation::sampling::Sampling;
use crate::model::Adapter;
use crate::model::fused::pages::PagePool;
use crate::model::fused::{Draw, MOST_ROWS, PAGE, Prompt};
use crate::runtime::gpu::GpuError;

/// Tokens of the made-up language.
const WORDS: u32 = 11;
/// No token.
const BLANK: u32 = u32::MAX;

/// What follows a text: any function of all of it will do.
fn next(text: &[u32]) -> u32 {
    let digest = text.iter().fold(0xcbf2_9ce4_8422_2325u64, |digest, token| {
        (digest ^ u64::from(*token))
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(7)
    });
    (digest >> 20) as u32 % WORDS
}

#[derive(Clone, Default)]
struct Slot {
    active: bool,
    length: usize,
    made: usize,
    token: u32,
    limit: usize,
    stops: Vec<i32>,
    table: Vec<u32>,
}

#[derive(Default)]
struct Memory {
    slots: Vec<Slot>,
    /// What each page holds.
    pages: Vec<[u32; PAGE]>,
    rows: Vec<i32>,
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
        slot.token = next(&text);
        slot.length = length;
        slot.made += 1;
        let status = if slot.stops.contains(&(slot.token as i32)) {
            1
        } else {
            2 * i32::from(slot.made >= slot.limit)
        };
        slot.active = status == 0;
        (slot.token, 0.0, status)
    }
}

/// A card with so many pages at most.
struct Paper {
    limit: usize,
    pool: Option<PagePool>,
    memory: RefCell<Memory>,
}

impl Paper {
    fn new(limit: usize) -> Self {
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
        _: &[f64],
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
        self.memory.borrow_mut().slots[slot].token = token;
        Ok(())
    }

    fn stop(&self, slot: usize) -> Result<(), GpuError> {
        self.memory.borrow_mut().slots[slot].active = false;
        Ok(())
    }

    fn set_pages(&self, changes: &[[i32; 3]]) -> Result<(), GpuError> {
        let mut memory = self.memory.borrow_mut();
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

/// A text alone, token by token, without pages.
fn alone(request: &Request) -> Completion {
    let mut text = request.prompt.clone();
    let mut tokens = vec![];
    let finish = loop {
        let token = next(&text);
        tokens.push(token);
        text.push(token);
        if request.stop.contains(&token) {
            break Finish::Stop;
        } else if tokens.ends_with(&[3, 4]) && request.halt.is_some() {
            break Finish::Halt;
        } else if tokens.len() >= request.max_new_tokens {
            break Finish::Length;
        }
    };
    Completion {
        logprobs: vec![0.0; tokens.len()],
        tokens,
        finish,
    }
}

fn request() -> impl Strategy<Value = Request> {
    let prompt = (0u32..3, 0usize..5, prop::collection::vec(0..WORDS, 1..40));
    // Many texts begin alike, as a group or the rounds of an agent do.
    let prompt = prompt.prop_map(|(kind, shared, own)| {
        let mut all: Vec<u32> = (0..shared * PAGE / 2)
            .map(|at| (at as u32 * 7 + kind) % WORDS)
            .collect();
        all.extend(own);
        all
    });
    (
        prompt,
        1usize..70,
        prop::collection::vec(0..WORDS, 0..2),
        any::<bool>(),
    )
        .prop_map(|(prompt, max_new_tokens, stop, halts)| Request {
            prompt,
            max_new_tokens,
            sampling: Sampling {
                temperature: 0.0,
                top_k: 0,
                top_p: 1.0,
                min_p: 0.0,
            },
            stop,
            halt: halts.then(|| Halt::new(|tokens| tokens.ends_with(&[3, 4]))),
            seed: 1,
        })
}

/// All requests on a card; every text is the one it would be alone. Gives how many gave way.
fn hold(card: &mut Paper, slots: usize, requests: &[Request]) -> Result<usize, TestCaseError> {
    let mut done = 0;
    let open = requests.iter().map(|_| None).collect();
    let (results, stats) = generate(card, None, slots, requests, open, |n| done += n)
        .map_err(|e| TestCaseError::fail(e.to_string()))?;
    let mut refused = 0;
    for (request, result) in requests.iter().zip(results) {
        match result {
            Ok(completion) => prop_assert_eq!(completion, alone(request)),
            Err(error) => {
                // Only what could never have all its pages.
                let needed = (request.prompt.len() + request.max_new_tokens - 1).div_ceil(PAGE);
                prop_assert!(needed > card.limit, "{}", error);
                refused += 1;
            }
        }
    }
    prop_assert_eq!(done + refused, requests.len());
    let memory = card.memory.borrow();
    prop_assert!(
        memory.slots.iter().all(|slot| !slot.active),
        "a slot is left at work"
    );
    if let Some(pool) = &card.pool {
        prop_assert_eq!(pool.free(), pool.len(), "a page is lost");
    }
    Ok(stats.preempted)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_is_scheduled_each_text_is_its_own(
        calls in prop::collection::vec(prop::collection::vec(request(), 1..24), 1..3),
        slots in 1usize..9,
        limit in 4usize..60,
    ) {
        // One card for several calls: pages of the first are found by the second.
        let mut card = Paper::new(limit);
        for requests in calls {
            hold(&mut card, slots, &requests)?;
        }
    }
}

#[test]
fn texts_give_way_where_pages_run_out() {
    let texts: Vec<Request> = (0..6)
        .map(|i| Request {
            prompt: vec![i; 20],
            max_new_tokens: 60,
            sampling: Sampling {
                temperature: 0.0,
                top_k: 0,
                top_p: 1.0,
                min_p: 0.0,
            },
            stop: vec![],
            halt: None,
            seed: 1,
        })
        .collect();
    // Each needs five pages in the end, and begins with two.
    let preempted = hold(&mut Paper::new(12), 6, &texts).expect("all as they would be alone");
    assert!(preempted > 0);
    let distinct: BTreeSet<Vec<u32>> = texts.iter().map(|t| alone(t).tokens).collect();
    assert_eq!(
        distinct.len(),
        texts.len(),
        "the language tells texts apart"
    );
}
