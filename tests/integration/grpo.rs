//! GRPO against TRL on a tiny model: advantages, log-probabilities, losses, corrections and gradients.
//!
//! TRL normalises `bnpo` over each micro-batch's own tokens, the trainer here over the tokens of the optimiser step: the
//! halves of `bnpo_two_micro_batches` are compared under TRL's normalisation, and differ from the trainer's by
//! definition.

use std::collections::BTreeMap;

use atp_pipeline::model::backprop::{Gradients, Live};
use atp_pipeline::model::logprobs::Predictors;
use atp_pipeline::model::{Adapter, Decoder, Weights};
use atp_pipeline::scenario::Outcome;
use atp_pipeline::training::grpo::{GrpoLoss, GrpoTerms, SamplingCorrection, advantages};
use atp_pipeline::training::grpo_trainer::GrpoConfig;
use atp_pipeline::training::optim::{AdamW, OptimConfig};
use atp_pipeline::training::rollout::{
    GroupPlan, GrpoSums, Known, Rollout, accumulate, plan_group, score_groups,
};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::support::{fixture, json, relative_error, tensors, with_policy};

/// f32 on both sides with other orders of summation and other places of rounding; TRL's own losses are up to 1e-7 and
/// its gradients up to 2e-6 from its definition. Here losses came out within 1.1e-6, gradients within 5.8e-6.
pub const LOSS: f64 = 1e-5;
pub const GRADIENT: f64 = 5e-5;
/// Absolute: log-probabilities are differences of f32 numbers up to some tens, whose last place is 2e-6.
pub const LOGPROB: f64 = 2e-5;

pub const EOS: u32 = 1;

pub fn policy() -> (Decoder, Adapter) {
    policy_at("adapter")
}

/// The tiny model with one of the fixture's adapters.
fn policy_at(adapter: &str) -> (Decoder, Adapter) {
    let weights = Weights::open(&fixture("oracle/grpo/model")).expect("a model folder");
    let model = Decoder::load(&weights, Kind::Float, Device::Cpu).expect("a loadable model");
    let folder = fixture("oracle/grpo").join(adapter);
    let adapter =
        Adapter::load(&folder, model.config(), Device::Cpu).expect("an adapter made by PEFT");
    (model, adapter)
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn id_lists(value: &Value) -> Vec<Vec<u32>> {
    serde_json::from_value(value.clone()).expect("lists of ids")
}

pub fn floats(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor).expect("f32 numbers")
}

pub fn close(got: f64, expected: f64, tolerance: f64, what: &str) {
    assert!(
        (got - expected).abs() <= tolerance * expected.abs().max(1.0),
        "{what}: got {got}, expected {expected}"
    );
}

/// A rollout of sampled tokens alone.
pub fn sampled(tokens: &[u32], logprobs: Vec<f32>, temperature: f64) -> Rollout {
    let ended = tokens.last() == Some(&EOS);
    Rollout {
        text: String::new(),
        inserted: vec![],
        sampled: tokens.to_vec(),
        logprobs,
        reasoning: tokens.len() - usize::from(ended),
        bridge: vec![],
        choice: None,
        truncated: !ended,
        temperature,
        outcome: Outcome::Invalid,
        reward: 0.0,
        advantage: 0.0,
    }
}

/// TRL's batch, as rollouts.
struct Batch {
    described: Value,
    tensors: BTreeMap<String, Tensor>,
    prompts: Vec<Vec<u32>>,
    rollouts: Vec<Rollout>,
}

impl Batch {
    fn read() -> Self {
        let described = json("oracle/grpo/grpo.json");
        let tensors = tensors("oracle/grpo/batch.safetensors");
        let prompts = id_lists(&described["prompts"]);
        let rewards = floats(&tensors["advantages"]);
        let rollouts = id_lists(&described["completions"])
            .iter()
            .enumerate()
            .map(|(row, tokens)| Rollout {
                advantage: f64::from(rewards[row]),
                ..sampled(
                    tokens,
                    values(&tensors["old_per_token_logps"], row, tokens.len()),
                    number(&described["temperature"]),
                )
            })
            .collect();
        Self {
            described,
            tensors,
            prompts,
            rollouts,
        }
    }

    /// The sampler saw these log-probabilities, other than the old ones.
    fn with_sampler(mut self, logprobs: &Tensor) -> Self {
        for (row, rollout) in self.rollouts.iter_mut().enumerate() {
            rollout.logprobs = values(logprobs, row, rollout.sampled.len());
        }
        self
    }

    /// Plans of these rows, one for each run of rows with one prompt; and the old log-probabilities of their actions.
    fn plans(
        &self,
        rows: std::ops::Range<usize>,
        mask_truncated: bool,
    ) -> Vec<(GroupPlan, Tensor)> {
        let rows: Vec<usize> = rows.collect();
        rows.chunk_by(|a, b| self.prompts[*a] == self.prompts[*b])
            .map(|rows| {
                let rollouts: Vec<Rollout> =
                    rows.iter().map(|&r| self.rollouts[r].clone()).collect();
                let kept = rollouts.iter().filter(|r| !(mask_truncated && r.truncated));
                let kept = kept.map(|r| r.sampled.len());
                let rows_kept = rows
                    .iter()
                    .filter(|&&r| !(mask_truncated && self.rollouts[r].truncated));
                let old: Vec<f32> = rows_kept
                    .zip(kept)
                    .flat_map(|(&row, count)| {
                        values(&self.tensors["old_per_token_logps"], row, count)
                    })
                    .collect();
                let plan = plan_group(&self.prompts[rows[0]], &rollouts, mask_truncated);
                (plan, Tensor::from_slice(&old))
            })
            .collect()
    }

    /// The loss's settings in a case, with the limit TRL had.
    fn config(&self, settings: &Value) -> GrpoConfig {
        GrpoConfig {
            loss: serde_json::from_value(settings["loss_type"].clone()).expect("a loss type"),
            beta: number(&settings["beta"]),
            epsilon_low: number(&self.described["epsilon_low"]),
            epsilon_high: number(&self.described["epsilon_high"]),
            mask_truncated: settings["mask_truncated"] == true,
            importance_level: serde_json::from_value(settings["level"].clone()).expect("a level"),
            kl_ratio_weighted: settings["weighted_kl"] == true,
            sampling_correction: settings
                .get("correction")
                .map(|mode| serde_json::from_value(mode.clone()).expect("a correction"))
                .unwrap_or_default(),
            sampling_correction_cap: number(&self.described["correction_cap"]),
            ..GrpoConfig::default()
        }
    }

    fn limit(&self) -> usize {
        number(&self.described["max_completion_length"]) as usize
    }
}

/// The first values of a row.
fn values(tensor: &Tensor, row: usize, count: usize) -> Vec<f32> {
    floats(&tensor.get(row as i64).narrow(0, 0, count as i64))
}

/// Log-probabilities of a group's actions; without an adapter the reference's.
pub fn score(model: &Decoder, adapter: Option<&Adapter>, plan: &GroupPlan) -> Tensor {
    let live = adapter.map(|a| Live::new(a, model).expect("memory"));
    let mut scores = score_groups(model, live.as_ref(), &[plan]).expect("memory");
    scores.pop().expect("one a group")
}

/// Gradients and numbers of these plans, each a pass of its own; without old log-probabilities every ratio is 1.
pub fn update<'a>(
    (model, adapter): (&Decoder, &Adapter),
    parts: impl IntoIterator<Item = (&'a GroupPlan, Option<&'a Tensor>)>,
    terms: &GrpoTerms,
) -> (GrpoSums, Gradients) {
    let mut sums = GrpoSums::default();
    let mut gradients = Gradients::zeros(adapter, model.config());
    for (plan, old) in parts {
        let reference = (terms.beta > 0.0).then(|| score(model, None, plan));
        let known = Known {
            plan,
            old,
            reference: reference.as_ref(),
        };
        with_policy(model, adapter, |policy| {
            accumulate(policy, &[known], terms, &mut gradients, &mut sums)
        });
    }
    (sums, gradients)
}

/// Plans with their old log-probabilities, as [`update`] takes them.
fn with_old(parts: &[(GroupPlan, Tensor)]) -> impl Iterator<Item = (&GroupPlan, Option<&Tensor>)> {
    parts.iter().map(|(plan, old)| (plan, Some(old)))
}

/// Every gradient of the adapter against the fixture's.
fn compare_gradients(
    adapter: &Adapter,
    learnt: &Gradients,
    expected: &BTreeMap<String, Tensor>,
    case: &str,
) {
    let mut seen = 0;
    for (name, learnt) in adapter.named_views(learnt.flat()) {
        let key = format!("{case}/{name}");
        let expected = expected
            .get(&key)
            .unwrap_or_else(|| panic!("no gradient {key} in the fixture"));
        let error = relative_error(&learnt, expected);
        assert!(error < GRADIENT, "{key}: {error:e}");
        seen += 1;
    }
    let prefix = format!("{case}/");
    assert_eq!(
        seen,
        expected.keys().filter(|k| k.starts_with(&prefix)).count(),
        "{case}: gradients"
    );
}

/// Terms of the batch that these parts make.
fn terms_of(config: &GrpoConfig, parts: &[(GroupPlan, Tensor)], limit: usize) -> GrpoTerms {
    config.terms(parts.iter().map(|(plan, _)| plan), limit)
}

/// TRL divides in f32, so eight digits are not to be had.
#[test]
fn advantages_agree_with_trl() {
    let batch = Batch::read();
    let rewards: Vec<f64> =
        serde_json::from_value(batch.described["rewards"].clone()).expect("rewards");
    let size = number(&batch.described["group"]) as usize;
    let expected = floats(&batch.tensors["advantages"]);
    assert_eq!(expected.len(), rewards.len());
    for (group, expected) in rewards.chunks(size).zip(expected.chunks(size)) {
        for (got, expected) in advantages(group).iter().zip(expected) {
            assert!(
                (got - f64::from(*expected)).abs() < 1e-6,
                "{got}, TRL has {expected}"
            );
        }
    }
    assert_eq!(advantages(&rewards[size..2 * size]), [0.0; 4]);
}

#[test]
fn log_probabilities_and_entropies_agree_with_trl() {
    let batch = Batch::read();
    let (model, adapter) = policy();
    let size = number(&batch.described["group"]) as usize;
    for start in (0..batch.rollouts.len()).step_by(size) {
        let parts = batch.plans(start..start + size, false);
        let [(plan, _)] = &parts[..] else {
            panic!("a group is one plan");
        };
        let scored = tch::no_grad(|| {
            let hidden = model.hidden(&plan.batch, Some(&adapter));
            Predictors::new(&model, &hidden, &plan.targets)
                .expect("memory")
                .score()
                .expect("memory")
        });
        for (key, got) in [
            ("per_token_logps", scored.logprobs),
            ("entropies", scored.entropies),
            ("per_token_logps", score(&model, Some(&adapter), plan)),
            ("ref_per_token_logps", score(&model, None, plan)),
        ] {
            let expected: Vec<f32> = (start..start + size)
                .flat_map(|row| values(&batch.tensors[key], row, batch.rollouts[row].sampled.len()))
                .collect();
            let error = (got - Tensor::from_slice(&expected))
                .abs()
                .max()
                .double_value(&[]);
            assert!(error < LOGPROB, "{key}, group at {start}: {error:e}");
        }
    }
}

#[test]
fn losses_metrics_and_gradients_agree_with_trl() {
    let batch = Batch::read();
    let (model, adapter) = policy();
    let gradients = tensors("oracle/grpo/gradients.safetensors");
    let mut seen = 0;
    for (case, expected) in batch.described["cases"].as_object().expect("cases") {
        let settings = &expected["settings"];
        if settings["micro_batches"] != 1 {
            continue;
        }
        let (_, learnt) = compare_case(&batch, (&model, &adapter), case, expected);
        compare_gradients(&adapter, &learnt, &gradients, case);
        seen += 1;
    }
    assert_eq!(
        seen, 12,
        "four losses with and without KL, two with masks, a ratio a sequence, a weighted KL"
    );
}

/// Loss and metrics of a case against TRL's.
fn compare_case(
    batch: &Batch,
    (model, adapter): (&Decoder, &Adapter),
    case: &str,
    expected: &Value,
) -> (GrpoSums, Gradients) {
    let config = batch.config(&expected["settings"]);
    let parts = batch.plans(0..batch.rollouts.len(), config.mask_truncated);
    let terms = terms_of(&config, &parts, batch.limit());
    assert_eq!(
        terms.batch_actions,
        number(&expected["num_items_in_batch"]),
        "{case}: tokens"
    );
    let (sums, learnt) = update((model, adapter), with_old(&parts), &terms);
    close(sums.loss, number(&expected["loss"]), LOSS, case);
    for (name, got) in [
        ("entropy", sums.entropy / sums.scored),
        ("clip_ratio/low_mean", sums.clipped_low / sums.ratios),
        ("clip_ratio/high_mean", sums.clipped_high / sums.ratios),
        ("kl", sums.kl / sums.actions),
    ] {
        match expected["metrics"].get(name) {
            Some(expected) => close(got, number(expected), LOSS, &format!("{case}, {name}")),
            None => assert_eq!((name, got), ("kl", 0.0), "{case}"),
        }
    }
    (sums, learnt)
}

/// A sampler that computes otherwise than training, corrected for in TRL's four ways; and one ratio a sequence.
#[test]
fn corrections_for_the_sampler_agree_with_trl() {
    let stored = tensors("oracle/grpo/corrections.safetensors");
    let batch = Batch::read().with_sampler(&stored["sampler_logps"]);
    let (model, adapter) = policy();
    let mut modes = vec![];
    for (case, expected) in batch.described["corrected_cases"]
        .as_object()
        .expect("cases")
    {
        let (sums, learnt) = compare_case(&batch, (&model, &adapter), case, expected);
        compare_gradients(&adapter, &learnt, &stored, case);
        let config = batch.config(&expected["settings"]);
        if config.sampling_correction == SamplingCorrection::None {
            assert_eq!(sums.corrected, 0.0, "{case}");
            continue;
        }
        // The weights themselves.
        let mut row = 0;
        for (plan, old) in batch.plans(0..batch.rollouts.len(), config.mask_truncated) {
            let mut weights = config
                .sampling_correction
                .weights(
                    &floats(&old),
                    &plan.sampler,
                    &plan.action_spans,
                    config.sampling_correction_cap,
                )
                .expect("a correction");
            for _ in 0..plan.completions {
                let rollout = &batch.rollouts[row];
                if !(config.mask_truncated && rollout.truncated) {
                    let rest = weights.split_off(rollout.sampled.len());
                    let expected = values(&stored[&format!("weights/{case}")], row, weights.len());
                    for (got, expected) in weights.iter().zip(&expected) {
                        let what = format!("{case}, row {row}, a weight");
                        close(f64::from(*got), f64::from(*expected), LOSS, &what);
                    }
                    weights = rest;
                }
                row += 1;
            }
            assert!(weights.is_empty());
        }
        let metrics = &expected["metrics"];
        for (name, got) in [
            (
                "sampling_logp_difference/mean",
                sums.mismatch / sums.sampled,
            ),
            ("sampling_logp_difference/max", sums.mismatch_max),
        ] {
            let expected = number(&metrics[format!("sampling/{name}")]);
            close(got, expected, LOGPROB, &format!("{case}, {name}"));
        }
        if matches!(
            config.sampling_correction,
            SamplingCorrection::TokenTruncate | SamplingCorrection::TokenMask
        ) {
            let expected = number(&metrics["sampling/importance_sampling_ratio/mean"]);
            close(sums.correction / sums.corrected, expected, LOSS, case);
        }
        modes.push(format!("{:?}", config.sampling_correction));
    }
    modes.sort();
    modes.dedup();
    assert_eq!(modes.len(), 4, "{modes:?}");
}

/// Five optimiser steps on one batch: the ratio is 1 in the first alone, and clipping sets in on both sides.
#[test]
fn several_iterations_on_a_batch_agree_with_trl() {
    let batch = Batch::read();
    let stored = tensors("oracle/grpo/corrections.safetensors");
    let described = &batch.described["iterations"];
    let (model, adapter) = policy_at("adapter_sampler");
    let config = GrpoConfig {
        epsilon_low: number(&batch.described["epsilon_low"]),
        epsilon_high: number(&batch.described["epsilon_high"]),
        ..GrpoConfig::default()
    };
    assert!(config.epsilon_low != config.epsilon_high);
    let parts: Vec<(GroupPlan, Tensor)> = batch
        .plans(0..batch.rollouts.len(), false)
        .into_iter()
        .map(|(plan, _)| {
            let old = score(&model, Some(&adapter), &plan);
            (plan, old)
        })
        .collect();
    let terms = terms_of(&config, &parts, batch.limit());
    let lr = number(&described["lr"]);
    let optim = OptimConfig {
        lr,
        ..OptimConfig::default()
    };
    let mut optimiser = AdamW::new(optim, vec![adapter.flat().shallow_clone()]);
    let mut clipped = (0.0, 0.0);
    for (step, expected) in described["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .enumerate()
    {
        let (sums, learnt) = update((&model, &adapter), with_old(&parts), &terms);
        let norm = optimiser
            .step(lr, &mut [&mut learnt.flat().shallow_clone()])
            .expect("a step");
        for (name, got, tolerance) in [
            ("loss", sums.loss, 2.0 * LOSS),
            ("grad_norm", norm, 1e-4),
            ("low", sums.clipped_low / sums.ratios, LOSS),
            ("high", sums.clipped_high / sums.ratios, LOSS),
            ("kl", sums.kl / sums.actions, GRADIENT),
        ] {
            let what = format!("iteration {step}, {name}");
            close(got, number(&expected[name]), tolerance, &what);
        }
        clipped.0 += sums.clipped_low;
        clipped.1 += sums.clipped_high;
        if step == 0 {
            assert_eq!(clipped, (0.0, 0.0), "the policy has not moved yet");
        }
    }
    assert!(clipped.0 > 0.0 && clipped.1 > 0.0, "{clipped:?}");
    for (name, parameter) in adapter.named() {
        let error = relative_error(&parameter, &stored[&format!("iterations/{name}")]);
        assert!(error < 1e-3, "{name}: {error:e}");
    }
}

/// The batch in two parts, the second group divided between them: parts add up to TRL's accumulated gradient.
#[test]
fn two_micro_batches_add_up_as_in_trl() {
    let batch = Batch::read();
    let (model, adapter) = policy();
    let gradients = tensors("oracle/grpo/gradients.safetensors");
    for name in ["grpo", "bnpo", "dr_grpo", "dapo"] {
        let case = format!("{name}_two_micro_batches");
        let expected = &batch.described["cases"][&case];
        let config = batch.config(&expected["settings"]);
        let whole = batch.plans(0..12, false);
        let both = Gradients::zeros(&adapter, model.config());
        for half in 0..2 {
            let parts = batch.plans(6 * half..6 * half + 6, false);
            let mut terms = terms_of(&config, &whole, batch.limit());
            if config.loss == GrpoLoss::Bnpo {
                // TRL's half: the mean over its own tokens, halved.
                terms.batch_actions = 2.0 * terms_of(&config, &parts, 8).batch_actions;
            }
            let (sums, learnt) = update((&model, &adapter), with_old(&parts), &terms);
            let what = format!("{case}, part {half}");
            close(
                sums.loss,
                number(&expected["micro_losses"][half]),
                LOSS,
                &what,
            );
            let _ = both.flat().shallow_clone().g_add_(learnt.flat());
        }
        compare_gradients(&adapter, &both, &gradients, &case);
    }
}

/// What the sampler saw against what training computes for the policy that sampled: the present one, where no other is
/// given (here the adapter had moved between the two), or the old one, whatever happened since.
#[test]
fn the_mismatch_is_the_distance_from_the_sampler() {
    let batch = Batch::read();
    let (model, adapter) = policy();
    let parts = batch.plans(0..12, false);
    let terms = terms_of(&GrpoConfig::default(), &parts, batch.limit());
    let (sums, _) = update(
        (&model, &adapter),
        parts.iter().map(|(plan, _)| (plan, None)),
        &terms,
    );
    let (now, old) = (
        &batch.tensors["per_token_logps"],
        &batch.tensors["old_per_token_logps"],
    );
    let mask = batch.tensors["completion_mask"].to_kind(Kind::Double);
    let distances = (now - old).abs() * &mask;
    assert_eq!(sums.sampled, mask.sum(Kind::Double).double_value(&[]));
    let sum = distances.sum(Kind::Double).double_value(&[]);
    close(sums.mismatch, sum, 1e-5, "sum of distances");
    let largest = distances.max().double_value(&[]);
    close(sums.mismatch_max, largest, LOGPROB, "largest distance");
    let (after, _) = update((&model, &adapter), with_old(&parts), &terms);
    assert_eq!((after.mismatch, after.mismatch_max), (0.0, 0.0));
}

/// With `mask_truncated` a group may have nothing left to learn from. It still counts as completions.
#[test]
fn a_group_of_truncated_completions_has_no_actions() {
    let (model, adapter) = policy();
    let rollouts = [
        sampled(&[5, 6], vec![-1.0; 2], 1.0),
        sampled(&[7], vec![-1.0], 1.0),
    ];
    let plan = plan_group(&[3, 4], &rollouts, true);
    assert_eq!((plan.completions, plan.advantages.len()), (2, 0));
    assert_eq!(score(&model, Some(&adapter), &plan).size(), [0]);
    let config = GrpoConfig {
        loss: GrpoLoss::Grpo,
        ..GrpoConfig::default()
    };
    assert_eq!(config.terms([&plan], 2).batch_completions, 2.0);
}
