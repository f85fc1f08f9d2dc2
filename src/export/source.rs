//! What is exported: a base model with its tokenizer, and an adapter that is added to its weights.

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use super::card::Trained;
use super::{ExportError, read_json};
use crate::agent::ModelSpec;
use crate::agent::model::text_codec;
use crate::model::lora::Target;
use crate::model::{Adapter, ModelConfig, Weights};
use crate::text::TextCodec;

/// Number format of exported weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// That of the model's own files; bf16 for one of quantised weights.
    Auto,
    /// 32-bit floats: what was merged is not rounded.
    Fp32,
    /// 16-bit floats.
    Fp16,
    /// bfloat16.
    Bf16,
}

/// A model to be exported.
#[derive(Debug)]
pub struct Source {
    /// Folder or file.
    pub path: PathBuf,
    /// `owner/name@commit` on the hub, or the path.
    pub origin: String,
    /// Tokenizer and template.
    pub codec: TextCodec,
    weights: Weights,
    pub(super) adapter: Option<Adapter>,
    /// What a run left beside the adapter.
    pub(super) trained: Option<Trained>,
}

impl Source {
    /// The model, with the adapter of this folder.
    ///
    /// # Errors
    /// Files that are missing or do not fit each other.
    pub fn open(spec: &ModelSpec, adapter: Option<&Path>) -> Result<Self, ExportError> {
        let (path, origin) = spec.find(Path::new("."), true)?;
        let weights = Weights::open(&path)?;
        weights.check()?;
        let (trained, loaded) = match adapter {
            Some(folder) => (
                Trained::beside(folder)?,
                Some(Adapter::load(folder, weights.config(), Device::Cpu)?),
            ),
            None => (None, None),
        };
        Ok(Self {
            codec: text_codec(&path)?,
            adapter: loaded,
            trained,
            path,
            origin,
            weights,
        })
    }

    /// Shape of the model.
    pub fn config(&self) -> &ModelConfig {
        self.weights.config()
    }

    /// The weights without the adapter.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The format that is meant.
    pub fn kind(&self, precision: Precision) -> Result<Kind, ExportError> {
        Ok(match precision {
            Precision::Fp32 => Kind::Float,
            Precision::Fp16 => Kind::Half,
            Precision::Bf16 => Kind::BFloat16,
            Precision::Auto if self.weights.gguf().is_some() => Kind::BFloat16,
            Precision::Auto => {
                let config = read_json(&self.path.join("config.json"))?;
                let named = [&config["dtype"], &config["torch_dtype"]];
                match named.into_iter().find_map(|v| v.as_str()) {
                    Some("bfloat16") => Kind::BFloat16,
                    Some("float16") => Kind::Half,
                    _ => Kind::Float,
                }
            }
        })
    }

    /// One tensor by its checkpoint name, in f32, the adapter's update added: `W + s · B A`.
    pub fn tensor(&self, name: &str) -> Result<Tensor, ExportError> {
        let base = self.weights.tensor(name, Kind::Float, Device::Cpu)?;
        let Some((update, scale)) = self.adapter.as_ref().and_then(|adapter| {
            let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
            let path = rest.strip_suffix(".weight")?;
            let target = Target::ALL.into_iter().find(|t| t.path() == path)?;
            Some((
                adapter.get(layer.parse().ok()?, target)?,
                adapter.config.scale(),
            ))
        }) else {
            return Ok(base);
        };
        tch::no_grad(|| {
            let product = update
                .b
                .to_kind(Kind::Float)
                .f_matmul(&update.a.to_kind(Kind::Float));
            product.and_then(|product| base.f_add(&(product * scale)))
        })
        .map_err(|e| ExportError::Problem(format!("tensor `{name}`: cannot add the adapter: {e}")))
    }
}
