//! One LoRA DPO step.

use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::{median, random_ids};
use crate::cli::model::ModelArgs;
use crate::model::LoraConfig;
use crate::training::dpo_trainer::{
    DpoConfig, DpoSums, PairTokens, accumulate, reference_logprobs,
};
use crate::training::optim::OptimConfig;
use crate::training::state::TrainState;

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
    model: ModelArgs,
}

impl DpoStepArgs {
    /// Measure.
    pub fn execute(self) -> anyhow::Result<()> {
        dpo_step(
            self.prompt,
            self.completion,
            self.repeat.max(1),
            &self.model,
        )
    }
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
