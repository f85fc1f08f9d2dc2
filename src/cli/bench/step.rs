//! Where a step of generation goes: its kernels timed apart, and the builds of the matrix product beside each other.

use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::{Subject, probe};

/// Options of `bench step`.
#[derive(Debug, Args)]
pub struct StepArgs {
    /// Texts under way; several are measured one after the other.
    #[arg(long, value_delimiter = ',', default_value = "64", value_parser = clap::value_parser!(u32).range(1..=256))]
    batch: Vec<u32>,
    /// Tokens of each in the cache.
    #[arg(long, default_value_t = 512)]
    context: usize,
    /// Also time every build of the matrix product that could serve, on every matrix.
    #[arg(long)]
    products: bool,
    /// Steps a measurement.
    #[arg(long, default_value_t = 20)]
    repeat: usize,
    #[command(flatten)]
    subject: Subject,
}

impl StepArgs {
    /// Measure; prints a JSON line a piece.
    pub fn execute(self) -> anyhow::Result<()> {
        let loaded = self.subject.load()?;
        let peak = probe::peak(loaded.decoder.device())?;
        let mut fused = loaded.decoder.fused().context(
            "`bench step` times the kernels of Hopper GPUs, and this is none, or not in bf16",
        )?;
        let peak = peak.context("no GPU")?;
        fused.set_adapter(loaded.adapter.as_ref())?;
        for &batch in &self.batch {
            let pieces = fused.measure(batch, self.context, self.repeat)?;
            let all: f64 = pieces.iter().map(|p| p.seconds).sum();
            for piece in pieces {
                tell!(
                    "{}",
                    json!({
                        "what": "piece", "batch": batch, "context": self.context, "piece": piece.name,
                        "launches": piece.launches, "seconds": piece.seconds, "share": piece.seconds / all,
                        "bytes_per_second": piece.bytes / piece.seconds,
                        "operations_per_second": piece.operations / piece.seconds,
                        "least_seconds": (piece.bytes / peak.bytes).max(piece.operations / peak.operations),
                    })
                );
            }
            tell!(
                "{}",
                json!({"what": "pieces", "batch": batch, "seconds": all, "tokens_per_second": f64::from(batch) / all})
            );
            if self.products {
                for trial in fused.try_products(batch, self.repeat)? {
                    tell!(
                        "{}",
                        json!({
                            "what": "product", "batch": batch, "matrix": trial.name, "groups": trial.product.groups,
                            "split": trial.product.split, "stages": trial.product.stages, "chosen": trial.chosen,
                            "blocks": trial.blocks.0, "at_once": trial.blocks.1, "seconds": trial.seconds,
                        })
                    );
                }
            }
        }
        Ok(())
    }
}
