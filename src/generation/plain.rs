//! The plain path of generation, for GPUs without kernels of our own: a slot of a simple cache for each text.
//!
//! A turn of the loop: admit waiting requests into free slots, compute one token for every running one, sample, retire
//! those that ended.

use std::collections::VecDeque;

use tch::{Device, Kind, Tensor};

use super::engine::{Completions, Request, Unfinished};
use super::running::{Running, draw_all};
use super::sampling::{Drawn, NotFinite};
use crate::model::{Adapter, Decoder, KvCache};
use crate::runtime::interrupt::{Interrupted, check};

/// Generate all requests that are not refused yet; `results` has those that are.
pub(super) fn generate(
    (model, adapter): (&Decoder, Option<&Adapter>),
    slots: Option<usize>,
    requests: &[Request],
    mut results: Unfinished,
    mut progress: impl FnMut(usize),
) -> Result<Completions, Interrupted> {
    let mut waiting: VecDeque<usize> = (0..requests.len())
        .filter(|&i| results[i].is_none())
        .collect();
    let room = waiting
        .iter()
        .map(|&i| requests[i].prompt.len() + requests[i].max_new_tokens)
        .max();
    let Some(capacity) = room else {
        return Ok(results.into_iter().flatten().collect());
    };
    let usual = if model.device() == Device::Cpu {
        16
    } else {
        64
    };
    let slots = slots.unwrap_or(usual).min(waiting.len());
    let guard = tch::no_grad_guard();
    let mut cache = KvCache::new(
        model.config(),
        slots,
        capacity,
        model.kind(),
        model.device(),
    );
    let mut free: Vec<usize> = (0..slots).rev().collect();
    let mut running: Vec<(usize, Running)> = Vec::new();
    while !(waiting.is_empty() && running.is_empty()) {
        check()?;
        // Admit. Requests with the prompt of the one just computed copy its cache.
        let mut computed: Option<(usize, usize, Tensor)> = None;
        while let Some(&slot) = free.last()
            && let Some(index) = waiting.pop_front()
        {
            let request = &requests[index];
            let same = computed
                .take()
                .filter(|(other, _, _)| requests[*other].prompt == request.prompt);
            let logits = match same {
                Some((_, from, logits)) => {
                    cache.fork(from, slot);
                    logits
                }
                None => {
                    let hidden = model.prefill(&request.prompt, &mut cache, slot, adapter);
                    model.next_token_logits(&hidden)
                }
            };
            let mut fresh = Running::new(index);
            let drawn = draw_rows(&logits, &[(request, 0)]).pop();
            computed = Some((index, slot, logits));
            free.pop();
            match drawn.map(|d| fresh.accept(request, d)) {
                Some(Ok(None)) => running.push((slot, fresh)),
                Some(Ok(Some(finish))) => {
                    results[index] = Some(Ok(fresh.into_completion(finish)));
                    // The slot's prompt may serve the next request of the group, so it is freed after this one.
                    free.push(slot);
                    progress(1);
                }
                Some(Err(error)) => {
                    results[index] = Some(Err(error.into()));
                    free.push(slot);
                    progress(1);
                }
                None => {}
            }
        }
        if running.is_empty() {
            continue;
        }
        // One token for each.
        let tokens: Vec<u32> = running
            .iter()
            .filter_map(|(_, r)| r.tokens.last().copied())
            .collect();
        let rows: Vec<usize> = running.iter().map(|(slot, _)| *slot).collect();
        let hidden = model.step(&tokens, &rows, &mut cache, adapter);
        let logits = model.next_token_logits(&hidden);
        let asked: Vec<_> = running
            .iter()
            .map(|(_, r)| (&requests[r.index], r.tokens.len()))
            .collect();
        let drawn = draw_rows(&logits, &asked);
        // Retire.
        let mut still = Vec::with_capacity(running.len());
        for ((slot, mut request), drawn) in running.drain(..).zip(drawn) {
            match request.accept(&requests[request.index], drawn) {
                Ok(None) => still.push((slot, request)),
                Ok(Some(finish)) => {
                    free.push(slot);
                    let index = request.index;
                    results[index] = Some(Ok(request.into_completion(finish)));
                    progress(1);
                }
                Err(error) => {
                    free.push(slot);
                    results[request.index] = Some(Err(error.into()));
                    progress(1);
                }
            }
        }
        running = still;
    }
    drop(guard);
    Ok(results.into_iter().flatten().collect())
}

/// Draw a token a row; `asked` gives each row's request and how many tokens it has already.
fn draw_rows(logits: &Tensor, asked: &[(&Request, usize)]) -> Vec<Result<Drawn, NotFinite>> {
    let vocab = logits.size()[1] as usize;
    let mut numbers = vec![0f32; asked.len() * vocab];
    logits
        .to_device(Device::Cpu)
        .to_kind(Kind::Float)
        .contiguous()
        .copy_data(&mut numbers, asked.len() * vocab);
    draw_all(&numbers, asked)
}
