//! Batched generation: prompts and decoding, against what memory and arithmetic allow.

use std::time::Instant;

use anyhow::ensure;
use clap::Args;
use rand::Rng;
use serde_json::{Value, json};

use super::{Loaded, Subject, median, random_ids};
use crate::generation::{Completion, Engine, Request, Sampling, Stats};
use crate::model::footprint::Footprint;
use crate::model::fused::PAGE;
use crate::model::logprobs::{Predictors, Targets};
use crate::model::{ModelConfig, Packed};
use crate::runtime::memory;
use crate::runtime::seed::stream;

/// Options of `bench generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// Sequences side by side; several are measured one after the other.
    #[arg(long, value_delimiter = ',', default_value = "8")]
    batch: Vec<usize>,
    /// Requests in all; as many as sequences by default.
    #[arg(long)]
    requests: Option<usize>,
    /// Tokens of a prompt.
    #[arg(long, default_value_t = 200)]
    prompt: usize,
    /// Tokens generated for each.
    #[arg(long, default_value_t = 64)]
    new: usize,
    /// Lengths drawn evenly between 16 and twice those above, less 16.
    #[arg(long)]
    ragged: bool,
    /// Measured repetitions; the median is printed.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Divides the logits; 0 takes the likeliest token.
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
    /// Also compare the sampler's log-probabilities with training's, and texts in the batch with texts alone.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    subject: Subject,
}

impl GenerateArgs {
    /// Measure.
    pub fn execute(self) -> anyhow::Result<()> {
        ensure!(
            !self.batch.contains(&0) && self.prompt > 0 && self.new > 1,
            "expected a batch, a prompt and at least two new tokens"
        );
        ensure!(
            !self.ragged || self.prompt >= 16 && self.new >= 16,
            "ragged lengths are drawn from 16 on: expected --prompt and --new of at least 16"
        );
        let loaded = self.subject.load()?;
        let peak = super::probe::peak(loaded.decoder.device())?;
        if let Some(peak) = peak {
            tell!(
                "{}",
                json!({"what": "peak", "copy_bytes_per_second": peak.bytes, "bf16_operations_per_second": peak.operations})
            );
        }
        for &batch in &self.batch {
            // Every run has prompts of its own: what an earlier one left in the cache is not what is measured.
            let requests = |run: usize| self.requests(&loaded, self.requests.unwrap_or(batch), run);
            self.generate(&loaded, batch, &requests(0))?;
            let held = memory::stats(loaded.decoder.device(), true);
            let mut runs = Vec::new();
            for run in 1..=self.repeat.max(1) {
                runs.push(self.generate(&loaded, batch, &requests(run))?);
            }
            let requests = requests(1);
            let mut line = self.describe(&loaded, batch, &requests, &runs, peak);
            if let (Some(before), Some(after)) =
                (held, memory::stats(loaded.decoder.device(), false))
            {
                line["gpu_bytes_before"] = json!(before.now);
                line["gpu_bytes_after"] = json!(after.now);
                line["gpu_bytes_most"] = json!(after.most);
            }
            if self.check {
                line["check"] = self.compare(&loaded, &requests, &runs[0].1)?;
            }
            tell!("{line}");
        }
        Ok(())
    }

    fn requests(&self, loaded: &Loaded, count: usize, run: usize) -> Vec<Request> {
        let mut draw = stream(0, "bench/lengths");
        let mut length = |mean: usize| match self.ragged {
            true => draw.random_range(16..=2 * mean - 16),
            false => mean,
        };
        let lengths: Vec<(usize, usize)> = (0..count)
            .map(|_| (length(self.prompt), length(self.new)))
            .collect();
        let request = |(i, (prompt, new)): (usize, (usize, usize))| Request {
            prompt: random_ids(&format!("{run}/{i}"), prompt, loaded.vocabulary),
            max_new_tokens: new,
            sampling: Sampling {
                temperature: self.temperature,
                ..Sampling::default()
            },
            stop: vec![],
            halt: None,
            seed: i as u64,
        };
        lengths.into_iter().enumerate().map(request).collect()
    }

    /// Gives the seconds, the texts and what was done.
    fn generate(
        &self,
        loaded: &Loaded,
        batch: usize,
        requests: &[Request],
    ) -> anyhow::Result<(f64, Vec<Completion>, Stats)> {
        let started = Instant::now();
        let engine = Engine::new(&loaded.decoder, loaded.adapter.as_ref()).with_slots(batch);
        let (done, stats) = engine.generate_measured(requests, |_| ())?;
        let texts = done.into_iter().collect::<Result<_, _>>()?;
        Ok((started.elapsed().as_secs_f64(), texts, stats))
    }

    fn describe(
        &self,
        loaded: &Loaded,
        batch: usize,
        requests: &[Request],
        runs: &[(f64, Vec<Completion>, Stats)],
        peak: Option<super::probe::Peak>,
    ) -> Value {
        let config = loaded.decoder.config();
        let new: usize = runs[0].1.iter().map(|c| c.tokens.len()).sum();
        let prompts: usize = requests.iter().map(|r| r.prompt.len()).sum();
        let seconds = median(runs.iter().map(|r| r.0).collect());
        let stats = runs[0].2;
        // Where the path does not tell, prompts are timed by generating one token.
        let first = match stats.steps {
            0 => {
                let one: Vec<Request> = requests
                    .iter()
                    .map(|r| Request {
                        max_new_tokens: 1,
                        ..r.clone()
                    })
                    .collect();
                let timed = (0..self.repeat.max(1))
                    .filter_map(|_| Some(self.generate(loaded, batch, &one).ok()?.0));
                median(timed.collect())
            }
            _ => median(runs.iter().map(|r| r.2.prompt_seconds).collect()),
        };
        let total = match stats.steps {
            0 => seconds,
            _ => median(
                runs.iter()
                    .map(|r| r.2.seconds - r.2.setup_seconds)
                    .collect(),
            ),
        };
        let decoded = (new - requests.len()) as f64;
        let mut line = json!({
            "what": "generate", "batch": batch, "requests": requests.len(), "prompt": self.prompt, "new": self.new,
            "ragged": self.ragged, "lora": loaded.adapter.as_ref().map(|a| a.config.rank), "threads": tch::get_num_threads(),
            "seconds": seconds, "prefill_seconds": first,
            "decode_tokens_per_second": decoded / (total - first),
            "total_tokens_per_second": new as f64 / seconds,
            "prompt_tokens_per_second": prompts as f64 / first,
        });
        if let Some(peak) = peak.filter(|_| stats.steps > 0) {
            let context = (prompts as f64 + new as f64 / 2.0) / requests.len() as f64;
            let step = (total - first) / stats.steps as f64;
            let rows = decoded / stats.steps as f64;
            let token = Footprint::of(config, loaded.decoder.kind(), loaded.decoder.device()).page
                as f64
                / PAGE as f64;
            let bytes = weight_bytes(config) + rows * context * token;
            let operations = prompts as f64
                * 2.0
                * (config.parameters() as f64
                    - 2.0 * (config.vocab_size * config.hidden_size) as f64);
            line["steps"] = json!(stats.steps);
            line["step_seconds"] = json!(step);
            line["rows_a_step"] = json!(rows);
            line["bytes_a_step"] = json!(bytes);
            line["share_of_copy_bandwidth"] = json!(bytes / step / peak.bytes);
            line["share_of_peak_in_prompts"] = json!(operations / first / peak.operations);
            line["preempted"] = json!(stats.preempted);
            line["setup_seconds"] = json!(stats.setup_seconds);
            line["cache_bytes"] = json!(stats.cache_bytes);
        }
        line
    }

    /// Sampler against training, and batch against alone, on the first texts.
    fn compare(
        &self,
        loaded: &Loaded,
        requests: &[Request],
        texts: &[Completion],
    ) -> anyhow::Result<Value> {
        let count = texts.len().min(8);
        let (mut sum, mut most, mut tokens, mut same) = (0.0f64, 0.0f64, 0usize, 0usize);
        let mut first_other = Vec::new();
        for (request, text) in requests.iter().zip(texts).take(count) {
            let mut batch = Packed::new();
            let root = batch.root(&request.prompt);
            let child = batch.child(root, &text.tokens);
            let temperature = if self.temperature > 0.0 {
                self.temperature
            } else {
                1.0
            };
            let mut targets = Targets::default();
            targets.push(&batch.predictors(child), &text.tokens, temperature);
            let hidden = tch::no_grad(|| loaded.decoder.hidden(&batch, loaded.adapter.as_ref()));
            let scored = Predictors::new(&loaded.decoder, &hidden, &targets)?.score()?;
            let trained: Vec<f32> = Vec::try_from(scored.logprobs.to_device(tch::Device::Cpu))?;
            for (a, b) in trained.iter().zip(&text.logprobs) {
                let difference = f64::from((a - b).abs());
                sum += difference;
                most = most.max(difference);
                tokens += 1;
            }
            loaded.decoder.release_cache();
            let (_, alone, _) = self.generate(loaded, 1, std::slice::from_ref(request))?;
            let equal = alone[0]
                .tokens
                .iter()
                .zip(&text.tokens)
                .take_while(|(a, b)| a == b)
                .count();
            same += usize::from(alone[0].tokens == text.tokens);
            first_other.push(equal);
        }
        Ok(json!({
            "texts": count, "tokens": tokens,
            "logprob_difference_mean": sum / tokens as f64, "logprob_difference_most": most,
            "equal_alone": same, "tokens_equal_alone": first_other,
        }))
    }
}

/// Bytes of weights that a step reads: all but the embedding's table.
pub fn weight_bytes(config: &ModelConfig) -> f64 {
    let table = if config.tied_embeddings {
        0
    } else {
        config.vocab_size * config.hidden_size
    };
    2.0 * (config.parameters() - table) as f64
}
