//! GRPO against TRL on a tiny model: advantages, log-probabilities, losses and gradients; choices against a direct
//! computation.
//!
//! TRL's cases `grpo_sequence_level` (one ratio a sequence) and `dapo_weighted_kl` (divergence times the ratio, TRL's
//! default) are left out: the loss here has a ratio a token and the plain k3 of the paper. TRL normalises
//! `bnpo` over each micro-batch's own tokens, the trainer here over the tokens of the optimiser step: the halves of
//! `bnpo_two_micro_batches` are compared under TRL's normalisation, and differ from the trainer's by definition.

use std::collections::BTreeMap;

use atp_pipeline::model::logprobs::Predictors;
use atp_pipeline::model::{Adapter, Decoder, Packed, Weights};
use atp_pipeline::scenario::Outcome;
use atp_pipeline::training::grpo::{GrpoLoss, GrpoTerms, advantages};
use atp_pipeline::training::grpo_trainer::GrpoConfig;
use atp_pipeline::training::rollout::{
    Choice, GroupPlan, GrpoSums, Rollout, accumulate, plan_group,
};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::support::{fixture, json, relative_error, tensors};

/// f32 on both sides with other orders of summation and other places of rounding; TRL's own losses are up to 1e-7 and
/// its gradients up to 2e-6 from its definition. Here losses came out within 1.1e-6, gradients within 5.8e-6.
const LOSS: f64 = 1e-5;
const GRADIENT: f64 = 5e-5;
/// Absolute: log-probabilities are differences of f32 numbers up to some tens, whose last place is 2e-6.
const LOGPROB: f64 = 2e-5;

const EOS: u32 = 1;

fn policy() -> (Decoder, Adapter) {
    let weights = Weights::open(&fixture("oracle/grpo/model")).expect("a model folder");
    let model = Decoder::load(&weights, Kind::Float, Device::Cpu).expect("a loadable model");
    let folder = fixture("oracle/grpo/adapter");
    let adapter =
        Adapter::load(&folder, model.config(), Device::Cpu).expect("an adapter made by PEFT");
    adapter.set_trainable(true);
    (model, adapter)
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn id_lists(value: &Value) -> Vec<Vec<u32>> {
    serde_json::from_value(value.clone()).expect("lists of ids")
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor).expect("f32 numbers")
}

fn close(got: f64, expected: f64, tolerance: f64, what: &str) {
    assert!(
        (got - expected).abs() <= tolerance * expected.abs().max(1.0),
        "{what}: got {got}, expected {expected}"
    );
}

/// A rollout of sampled tokens alone.
fn sampled(tokens: &[u32], logprobs: Vec<f32>, temperature: f64) -> Rollout {
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
                let old: Vec<f32> = kept.flat_map(|r| r.logprobs.clone()).collect();
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

/// Accumulate the gradients of these plans.
fn update(
    (model, adapter): (&Decoder, &Adapter),
    parts: &[(GroupPlan, Tensor)],
    terms: &GrpoTerms,
) -> GrpoSums {
    let mut sums = GrpoSums::default();
    for (plan, old) in parts {
        accumulate(model, adapter, plan, Some(old), terms, &mut sums);
    }
    sums
}

/// Every gradient of the adapter against the fixture's; then forget them.
fn compare_gradients(adapter: &Adapter, expected: &BTreeMap<String, Tensor>, case: &str) {
    let mut seen = 0;
    for (name, parameter) in adapter.named() {
        let key = format!("{case}/{name}");
        let expected = expected
            .get(&key)
            .unwrap_or_else(|| panic!("no gradient {key} in the fixture"));
        let error = relative_error(&parameter.grad(), expected);
        assert!(error < GRADIENT, "{key}: {error:e}");
        parameter.shallow_clone().zero_grad();
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
            Predictors::new(&model, &hidden, &plan.targets).score()
        });
        for (key, got) in [
            ("per_token_logps", scored.logprobs),
            ("entropies", scored.entropies),
            ("per_token_logps", plan.score(&model, Some(&adapter))),
            ("ref_per_token_logps", plan.score(&model, None)),
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
        let left_out = settings["level"] != "token" || settings["weighted_kl"] == true;
        if left_out || settings["micro_batches"] != 1 {
            continue;
        }
        let config = batch.config(settings);
        let parts = batch.plans(0..batch.rollouts.len(), config.mask_truncated);
        let terms = terms_of(&config, &parts, batch.limit());
        assert_eq!(
            terms.batch_actions,
            number(&expected["num_items_in_batch"]),
            "{case}: tokens"
        );
        let sums = update((&model, &adapter), &parts, &terms);
        close(sums.loss, number(&expected["loss"]), LOSS, case);
        let metrics = &expected["metrics"];
        let of_actions = |sum: f64| sum / sums.actions;
        for (name, got) in [
            ("entropy", sums.entropy / sums.scored),
            ("clip_ratio/low_mean", of_actions(sums.clipped_low)),
            ("clip_ratio/high_mean", of_actions(sums.clipped_high)),
            ("kl", of_actions(sums.kl)),
        ] {
            match metrics.get(name) {
                Some(expected) => close(got, number(expected), LOSS, &format!("{case}, {name}")),
                None => assert_eq!((name, got), ("kl", 0.0), "{case}"),
            }
        }
        compare_gradients(&adapter, &gradients, case);
        seen += 1;
    }
    assert_eq!(seen, 10, "four losses with and without KL, two with masks");
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
        for half in 0..2 {
            let parts = batch.plans(6 * half..6 * half + 6, false);
            let mut terms = terms_of(&config, &whole, batch.limit());
            if config.loss == GrpoLoss::Bnpo {
                // TRL's half: the mean over its own tokens, halved.
                terms.batch_actions = 2.0 * terms_of(&config, &parts, 8).batch_actions;
            }
            let sums = update((&model, &adapter), &parts, &terms);
            let what = format!("{case}, part {half}");
            close(
                sums.loss,
                number(&expected["micro_losses"][half]),
                LOSS,
                &what,
            );
        }
        compare_gradients(&adapter, &gradients, &case);
    }
}

/// What the sampler saw against what training computes: here the adapter had moved between the two.
#[test]
fn the_mismatch_is_the_mean_distance_from_the_sampler() {
    let batch = Batch::read();
    let (model, adapter) = policy();
    let parts = batch.plans(0..12, false);
    let terms = terms_of(&GrpoConfig::default(), &parts, batch.limit());
    let sums = update((&model, &adapter), &parts, &terms);
    let (now, old) = (
        &batch.tensors["per_token_logps"],
        &batch.tensors["old_per_token_logps"],
    );
    let mask = batch.tensors["completion_mask"].to_kind(Kind::Double);
    let distance = ((now - old).abs() * &mask)
        .sum(Kind::Double)
        .double_value(&[]);
    assert_eq!(sums.sampled, mask.sum(Kind::Double).double_value(&[]));
    close(sums.mismatch, distance, 1e-5, "sum of distances");
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
    assert_eq!(plan.score(&model, Some(&adapter)).size(), [0]);
    let config = GrpoConfig {
        loss: GrpoLoss::Grpo,
        ..GrpoConfig::default()
    };
    assert_eq!(config.terms([&plan], 2).batch_completions, 2.0);
}

/// Log-probabilities of a whole sequence's tokens from the second on at a temperature, by plain operations with their
/// autograd graph: `(len − 1)`.
fn direct(model: &Decoder, adapter: Option<&Adapter>, tokens: &[u32], temperature: f64) -> Tensor {
    let mut batch = Packed::new();
    batch.root(tokens);
    let logits = model
        .hidden(&batch, adapter)
        .matmul(&model.head().transpose(0, 1));
    let logprobs = (logits / temperature).log_softmax(-1, Kind::Float);
    let next: Vec<i64> = tokens[1..].iter().map(|&t| i64::from(t)).collect();
    logprobs
        .narrow(0, 0, next.len() as i64)
        .gather(1, &Tensor::from_slice(&next).unsqueeze(1), false)
        .squeeze_dim(1)
}

/// Log-probabilities of a rollout's actions from sequences computed one at a time.
fn direct_actions(
    model: &Decoder,
    adapter: Option<&Adapter>,
    prompt: &[u32],
    rollout: &Rollout,
) -> Tensor {
    let temperature = rollout.temperature;
    let tail = |lead: &[u32], tokens: &[u32], temperature: f64| {
        let all = direct(model, adapter, &[lead, tokens].concat(), temperature);
        all.narrow(0, lead.len() as i64 - 1, tokens.len() as i64)
    };
    let mut actions = vec![];
    if !rollout.sampled.is_empty() {
        actions.push(tail(prompt, &rollout.sampled, temperature));
    }
    if let Some(choice) = &rollout.choice {
        let reasoning = &rollout.sampled[..rollout.reasoning];
        let lead = [prompt, reasoning, &rollout.bridge].concat();
        let sums: Vec<Tensor> = choice
            .options
            .iter()
            .map(|option| tail(&lead, option, 1.0).sum(Kind::Float))
            .collect();
        let powers = (Tensor::stack(&sums, 0) / temperature).exp();
        let drawn = powers.get(choice.chosen as i64);
        actions.push((drawn / powers.sum(Kind::Float)).log().unsqueeze(0));
    }
    Tensor::cat(&actions, 0)
}

/// A group's actions and gradients against autograd through separate sequences: the whole loss with its KL penalty.
fn compare_with_direct(prompt: &[u32], rollouts: &[Rollout], loss: GrpoLoss) {
    let (model, adapter) = policy();
    let config = GrpoConfig {
        loss,
        ..GrpoConfig::default()
    };
    let plan = plan_group(prompt, rollouts, false);
    let each = |adapter: Option<&Adapter>| -> Vec<Tensor> {
        rollouts
            .iter()
            .map(|r| direct_actions(&model, adapter, prompt, r))
            .collect()
    };
    let (current, reference) = (each(Some(&adapter)), each(None));
    for (what, got, expected) in [
        ("policy", plan.score(&model, Some(&adapter)), &current),
        ("reference", plan.score(&model, None), &reference),
    ] {
        let error = (got - Tensor::cat(expected, 0))
            .abs()
            .max()
            .double_value(&[]);
        assert!(error < LOGPROB, "{what}: {error:e}");
    }
    // The policy had been 0.1 to 0.5 away when these were sampled: some ratios are clipped.
    let count: i64 = current.iter().map(|c| c.size()[0]).sum();
    let shift = (Tensor::arange(count, (Kind::Float, Device::Cpu)) * 1.7).sin() * 0.5;
    let old = Tensor::cat(&current, 0).detach() + &shift;
    let terms = config.terms([&plan], 8);
    let mut sums = GrpoSums::default();
    accumulate(&model, &adapter, &plan, Some(&old), &terms, &mut sums);
    let take = || -> Vec<Tensor> {
        let named = adapter.named();
        let gradients = named.iter().map(|(_, p)| {
            let gradient = p.grad().copy();
            p.shallow_clone().zero_grad();
            gradient
        });
        gradients.collect()
    };
    let got = take();

    let mut start = 0;
    let mut total = Tensor::zeros([], (Kind::Float, Device::Cpu));
    for ((rollout, now), reference) in rollouts.iter().zip(&current).zip(&reference) {
        let length = now.size()[0];
        let ratio = (now - old.narrow(0, start, length)).exp();
        let clipped = ratio.clamp(0.8, 1.2);
        let gain = (ratio * rollout.advantage).minimum(&(clipped * rollout.advantage));
        let apart = reference - now;
        let penalty = (apart.exp() - &apart - 1.0) * 0.04;
        let divisor = match loss {
            GrpoLoss::Grpo => length * rollouts.len() as i64,
            _ => count,
        };
        total += (penalty - gain).sum(Kind::Float) / divisor as f64;
        start += length;
    }
    total.backward();
    close(sums.loss, total.double_value(&[]), LOSS, "loss");
    for ((name, _), (got, expected)) in adapter.named().iter().zip(got.iter().zip(take())) {
        let error = relative_error(got, &expected);
        assert!(error < GRADIENT, "{name}: {error:e}");
    }
}

fn choosing(mut rollout: Rollout, options: &[&[u32]], chosen: usize, advantage: f64) -> Rollout {
    rollout.choice = Some(Choice {
        options: options.iter().map(|o| o.to_vec()).collect(),
        chosen,
    });
    rollout.truncated = false;
    rollout.advantage = advantage;
    rollout
}

const PROMPT: [u32; 5] = [9, 30, 4, 88, 17];

/// Scored options stand right after the prompt, are computed once for the whole group and chosen differently.
#[test]
fn scored_choices_agree_with_separate_sequences() {
    let options: [&[u32]; 3] = [&[40, 41, 42, 1], &[40, 50], &[60, 61, 62]];
    let rollouts: Vec<Rollout> = [(0, 1.1), (2, -0.8), (2, -0.8), (1, 0.5)]
        .into_iter()
        .map(|(chosen, advantage)| choosing(sampled(&[], vec![], 0.7), &options, chosen, advantage))
        .collect();
    let plan = plan_group(&PROMPT, &rollouts, false);
    assert_eq!(
        (plan.batch.len(), plan.targets.len()),
        (5 + 9, 9),
        "the options are computed once"
    );
    assert_eq!(plan.advantages, [1.1, -0.8, -0.8, 0.5]);
    compare_with_direct(&PROMPT, &rollouts, GrpoLoss::Grpo);
    compare_with_direct(&PROMPT, &rollouts, GrpoLoss::Dapo);
}

/// Reasoning, bridge, options: with a stop token sampled after the reasoning, with the limit reached, with the stop
/// token at once, beside a free completion and a scored choice.
#[test]
fn constrained_choices_agree_with_separate_sequences() {
    let options: [&[u32]; 2] = [&[40, 41, 42, 1], &[40, 50, 1]];
    let reasoned = |tokens: &[u32], bridge: &[u32], chosen, advantage| {
        let mut rollout = choosing(
            sampled(tokens, vec![-1.0; tokens.len()], 0.7),
            &options,
            chosen,
            advantage,
        );
        rollout.bridge = bridge.to_vec();
        rollout
    };
    let rollouts = [
        reasoned(&[70, 71, 72, EOS], &[5], 1, 0.9),
        reasoned(&[70, 33, 34], &[5, 6], 0, -1.2),
        reasoned(&[], &[], 0, 0.3),
        reasoned(&[EOS], &[], 1, 0.4),
        Rollout {
            advantage: -0.4,
            ..sampled(&[80, 81, EOS], vec![-1.0; 3], 0.7)
        },
    ];
    let plan = plan_group(&PROMPT, &rollouts, false);
    let actions: Vec<usize> = rollouts.iter().map(Rollout::actions).collect();
    assert_eq!(actions, [5, 4, 1, 2, 3]);
    let spans: Vec<usize> = plan.action_spans.iter().map(|s| s.len()).collect();
    assert_eq!(spans, actions);
    compare_with_direct(&PROMPT, &rollouts, GrpoLoss::Grpo);
    compare_with_direct(&PROMPT, &rollouts, GrpoLoss::Dapo);
}
