//! `bench`: how fast generation and a DPO step are here, on the terms of `scripts/bench/hf_cpu.py`, its Python twin.

use std::time::Instant;

use clap::{Args, Subcommand};
use rand::Rng;
use serde_json::json;

use super::model::ModelArgs;
use crate::generation::{Engine, Request, Sampling};
use crate::model::LoraConfig;
use crate::runtime::seed::stream;
use crate::training::dpo_trainer::{
    DpoConfig, DpoSums, PairTokens, accumulate, reference_logprobs,
};
use crate::training::optim::OptimConfig;
use crate::training::state::TrainState;

/// Options of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Batched generation: prefill and decoding apart.
    Generate {
        /// Sequences.
        #[arg(long, default_value_t = 8)]
        batch: usize,
        /// Tokens of a prompt.
        #[arg(long, default_value_t = 200)]
        prompt: usize,
        /// Tokens generated for each.
        #[arg(long, default_value_t = 64)]
        new: usize,
        /// Measured repetitions; the median is printed.
        #[arg(long, default_value_t = 3)]
        repeat: usize,
        #[command(flatten)]
        model: ModelArgs,
    },
    /// One LoRA DPO step on one pair: reference, forward, backward, AdamW.
    DpoStep {
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
        model: ModelArgs,
    },
}

/// Seeded ids below the vocabulary's size.
fn random_ids(name: &str, count: usize, vocabulary: usize) -> Vec<u32> {
    let mut draw = stream(0, &format!("bench/{name}"));
    (0..count)
        .map(|_| draw.random_range(100..vocabulary as u32))
        .collect()
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

impl BenchArgs {
    /// Measure; prints one JSON line.
    pub fn execute(self) -> anyhow::Result<()> {
        match self.what {
            What::Generate {
                batch,
                prompt,
                new,
                repeat,
                model,
            } => generate(batch, prompt, new, repeat.max(1), &model),
            What::DpoStep {
                prompt,
                completion,
                repeat,
                model,
            } => dpo_step(prompt, completion, repeat.max(1), &model),
        }
    }
}

fn generate(
    batch: usize,
    prompt: usize,
    new: usize,
    repeat: usize,
    model: &ModelArgs,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        batch > 0 && prompt > 0 && new > 1,
        "expected a batch, a prompt and at least two new tokens"
    );
    let (model, adapter) = model.load()?;
    let vocabulary = model.codec.tokenizer().vocab_size();
    let request = |i: usize, new: usize| Request {
        prompt: random_ids(&i.to_string(), prompt, vocabulary),
        max_new_tokens: new,
        sampling: Sampling::default(),
        stop: vec![],
        halt: None,
        seed: i as u64,
    };
    let time = |new: usize| -> anyhow::Result<f64> {
        let requests: Vec<Request> = (0..batch).map(|i| request(i, new)).collect();
        let started = Instant::now();
        for done in Engine::new(&model.decoder, adapter.as_ref())
            .with_slots(batch)
            .generate(&requests, |_| ())?
        {
            done?;
        }
        Ok(started.elapsed().as_secs_f64())
    };
    time(2)?;
    // One new token is prefill alone.
    let first = median((0..repeat).map(|_| time(1)).collect::<Result<_, _>>()?);
    let all = median((0..repeat).map(|_| time(new)).collect::<Result<_, _>>()?);
    let line = json!({
        "what": "generate", "batch": batch, "prompt": prompt, "new": new, "threads": tch::get_num_threads(),
        "seconds": all, "prefill_seconds": first,
        "decode_tokens_per_second": (batch * (new - 1)) as f64 / (all - first),
        "total_tokens_per_second": (batch * new) as f64 / all,
    });
    println!("{line}");
    Ok(())
}

fn dpo_step(
    prompt: usize,
    completion: usize,
    repeat: usize,
    model: &ModelArgs,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        prompt > 0 && completion > 0,
        "expected a prompt and a completion"
    );
    let (model, _) = model.load()?;
    let vocabulary = model.codec.tokenizer().vocab_size();
    let pair = PairTokens {
        prompt: random_ids("prompt", prompt, vocabulary),
        chosen: random_ids("chosen", completion, vocabulary),
        rejected: random_ids("rejected", completion, vocabulary),
        inserted: Default::default(),
    };
    let config = DpoConfig::default();
    let decoder = &model.decoder;
    let mut state = TrainState::new(
        &LoraConfig::default(),
        decoder.config(),
        OptimConfig::default(),
        0,
        decoder.device(),
    );
    let mut step = |fresh_reference: bool, known: &[(f64, f64)]| -> f64 {
        let started = Instant::now();
        let reference = match fresh_reference {
            true => reference_logprobs(decoder, &[&pair], config.loss),
            false => known.to_vec(),
        };
        accumulate(
            decoder,
            &state.adapter,
            &[&pair],
            &reference,
            &config,
            1,
            &mut DpoSums::default(),
        );
        let norm = state.optimiser.step(1e-5);
        debug_assert!(norm.is_finite());
        started.elapsed().as_secs_f64()
    };
    let reference = reference_logprobs(decoder, &[&pair], config.loss);
    step(true, &reference);
    let with = median((0..repeat).map(|_| step(true, &reference)).collect());
    let without = median((0..repeat).map(|_| step(false, &reference)).collect());
    let line = json!({
        "what": "dpo-step", "prompt": prompt, "completion": completion, "threads": tch::get_num_threads(),
        "seconds": with, "seconds_reference_known": without,
    });
    println!("{line}");
    Ok(())
}
