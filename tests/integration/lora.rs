//! LoRA adapters against PEFT: reading, scaling, switching, writing; and cached decoding against the packed forward.

use std::collections::BTreeMap;

use atp_pipeline::generation::{Engine, Request, Sampling};
use atp_pipeline::model::logprobs::{Predictors, Targets};
use atp_pipeline::model::{Adapter, Decoder, KvCache, ModelConfig, Packed, Weights};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::support::{fixture, ids, json, relative_error, tensors};

/// f32 on both sides with other orders of summation; PEFT's own merged and unmerged logits are up to 1.5e-6 apart.
const FP32: f64 = 1e-5;

/// One of PEFT's adapters on its base.
struct Case {
    name: String,
    model: Decoder,
    adapter: Adapter,
    scale: f64,
    expected: BTreeMap<String, Tensor>,
    tokens: Vec<u32>,
}

impl Case {
    fn read(name: &str, described: &Value) -> Self {
        let base = described["base"].as_str().expect("a folder");
        let weights = Weights::open(&fixture("oracle").join(base)).expect("a model folder");
        let model = Decoder::load(&weights, Kind::Float, Device::Cpu).expect("a loadable model");
        let folder = fixture("oracle/lora").join(name);
        let adapter =
            Adapter::load(&folder, model.config(), Device::Cpu).expect("an adapter made by PEFT");
        let expected = tensors(&format!("oracle/lora/{name}.expected.safetensors"));
        Self {
            name: name.into(),
            model,
            adapter,
            scale: described["scale"].as_f64().expect("a number"),
            tokens: ids(&expected["ids"]),
            expected,
        }
    }

    fn all() -> Vec<Self> {
        let described = json("oracle/lora/lora.json");
        let adapters = described["adapters"].as_object().expect("adapters");
        let cases: Vec<Self> = adapters
            .iter()
            .map(|(name, adapter)| Self::read(name, adapter))
            .collect();
        assert_eq!(cases.len(), 5);
        cases
    }

    /// Logits of every position, `(T, vocab)`.
    fn logits(&self, adapter: Option<&Adapter>) -> Tensor {
        let mut batch = Packed::new();
        batch.root(&self.tokens);
        tch::no_grad(|| {
            self.model
                .hidden(&batch, adapter)
                .linear(self.model.head(), None::<&Tensor>)
        })
    }
}

#[test]
fn logits_agree_with_peft_on_off_and_merged() {
    for case in Case::all() {
        assert_eq!(case.adapter.config.scale(), case.scale, "{}", case.name);
        let (on, off) = (case.logits(Some(&case.adapter)), case.logits(None));
        for (key, got) in [
            ("logits_on", &on),
            ("logits_off", &off),
            ("logits_merged", &on),
        ] {
            let error = relative_error(got, &case.expected[key]);
            assert!(error < FP32, "{}, {key}: {error:e}", case.name);
        }
    }
}

#[test]
fn a_saved_adapter_is_read_back_bit_for_bit() {
    for case in Case::all() {
        let folder = tempfile::tempdir().expect("a folder");
        case.adapter
            .save(folder.path(), "base")
            .expect("a written adapter");
        let again = Adapter::load(folder.path(), case.model.config(), Device::Cpu)
            .expect("what was written");
        assert_eq!(again.config, case.adapter.config, "{}", case.name);
        let (before, after) = (case.adapter.named(), again.named());
        assert_eq!(before.len(), after.len(), "{}", case.name);
        for ((name, before), (other, after)) in before.into_iter().zip(after) {
            assert_eq!(name, other);
            assert!(before.equal(&after), "{}, {name}", case.name);
        }
        // PEFT's tensors are these, no more and no fewer.
        let path = format!("oracle/lora/{}/adapter_model.safetensors", case.name);
        let stored = tensors(&path);
        let names: Vec<String> = again.named().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), stored.len(), "{}", case.name);
        for (name, tensor) in again.named() {
            assert!(tensor.equal(&stored[&name]), "{}, {name}", case.name);
        }
    }
}

#[test]
fn an_adapter_of_another_model_is_refused_with_the_tensor_named() {
    let described = json("oracle/lora/lora.json");
    let case = Case::read("all_linear", &described["adapters"]["all_linear"]);
    let changed = |change: fn(&mut ModelConfig)| {
        let mut config = case.model.config().clone();
        change(&mut config);
        config
    };
    let last = case.model.config().layers;
    let layer = |layer: i64, tensor: &str| {
        format!("`base_model.model.model.layers.{layer}.{tensor}.weight`")
    };
    for (config, tensor, problem) in [
        (
            changed(|c| c.intermediate_size += 8),
            layer(0, "mlp.gate_proj.lora_B"),
            "expected [",
        ),
        (
            changed(|c| c.kv_heads *= 2),
            layer(0, "self_attn.k_proj.lora_B"),
            "expected [",
        ),
        (
            changed(|c| c.layers += 1),
            layer(last, "self_attn.q_proj.lora_A"),
            "got none",
        ),
        (
            changed(|c| c.layers -= 1),
            layer(last - 1, "mlp.down_proj.lora_A"),
            "expected no such tensor",
        ),
    ] {
        let folder = fixture("oracle/lora/all_linear");
        let message = Adapter::load(&folder, &config, Device::Cpu)
            .expect_err("must be refused")
            .to_string();
        assert!(
            message.contains(&tensor) && message.contains(problem),
            "expected {tensor}: {problem}, got: {message}"
        );
    }
}

/// Token by token over the cache, two sequences side by side.
#[test]
fn cached_decoding_with_an_adapter_agrees_with_peft() {
    for case in Case::all() {
        let (tokens, adapter) = (&case.tokens, Some(&case.adapter));
        let mut cache = KvCache::new(
            case.model.config(),
            3,
            tokens.len(),
            Kind::Float,
            Device::Cpu,
        );
        // The other sequence lags by one token, so that the rows stand at different positions.
        let (mut ahead, mut behind) = (vec![], vec![]);
        tch::no_grad(|| {
            let logits = |hidden: &Tensor| case.model.next_token_logits(hidden);
            behind.push(logits(&case.model.prefill(
                &tokens[..2],
                &mut cache,
                0,
                adapter,
            )));
            ahead.push(logits(&case.model.prefill(
                &tokens[..3],
                &mut cache,
                2,
                adapter,
            )));
            for pair in tokens[2..].windows(2) {
                let both = logits(&case.model.step(pair, &[0, 2], &mut cache, adapter));
                behind.push(both.narrow(0, 0, 1));
                ahead.push(both.narrow(0, 1, 1));
            }
        });
        for (first, rows) in [(1, behind), (2, ahead)] {
            let rows = Tensor::cat(&rows, 0);
            let expected = case.expected["logits_on"].narrow(0, first, rows.size()[0]);
            let error = relative_error(&rows, &expected);
            assert!(
                error < FP32,
                "{}, from position {first}: {error:e}",
                case.name
            );
        }
    }
}

/// The sampler's log-probabilities are those that training computes for the same tokens with the adapter.
#[test]
fn generated_log_probabilities_are_those_of_training() {
    for case in Case::all() {
        let requests: Vec<Request> = (0..4u64)
            .map(|i| Request {
                prompt: case.tokens[..4 + i as usize].to_vec(),
                max_new_tokens: 9,
                sampling: Sampling {
                    temperature: 0.7,
                    ..Sampling::default()
                },
                stop: vec![1],
                halt: None,
                seed: i,
            })
            .collect();
        let generated = Engine::new(&case.model, Some(&case.adapter))
            .with_slots(3)
            .generate(&requests, |_| ())
            .expect("not interrupted");
        for (request, completion) in requests.iter().zip(generated) {
            let completion = completion.expect("a completion");
            let mut batch = Packed::new();
            let root = batch.root(&request.prompt);
            let child = batch.child(root, &completion.tokens);
            let mut targets = Targets::default();
            targets.push(&batch.predictors(child), &completion.tokens, 0.7);
            let scored = tch::no_grad(|| {
                let hidden = case.model.hidden(&batch, Some(&case.adapter));
                Predictors::new(&case.model, &hidden, &targets)
                    .expect("memory")
                    .score()
                    .expect("memory")
            });
            let error = (scored.logprobs - Tensor::from_slice(&completion.logprobs))
                .abs()
                .max()
                .double_value(&[]);
            // Absolute, and two paths of f32 arithmetic: 9e-6 was seen.
            assert!(error < 5e-5, "{}: {error:e}", case.name);
        }
    }
}
