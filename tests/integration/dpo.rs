//! DPO against TRL on a tiny model: one batch with its gradients, and fifty training steps.

use std::path::Path;

use atp_pipeline::model::tensors::read_safetensors;
use atp_pipeline::model::{Adapter, Decoder, Weights};
use atp_pipeline::training::dpo::DpoLoss;
use atp_pipeline::training::dpo_trainer::{
    DpoConfig, DpoSums, PairTokens, accumulate, reference_logprobs,
};
use atp_pipeline::training::optim::{AdamW, OptimConfig, Schedule};
use serde_json::Value;
use tch::{Device, Kind};

use crate::support::{fixture, json, relative_error};

fn tokens(pair: &Value) -> PairTokens {
    let ids = |key: &str| -> Vec<u32> {
        let list = pair[key].as_array().expect("a list of ids");
        list.iter()
            .map(|id| id.as_u64().expect("an id") as u32)
            .collect()
    };
    PairTokens {
        prompt: ids("prompt"),
        chosen: ids("chosen"),
        rejected: ids("rejected"),
        inserted: Default::default(),
    }
}

fn model() -> Decoder {
    let weights = Weights::open(&fixture("oracle/dpo/model")).expect("a model folder");
    Decoder::load(&weights, Kind::Float, Device::Cpu).expect("a loadable model")
}

fn adapter(model: &Decoder, name: &str) -> Adapter {
    let path = fixture("oracle/dpo").join(name);
    Adapter::load(Path::new(&path), model.config(), Device::Cpu).expect("an adapter made by PEFT")
}

fn close(got: f64, expected: &Value, tolerance: f64, what: &str) {
    let expected = expected.as_f64().expect("a number");
    assert!(
        (got - expected).abs() <= tolerance * expected.abs().max(1.0),
        "{what}: {got}, TRL has {expected}"
    );
}

/// f32 on both sides with other orders of summation; TRL's own distance from the definition is 4e-6 on the sums.
#[test]
fn one_batch_agrees_with_trl_down_to_every_gradient() {
    let described = json("oracle/dpo/dpo.json");
    let expected = &described["batch"];
    let (model, config) = (model(), DpoConfig::default());
    let adapter = adapter(&model, "adapter_initial");
    adapter.set_trainable(true);
    let pairs: Vec<PairTokens> = expected["pairs"]
        .as_array()
        .expect("pairs")
        .iter()
        .map(tokens)
        .collect();
    let pairs: Vec<&PairTokens> = pairs.iter().collect();
    let reference = reference_logprobs(&model, &pairs, DpoLoss::Sigmoid);
    for (i, (chosen, rejected)) in reference.iter().enumerate() {
        close(
            *chosen,
            &expected["ref_chosen_logps"][i],
            1e-5,
            "reference, chosen",
        );
        close(
            *rejected,
            &expected["ref_rejected_logps"][i],
            1e-5,
            "reference, rejected",
        );
    }
    let mut totals = DpoSums::default();
    accumulate(
        &model,
        &adapter,
        &pairs,
        &reference,
        &config,
        pairs.len(),
        &mut totals,
    );
    close(totals.loss / 3.0, &expected["loss"], 1e-5, "loss");
    let gradients =
        read_safetensors(&fixture("oracle/dpo/batch_gradients.safetensors")).expect("gradients");
    let mut seen = 0;
    for (name, parameter) in adapter.named() {
        let expected = gradients
            .get(&name)
            .unwrap_or_else(|| panic!("no gradient of {name} in {:?}", gradients.keys()));
        let error = relative_error(&parameter.grad(), expected);
        assert!(error < 1e-4, "{name}: {error:e}");
        seen += 1;
    }
    assert_eq!(seen, gradients.len());
}

#[test]
fn fifty_steps_agree_with_trl() {
    let described = json("oracle/dpo/dpo.json");
    let training = &described["training"];
    let settings = &training["settings"];
    let model = model();
    let adapter = adapter(&model, "adapter_initial");
    adapter.set_trainable(true);
    let config = DpoConfig::default();
    let optim = OptimConfig {
        lr: settings["learning_rate"].as_f64().expect("lr"),
        ..OptimConfig::default()
    };
    let mut optimiser = AdamW::new(optim, adapter.parameters());
    let data: Vec<PairTokens> = training["dataset"]
        .as_array()
        .expect("pairs")
        .iter()
        .map(tokens)
        .collect();
    let steps = training["steps"].as_array().expect("steps");
    let total = steps.len() as u64;
    for (step, expected) in steps.iter().enumerate() {
        // TRL went through the data in order, two pairs a step.
        let pairs: Vec<&PairTokens> = (0..2).map(|i| &data[(2 * step + i) % data.len()]).collect();
        let mut totals = DpoSums::default();
        for pair in &pairs {
            let reference = reference_logprobs(&model, &[pair], DpoLoss::Sigmoid);
            accumulate(
                &model,
                &adapter,
                &[pair],
                &reference,
                &config,
                2,
                &mut totals,
            );
        }
        let lr = optim.lr * Schedule::Cosine.factor(step as u64, total, 0.1);
        close(lr, &expected["lr"], 1e-9, "lr");
        close(
            totals.loss / 2.0,
            &expected["loss"],
            1e-4,
            &format!("loss of step {step}"),
        );
        close(
            optimiser.step(lr),
            &expected["grad_norm"],
            1e-3,
            &format!("gradient norm of step {step}"),
        );
    }
    let last = read_safetensors(&fixture(
        "oracle/dpo/adapter_final/adapter_model.safetensors",
    ))
    .expect("an adapter");
    for (name, parameter) in adapter.named() {
        let error = relative_error(parameter, &last[&name]);
        // Rounding grows over fifty steps of Adam, which divides small gradients by their own size.
        assert!(error < 1e-3, "{name}: {error:e}");
    }
}
