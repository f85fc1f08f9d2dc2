//! Options that name a model and an adapter.

use std::path::{Path, PathBuf};

use clap::Args;

use super::DeviceArgs;
use crate::agent::model::{EMBEDDED, Precision};
use crate::agent::{LoadedModel, ModelSpec};
use crate::model::Adapter;

/// A model, an adapter, a device.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Folder, .gguf file, embedded name, or owner/name on the hub.
    #[arg(long, default_value = EMBEDDED)]
    model: String,
    /// Adapter folder, as PEFT or `train` writes it.
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// Precision of the weights: auto (bf16 on a GPU, fp32 on a CPU), fp32, bf16, or int8 (on a CPU).
    #[arg(long, default_value = "auto", value_parser = precision)]
    precision: Precision,
    #[command(flatten)]
    device: DeviceArgs,
}

fn precision(text: &str) -> Result<Precision, String> {
    match text {
        "auto" => Ok(Precision::Auto),
        "fp32" => Ok(Precision::Fp32),
        "bf16" => Ok(Precision::Bf16),
        "int8" => Ok(Precision::Int8),
        other => Err(format!("expected auto, fp32, bf16 or int8, got `{other}`")),
    }
}

impl ModelArgs {
    /// Where it is to run.
    pub fn device(&self) -> &DeviceArgs {
        &self.device
    }

    /// What the model is called: the last part of its name.
    pub fn name(&self) -> String {
        let name = self.model.trim_end_matches('/').rsplit('/').next();
        name.unwrap_or(&self.model).to_owned()
    }

    /// The same, and the adapter's folder after a `+`.
    pub fn name_with_adapter(&self) -> String {
        let folder = self.adapter.as_deref().and_then(Path::file_name);
        match folder {
            Some(folder) => format!("{}+{}", self.name(), folder.to_string_lossy()),
            None => self.name(),
        }
    }

    /// Options of the device, to be narrowed to one rank's.
    pub fn device_mut(&mut self) -> &mut DeviceArgs {
        &mut self.device
    }

    /// Load both.
    pub fn load(&self) -> anyhow::Result<(LoadedModel, Option<Adapter>)> {
        let device = self.device.open()?;
        let path = ModelSpec::new(&self.model).resolve(Path::new("."), true)?;
        let model = LoadedModel::load(&path, self.precision, device)?;
        let adapter = match &self.adapter {
            Some(folder) => Some(Adapter::load(folder, model.decoder.config(), device)?),
            None => None,
        };
        Ok((model, adapter))
    }
}
