//! The plain path of generation, for GPUs without kernels of our own: a slot of a simple cache for each text.
//!
//! A turn of the loop: admit waiting texts into free slots, compute one token for every running one, sample, retire those
//! that ended. A text that halts and is answered leaves its slot, and is computed anew when it comes back.

use std::collections::VecDeque;

use tch::{Device, Kind, Tensor};

use super::engine::{Completions, GenerationError, Request, Unfinished};
use super::outside::Beyond;
use super::running::{Asked, Running, draw_all};
use super::sampling::{Drawn, NotFinite};
use crate::model::{Adapter, Decoder, KvCache};
use crate::runtime::interrupt::{Interrupted, check};

/// Generate all requests that are not refused yet; `results` has those that are.
pub(super) fn generate(
    (model, adapter): (&Decoder, Option<&Adapter>),
    slots: Option<usize>,
    requests: &[Request],
    mut results: Unfinished,
    mut beyond: Beyond,
    mut progress: impl FnMut(usize),
) -> Result<Completions, Interrupted> {
    let mut waiting: VecDeque<Running> = (0..requests.len())
        .filter(|&i| results[i].is_none())
        .map(|i| Running::new(i, &requests[i]))
        .collect();
    let room = waiting
        .iter()
        .map(|r| requests[r.index].prompt.len() + requests[r.index].max_new_tokens)
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
    loop {
        check()?;
        if beyond.has_parked() {
            let idle = waiting.is_empty() && running.is_empty();
            progress(beyond.collect(idle, requests, &mut waiting, &mut results));
        }
        if waiting.is_empty() && running.is_empty() {
            if beyond.has_parked() {
                continue;
            }
            break;
        }
        // Admit. Those with the text of the one just computed copy its cache.
        let mut computed: Option<(Vec<u32>, usize, Tensor)> = None;
        while let Some(&slot) = free.last()
            && let Some(mut next) = waiting.pop_front()
        {
            let request = &requests[next.index];
            let text = next.text(request);
            let same = computed.take().filter(|(other, _, _)| *other == text);
            let logits = match same {
                Some((_, from, logits)) => {
                    cache.fork(from, slot);
                    logits
                }
                None => {
                    let hidden = model.prefill(&text, &mut cache, slot, adapter);
                    model.next_token_logits(&hidden)
                }
            };
            let drawn = draw_rows(&logits, &[next.asked(request)]).pop();
            computed = Some((text, slot, logits));
            let ended = match drawn.map(|drawn| next.accept(request, drawn)) {
                Some(Ok(None)) => {
                    free.pop();
                    running.push((slot, next));
                    continue;
                }
                Some(Ok(Some(finish))) => Ok(finish),
                Some(Err(error)) => Err(error.into()),
                None => continue,
            };
            // The slot stays free; its text may serve the next request of the group.
            progress(beyond.leave(next, ended, &mut results));
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
            .map(|(_, r)| r.asked(&requests[r.index]))
            .collect();
        let drawn = draw_rows(&logits, &asked);
        // Retire.
        let mut still = Vec::with_capacity(running.len());
        for ((slot, mut text), drawn) in running.drain(..).zip(drawn) {
            let ended = match text.accept(&requests[text.index], drawn) {
                Ok(None) => {
                    still.push((slot, text));
                    continue;
                }
                Ok(Some(finish)) => Ok(finish),
                Err(error) => Err(GenerationError::from(error)),
            };
            free.push(slot);
            progress(beyond.leave(text, ended, &mut results));
        }
        running = still;
    }
    drop(guard);
    Ok(results.into_iter().flatten().collect())
}

/// Draw a token a row; `asked` gives what each draw depends on.
fn draw_rows(logits: &Tensor, asked: &[Asked]) -> Vec<Result<Drawn, NotFinite>> {
    let vocab = logits.size()[1] as usize;
    let mut numbers = vec![0f32; asked.len() * vocab];
    logits
        .to_device(Device::Cpu)
        .to_kind(Kind::Float)
        .contiguous()
        .copy_data(&mut numbers, asked.len() * vocab);
    draw_all(&numbers, asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::engine::Completion;
    use crate::generation::sampling::Sampling;
    use crate::generation::script::{Answer, Script, after, in_turns};
    use crate::model::ModelConfig;

    /// Products of another number of rows sum in another order; with one slot there is but one number.
    #[test]
    fn texts_that_go_on_are_those_of_separate_turns() {
        let config = ModelConfig {
            vocab_size: 60,
            hidden_size: 32,
            intermediate_size: 48,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            max_position: 128,
            ..ModelConfig::llama_3_1_8b()
        };
        tch::manual_seed(1);
        let model = Decoder::random(&config, Kind::Float, Device::Cpu).expect("memory");
        let requests: Vec<Request> = (0..7)
            .map(|i| Request {
                // Two each begin alike and halt together: one copies what the other computed as long as they are alike.
                prompt: vec![i / 2 + 1; 5 + i as usize / 2],
                max_new_tokens: 30,
                sampling: Sampling::default(),
                stop: vec![],
                halt: (i != 3).then(|| after(1 + i as usize / 2)),
                seed: u64::from(i),
            })
            .collect();
        let answer = |i: usize, turn: usize| Answer {
            inserted: vec![7; (i + 3 * turn) % 8 + 20 * (i / 6)],
            halts_after: (i != 5).then_some(2 + turn),
            seed: 100 + (i + turn) as u64,
        };
        let answers: Vec<Vec<Answer>> = (0..7)
            .map(|i| (0..1 + i % 3).map(|turn| answer(i, turn)).collect())
            .collect();
        let run = |requests: &[Request], slots: usize, beyond: Beyond| -> Vec<Completion> {
            let open = requests.iter().map(|_| None).collect();
            let (model, slots) = ((&model, None), Some(slots));
            let done = generate(model, slots, requests, open, beyond, |_| ()).expect("no stop");
            done.into_iter().map(|text| text.expect("a text")).collect()
        };
        let none = || Beyond::new(None, 60);
        let expected = in_turns(&requests, &answers, |part| run(part, 1, none()));
        for (slots, looks) in [(1, &[0, 2, 9][..]), (3, &[3, 1]), (7, &[0])] {
            let mut script = Script::new(&answers, looks);
            let texts = run(&requests, slots, Beyond::new(Some(&mut script), 60));
            for (text, expected) in texts.iter().zip(&expected) {
                assert_eq!(text.tokens, expected.tokens);
                assert_eq!(text.finish, expected.finish);
                let apart = text.logprobs.iter().zip(&expected.logprobs);
                let most = apart.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(most <= if slots == 1 { 0.0 } else { 1e-4 }, "{most}");
            }
        }
    }
}
