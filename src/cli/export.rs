//! `export`: what other programs load.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use serde::Serialize;

use crate::agent::ModelSpec;
use crate::artifact::{ArtifactError, Manifest};
use crate::export::adapter::write_adapter;
use crate::export::gguf::write_gguf;
use crate::export::merged::write_merged;
use crate::export::tensorboard::write_events;
use crate::export::{Precision, Source};
use crate::model::lora::CONFIG_FILE;

/// Options of `export`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true)
    .args(["merged", "gguf", "peft", "tensorboard"]))]
pub struct ExportArgs {
    /// Adapter folder, as training leaves it: runs/laptop/latest/train-dpo/adapter.
    #[arg(long, value_name = "FOLDER")]
    adapter: Option<PathBuf>,
    /// Base model: folder, .gguf file, embedded name, or owner/name on the hub. Without it, the one the adapter was trained
    /// on.
    #[arg(long)]
    model: Option<String>,
    /// Write model and adapter as one Hugging Face folder: configuration, tokenizer, template, safetensors, card.
    #[arg(long, value_name = "FOLDER")]
    merged: Option<PathBuf>,
    /// Write model and adapter as one GGUF file, for llama.cpp and what is built on it.
    #[arg(long, value_name = "FILE")]
    gguf: Option<PathBuf>,
    /// Write the adapter as a PEFT folder with its card, for peft and vLLM.
    #[arg(long, value_name = "FOLDER", requires = "adapter")]
    peft: Option<PathBuf>,
    /// Name of the base model on the hub, for --peft, where the run does not know it.
    #[arg(long, value_name = "OWNER/NAME", requires = "peft")]
    base_name: Option<String>,
    /// Number format of --merged and --gguf; auto is the model's own (bf16 for a quantised one). What is merged is rounded
    /// to it: fp32 alone keeps the adapter's update exactly.
    #[arg(long, value_enum, default_value = "auto")]
    precision: Precision,
    /// Most megabytes a weights file of --merged.
    #[arg(long, value_name = "MB", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    shard: u64,
    /// Run directory of --tensorboard.
    #[arg(long, value_name = "FOLDER")]
    run: Option<PathBuf>,
    /// Write training metrics and evaluation rates of --run as a folder for `tensorboard --logdir`.
    #[arg(long, value_name = "FOLDER", requires = "run")]
    tensorboard: Option<PathBuf>,
    /// Print JSON: what was written, and where.
    #[arg(long)]
    json: bool,
}

/// What was written.
#[derive(Debug, Serialize)]
struct Written {
    what: &'static str,
    path: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    stages: Option<Vec<String>>,
}

impl ExportArgs {
    /// Write what was asked for.
    pub fn execute(self) -> anyhow::Result<()> {
        let written = self.write()?;
        if self.json {
            tell!("{}", serde_json::to_string_pretty(&written)?);
        }
        Ok(())
    }

    /// Each part is told as soon as it is there: a later one may fail.
    fn write(&self) -> anyhow::Result<Vec<Written>> {
        let mut written = vec![];
        let mut tell = |what, path: &Path, stages: Option<Vec<String>>| {
            match &stages {
                _ if self.json => {}
                Some(stages) => tell!("{}: {}", path.display(), stages.join(", ")),
                None => tell!("{}", path.display()),
            }
            let path = path.to_path_buf();
            written.push(Written { what, path, stages });
        };
        if let (Some(run), Some(folder)) = (&self.run, &self.tensorboard) {
            let stages = write_events(run, folder)?;
            tell("tensorboard", folder, Some(stages));
        }
        if let (Some(adapter), Some(folder)) = (&self.adapter, &self.peft) {
            write_adapter(adapter, folder, self.base_name.as_deref())?;
            tell("peft", folder, None);
        }
        if self.merged.is_none() && self.gguf.is_none() {
            return Ok(written);
        }
        let model = match (&self.model, &self.adapter) {
            (Some(model), _) => model.clone(),
            (None, Some(adapter)) => trained_on(adapter)?,
            (None, None) => bail!("name a model by --model, an adapter by --adapter, or both"),
        };
        let source = Source::open(&ModelSpec::new(model), self.adapter.as_deref())?;
        if let Some(folder) = &self.merged {
            write_merged(&source, folder, self.precision, self.shard * 1_000_000)?;
            tell("merged", folder, None);
        }
        if let Some(file) = &self.gguf {
            write_gguf(&source, file, self.precision)?;
            tell("gguf", file, None);
        }
        Ok(written)
    }
}

/// The model that an adapter's training read, by the manifest beside it or the adapter's own configuration.
fn trained_on(adapter: &Path) -> anyhow::Result<String> {
    let absolute = std::fs::canonicalize(adapter).unwrap_or_else(|_| adapter.to_path_buf());
    let stage = absolute.parent().unwrap_or(&absolute);
    if let Some(manifest) = Manifest::load(stage)?
        && let Some(origin) = manifest.inputs.get("model")
    {
        return Ok(origin.clone());
    }
    let path = adapter.join(CONFIG_FILE);
    let text = std::fs::read_to_string(&path).map_err(ArtifactError::io("read", &path))?;
    let config: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    match config["base_model_name_or_path"].as_str() {
        Some(base) if !base.is_empty() => Ok(base.to_owned()),
        _ => bail!(
            "{}: it names no base model; name it by --model",
            path.display()
        ),
    }
}
