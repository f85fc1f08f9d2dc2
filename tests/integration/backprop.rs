//! The hand-written backward against autograd through the same decoder, for shapes, adapters and batches of every kind.

use atp_pipeline::model::backprop::{Gradients, Keep, Live, Plan};
use atp_pipeline::model::logprobs::{Predictors, Targets, leaf};
use atp_pipeline::model::lora::Target;
use atp_pipeline::model::{Adapter, Decoder, LoraConfig, ModelConfig, Packed};
use atp_pipeline::runtime::seed::stream;
use rand::Rng;
use tch::{Device, Kind, Tensor};

use crate::support::relative_error;

/// Small shapes with every feature: heads of their own norm or none, tied head or not, one or three queries a key head.
pub fn shapes() -> Vec<(&'static str, ModelConfig)> {
    let llama = ModelConfig {
        vocab_size: 320,
        hidden_size: 48,
        intermediate_size: 80,
        layers: 3,
        heads: 6,
        kv_heads: 2,
        head_dim: 8,
        max_position: 64,
        ..ModelConfig::llama_3_1_8b()
    };
    let qwen = ModelConfig {
        vocab_size: 200,
        hidden_size: 32,
        intermediate_size: 56,
        layers: 2,
        heads: 4,
        kv_heads: 4,
        head_dim: 16,
        max_position: 64,
        tied_embeddings: true,
        ..ModelConfig::qwen3_8b()
    };
    vec![("llama", llama), ("qwen", qwen)]
}

/// Random weights whose layers matter: gradients through them are of the order of one.
pub fn model(config: &ModelConfig, kind: Kind, device: Device) -> Decoder {
    tch::manual_seed(11);
    Decoder::random(config, kind, device).expect("memory")
}

/// An adapter with both matrices filled.
pub fn adapter(config: &ModelConfig, rank: i64, targets: &[Target], device: Device) -> Adapter {
    let lora = LoraConfig {
        rank,
        alpha: 3.0 * rank as f64,
        targets: targets.to_vec(),
        rslora: false,
    };
    let adapter = Adapter::new(&lora, config, 5, device);
    tch::manual_seed(12);
    let noise = Tensor::randn(adapter.flat().size(), (Kind::Float, Device::Cpu)) * 0.05;
    let _ = adapter
        .flat()
        .shallow_clone()
        .g_add_(&noise.to_device(device));
    adapter
}

/// Two prompts with continuations (one of them empty), and a sequence of its own; targets at two temperatures.
pub fn batch(vocabulary: i64, scale: usize) -> (Packed, Targets) {
    let mut draw = stream(3, "backprop");
    let mut ids = |count: usize| -> Vec<u32> {
        (0..count * scale)
            .map(|_| draw.random_range(0..vocabulary as u32))
            .collect()
    };
    let (mut batch, mut targets) = (Packed::new(), Targets::default());
    for (prompt, completions) in [(5, vec![4, 0, 3]), (1, vec![6, 2])] {
        let root = batch.root(&ids(prompt));
        for (place, count) in completions.into_iter().enumerate() {
            let tokens = ids(count);
            let child = batch.child(root, &tokens);
            let temperature = if place == 0 { 0.7 } else { 1.0 };
            targets.push(&batch.predictors(child), &tokens, temperature);
        }
    }
    let alone = ids(7);
    let root = batch.root(&alone);
    let rows: Vec<usize> = batch.rows(root).collect();
    targets.push(&rows[..rows.len() - 1], &alone[1..], 1.0);
    (batch, targets)
}

/// A loss that weighs every token otherwise.
fn weights(count: usize) -> Tensor {
    (Tensor::arange(count as i64, (Kind::Float, Device::Cpu)) * 1.3).sin()
}

/// Log-probabilities and gradients, all in one buffer, of Σ wᵢ logpᵢ by the hand-written backward.
pub fn by_hand(
    model: &Decoder,
    adapter: &Adapter,
    batch: (&Packed, &Targets),
    keep: Keep,
) -> (Tensor, Gradients) {
    by_hand_and(model, adapter, batch, keep, || {})
}

/// The same with something else done between forward and backward.
pub fn by_hand_and(
    model: &Decoder,
    adapter: &Adapter,
    (batch, targets): (&Packed, &Targets),
    keep: Keep,
    between: impl FnOnce(),
) -> (Tensor, Gradients) {
    let config = model.config();
    let live = Live::new(adapter, model).expect("memory");
    let plan = Plan::uniform(config.layers as usize, keep);
    let tape = model
        .forward_kept(batch, Some(&live), Some(&plan))
        .expect("memory");
    let mut predictors = Predictors::new(model, tape.hidden(), targets).expect("memory");
    let scored = predictors.score_to_train().expect("memory");
    let leaf = leaf(&scored.logprobs).expect("memory");
    (&leaf * weights(targets.len())).sum(Kind::Float).backward();
    let mut gradients = Gradients::zeros(adapter, config);
    between();
    tape.backward(predictors, &leaf.grad(), &mut gradients)
        .expect("memory");
    (scored.logprobs, gradients)
}

/// The same by autograd through the differentiable forward.
pub fn by_autograd(
    model: &Decoder,
    adapter: &Adapter,
    (batch, targets): (&Packed, &Targets),
) -> (Tensor, Vec<(String, Tensor)>) {
    adapter.set_trainable(true);
    let hidden = model.hidden(batch, Some(adapter));
    let (mut all, mut span) = (vec![], 0);
    for (rows, tokens, temperature) in targets.iter() {
        let device = hidden.device();
        let rows = Tensor::from_slice(rows).to_device(device);
        let tokens = Tensor::from_slice(tokens).to_device(device).unsqueeze(1);
        let temperature = Tensor::from_slice(temperature)
            .to_device(device)
            .unsqueeze(1);
        let logits = hidden
            .index_select(0, &rows)
            .linear(model.head(), None::<&Tensor>)
            .to_kind(Kind::Float);
        let logprobs = (logits / temperature).log_softmax(-1, Kind::Float);
        all.push(logprobs.gather(1, &tokens, false).squeeze_dim(1));
        span += 1;
    }
    assert_eq!(span, targets.spans().len());
    let logprobs = Tensor::cat(&all, 0);
    let weights = weights(targets.len()).to_device(logprobs.device());
    (&logprobs * weights).sum(Kind::Float).backward();
    let gradients = adapter.named().into_iter().map(|(name, parameter)| {
        let gradient = parameter.grad().copy();
        (name, gradient)
    });
    let gradients = gradients.collect();
    for (_, parameter) in adapter.named() {
        parameter.shallow_clone().zero_grad();
    }
    adapter.set_trainable(false);
    (logprobs.detach(), gradients)
}

#[test]
fn gradients_are_those_of_autograd() {
    let some = [Target::QProj, Target::VProj, Target::UpProj];
    for (name, config) in shapes() {
        let model = model(&config, Kind::Float, Device::Cpu);
        let (batch, targets) = batch(config.vocab_size, 1);
        for (rank, carried) in [
            (3, &Target::ALL[..]),
            (2, &some[..]),
            (4, &Target::ALL[3..4]),
        ] {
            let adapter = adapter(&config, rank, carried, Device::Cpu);
            let (expected, gradients) = by_autograd(&model, &adapter, (&batch, &targets));
            let (got, learnt) = by_hand(&model, &adapter, (&batch, &targets), Keep::All);
            let error = (got - expected).abs().max().double_value(&[]);
            assert!(
                error < 1e-5,
                "{name}, rank {rank}: log-probabilities {error:e}"
            );
            let views = adapter.named_views(learnt.flat());
            assert_eq!(views.len(), gradients.len());
            for ((tensor, got), (_, expected)) in views.iter().zip(&gradients) {
                let error = relative_error(got, expected);
                assert!(error < 2e-5, "{name}, rank {rank}, {tensor}: {error:e}");
            }
        }
    }
}

#[test]
fn what_is_computed_again_has_the_same_bits() {
    for (name, config) in shapes() {
        let model = model(&config, Kind::Float, Device::Cpu);
        let adapter = adapter(&config, 3, &Target::ALL, Device::Cpu);
        let (batch, targets) = batch(config.vocab_size, 1);
        let of = |keep| by_hand(&model, &adapter, (&batch, &targets), keep).1;
        let all = of(Keep::All);
        assert!(all.flat().abs().max().double_value(&[]) > 1e-3, "{name}");
        for keep in [Keep::Attention, Keep::Input] {
            assert!(all.flat().equal(of(keep).flat()), "{name}, {keep:?}");
        }
    }
}

#[test]
fn without_an_adapter_it_is_the_plain_forward() {
    for (name, config) in shapes() {
        let model = model(&config, Kind::Float, Device::Cpu);
        let (batch, _) = batch(config.vocab_size, 1);
        let plain = tch::no_grad(|| model.hidden(&batch, None));
        let tape = model.forward_kept(&batch, None, None).expect("memory");
        let error = relative_error(tape.hidden(), &plain);
        assert!(error < 1e-5, "{name}: {error:e}");
    }
}
