//! `bench`: how fast generation and training are here, on the terms of their Python twins under `scripts/bench`.

mod generate;
mod probe;
mod rounds;
mod scale;
mod step;
mod tools;
mod train;

use clap::{Args, Subcommand, ValueEnum};
use rand::Rng;
use tch::Kind;

use super::DeviceArgs;
use super::model::ModelArgs;
use crate::model::{Adapter, Decoder, LoraConfig, ModelConfig};
use crate::runtime::seed::stream;

/// Options of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Batched generation: prompts and decoding apart.
    Generate(generate::GenerateArgs),
    /// Rounds of self-evolution of several variants, as an evaluation decodes them: prompts that grow by their history.
    Rounds(rounds::RoundsArgs),
    /// One rank against several: a DPO step and a generation, shared out as training and evaluation do it.
    Scale(scale::ScaleArgs),
    /// The kernels of a step of generation, timed apart (Hopper GPUs).
    Step(step::StepArgs),
    /// Texts that call programs and go on with their results: turn by turn, and with programs beside the decoding.
    Tools(tools::ToolsArgs),
    /// A DPO or GRPO step of many sequences: speed, memory, and where the time goes.
    Train(train::TrainArgs),
    /// One LoRA DPO step on one pair: reference, forward, backward, AdamW.
    DpoStep(train::DpoStepArgs),
}

impl BenchArgs {
    /// Measure; prints a JSON line for each measurement.
    pub fn execute(self) -> anyhow::Result<()> {
        match self.what {
            What::Generate(args) => args.execute(),
            What::Rounds(args) => args.execute(),
            What::Scale(args) => args.execute(),
            What::Step(args) => args.execute(),
            What::Tools(args) => args.execute(),
            What::Train(args) => args.execute(),
            What::DpoStep(args) => args.execute(),
        }
    }
}

/// A published shape, filled with random weights: speed does not depend on what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum NamedShape {
    /// Qwen3-8B.
    #[value(name = "qwen3-8b")]
    Qwen3,
    /// Llama-3.1-8B.
    #[value(name = "llama-3.1-8b")]
    Llama3,
}

/// A model with weights, or a shape without.
#[derive(Debug, Args)]
struct Subject {
    /// Measure this shape with random weights instead of a model.
    #[arg(long, conflicts_with = "model")]
    shape: Option<NamedShape>,
    /// Put a fresh adapter of this rank on all linear layers, its B matrices filled.
    #[arg(long, value_name = "RANK", conflicts_with = "adapter")]
    lora: Option<i64>,
    #[command(flatten)]
    model: ModelArgs,
}

/// What a benchmark works on.
struct Loaded {
    decoder: Decoder,
    adapter: Option<Adapter>,
    /// Ids are drawn below this.
    vocabulary: usize,
}

impl Subject {
    fn load(&self) -> anyhow::Result<Loaded> {
        let mut loaded = match self.shape {
            Some(shape) => {
                let config = match shape {
                    NamedShape::Qwen3 => ModelConfig::qwen3_8b(),
                    NamedShape::Llama3 => ModelConfig::llama_3_1_8b(),
                };
                let device = self.device().open()?;
                let kind = if device.is_cuda() {
                    Kind::BFloat16
                } else {
                    Kind::Float
                };
                tch::manual_seed(0);
                Loaded {
                    decoder: Decoder::random(&config, kind, device)?,
                    adapter: None,
                    vocabulary: config.vocab_size as usize,
                }
            }
            None => {
                let (model, adapter) = self.model.load()?;
                let vocabulary = model.codec.tokenizer().vocab_size();
                Loaded {
                    decoder: model.decoder,
                    adapter,
                    vocabulary,
                }
            }
        };
        if let Some(rank) = self.lora {
            loaded.adapter = Some(filled_adapter(&loaded.decoder, rank, 0));
        }
        Ok(loaded)
    }

    fn device(&self) -> &DeviceArgs {
        self.model.device()
    }
}

/// An adapter that changes something: B is drawn too.
fn filled_adapter(decoder: &Decoder, rank: i64, seed: u64) -> Adapter {
    let config = LoraConfig {
        rank,
        alpha: 2.0 * rank as f64,
        ..LoraConfig::default()
    };
    let adapter = Adapter::new(&config, decoder.config(), seed, decoder.device());
    tch::manual_seed(seed as i64 + 1);
    for (name, tensor) in adapter.named() {
        if name.contains("lora_B") {
            tch::no_grad(|| {
                let _ = tensor.shallow_clone().normal_(0.0, 0.01);
            });
        }
    }
    adapter
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
