//! The shape of a model: one struct for every family the decoder serves, read from `config.json` or from GGUF.
//!
//! Families differ only in flags (biases, QK-norm, rope scaling), so there is one decoder. What the decoder cannot do
//! is refused here, at the one boundary, with the reason.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A model description that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or cannot be read.
    #[error("{path}: {source}; a model folder needs a `config.json`")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A field is missing, of the wrong type or of a value the decoder does not have.
    #[error("{path}: field `{field}`: {problem}")]
    Field {
        /// The file.
        path: PathBuf,
        /// The field's name in the file.
        field: String,
        /// Expected and got.
        problem: String,
    },
}

/// Which published architecture the weights belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// `LlamaForCausalLM`.
    Llama,
    /// `Qwen3ForCausalLM`: RMSNorm on each head of q and k.
    Qwen3,
}

/// Scaling of the rotary frequencies beyond the length seen in pre-training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RopeScaling {
    /// None.
    None,
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a smooth blend between
    /// (transformers, `_compute_llama3_parameters`).
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_position / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of pre-training, in tokens.
        original_max_position: f64,
    },
    /// One divisor a frequency, as GGUF stores them (`rope_freqs.weight`).
    Factors(Vec<f32>),
}

/// The shape of a decoder-only transformer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Architecture.
    pub family: Family,
    /// Rows of the embedding.
    pub vocab_size: i64,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width of the feed-forward layer.
    pub intermediate_size: i64,
    /// Number of layers.
    pub layers: i64,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads; divides `heads`.
    pub kv_heads: i64,
    /// Width of a head; need not be `hidden_size / heads`.
    pub head_dim: i64,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Rotary scaling.
    pub rope_scaling: RopeScaling,
    /// Longest context, in tokens.
    pub max_position: i64,
    /// The output head is the embedding.
    pub tied_embeddings: bool,
    /// Biases on q, k, v and o.
    pub attention_bias: bool,
    /// Biases on gate, up and down.
    pub mlp_bias: bool,
    /// RMSNorm on each head of q and k before rotation.
    pub qk_norm: bool,
}

impl ModelConfig {
    /// The shape of Qwen3-8B, for measurements without its weights.
    pub fn qwen3_8b() -> Self {
        Self {
            family: Family::Qwen3,
            vocab_size: 151_936,
            hidden_size: 4096,
            intermediate_size: 12_288,
            layers: 36,
            heads: 32,
            kv_heads: 8,
            head_dim: 128,
            rms_norm_eps: 1e-6,
            rope_theta: 1e6,
            rope_scaling: RopeScaling::None,
            max_position: 40_960,
            tied_embeddings: false,
            attention_bias: false,
            mlp_bias: false,
            qk_norm: true,
        }
    }

    /// The shape of Llama-3.1-8B, likewise.
    pub fn llama_3_1_8b() -> Self {
        Self {
            family: Family::Llama,
            vocab_size: 128_256,
            intermediate_size: 14_336,
            layers: 32,
            rms_norm_eps: 1e-5,
            rope_theta: 5e5,
            rope_scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position: 8192.0,
            },
            max_position: 131_072,
            qk_norm: false,
            ..Self::qwen3_8b()
        }
    }
}

/// Reads typed fields of one JSON object and names file and field in every error.
struct Fields<'a> {
    path: &'a Path,
    object: &'a Value,
}

impl Fields<'_> {
    fn error(&self, field: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError::Field {
            path: self.path.into(),
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// A field that is present and not null.
    fn get(&self, field: &str) -> Option<&Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    fn count(&self, field: &str) -> Result<Option<i64>, ConfigError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => match value.as_i64() {
                Some(n) if (1..=1 << 28).contains(&n) => Ok(Some(n)),
                _ => Err(self.error(
                    field,
                    format!("expected a positive whole number up to 2^28, got {value}"),
                )),
            },
        }
    }

    fn needed_count(&self, field: &str) -> Result<i64, ConfigError> {
        self.count(field)?
            .ok_or_else(|| self.error(field, "expected a positive whole number, got nothing"))
    }

    fn number(&self, field: &str) -> Result<Option<f64>, ConfigError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(x) if x.is_finite() && x > 0.0 => Ok(Some(x)),
                _ => Err(self.error(field, format!("expected a positive number, got {value}"))),
            },
        }
    }

    fn flag(&self, field: &str) -> Result<bool, ConfigError> {
        match self.get(field) {
            None => Ok(false),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.error(field, format!("expected true or false, got {value}"))),
        }
    }
}

impl ModelConfig {
    /// Read `config.json` of a Hugging Face model folder.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.into(),
            source,
        })?;
        let object: Value = serde_json::from_str(&text).map_err(|error| ConfigError::Field {
            path: path.into(),
            field: "(whole file)".into(),
            problem: format!("expected JSON: {error}"),
        })?;
        Self::from_json(path, &object)
    }

    /// Read a parsed `config.json`; `path` is for messages.
    pub fn from_json(path: &Path, object: &Value) -> Result<Self, ConfigError> {
        let fields = Fields { path, object };
        let family = match fields.get("model_type").and_then(Value::as_str) {
            Some("llama") => Family::Llama,
            Some("qwen3") => Family::Qwen3,
            other => {
                let got = other.unwrap_or("nothing");
                return Err(fields.error(
                    "model_type",
                    format!("expected `llama` or `qwen3`, got `{got}`"),
                ));
            }
        };
        match fields.get("hidden_act").and_then(Value::as_str) {
            None | Some("silu") => {}
            Some(other) => {
                return Err(fields.error("hidden_act", format!("expected `silu`, got `{other}`")));
            }
        }
        if fields.flag("use_sliding_window")? {
            return Err(fields.error(
                "use_sliding_window",
                "expected false, sliding windows are not supported",
            ));
        }
        let hidden_size = fields.needed_count("hidden_size")?;
        let heads = fields.needed_count("num_attention_heads")?;
        let kv_heads = fields.count("num_key_value_heads")?.unwrap_or(heads);
        let default_head_dim = if family == Family::Qwen3 {
            128
        } else {
            hidden_size / heads
        };
        let max_position = fields.count("max_position_embeddings")?.unwrap_or(2048);
        let (rope_theta, rope_scaling) = rope(&fields, max_position)?;
        let config = Self {
            family,
            vocab_size: fields.needed_count("vocab_size")?,
            hidden_size,
            intermediate_size: fields.needed_count("intermediate_size")?,
            layers: fields.needed_count("num_hidden_layers")?,
            heads,
            kv_heads,
            head_dim: fields.count("head_dim")?.unwrap_or(default_head_dim),
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta,
            rope_scaling,
            max_position,
            tied_embeddings: fields.flag("tie_word_embeddings")?,
            attention_bias: fields.flag("attention_bias")?,
            mlp_bias: fields.flag("mlp_bias")?,
            qk_norm: family == Family::Qwen3,
        };
        config
            .check()
            .map_err(|(field, problem)| fields.error(field, problem))?;
        Ok(config)
    }

    /// What every family must satisfy: sizes that a model can have, and relations between them. The sizes keep every
    /// product far from overflow, and what is allocated before a weight is read within reason.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        for (field, size, most) in [
            ("num_hidden_layers", self.layers, 1 << 10),
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 22),
            ("num_attention_heads", self.heads, 1 << 12),
            ("num_key_value_heads", self.kv_heads, 1 << 12),
            ("head_dim", self.head_dim, 1 << 12),
            ("vocab_size", self.vocab_size, 1 << 24),
        ] {
            if !(1..=most).contains(&size) {
                return Err((field, format!("expected 1 to {most}, got {size}")));
            }
        }
        for (field, number) in [
            ("rms_norm_eps", self.rms_norm_eps),
            ("rope_theta", self.rope_theta),
        ] {
            if !(number.is_finite() && number > 0.0) {
                return Err((field, format!("expected above 0, got {number}")));
            }
        }
        // Angles are tabulated for every position.
        let positions = (1 << 27) / self.head_dim.max(2);
        if !(1..=positions).contains(&self.max_position) {
            let problem = format!(
                "expected 1 to {positions} positions, got {}",
                self.max_position
            );
            return Err(("max_position_embeddings", problem));
        }
        if self.heads % self.kv_heads != 0 {
            let problem = format!(
                "expected a divisor of {} query heads, got {}",
                self.heads, self.kv_heads
            );
            return Err(("num_key_value_heads", problem));
        }
        if self.head_dim % 2 != 0 {
            return Err((
                "head_dim",
                format!(
                    "expected an even number (rotary pairs), got {}",
                    self.head_dim
                ),
            ));
        }
        if let RopeScaling::Factors(factors) = &self.rope_scaling
            && factors.len() as i64 != self.head_dim / 2
        {
            let problem = format!(
                "expected {} rotary factors, got {}",
                self.head_dim / 2,
                factors.len()
            );
            return Err(("rope_freqs", problem));
        }
        Ok(())
    }

    /// Number of weights, embeddings included once where they are tied.
    pub fn parameters(&self) -> i64 {
        let attention = self.hidden_size * self.head_dim * 2 * (self.heads + self.kv_heads);
        let norms = 2 * self.hidden_size + if self.qk_norm { 2 * self.head_dim } else { 0 };
        let layer = attention + 3 * self.hidden_size * self.intermediate_size + norms;
        let embeddings =
            self.vocab_size * self.hidden_size * if self.tied_embeddings { 1 } else { 2 };
        self.layers * layer + embeddings + self.hidden_size
    }
}

/// Rotary base and scaling: `rope_parameters` of transformers 5, else `rope_theta` and `rope_scaling` of older files.
fn rope(fields: &Fields, max_position: i64) -> Result<(f64, RopeScaling), ConfigError> {
    let nested = fields
        .get("rope_parameters")
        .or_else(|| fields.get("rope_scaling"));
    let top = fields.number("rope_theta")?;
    let Some(object) = nested else {
        return Ok((top.unwrap_or(10_000.0), RopeScaling::None));
    };
    let inner = Fields {
        path: fields.path,
        object,
    };
    let theta = inner.number("rope_theta")?.or(top).unwrap_or(10_000.0);
    let kind = inner
        .get("rope_type")
        .or_else(|| inner.get("type"))
        .and_then(Value::as_str)
        .unwrap_or("default");
    let scaling = match kind {
        "default" => RopeScaling::None,
        "llama3" => {
            let needed = |field: &str| {
                inner.number(field)?.ok_or_else(|| {
                    inner.error(field, "expected a number for llama3 rope, got nothing")
                })
            };
            RopeScaling::Llama3 {
                factor: needed("factor")?,
                low_freq_factor: needed("low_freq_factor")?,
                high_freq_factor: needed("high_freq_factor")?,
                original_max_position: inner
                    .number("original_max_position_embeddings")?
                    .unwrap_or(max_position as f64),
            }
        }
        other => {
            return Err(inner.error(
                "rope_type",
                format!("expected `default` or `llama3`, got `{other}`"),
            ));
        }
    };
    Ok((theta, scaling))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn base() -> Value {
        json!({"model_type": "llama", "vocab_size": 101, "hidden_size": 24, "intermediate_size": 40,
               "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2})
    }

    fn error_of(changes: Value) -> String {
        let mut object = base();
        for (key, value) in changes.as_object().expect("an object") {
            object[key] = value.clone();
        }
        ModelConfig::from_json(Path::new("m/config.json"), &object)
            .expect_err("must be refused")
            .to_string()
    }

    #[test]
    fn both_styles_of_rope_are_read_alike() {
        let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 64});
        let mut old = base();
        old["rope_theta"] = json!(500000.0);
        old["rope_scaling"] = scaling.clone();
        let mut new = base();
        new["rope_parameters"] = scaling;
        new["rope_parameters"]["rope_theta"] = json!(500000.0);
        let read = |v: &Value| ModelConfig::from_json(Path::new("c"), v).expect("valid");
        assert_eq!(read(&old), read(&new));
        assert_eq!(read(&new).rope_theta, 500000.0);
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_field_and_file() {
        for (changes, field) in [
            (json!({"model_type": "gpt2"}), "model_type"),
            (json!({"hidden_act": "gelu"}), "hidden_act"),
            (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
            (json!({"head_dim": 7}), "head_dim"),
            (json!({"vocab_size": -1}), "vocab_size"),
            (json!({"hidden_size": null}), "hidden_size"),
            (json!({"rope_scaling": {"rope_type": "yarn"}}), "rope_type"),
            (json!({"use_sliding_window": true}), "use_sliding_window"),
            (json!({"num_hidden_layers": 1 << 28}), "num_hidden_layers"),
            (json!({"num_attention_heads": 48}), "head_dim"),
            (
                json!({"max_position_embeddings": 1 << 28}),
                "max_position_embeddings",
            ),
        ] {
            let message = error_of(changes);
            assert!(
                message.contains(&format!("`{field}`")) && message.starts_with("m/config.json"),
                "{message}"
            );
        }
    }
}
