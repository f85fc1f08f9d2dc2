//! Generation on a CPU: against training's forward, and against itself alone, in a batch, and after other texts.

use atp_pipeline::generation::{Completion, Engine, Request, Sampling, Stats};
use atp_pipeline::model::logprobs::{Predictors, Targets};
use atp_pipeline::model::lora::Target;
use atp_pipeline::model::{Adapter, Decoder, Packed, Weights};
use atp_pipeline::runtime::seed::stream;
use rand::Rng;
use tch::{Device, Kind};

use crate::backprop;
use crate::support::{fixture, json, smollm2_path};

/// Sums in other orders.
const FP32: f64 = 2e-4;

fn load(folder: &std::path::Path, kind: Kind) -> Decoder {
    let weights = Weights::open(folder).expect("a model folder");
    Decoder::load(&weights, kind, Device::Cpu).expect("a loadable model")
}

fn ids(name: &str, count: usize, vocabulary: i64) -> Vec<u32> {
    let mut draw = stream(9, name);
    (0..count)
        .map(|_| draw.random_range(0..vocabulary as u32))
        .collect()
}

fn request(prompt: Vec<u32>, new: usize, seed: u64) -> Request {
    Request {
        prompt,
        max_new_tokens: new,
        sampling: Sampling::default(),
        stop: vec![],
        halt: None,
        seed,
    }
}

fn generate(
    model: &Decoder,
    adapter: Option<&Adapter>,
    slots: usize,
    requests: &[Request],
) -> (Vec<Completion>, Stats) {
    let engine = Engine::new(model, adapter).with_slots(slots);
    let (done, stats) = engine
        .generate_measured(requests, |_| ())
        .expect("no interruption");
    let done = done.into_iter().collect::<Result<_, _>>();
    (done.expect("texts"), stats)
}

/// Largest distance of the engine's log-probabilities from those of training's forward.
fn distance(model: &Decoder, adapter: Option<&Adapter>, requests: &[Request]) -> f64 {
    let (texts, _) = generate(model, adapter, 3, requests);
    let mut worst = 0.0f64;
    for (request, text) in requests.iter().zip(&texts) {
        let mut batch = Packed::new();
        let root = batch.root(&request.prompt);
        let child = batch.child(root, &text.tokens);
        let targets = Targets::of_children(&batch, [(child, &text.tokens[..])]);
        let scored = tch::no_grad(|| {
            let hidden = model.hidden(&batch, adapter);
            let predictors = Predictors::new(model, &hidden, &targets).expect("memory");
            predictors.score().expect("memory")
        });
        let expected = Vec::<f32>::try_from(scored.logprobs).expect("numbers");
        for (got, expected) in text.logprobs.iter().zip(expected) {
            worst = worst.max(f64::from((got - expected).abs()));
        }
    }
    worst
}

/// Prompts around the borders of pages, some beginning alike.
fn prompts(vocabulary: i64, longest: usize) -> Vec<Vec<u32>> {
    let common = ids("common", longest, vocabulary);
    [1, 15, 16, 17, 31, 32, 33, longest]
        .into_iter()
        .enumerate()
        .flat_map(|(i, length)| {
            let own = ids(&format!("own/{i}"), length, vocabulary);
            let mut mixed = common[..length].to_vec();
            if let Some(last) = mixed.last_mut() {
                *last = own[0];
            }
            [common[..length].to_vec(), mixed, own]
        })
        .collect()
}

#[test]
fn log_probabilities_are_those_of_trainings_forward() {
    let described = json("oracle/tiny_models/tiny_models.json");
    let mut seen = 0;
    for (name, model) in described["models"].as_object().expect("models") {
        let folder = model["directories"][0].as_str().expect("a name");
        let folder = fixture("oracle/tiny_models").join(folder);
        let all = [
            ("fp32", load(&folder, Kind::Float), FP32),
            ("bf16", load(&folder, Kind::BFloat16), 0.3),
            ("int8", load(&folder, Kind::Float).in_bytes(), FP32),
        ];
        for (kind, model, limit) in all {
            let (vocabulary, context) = (model.config().vocab_size, model.config().max_position);
            let longest = (context as usize - 9).min(40);
            let requests: Vec<Request> = prompts(vocabulary, 33.min(longest))
                .into_iter()
                .enumerate()
                .map(|(i, prompt)| request(prompt, 9, i as u64))
                .collect();
            let without = distance(&model, None, &requests);
            let adapter = backprop::adapter(model.config(), 3, &Target::ALL, Device::Cpu);
            let with = distance(&model, Some(&adapter), &requests);
            let some = [Target::KProj, Target::UpProj, Target::OProj];
            let adapter = backprop::adapter(model.config(), 5, &some, Device::Cpu);
            let partly = distance(&model, Some(&adapter), &requests);
            println!("{name} {kind}: {without:e}, {with:e}, {partly:e}");
            assert!(
                without.max(with).max(partly) < limit,
                "{name} {kind}: {without:e}, {with:e}, {partly:e}"
            );
        }
        seen += 1;
    }
    assert!(seen >= 6, "{seen} models");
}

#[test]
fn a_text_has_the_same_bits_alone_in_a_batch_and_after_others() {
    let plain = |kind| load(&smollm2_path(), kind);
    for (kind, model) in [
        ("fp32", plain(Kind::Float)),
        ("bf16", plain(Kind::BFloat16)),
        ("int8", plain(Kind::Float).in_bytes()),
    ] {
        let adapter = backprop::adapter(model.config(), 4, &Target::ALL, Device::Cpu);
        for adapter in [None, Some(&adapter)] {
            let requests: Vec<Request> = prompts(49_000, 70)
                .into_iter()
                .enumerate()
                .map(|(i, prompt)| {
                    // The last one's text ends with a page, its last token never computed.
                    let new = if i == 23 { 10 } else { 3 + i % 5 };
                    request(prompt, new, i as u64)
                })
                .collect();
            model.release_cache();
            let (together, stats) = generate(&model, adapter, 7, &requests);
            assert!(stats.shared_tokens > 0, "beginnings are found");
            // Everything that could be found is there now.
            let (again, warm) = generate(&model, adapter, 24, &requests);
            assert!(warm.shared_tokens > stats.shared_tokens);
            assert_eq!(together, again, "{kind}: after other texts");
            // A later turn begins with an earlier text, whose tokens were computed one by one.
            let later = |i: usize| {
                let tokens = [&requests[i].prompt[..], &together[i].tokens, &[7, 8, 9]].concat();
                request(tokens, 4, 100 + i as u64)
            };
            let later: Vec<Request> = [17, 20, 23].map(later).to_vec();
            let (found, stats) = generate(&model, adapter, 3, &later);
            assert!(stats.shared_tokens > 0);
            for (request, text) in requests.iter().zip(&together).step_by(4) {
                model.release_cache();
                let (alone, _) = generate(&model, adapter, 1, std::slice::from_ref(request));
                assert_eq!(alone[0], *text, "{kind}: alone");
            }
            model.release_cache();
            for (request, text) in later.iter().zip(&found) {
                let (alone, stats) = generate(&model, adapter, 1, std::slice::from_ref(request));
                assert_eq!(stats.shared_tokens, 0);
                assert_eq!(alone[0], *text, "{kind}: a later turn");
                model.release_cache();
            }
        }
    }
}

#[test]
fn what_was_computed_under_one_adapter_is_not_found_under_another() {
    let model = load(
        &fixture("oracle/tiny_models/llama_gqa2_headdim"),
        Kind::Float,
    );
    let adapter = backprop::adapter(model.config(), 2, &Target::ALL, Device::Cpu);
    let one = [request(ids("one", 20, model.config().vocab_size), 4, 1)];
    let (plain, _) = generate(&model, None, 1, &one);
    let (adapted, stats) = generate(&model, Some(&adapter), 1, &one);
    assert_eq!(stats.shared_tokens, 0);
    assert_ne!(plain, adapted);
    // Matrices that change in place are another adapter.
    let _ = adapter.flat().shallow_clone().g_mul_scalar_(1.5);
    let (changed, stats) = generate(&model, Some(&adapter), 1, &one);
    assert_eq!(stats.shared_tokens, 0);
    assert_ne!(adapted[0].logprobs, changed[0].logprobs);
    let (back, stats) = generate(&model, None, 1, &one);
    assert_eq!(stats.shared_tokens, 16);
    assert_eq!(plain, back);
}
