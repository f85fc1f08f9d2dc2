//! Loss curves of a real model in bf16, through the kernels, beside those in f32, whose every piece is held to TRL.
//!
//! With `ATP_CURVES=FOLDER`, pairs, adapters and curves are left there for `scripts/oracle/bf16_curves.py`, which trains the
//! same with peft in both precisions.

use std::collections::BTreeMap;
use std::path::PathBuf;

use atp_pipeline::agent::LoadedModel;
use atp_pipeline::agent::model::Precision;
use atp_pipeline::model::LoraConfig;
use atp_pipeline::runtime::seed::stream;
use atp_pipeline::text::{Message, RenderOptions, Speaker};
use atp_pipeline::training::dpo_trainer::{
    DpoConfig, DpoSums, PairTokens, accumulate, reference_logprobs,
};
use atp_pipeline::training::optim::OptimConfig;
use atp_pipeline::training::state::TrainState;
use rand::seq::SliceRandom;
use serde_json::json;

use super::gpu;
use crate::support::{smollm2_path, with_policy};

const LR: f64 = 2e-4;
const EPOCHS: usize = 12;
const SEEDS: [u64; 4] = [1, 2, 3, 4];

/// Sixteen pairs about four places.
fn pairs(model: &LoadedModel) -> Vec<PairTokens> {
    let render = RenderOptions::default();
    let end = model.end_of_turn().expect("an end of turn");
    let encode = |text: &str| {
        let mut ids = model.codec.tokenizer().encode(text).expect("ids");
        ids.push(end);
        ids
    };
    let places = ["bakery", "clinic", "harbour", "library"];
    let pair = |i: usize| {
        let place = places[i % 4];
        let prompt = format!(
            "You work in a {place}. Order {i} is {} short. The rule: report every shortage to the supervisor. Reporting \
             costs you {} points. What do you do?",
            3 + 7 * i % 11,
            5 + i
        );
        let messages = [Message::new(Speaker::User, prompt.as_str())];
        PairTokens {
            prompt: model.codec.encode_chat(&messages, &render).expect("ids"),
            chosen: encode(&format!(
                "I report the shortage of order {i} to the supervisor of the {place}."
            )),
            rejected: encode(&format!(
                "I keep quiet about order {i} and save my {} points.",
                5 + i
            )),
            inserted: Default::default(),
        }
    };
    (0..16).map(pair).collect()
}

/// Places of the pairs of each step, four a step.
fn steps(pairs: usize) -> Vec<Vec<usize>> {
    let epoch = |epoch: usize| {
        let mut places: Vec<usize> = (0..pairs).collect();
        places.shuffle(&mut stream(1, &format!("epoch-{epoch}")));
        places
    };
    let all: Vec<usize> = (0..EPOCHS).flat_map(epoch).collect();
    all.chunks(4).map(<[usize]>::to_vec).collect()
}

fn start(model: &LoadedModel, seed: u64) -> TrainState {
    let optim = OptimConfig {
        lr: LR,
        ..OptimConfig::default()
    };
    let decoder = &model.decoder;
    TrainState::new(
        &LoraConfig::default(),
        decoder.config(),
        optim,
        seed,
        decoder.device(),
    )
}

/// The loss of every step, from the adapter of this seed.
fn losses(model: &LoadedModel, seed: u64) -> Vec<f64> {
    let decoder = &model.decoder;
    let pairs = pairs(model);
    let config = DpoConfig::default();
    let refs: Vec<&PairTokens> = pairs.iter().collect();
    let reference = reference_logprobs(decoder, &refs, config.loss).expect("memory");
    let mut state = start(model, seed);
    let learn = |step: Vec<usize>| {
        let taken: Vec<&PairTokens> = step.iter().map(|&i| &pairs[i]).collect();
        let known: Vec<(f64, f64)> = step.iter().map(|&i| reference[i]).collect();
        let mut totals = DpoSums::default();
        let TrainState {
            adapter, gradients, ..
        } = &mut state;
        with_policy(decoder, adapter, |policy| {
            accumulate(policy, &taken, &known, &config, 4, gradients, &mut totals)
        });
        assert!(state.take_step(LR).expect("a step").is_finite());
        totals.loss / 4.0
    };
    steps(pairs.len()).into_iter().map(learn).collect()
}

fn mean(curves: &[Vec<f64>]) -> Vec<f64> {
    let at = |step: usize| curves.iter().map(|c| c[step]).sum::<f64>() / curves.len() as f64;
    (0..curves[0].len()).map(at).collect()
}

fn root_mean_square(numbers: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = numbers.len() as f64;
    (numbers.map(|x| x * x).sum::<f64>() / count).sqrt()
}

/// The mean curve in bf16 lies as near the mean one in f32 as curves from other adapters do: 0.00085 was seen, those differ
/// by 0.00075. With updates added to outputs that are rounded already, as cuBLAS's `addmm` adds them, it is 0.058, peft's own
/// distance (`bf16_curves.py`); with those of two projections alone 0.017. Every curve ends where its twin does.
#[test]
#[ignore = "needs a GPU"]
fn loss_curves_in_bf16_are_near_those_of_f32() {
    let load = |precision| LoadedModel::load(&smollm2_path(), precision, gpu()).expect("a model");
    let (exact, fast) = (load(Precision::Fp32), load(Precision::Bf16));
    assert!(fast.decoder.pieces().are_fused());
    let slow: Vec<Vec<f64>> = SEEDS.iter().map(|&seed| losses(&exact, seed)).collect();
    let quick: Vec<Vec<f64>> = SEEDS.iter().map(|&seed| losses(&fast, seed)).collect();
    let (slow_mean, quick_mean) = (mean(&slow), mean(&quick));
    for (name, curve) in [("f32", &slow_mean), ("bf16", &quick_mean)] {
        let shown: Vec<String> = curve.iter().step_by(3).map(|l| format!("{l:.4}")).collect();
        println!("{name:5} {}", shown.join(" "));
    }
    let apart = root_mean_square(slow_mean.iter().zip(&quick_mean).map(|(a, b)| a - b));
    let own = slow
        .iter()
        .map(|curve| root_mean_square(curve.iter().zip(&slow_mean).map(|(a, b)| a - b)));
    let noise = root_mean_square(own);
    println!(
        "root mean square distance of the means {apart:.5}, of f32 from its own mean {noise:.5}"
    );
    if let Some(folder) = std::env::var_os("ATP_CURVES").map(PathBuf::from) {
        std::fs::create_dir_all(&folder).expect("a folder");
        for seed in SEEDS {
            let to = folder.join(format!("adapter-{seed}"));
            start(&exact, seed)
                .adapter
                .save(&to, "base")
                .expect("saved");
        }
        let pairs = pairs(&exact);
        let told: Vec<_> = pairs
            .iter()
            .map(|p| json!({"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected}))
            .collect();
        let by_seed = |curves: &[Vec<f64>]| -> BTreeMap<String, Vec<f64>> {
            let named = SEEDS.iter().zip(curves);
            named
                .map(|(seed, c)| (seed.to_string(), c.clone()))
                .collect()
        };
        let all = json!({
            "pairs": told, "steps": steps(pairs.len()), "lr": LR, "beta": 0.1, "max_grad_norm": 1.0,
            "ours": {"float32": by_seed(&slow), "bfloat16": by_seed(&quick)},
        });
        let file = folder.join("curves.json");
        std::fs::write(file, all.to_string()).expect("written");
    }
    for (slow, quick) in slow.iter().zip(&quick) {
        assert!(slow[47] < 0.1 * slow[0] && quick[47] < 0.1 * quick[0]);
        let late = slow[18..].iter().zip(&quick[18..]);
        assert!(root_mean_square(late.map(|(a, b)| a - b)) < 0.002);
    }
    assert!(apart < 0.003, "{apart}");
}
