//! Texts that halt and go on with what was put in, on a Hopper GPU.

use std::collections::BTreeSet;

use atp_pipeline::generation::{Completion, Engine, Request, Sampling};
use atp_pipeline::model::fused::Draw;
use atp_pipeline::model::logprobs::{Predictors, Targets};
use atp_pipeline::model::{Adapter, Decoder, Packed};
use atp_pipeline::runtime::device;
use atp_pipeline::runtime::seed::stream;
use rand::Rng;
use tch::{Device, Kind, Tensor};

use super::{adapter, gpu, random, requests, shapes};
use crate::outside::answers;
use crate::outside::script::{Answer, Script};

/// Tokens of a text that say something about its distance from training: a single one may be far off by bf16's rounding.
const ENOUGH: usize = 8;

/// Which tokens of a text were put in.
fn put_in(told: &[(usize, Completion)], answers: &[Vec<Answer>], index: usize) -> Vec<bool> {
    let halts = told.iter().filter(|(other, _)| *other == index);
    let mut marks = vec![];
    for ((_, halted), answer) in halts.zip(&answers[index]) {
        marks.resize(halted.tokens.len(), false);
        marks.resize(halted.tokens.len() + answer.inserted.len(), true);
    }
    marks
}

/// Root mean square distance of the drawn tokens' log-probabilities from those of training, and how many there are.
fn distance(
    decoder: &Decoder,
    adapter: &Adapter,
    request: &Request,
    text: &Completion,
    put_in: &[bool],
) -> (f64, usize) {
    let mut batch = Packed::new();
    let root = batch.root(&request.prompt);
    let child = batch.child(root, &text.tokens);
    let targets = Targets::of_children(&batch, [(child, &text.tokens[..])]);
    let scored = tch::no_grad(|| {
        Predictors::new(decoder, &decoder.hidden(&batch, Some(adapter)), &targets)
            .expect("memory")
            .score()
            .expect("memory")
    });
    let trained: Vec<f32> = Vec::try_from(scored.logprobs.to_device(Device::Cpu)).expect("numbers");
    let (mut squares, mut count) = (0.0, 0);
    for (at, (ours, theirs)) in text.logprobs.iter().zip(trained).enumerate() {
        if put_in.get(at) == Some(&true) {
            assert_eq!(*ours, 0.0, "what is put in has no log-probability");
        } else {
            squares += f64::from(ours - theirs).powi(2);
            count += 1;
        }
    }
    ((squares / count.max(1) as f64).sqrt(), count)
}

/// Under the deterministic mode a text that goes on depends on its request and its answers alone: on nothing else in the
/// batch, not on when its answers come, in however few slots, and with so little memory that texts give way, also in the
/// midst of what was put in. What is drawn has the log-probabilities that training gives it.
#[test]
#[ignore = "needs a GPU"]
fn texts_that_go_on_are_the_same_alone_in_a_batch_and_after_giving_way() {
    device::make_deterministic().expect("deterministic");
    for (name, config) in shapes() {
        let decoder = random(&config);
        let adapter = adapter(&decoder, 8);
        let mut random = stream(1, &format!("outside/{name}"));
        let mut requests = requests(60, config.vocab_size, Sampling::default());
        for request in requests.iter_mut().step_by(4) {
            request.sampling.temperature = 0.0;
        }
        let answers = answers(&mut random, &mut requests, config.vocab_size as u32);
        let mut looks =
            |most: usize| -> Vec<usize> { (0..50).map(|_| random.random_range(0..most)).collect() };
        let run = |places: std::ops::Range<usize>, slots: usize, looks: &[usize]| {
            let mut script = Script::new(&answers[places.clone()], looks);
            let (texts, stats) = Engine::new(&decoder, Some(&adapter))
                .with_slots(slots)
                .generate_with(&requests[places], &mut script, |_| ())
                .expect("not interrupted");
            let texts: Vec<_> = texts.into_iter().map(|t| t.expect("a text")).collect();
            (texts, stats, script.told)
        };
        let (together, _, told) = run(0..60, 256, &looks(40));
        let finishes: BTreeSet<&str> = together.iter().map(|t| t.finish.name()).collect();
        println!("{name}: {} halts, ends {finishes:?}", told.len());
        assert!(told.len() > 40);
        assert_eq!(run(0..60, 256, &[0]).0, together, "{name}: at once");
        assert_eq!(run(0..60, 5, &looks(9)).0, together, "{name}: five slots");
        for (index, text) in together.iter().enumerate().take(8) {
            let alone = run(index..index + 1, 1, &[0]).0;
            assert_eq!(&alone[0], text, "{name}: alone");
        }
        // As many pages as the longest text needs, and a few more.
        let least = requests
            .iter()
            .map(|r| (r.prompt.len() + r.max_new_tokens).div_ceil(16))
            .max()
            .unwrap_or(1);
        decoder.release_cache();
        let limit = |pages| decoder.fused().expect("the fast path").limit_pages(pages);
        let mut gave_way = 0;
        // On a card of paper some of them give way in the midst of what was put in.
        for looks in [&[3, 17, 9, 12, 1, 19][..], &[40, 2, 30]] {
            limit(Some(least + 4));
            let (crowded, stats, _) = run(0..60, 256, looks);
            assert_eq!(crowded, together, "{name}: crowded");
            gave_way += stats.preempted;
        }
        println!("{name}: {gave_way} texts gave way");
        assert!(gave_way > 0);
        limit(None);
        let (mut worst, mut all) = (0f64, 0);
        for (index, (request, text)) in requests.iter().zip(&together).enumerate() {
            let marks = put_in(&told, &answers, index);
            let inserted: Vec<u32> = (text.tokens.iter().zip(&marks))
                .filter_map(|(token, put_in)| put_in.then_some(*token))
                .collect();
            let expected: Vec<u32> = answers[index]
                .iter()
                .flat_map(|a| a.inserted.clone())
                .collect();
            assert!(expected.starts_with(&inserted), "{name}: text {index}");
            let (apart, count) = distance(&decoder, &adapter, request, text, &marks);
            if count >= ENOUGH {
                worst = worst.max(apart);
                all += 1;
            }
        }
        println!("{name}: worst distance {worst:.4} of {all} texts");
        // As in `generated_log_probabilities_are_those_of_training`.
        assert!(all > 20 && worst < 0.1, "{name}: {worst} of {all} texts");
    }
}

/// The kernel takes a forced token whatever the logits say: it is no draw and no stop token, but counts for the limit.
#[test]
#[ignore = "needs a GPU"]
fn a_forced_token_is_taken_as_it_is() {
    let (_, config) = shapes().swap_remove(0);
    let decoder = random(&config);
    let mut fused = decoder.fused().expect("the fast path");
    let logits = Tensor::zeros([5, config.vocab_size], (Kind::BFloat16, gpu()));
    let _ = logits.narrow(1, 17, 1).fill_(9.0);
    let _ = logits.get(4).get(11).fill_(f64::NAN);
    let draw = |temperature: f64, forced_until: i32, limit: i32| Draw {
        temperature,
        top_p: 0.9,
        min_p: 0.0,
        uniforms: 0,
        top_k: 3,
        limit,
        stops: [4000, 17, -1, -1, -1, -1, -1, -1],
        forced_from: 0,
        forced_until,
    };
    let draws = [
        (draw(1.0, 1, 5), 4000.0),
        (draw(0.0, 1, 5), 4000.0),
        (draw(1.0, 1, 1), 4000.0),
        (draw(0.0, 0, 5), 0.5),
        (draw(1.0, 1, 5), 4000.0),
    ];
    let results = fused.draw_from(&logits, &draws).expect("drawn");
    let drawn: Vec<(u32, i32)> = results
        .wait()
        .expect("passed")
        .take(5)
        .map(|(token, _, status)| (token, status))
        .collect();
    assert_eq!(drawn[..4], [(4000, 0), (4000, 0), (4000, 2), (17, 1)]);
    assert_eq!(drawn[4].1, 3, "logits that are no numbers are noticed");
}
