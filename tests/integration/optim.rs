//! The optimiser against torch and transformers, and training state that survives a checkpoint bit for bit.

use std::collections::BTreeMap;
use std::path::Path;

use atp_pipeline::artifact::{Checkpoints, MetricsLog};
use atp_pipeline::model::{Adapter, Decoder, LoraConfig, Weights};
use atp_pipeline::training::dpo::DpoLoss;
use atp_pipeline::training::dpo_trainer::{
    DpoConfig, DpoSums, PairTokens, accumulate, reference_logprobs,
};
use atp_pipeline::training::optim::{AdamW, OptimConfig, Schedule};
use atp_pipeline::training::state::TrainState;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::support::{fixture, json, relative_error, tensors, with_policy};

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

/// A case's settings, and the share of steps that warms up.
fn config(described: &Value, case: &Value) -> OptimConfig {
    let schedule = match case["schedule"].as_str().expect("a schedule") {
        "cosine" => Schedule::Cosine,
        "linear" => Schedule::Linear,
        "constant" | "constant_with_warmup" => Schedule::Constant,
        other => panic!("the fixture has a schedule `{other}`"),
    };
    OptimConfig {
        lr: number(&described["learning_rate"]),
        schedule,
        warmup_ratio: number(&case["warmup"]) / number(&described["steps"]),
        beta1: number(&described["betas"][0]),
        beta2: number(&described["betas"][1]),
        eps: number(&described["eps"]),
        weight_decay: number(&case["weight_decay"]),
        max_grad_norm: number(&case["max_norm"]),
    }
}

/// Two hundred steps of every case.
///
/// Learning rates are f64 on both sides: 1e-12 of the peak. Norms and parameters are f32 with other orders of rounding
/// and drift apart by some units in the last place; near the minimum the norm is small beside its terms, hence the
/// absolute part: the first norm is 5.4.
#[test]
fn two_hundred_steps_agree_with_torch() {
    let described = json("oracle/optim/optim.json");
    let stored = tensors("oracle/optim/optim.safetensors");
    let steps = number(&described["steps"]) as u64;
    let kept: Vec<u64> =
        serde_json::from_value(described["kept_steps"].clone()).expect("numbers of steps");
    let cases = described["cases"].as_object().expect("cases");
    assert_eq!(cases.len(), 6);
    for (name, case) in cases {
        let config = config(&described, case);
        let (parts, parameters): (Vec<&str>, Vec<Tensor>) = ["a", "b"]
            .into_iter()
            .map(|part| {
                let start = stored[&format!("start/{part}")].copy();
                (part, start.set_requires_grad(true))
            })
            .unzip();
        let share = |parameters: &[Tensor]| {
            parameters
                .iter()
                .map(Tensor::shallow_clone)
                .collect::<Vec<_>>()
        };
        let mut optimiser = AdamW::new(config, share(&parameters));
        let mut compared = 0;
        for step in 0..steps {
            let mut loss = Tensor::zeros([], (Kind::Float, Device::Cpu));
            for (part, parameter) in parts.iter().zip(&parameters) {
                let apart = parameter - &stored[&format!("target/{part}")];
                let curvature = &stored[&format!("curvature/{part}")];
                loss += (apart.square() * curvature).sum(Kind::Float) * 0.5;
            }
            loss.backward();
            let lr = config.lr * config.schedule.factor(step, steps, config.warmup_ratio);
            let expected = number(&case["lr"][step as usize]);
            assert!(
                (lr - expected).abs() < 1e-12 * config.lr,
                "{name}, step {step}: learning rate {lr}, torch has {expected}"
            );
            let mut gradients = vec![];
            for parameter in &parameters {
                gradients.push(parameter.grad().copy());
                parameter.shallow_clone().zero_grad();
            }
            let mut all: Vec<&mut Tensor> = gradients.iter_mut().collect();
            let norm = optimiser.step(lr, &mut all).expect("a step");
            let expected = number(&case["grad_norm"][step as usize]);
            assert!(
                (norm - expected).abs() < 5e-6 * (expected + 1.0),
                "{name}, step {step}: norm {norm}, torch has {expected}"
            );
            if !kept.contains(&(step + 1)) {
                continue;
            }
            for (part, parameter) in parts.iter().zip(&parameters) {
                let key = format!("{name}/step_{:03}/{part}", step + 1);
                let error = relative_error(&parameter.detach(), &stored[&key]);
                assert!(error < 2e-6, "{key}: {error:e}");
                compared += 1;
            }
        }
        assert_eq!(compared, 2 * kept.len());
        assert_eq!(optimiser.steps(), steps);
    }
}

/// The tiny model of the DPO fixture, its pairs, and training on them step by step.
struct Training {
    model: Decoder,
    pairs: Vec<PairTokens>,
}

/// Few steps at a rate at which every one moves every matrix; two warm up.
const OPTIM: OptimConfig = OptimConfig {
    lr: 1e-2,
    schedule: Schedule::Cosine,
    warmup_ratio: 0.2,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weight_decay: 0.01,
    max_grad_norm: 1.0,
};
const STEPS: u64 = 10;
const LOG: &str = "metrics.jsonl";

impl Training {
    fn read() -> Self {
        let weights = Weights::open(&fixture("oracle/dpo/model")).expect("a model folder");
        let described = json("oracle/dpo/dpo.json");
        let pairs = described["training"]["dataset"].as_array().expect("pairs");
        let tokens = |value: &Value| serde_json::from_value(value.clone()).expect("ids");
        Self {
            model: Decoder::load(&weights, Kind::Float, Device::Cpu).expect("a loadable model"),
            pairs: pairs
                .iter()
                .map(|pair| PairTokens {
                    prompt: tokens(&pair["prompt"]),
                    chosen: tokens(&pair["chosen"]),
                    rejected: tokens(&pair["rejected"]),
                    inserted: Default::default(),
                })
                .collect(),
        }
    }

    fn state(&self, seed: u64) -> TrainState {
        let lora = LoraConfig {
            rank: 4,
            alpha: 8.0,
            ..LoraConfig::default()
        };
        TrainState::new(&lora, self.model.config(), OPTIM, seed, Device::Cpu)
    }

    /// One step; the loss and the norm of its gradient, as bits.
    fn step(&self, state: &mut TrainState) -> (u64, u64) {
        let pair = &self.pairs[state.step as usize % self.pairs.len()];
        let reference = reference_logprobs(&self.model, &[pair], DpoLoss::Sigmoid).expect("memory");
        let mut sums = DpoSums::default();
        let TrainState {
            adapter, gradients, ..
        } = &mut *state;
        with_policy(&self.model, adapter, |policy| {
            let config = DpoConfig::default();
            accumulate(
                policy,
                &[pair],
                &reference,
                &config,
                1,
                gradients,
                &mut sums,
            )
        });
        let factor = OPTIM.schedule.factor(state.step, STEPS, OPTIM.warmup_ratio);
        let norm = state.take_step(OPTIM.lr * factor).expect("a step");
        state.step += 1;
        (sums.loss.to_bits(), norm.to_bits())
    }

    /// A process that starts here: a fresh state with a seed of its own, then what the folder holds.
    fn resumed(
        &self,
        checkpoints: &Checkpoints,
        folder: &Path,
    ) -> (TrainState, BTreeMap<String, MetricsLog>) {
        let mut state = self.state(99);
        let logs = state
            .resume(checkpoints, folder, &[LOG])
            .expect("checkpoints one can read");
        (state, logs)
    }
}

fn matrices(adapter: &Adapter) -> Vec<(String, Tensor)> {
    let named = adapter.named().into_iter();
    named.map(|(name, t)| (name, t.detach().copy())).collect()
}

#[test]
fn a_restored_state_goes_on_bit_for_bit() {
    let training = Training::read();
    let mut whole = training.state(7);
    let mut expected = vec![];
    for _ in 0..STEPS {
        let numbers = training.step(&mut whole);
        expected.push((numbers, matrices(&whole.adapter)));
    }

    let folder = tempfile::tempdir().expect("a folder");
    let checkpoints = Checkpoints::new(folder.path().join("checkpoints"), 2);
    let mut first = training.state(7);
    let mut logs = first
        .resume(&checkpoints, folder.path(), &[LOG])
        .expect("nothing to resume");
    for _ in 0..5 {
        training.step(&mut first);
        let log = logs.get_mut(LOG).expect("an open log");
        log.append(&first.step).expect("a line");
        if first.step == 5 {
            first.save(&checkpoints, &mut logs, &[]).expect("saved");
        }
    }
    // Work after the checkpoint that is lost with the process.
    training.step(&mut first);
    let log = logs.get_mut(LOG).expect("an open log");
    log.append(&"lost").expect("a line");
    log.sync().expect("on disk");
    drop((first, logs));

    let (mut second, mut logs) = training.resumed(&checkpoints, folder.path());
    assert_eq!((second.step, second.optimiser.steps()), (5, 5));
    for (numbers, adapter) in &expected[5..] {
        assert_eq!(
            training.step(&mut second),
            *numbers,
            "loss and norm of step {}",
            second.step
        );
        for ((name, got), (_, expected)) in matrices(&second.adapter).iter().zip(adapter) {
            assert!(got.equal(expected), "{name} after step {}", second.step);
        }
        let log = logs.get_mut(LOG).expect("an open log");
        log.append(&second.step).expect("a line");
        log.sync().expect("on disk");
    }
    let text = std::fs::read_to_string(folder.path().join(LOG)).expect("the log");
    let lines: Vec<u64> = text
        .lines()
        .map(|line| line.parse().expect("a step"))
        .collect();
    assert_eq!(lines, (1..=STEPS).collect::<Vec<_>>());
}

/// A checkpoint of another adapter is no start for this one: it is refused by name, not loaded in part.
#[test]
fn a_checkpoint_of_another_shape_is_refused() {
    let training = Training::read();
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoints = Checkpoints::new(folder.path().join("checkpoints"), 2);
    let mut saved = training.state(7);
    training.step(&mut saved);
    saved
        .save(&checkpoints, &mut BTreeMap::new(), &[])
        .expect("saved");
    let wider = LoraConfig {
        rank: 5,
        ..LoraConfig::default()
    };
    let mut other = TrainState::new(&wider, training.model.config(), OPTIM, 7, Device::Cpu);
    let before = matrices(&other.adapter);
    let error = other
        .resume(&checkpoints, folder.path(), &[])
        .expect_err("must be refused")
        .to_string();
    assert!(
        error.contains("layers.0.self_attn.q_proj.lora_A.weight") && error.contains("expected [5"),
        "{error}"
    );
    assert_eq!(other.step, 0);
    for ((name, got), (_, before)) in matrices(&other.adapter).iter().zip(&before) {
        assert!(got.equal(before), "{name}");
    }
}
