//! Training steps: LoRA DPO on pairs, GRPO on groups, with their memory.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{Loaded, Subject, filled_adapter, median, random_ids};
use crate::generation::{Engine, Request, Sampling};
use crate::model::LoraConfig;
use crate::model::backprop::plan::Budget;
use crate::model::batch::passes;
use crate::runtime::memory;
use crate::scenario::Outcome;
use crate::training::dpo_trainer::{
    DpoConfig, DpoSums, PairTokens, accumulate, reference_logprobs,
};
use crate::training::grpo::advantages;
use crate::training::grpo_trainer::GrpoConfig;
use crate::training::optim::OptimConfig;
use crate::training::pass::{Policy, budget};
use crate::training::rollout::{self, GrpoSums, Known, Rollout, plan_group, score_groups};
use crate::training::state::TrainState;

/// Options of `bench train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// What is trained by.
    #[arg(long, value_enum, default_value = "dpo")]
    method: Method,
    /// Pairs of a DPO step, prompts of a GRPO step.
    #[arg(long, default_value_t = 4)]
    items: usize,
    /// Completions a prompt in GRPO.
    #[arg(long, default_value_t = 4)]
    group: usize,
    /// Tokens of a prompt. One makes the completions of a pair share nothing worth mentioning.
    #[arg(long, default_value_t = 256)]
    prompt: usize,
    /// Tokens of a completion.
    #[arg(long, default_value_t = 256)]
    completion: usize,
    /// Rank of the adapter, on all linear layers.
    #[arg(long, default_value_t = 8)]
    rank: i64,
    /// Weight of GRPO's KL penalty.
    #[arg(long, default_value_t = 0.04)]
    beta: f64,
    /// Use no more than so much of the GPU's memory, in GiB; activations that do not fit are computed again.
    #[arg(long)]
    memory: Option<f64>,
    /// Packed tokens of a pass, at most; by default what memory allows.
    #[arg(long)]
    tokens: Option<usize>,
    /// Compute DPO's reference in every step, as trainers do that do not keep it.
    #[arg(long)]
    reference: bool,
    /// Measured repetitions; the median is printed.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    #[command(flatten)]
    subject: Subject,
}

/// How a policy is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    /// Direct preference optimisation.
    Dpo,
    /// Group-relative policy optimisation: rollouts, rewards, update.
    Grpo,
}

impl TrainArgs {
    /// Measure.
    pub fn execute(self) -> anyhow::Result<()> {
        ensure!(
            self.items > 0
                && self.prompt > 0
                && self.completion > 0
                && self.group > 0
                && self.rank > 0,
            "expected items, a group, a rank, a prompt and a completion of at least one"
        );
        let loaded = self.subject.load()?;
        let lora = LoraConfig {
            rank: self.rank,
            alpha: 2.0 * self.rank as f64,
            ..LoraConfig::default()
        };
        let config = loaded.decoder.config();
        let limit = self.memory.map(|gib| (gib * f64::from(1 << 30)) as usize);
        let mut budget = budget(&loaded.decoder, lora.parameters(config), 0, limit);
        if let Some(tokens) = self.tokens {
            budget.tokens = tokens;
        }
        let adapter = filled_adapter(&loaded.decoder, self.rank, 0);
        let mut state = TrainState::with_adapter(adapter, config, OptimConfig::default());
        let mut lines = vec![];
        for run in 0..=self.repeat.max(1) {
            // The first run warms up.
            memory::stats(loaded.decoder.device(), true);
            lines.push(match self.method {
                Method::Dpo => self.dpo(&loaded, &mut state, &budget, run)?,
                Method::Grpo => self.grpo(&loaded, &mut state, &budget, run)?,
            });
        }
        let seconds = |line: &Value| line["seconds"].as_f64().unwrap_or(f64::NAN);
        lines.remove(0);
        let wanted = median(lines.iter().map(seconds).collect());
        let middle = lines.into_iter().find(|line| seconds(line) == wanted);
        let mut line = middle.context("no repetition was measured")?;
        line["rank"] = json!(self.rank);
        line["threads"] = json!(tch::get_num_threads());
        line["memory"] = json!(budget.describe());
        if let Some(stats) = memory::stats(loaded.decoder.device(), false) {
            line["gpu_bytes_most"] = json!(stats.most);
            line["gpu_bytes_held"] = json!(stats.held);
        }
        tell!("{line}");
        Ok(())
    }

    fn dpo(
        &self,
        loaded: &Loaded,
        state: &mut TrainState,
        budget: &Budget,
        run: usize,
    ) -> anyhow::Result<Value> {
        let ids = |what: &str, pair: usize, count: usize| {
            random_ids(&format!("{what}/{run}/{pair}"), count, loaded.vocabulary)
        };
        let pairs: Vec<PairTokens> = (0..self.items)
            .map(|pair| PairTokens {
                prompt: ids("prompt", pair, self.prompt),
                chosen: ids("chosen", pair, self.completion),
                rejected: ids("rejected", pair, self.completion),
                inserted: Default::default(),
            })
            .collect();
        let pairs: Vec<&PairTokens> = pairs.iter().collect();
        let config = DpoConfig::default();
        let sizes: Vec<usize> = pairs.iter().map(|pair| pair.size()).collect();
        let passes = passes(&sizes, budget.tokens);
        let model = &loaded.decoder;
        let mut reference = vec![(0.0, 0.0); pairs.len()];
        settle(loaded);
        let started = Instant::now();
        if self.reference {
            for pass in &passes {
                let scores = reference_logprobs(model, &pairs[pass.clone()], config.loss)?;
                reference[pass.clone()].copy_from_slice(&scores);
            }
        }
        let policy = Policy::new(model, &state.adapter, &mut state.live, budget)?;
        let mut totals = DpoSums::default();
        for pass in &passes {
            accumulate(
                &policy,
                &pairs[pass.clone()],
                &reference[pass.clone()],
                &config,
                pairs.len(),
                &mut state.gradients,
                &mut totals,
            )?;
        }
        let norm = state.take_step(1e-5)?;
        settle(loaded);
        let seconds = started.elapsed().as_secs_f64();
        ensure!(norm.is_finite(), "the gradient is not finite");
        let packed: usize = sizes.iter().sum();
        let tokens = 2 * self.items * (self.prompt + self.completion);
        let targets = 2 * self.items * self.completion;
        let largest = passes.iter().map(|p| sizes[p.clone()].iter().sum()).max();
        Ok(json!({
            "what": "train", "method": "dpo", "pairs": self.items, "prompt": self.prompt, "completion": self.completion,
            "reference_each_step": self.reference, "seconds": seconds, "tokens_per_second": tokens as f64 / seconds,
            "packed_tokens_per_second": packed as f64 / seconds, "passes": passes.len(),
            "kept_all_attention_input": largest.map(|n: usize| budget.plan(n, targets.min(n)).counts()),
            "operations_per_second": self.operations(loaded, packed, targets) / seconds,
        }))
    }

    /// Of the products in forward and backward of a step; the reference and what is computed again are not counted.
    fn operations(&self, loaded: &Loaded, packed: usize, targets: usize) -> f64 {
        let config = loaded.decoder.config();
        let table = (config.vocab_size * config.hidden_size) as f64;
        let layers =
            config.parameters() as f64 - table * if config.tied_embeddings { 1.0 } else { 2.0 };
        4.0 * (packed as f64 * layers + targets as f64 * table)
    }

    fn grpo(
        &self,
        loaded: &Loaded,
        state: &mut TrainState,
        budget: &Budget,
        run: usize,
    ) -> anyhow::Result<Value> {
        let model = &loaded.decoder;
        let config = GrpoConfig {
            group: self.group,
            prompts_per_step: self.items,
            beta: self.beta,
            ..GrpoConfig::default()
        };
        let prompts: Vec<Vec<u32>> = (0..self.items)
            .map(|i| random_ids(&format!("prompt/{run}/{i}"), self.prompt, loaded.vocabulary))
            .collect();
        let requests: Vec<Request> = (0..self.items * self.group)
            .map(|i| Request {
                prompt: prompts[i / self.group].clone(),
                max_new_tokens: self.completion,
                sampling: Sampling {
                    temperature: 1.0,
                    ..Sampling::default()
                },
                stop: vec![],
                halt: None,
                seed: (run * 1_000_000 + i) as u64,
            })
            .collect();
        settle(loaded);
        let started = Instant::now();
        let engine = Engine::new(model, Some(&state.adapter));
        let (done, stats) = engine.generate_measured(&requests, |_| ())?;
        settle(loaded);
        let rollout_seconds = started.elapsed().as_secs_f64();
        let mut rollouts = vec![];
        for completion in done {
            let completion = completion?;
            // Random weights write nothing that could be judged: a number out of the text stands for the judgement.
            let reward = (completion.tokens.iter().map(|&t| u64::from(t)).sum::<u64>() % 7) as f64;
            rollouts.push(sampled(completion.tokens, completion.logprobs, reward));
        }
        for group in rollouts.chunks_mut(self.group) {
            let rewards: Vec<f64> = group.iter().map(|r| r.reward).collect();
            for (rollout, advantage) in group.iter_mut().zip(advantages(&rewards)) {
                rollout.advantage = advantage;
            }
        }
        let reward_seconds = started.elapsed().as_secs_f64() - rollout_seconds;
        model.release_cache();
        let plans: Vec<_> = prompts
            .iter()
            .zip(rollouts.chunks(self.group))
            .map(|(prompt, rollouts)| plan_group(prompt, rollouts, false))
            .collect();
        let terms = config.terms(&plans, self.completion);
        let plans: Vec<_> = plans.iter().collect();
        let sizes: Vec<usize> = plans.iter().map(|plan| plan.batch.len()).collect();
        let passes = passes(&sizes, budget.tokens);
        let policy = Policy::new(model, &state.adapter, &mut state.live, budget)?;
        let mut reference = vec![];
        if self.beta > 0.0 {
            for pass in &passes {
                reference.extend(score_groups(model, None, &plans[pass.clone()])?);
            }
        }
        let scored_at = started.elapsed().as_secs_f64();
        let mut sums = GrpoSums::default();
        for pass in &passes {
            let groups: Vec<Known> = pass
                .clone()
                .map(|i| Known {
                    plan: plans[i],
                    old: None,
                    reference: reference.get(i),
                })
                .collect();
            rollout::accumulate(&policy, &groups, &terms, &mut state.gradients, &mut sums)?;
        }
        let norm = state.take_step(5e-6)?;
        settle(loaded);
        let seconds = started.elapsed().as_secs_f64();
        ensure!(norm.is_finite(), "the gradient is not finite");
        let completion_tokens = self.items * self.group * self.completion;
        let largest = passes
            .iter()
            .map(|p| sizes[p.clone()].iter().sum::<usize>())
            .max();
        Ok(json!({
            "what": "train", "method": "grpo", "prompts": self.items, "group": self.group, "prompt": self.prompt,
            "completion": self.completion, "beta": self.beta, "seconds": seconds,
            "completion_tokens_per_second": completion_tokens as f64 / seconds,
            "rollout_seconds": rollout_seconds, "setup_seconds": stats.setup_seconds, "reward_seconds": reward_seconds,
            "reference_seconds": scored_at - rollout_seconds - reward_seconds, "update_seconds": seconds - scored_at,
            "passes": passes.len(), "kept_all_attention_input": largest.map(|n| budget.plan(n, n).counts()),
            "mismatch": sums.mismatch / sums.sampled.max(1.0), "mismatch_max": sums.mismatch_max,
        }))
    }
}

/// Wait for the device.
fn settle(loaded: &Loaded) {
    if let tch::Device::Cuda(index) = loaded.decoder.device() {
        tch::Cuda::synchronize(index as i64);
    }
}

fn sampled(tokens: Vec<u32>, logprobs: Vec<f32>, reward: f64) -> Rollout {
    Rollout {
        text: String::new(),
        reasoning: tokens.len(),
        sampled: tokens,
        logprobs,
        inserted: vec![],
        bridge: vec![],
        choice: None,
        truncated: false,
        temperature: 1.0,
        outcome: Outcome::Invalid,
        reward,
        advantage: 0.0,
    }
}

/// Options of `bench dpo-step`.
#[derive(Debug, Args)]
pub struct DpoStepArgs {
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 100)]
    prompt: usize,
    /// Tokens of each completion.
    #[arg(long, default_value_t = 100)]
    completion: usize,
    /// Measured repetitions; the median is printed.
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    #[command(flatten)]
    subject: Subject,
}

impl DpoStepArgs {
    /// Measure: a step on one pair whose reference is computed in it, and one whose reference is known.
    pub fn execute(self) -> anyhow::Result<()> {
        let loaded = self.subject.load()?;
        let mut args = TrainArgs {
            method: Method::Dpo,
            items: 1,
            group: 1,
            prompt: self.prompt.max(1),
            completion: self.completion.max(1),
            rank: 8,
            beta: 0.0,
            memory: None,
            tokens: None,
            reference: true,
            repeat: self.repeat,
            subject: self.subject,
        };
        let lora = LoraConfig::default();
        let config = loaded.decoder.config();
        let budget = budget(&loaded.decoder, lora.parameters(config), 0, None);
        let adapter = filled_adapter(&loaded.decoder, args.rank, 0);
        let mut state = TrainState::with_adapter(adapter, config, OptimConfig::default());
        let mut timed = |reference: bool, runs: usize| -> anyhow::Result<f64> {
            args.reference = reference;
            let lines = (0..runs)
                .map(|run| args.dpo(&loaded, &mut state, &budget, run))
                .collect::<anyhow::Result<Vec<_>>>()?;
            let seconds = lines.iter().filter_map(|line| line["seconds"].as_f64());
            Ok(median(seconds.collect()))
        };
        timed(true, 1)?;
        let runs = self.repeat.max(1);
        let (with, without) = (timed(true, runs)?, timed(false, runs)?);
        let line = json!({
            "what": "dpo-step", "prompt": self.prompt, "completion": self.completion,
            "threads": tch::get_num_threads(), "seconds": with, "seconds_reference_known": without,
        });
        tell!("{line}");
        Ok(())
    }
}
