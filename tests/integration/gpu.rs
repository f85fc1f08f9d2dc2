//! The fused kernels of a Hopper GPU against the plain path and against themselves: `make test-gpu`.

mod curves;
mod outside;

use std::collections::BTreeSet;

use atp_pipeline::generation::sampling::draw;
use atp_pipeline::generation::{Engine, Request, Sampling};
use atp_pipeline::model::backprop::Keep;
use atp_pipeline::model::fused::Draw;
use atp_pipeline::model::logprobs::{Predictors, Targets};
use atp_pipeline::model::lora::Target;
use atp_pipeline::model::{Adapter, Decoder, LoraConfig, ModelConfig, Packed};
use atp_pipeline::runtime::device;
use atp_pipeline::runtime::seed::stream;
use rand::Rng;
use tch::{Device, Kind, Tensor};

use crate::backprop;
use crate::support::relative_error;

fn gpu() -> Device {
    device::set_threads(0);
    device::open(device::DeviceChoice::Cuda(0)).expect("a GPU")
}

/// Shapes with other ratios than Qwen3's: three query heads to a key head, heads of 64, odd widths.
fn shapes() -> Vec<(&'static str, ModelConfig)> {
    let small = ModelConfig {
        vocab_size: 4096,
        hidden_size: 576,
        intermediate_size: 1536,
        layers: 4,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        max_position: 4096,
        qk_norm: false,
        tied_embeddings: true,
        ..ModelConfig::llama_3_1_8b()
    };
    let wide = ModelConfig {
        layers: 3,
        vocab_size: 4096,
        ..ModelConfig::qwen3_8b()
    };
    let llama = ModelConfig {
        layers: 2,
        vocab_size: 4096,
        max_position: 4096,
        ..ModelConfig::llama_3_1_8b()
    };
    vec![("small", small), ("qwen", wide), ("llama", llama)]
}

fn random(config: &ModelConfig) -> Decoder {
    tch::manual_seed(3);
    Decoder::random(config, Kind::BFloat16, gpu()).expect("memory")
}

fn adapter(decoder: &Decoder, rank: i64) -> Adapter {
    let config = LoraConfig {
        rank,
        alpha: 16.0,
        ..LoraConfig::default()
    };
    let adapter = Adapter::new(&config, decoder.config(), 5, decoder.device());
    tch::manual_seed(4);
    for (name, tensor) in adapter.named() {
        if name.contains("lora_B") {
            let _ = tch::no_grad(|| tensor.shallow_clone().normal_(0.0, 0.02));
        }
    }
    adapter
}

fn requests(count: usize, vocabulary: i64, sampling: Sampling) -> Vec<Request> {
    let mut lengths = stream(1, "lengths");
    (0..count)
        .map(|i| {
            let mut ids = stream(i as u64, "prompt");
            let length = lengths.random_range(1..700);
            Request {
                prompt: (0..length)
                    .map(|_| ids.random_range(0..vocabulary as u32))
                    .collect(),
                max_new_tokens: lengths.random_range(1..90),
                sampling,
                stop: vec![7, 8, 9],
                halt: None,
                seed: i as u64,
            }
        })
        .collect()
}

/// Log-probabilities of the generated tokens as training computes them, and their root mean square distance.
fn distance(
    decoder: &Decoder,
    adapter: Option<&Adapter>,
    request: &Request,
    tokens: &[u32],
    logprobs: &[f32],
) -> f64 {
    let mut batch = Packed::new();
    let root = batch.root(&request.prompt);
    let child = batch.child(root, tokens);
    let targets = Targets::of_children(&batch, [(child, tokens)]);
    let scored = tch::no_grad(|| {
        Predictors::new(decoder, &decoder.hidden(&batch, adapter), &targets)
            .expect("memory")
            .score()
            .expect("memory")
    });
    let trained: Vec<f32> = Vec::try_from(scored.logprobs.to_device(Device::Cpu)).expect("numbers");
    let squares: f64 = trained
        .iter()
        .zip(logprobs)
        .map(|(a, b)| f64::from(a - b).powi(2))
        .sum();
    (squares / tokens.len() as f64).sqrt()
}

#[test]
#[ignore = "needs a GPU"]
fn generated_log_probabilities_are_those_of_training() {
    for (name, config) in shapes() {
        let decoder = random(&config);
        for rank in [0, 8, 20, 40] {
            let adapter = (rank > 0).then(|| adapter(&decoder, rank));
            let mut requests = requests(40, config.vocab_size, Sampling::default());
            let worst = |requests: &[Request]| {
                let texts = Engine::new(&decoder, adapter.as_ref())
                    .generate(requests, |_| ())
                    .expect("not interrupted");
                let apart = requests.iter().zip(texts).map(|(request, text)| {
                    let text = text.expect("a text");
                    let adapter = adapter.as_ref();
                    distance(&decoder, adapter, request, &text.tokens, &text.logprobs)
                });
                apart.fold(0f64, f64::max)
            };
            let before = worst(&requests);
            // Training another adapter leaves it in the room beside the weights, which prompts read too.
            let other = backprop::adapter(&config, 16, &Target::ALL, gpu());
            let (batch, targets) = backprop::batch(config.vocab_size, 2);
            let _ = backprop::by_hand(&decoder, &other, (&batch, &targets), Keep::All);
            requests.iter_mut().for_each(|r| r.prompt.reverse()); // no keys are kept for these
            let after = worst(&requests);
            println!("{name}, rank {rank}: worst distance {before:.4}, {after:.4}");
            // bf16 logits near 10 are 0.06 apart; a wrong position, head or page is far beyond.
            assert!(
                before < 0.1 && after < 0.1,
                "{name}, rank {rank}: {before}, {after}"
            );
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn draws_are_those_of_the_plain_sampler() {
    let (_, config) = shapes().swap_remove(0);
    let decoder = random(&config);
    let mut fused = decoder.fused().expect("the fast path");
    let rows = 128usize;
    tch::manual_seed(9);
    let logits = Tensor::randn([rows as i64, config.vocab_size], (Kind::Float, gpu())) * 3.0;
    let logits = logits.to_kind(Kind::BFloat16);
    let mut other = 0;
    let plain = Sampling::default();
    let kinds = [
        plain,
        Sampling {
            temperature: 0.0,
            ..plain
        },
        Sampling {
            temperature: 0.6,
            ..plain
        },
        Sampling { top_k: 20, ..plain },
        Sampling { top_k: 1, ..plain },
        Sampling {
            top_p: 0.9,
            ..plain
        },
        Sampling {
            top_p: 0.05,
            temperature: 0.3,
            ..plain
        },
        Sampling {
            min_p: 0.1,
            ..plain
        },
        Sampling {
            temperature: 0.7,
            top_k: 50,
            top_p: 0.8,
            min_p: 0.02,
        },
    ];
    for (kind, sampling) in kinds.into_iter().enumerate() {
        let uniform = |row: usize| -> f64 { stream(row as u64, &format!("token/{kind}")).random() };
        let draws: Vec<(Draw, f64)> = (0..rows)
            .map(|row| {
                let draw = Draw {
                    temperature: sampling.temperature,
                    top_p: sampling.top_p,
                    min_p: sampling.min_p,
                    uniforms: 0,
                    top_k: sampling.top_k as i32,
                    limit: 5,
                    stops: [-1; 8],
                    forced_from: 0,
                    forced_until: 0,
                };
                (draw, uniform(row))
            })
            .collect();
        let results = fused.draw_from(&logits, &draws).expect("drawn");
        let drawn: Vec<_> = results.wait().expect("passed").take(rows).collect();
        for (row, (token, logprob, status)) in drawn.into_iter().enumerate() {
            let numbers: Vec<f32> = Vec::try_from(
                logits
                    .get(row as i64)
                    .to_kind(Kind::Float)
                    .to_device(Device::Cpu),
            )
            .expect("numbers");
            let expected = draw(&numbers, &sampling, row as u64, kind).expect("finite");
            assert_eq!(status, 0);
            if token != expected.token {
                // A uniform number within rounding of a boundary may fall on its other side.
                other += 1;
                continue;
            }
            assert!(
                (logprob - expected.logprob).abs() < 1e-4,
                "{sampling:?}: {logprob} {expected:?}"
            );
        }
    }
    println!("{other} of {} draws differ", 9 * rows);
    assert!(other <= 2, "{other} draws differ");
}

#[test]
#[ignore = "needs a GPU"]
fn a_damaged_row_fails_and_its_neighbours_do_not() {
    let (_, config) = shapes().swap_remove(0);
    let decoder = random(&config);
    let mut fused = decoder.fused().expect("the fast path");
    let logits = Tensor::zeros([2, config.vocab_size], (Kind::BFloat16, gpu()));
    let _ = logits.get(0).get(11).fill_(f64::NAN);
    let draw = Draw {
        temperature: 1.0,
        top_p: 1.0,
        min_p: 0.0,
        uniforms: 0,
        top_k: 0,
        limit: 5,
        stops: [-1; 8],
        forced_from: 0,
        forced_until: 0,
    };
    let results = fused
        .draw_from(&logits, &[(draw, 0.5), (draw, 0.5)])
        .expect("drawn");
    let drawn: Vec<_> = results.wait().expect("passed").take(2).collect();
    assert_eq!(drawn[0].2, 3);
    assert_eq!((drawn[1].0, drawn[1].2), (config.vocab_size as u32 / 2, 0));
}

/// Everything depends on the request alone under the deterministic mode: whatever else is in the batch, in however few
/// slots, and with so little memory that texts have to give their pages back.
#[test]
#[ignore = "needs a GPU"]
fn a_text_is_the_same_alone_in_a_batch_and_after_giving_way() {
    device::make_deterministic().expect("deterministic");
    for (name, config) in shapes() {
        let decoder = random(&config);
        let adapter = adapter(&decoder, 8);
        let requests = requests(
            60,
            config.vocab_size,
            Sampling {
                temperature: 0.8,
                ..Sampling::default()
            },
        );
        let run = |requests: &[Request], slots: usize| {
            let engine = Engine::new(&decoder, Some(&adapter)).with_slots(slots);
            let (texts, stats) = engine
                .generate_measured(requests, |_| ())
                .expect("not interrupted");
            let texts: Vec<_> = texts.into_iter().map(|t| t.expect("a text")).collect();
            (texts, stats)
        };
        let (together, _) = run(&requests, 256);
        let finishes: BTreeSet<&str> = together.iter().map(|t| t.finish.name()).collect();
        println!("{name}: ends {finishes:?}");
        assert_eq!(run(&requests, 5).0, together, "{name}: five slots");
        for (request, text) in requests.iter().zip(&together).take(8) {
            assert_eq!(
                &run(std::slice::from_ref(request), 1).0[0],
                text,
                "{name}: alone"
            );
        }
        // As many pages as the longest text needs, and a few more.
        let least = requests
            .iter()
            .map(|r| (r.prompt.len() + r.max_new_tokens).div_ceil(16))
            .max()
            .unwrap_or(1);
        decoder.release_cache();
        decoder
            .fused()
            .expect("the fast path")
            .limit_pages(Some(least + 20));
        let (crowded, stats) = run(&requests, 256);
        println!("{name}: {} texts gave way", stats.preempted);
        assert!(stats.preempted > 0);
        assert_eq!(crowded, together, "{name}: crowded");
        decoder.fused().expect("the fast path").limit_pages(None);
    }
}

#[test]
#[ignore = "needs a GPU"]
fn what_never_fits_is_refused_with_the_figures() {
    let (_, config) = shapes().swap_remove(0);
    let decoder = random(&config);
    decoder
        .fused()
        .expect("the fast path")
        .limit_pages(Some(10));
    let mut requests = requests(3, config.vocab_size, Sampling::default());
    requests[0].prompt = vec![1; 400];
    for request in &mut requests[1..] {
        request.prompt.truncate(20);
        request.max_new_tokens = 10;
    }
    let texts = Engine::new(&decoder, None)
        .generate(&requests, |_| ())
        .expect("not interrupted");
    let message = texts[0].as_ref().expect_err("too long").to_string();
    assert!(message.contains("GiB"), "{message}");
    assert!(texts[1].is_ok() && texts[2].is_ok());
}

#[test]
#[ignore = "needs a GPU"]
fn two_thousand_requests_leave_no_memory_behind() {
    let (_, config) = shapes().swap_remove(0);
    let decoder = random(&config);
    let host = || {
        let status = std::fs::read_to_string("/proc/self/statm").expect("statm");
        status
            .split(' ')
            .nth(1)
            .and_then(|n| n.parse::<usize>().ok())
            .expect("pages")
            * 4096
    };
    let run = |from: u64| {
        let requests: Vec<Request> = requests(500, config.vocab_size, Sampling::default())
            .into_iter()
            .map(|r| Request {
                seed: r.seed + from,
                ..r
            })
            .collect();
        Engine::new(&decoder, None)
            .generate(&requests, |_| ())
            .expect("not interrupted");
    };
    run(0);
    let before = (
        host(),
        atp_pipeline::runtime::memory::stats(gpu(), false).expect("a GPU"),
    );
    for i in 1..5 {
        run(i * 1000);
    }
    let after = (
        host(),
        atp_pipeline::runtime::memory::stats(gpu(), false).expect("a GPU"),
    );
    println!(
        "host {} → {} MiB, device {} → {} bytes",
        before.0 >> 20,
        after.0 >> 20,
        before.1.now,
        after.1.now
    );
    assert_eq!(before.1.now, after.1.now);
    assert!(after.0 < before.0 + (32 << 20));
}

/// A shape that the kernels of training serve.
fn trained(config: &ModelConfig) -> ModelConfig {
    ModelConfig {
        layers: 2,
        vocab_size: 4096,
        max_position: 4096,
        ..config.clone()
    }
}

/// Kernels in bf16 against autograd through the plain path, in bf16 too: both are near what f32 gives, and the kernels no
/// further from it.
#[test]
#[ignore = "needs a GPU"]
fn gradients_of_the_kernels_are_those_of_autograd() {
    for (name, config) in shapes() {
        kernels_against_autograd(name, &trained(&config), 8, &Target::ALL);
    }
    // Updates with kernels for their width and without, with room beside the weights, with none, and with some of it.
    let (name, small) = shapes().swap_remove(0);
    for rank in [3, 16, 32, 64] {
        kernels_against_autograd(name, &trained(&small), rank, &Target::ALL);
    }
    let some = [Target::QProj, Target::VProj, Target::UpProj];
    kernels_against_autograd(name, &trained(&small), 8, &some);
}

fn kernels_against_autograd(shape: &str, config: &ModelConfig, rank: i64, targets: &[Target]) {
    let name = format!("{shape}, rank {rank} on {} targets", targets.len());
    let device = gpu();
    let (batch, predicted) = backprop::batch(config.vocab_size, 40);
    let batch = (&batch, &predicted);
    let model = backprop::model(config, Kind::BFloat16, device);
    assert!(model.pieces().are_fused(), "{name}: the kernels serve it");
    let exact = model.in_kind(Kind::Float);
    assert!(!exact.pieces().are_fused());
    let adapter = backprop::adapter(config, rank, targets, device);
    let (truth, true_gradients) = backprop::by_autograd(&exact, &adapter, batch);
    let (plain, plain_gradients) = backprop::by_autograd(&model, &adapter, batch);
    let (ours, gradients) = backprop::by_hand(&model, &adapter, batch, Keep::All);
    let apart = |x: &Tensor| {
        (x - &truth)
            .square()
            .mean(Kind::Float)
            .sqrt()
            .double_value(&[])
    };
    println!(
        "{name}: log-probabilities {:.5} from f32, plain {:.5}",
        apart(&ours),
        apart(&plain)
    );
    assert!(apart(&ours) < 1.2 * apart(&plain) + 1e-4, "{name}");
    let (mut worst, mut sum, mut sum_plain) = (0f64, 0.0, 0.0);
    let views = adapter.named_views(gradients.flat());
    for (((tensor, got), (_, plain)), (_, truth)) in
        views.iter().zip(&plain_gradients).zip(&true_gradients)
    {
        let distance = |x: &Tensor| ((x - truth).norm() / truth.norm()).double_value(&[]);
        let (own, other) = (distance(got), distance(plain));
        assert!(
            own < 1.3 * other + 0.01,
            "{name}, {tensor}: {own:e}, plain {other:e}"
        );
        worst = worst.max(own);
        (sum, sum_plain) = (sum + own, sum_plain + other);
    }
    let count = views.len() as f64;
    println!(
        "{name}: gradients {:.5} from f32 (worst {worst:.5}), plain {:.5}",
        sum / count,
        sum_plain / count
    );
    assert!(sum < 1.2 * sum_plain, "{name}");
    // Another adapter, whose matrices take the room beside the weights, leaves none of itself there.
    let other = backprop::adapter(config, 2 * rank, &Target::ALL, device);
    let theirs = || {
        let (theirs, _) = backprop::by_hand(&model, &other, batch, Keep::All);
        assert!(!theirs.equal(&ours), "{name}");
    };
    let (_, again) = backprop::by_hand_and(&model, &adapter, batch, Keep::Input, theirs);
    assert!(again.flat().equal(gradients.flat()), "{name}");
    // Nothing of it is left to chance, and what is computed again has the same bits.
    for keep in [Keep::All, Keep::Attention, Keep::Input] {
        let (_, again) = backprop::by_hand(&model, &adapter, batch, keep);
        assert!(again.flat().equal(gradients.flat()), "{name}, {keep:?}");
    }
}

/// In f32 a GPU takes the plain pieces, and is held to autograd as a CPU is.
#[test]
#[ignore = "needs a GPU"]
fn gradients_in_f32_on_a_gpu() {
    for (name, config) in backprop::shapes() {
        let model = backprop::model(&config, Kind::Float, gpu());
        let (batch, targets) = backprop::batch(config.vocab_size, 1);
        let adapter = backprop::adapter(&config, 3, &Target::ALL, gpu());
        let (_, expected) = backprop::by_autograd(&model, &adapter, (&batch, &targets));
        let (_, learnt) = backprop::by_hand(&model, &adapter, (&batch, &targets), Keep::All);
        for ((tensor, got), (_, expected)) in
            adapter.named_views(learnt.flat()).iter().zip(&expected)
        {
            let error = relative_error(got, expected);
            assert!(error < 1e-4, "{name}, {tensor}: {error:e}");
        }
    }
}
