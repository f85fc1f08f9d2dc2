//! Where weights come from: a Hugging Face folder (safetensors, one file or shards, memory-mapped) or a GGUF file.
//!
//! Whatever the source, tensors carry the checkpoint's names, and names and shapes are checked both ways against the
//! model's shape before anything is computed: a missing, surplus or misshapen tensor is an error that names it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::SafeTensors;
use tch::{Device, Kind, TchError, Tensor};

use super::config::{ConfigError, Family, ModelConfig};
use super::gguf_names;
use super::lora::Target;
use super::tensors::{TensorFileError, read_header, to_tensor};
use crate::formats::gguf::{GgufError, GgufFile};

/// Weights that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    /// The model's description cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The GGUF file is damaged or not one.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A safetensors file is damaged or missing.
    #[error(transparent)]
    File(#[from] TensorFileError),
    /// The device does not take them.
    #[error("the weights were read, but the device refused them: {0}")]
    Device(#[from] TchError),
    /// Something in a file is not what the model needs.
    #[error("{path}: {what}: {problem}")]
    Invalid {
        /// The file or folder.
        path: PathBuf,
        /// Which field or tensor.
        what: String,
        /// Expected and got.
        problem: String,
    },
}

/// The weights of one model, not yet loaded.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    config: ModelConfig,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Shards {
        files: Vec<(PathBuf, Mmap)>,
        /// Tensor name to file and shape.
        entries: BTreeMap<String, (usize, Vec<i64>)>,
    },
    Gguf {
        file: GgufFile,
        /// Checkpoint name to name in the file and shape.
        entries: BTreeMap<String, (String, Vec<i64>)>,
    },
}

/// Buffers that some checkpoints carry and no model needs.
fn is_ignorable(name: &str, config: &ModelConfig) -> bool {
    name.ends_with("rotary_emb.inv_freq") || (config.tied_embeddings && name == "lm_head.weight")
}

impl Weights {
    /// Open a model: a folder with `config.json`, or a `.gguf` file.
    pub fn open(path: &Path) -> Result<Self, WeightError> {
        if path.is_dir() {
            Self::open_folder(path)
        } else {
            Self::open_gguf(path)
        }
    }

    fn open_gguf(path: &Path) -> Result<Self, WeightError> {
        let file = GgufFile::open(path)?;
        let config = gguf_names::config(&file)?;
        let mut entries = BTreeMap::new();
        for info in file
            .tensors()
            .iter()
            .filter(|info| info.name != gguf_names::ROPE_FREQS)
        {
            // An unknown tensor keeps its own name and is refused as surplus.
            let name = gguf_names::checkpoint_name(&info.name).unwrap_or_else(|| info.name.clone());
            let shape = info.shape().iter().map(|&n| n as i64).collect();
            entries.insert(name, (info.name.clone(), shape));
        }
        Ok(Self {
            path: path.into(),
            config,
            source: Source::Gguf { file, entries },
        })
    }

    fn open_folder(path: &Path) -> Result<Self, WeightError> {
        let config = ModelConfig::from_file(&path.join("config.json"))?;
        let index = path.join("model.safetensors.index.json");
        let names = if index.is_file() {
            shard_names(&index)?
        } else {
            vec!["model.safetensors".to_owned()]
        };
        let mut files = Vec::new();
        let mut entries = BTreeMap::new();
        for name in names {
            let shard = path.join(name);
            let map = map_file(&shard)?;
            {
                let header = read_header(&shard, &map)?;
                for (tensor, info) in header.tensors() {
                    let shape = info.shape.iter().map(|&n| n as i64).collect();
                    if entries
                        .insert(tensor.clone(), (files.len(), shape))
                        .is_some()
                    {
                        return Err(WeightError::Invalid {
                            path: shard,
                            what: format!("tensor `{tensor}`"),
                            problem: "stands in two shards".into(),
                        });
                    }
                }
            }
            files.push((shard, map));
        }
        Ok(Self {
            path: path.into(),
            config,
            source: Source::Shards { files, entries },
        })
    }

    /// Shape of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The GGUF file, where the weights are one: it holds tokenizer and template too.
    pub fn gguf(&self) -> Option<&GgufFile> {
        match &self.source {
            Source::Gguf { file, .. } => Some(file),
            Source::Shards { .. } => None,
        }
    }

    /// Files that make up the weights, for digests.
    pub fn files(&self) -> Vec<&Path> {
        match &self.source {
            Source::Gguf { .. } => vec![&self.path],
            Source::Shards { files, .. } => files.iter().map(|(path, _)| path.as_path()).collect(),
        }
    }

    fn shapes(&self) -> BTreeMap<&str, &[i64]> {
        match &self.source {
            Source::Shards { entries, .. } => entries
                .iter()
                .map(|(name, (_, shape))| (name.as_str(), shape.as_slice()))
                .collect(),
            Source::Gguf { entries, .. } => entries
                .iter()
                .map(|(name, (_, shape))| (name.as_str(), shape.as_slice()))
                .collect(),
        }
    }

    /// Compare names and shapes with what the model needs, both ways.
    pub fn check(&self) -> Result<(), WeightError> {
        let found = self.shapes();
        let expected = expected_tensors(&self.config);
        let invalid = |name: &str, problem: String| WeightError::Invalid {
            path: self.path.clone(),
            what: format!("tensor `{name}`"),
            problem,
        };
        for (name, shape) in &expected {
            match found.get(name.as_str()) {
                None => {
                    return Err(invalid(
                        name,
                        format!("expected {shape:?}, got no such tensor"),
                    ));
                }
                Some(got) if *got != shape.as_slice() => {
                    return Err(invalid(name, format!("expected {shape:?}, got {got:?}")));
                }
                Some(_) => {}
            }
        }
        for (name, shape) in found {
            if !expected.contains_key(name) && !is_ignorable(name, &self.config) {
                let problem = format!(
                    "expected no such tensor, got one of {shape:?}: the model would ignore it"
                );
                return Err(invalid(name, problem));
            }
        }
        Ok(())
    }

    /// Load one tensor by its checkpoint name.
    pub fn tensor(&self, name: &str, kind: Kind, device: Device) -> Result<Tensor, WeightError> {
        let invalid = |problem: String| WeightError::Invalid {
            path: self.path.clone(),
            what: format!("tensor `{name}`"),
            problem,
        };
        let tensor = match &self.source {
            Source::Shards { files, entries } => {
                let (shard, _) = entries
                    .get(name)
                    .ok_or_else(|| invalid("not in the checkpoint".into()))?;
                let (path, map) = &files[*shard];
                let file = SafeTensors::deserialize(map)
                    .map_err(|error| TensorFileError::damaged(path, &error))?;
                let view = file
                    .tensor(name)
                    .map_err(|error| TensorFileError::damaged(path, &error))?;
                to_tensor(path, name, &view)?
            }
            Source::Gguf { file, entries } => {
                let (stored, shape) = entries
                    .get(name)
                    .ok_or_else(|| invalid("not in the file".into()))?;
                let mut values = file.values(file.tensor(stored)?)?;
                if let Some(heads) = self.permuted_heads(name)
                    && let [outputs, inputs] = shape[..]
                {
                    values =
                        gguf_names::unpermute(&values, heads, outputs as usize, inputs as usize);
                } else if let Some(heads) = self.permuted_heads(name) {
                    values = gguf_names::unpermute(&values, heads, values.len(), 1);
                }
                Tensor::f_from_slice(&values)
                    .and_then(|t| t.f_view(shape.as_slice()))
                    .map_err(|error| invalid(error.to_string()))?
            }
        };
        if !tensor.is_floating_point() {
            return Err(invalid(format!(
                "expected F32, F16 or BF16, got {:?}",
                tensor.kind()
            )));
        }
        let placed = tensor
            .f_to_kind(kind)
            .and_then(|t| t.f_to_device(device))
            .map_err(|error| invalid(format!("could not be placed on {device:?}: {error}")))?;
        match not_finite(&placed) {
            0 => Ok(placed),
            count => Err(invalid(format!(
                "expected finite numbers, got {count} of {} that are not (NaN or infinite); the file is damaged: fetch \
                 or make it again",
                placed.numel()
            ))),
        }
    }

    /// Heads of a projection that GGUF stores in its own order: q and k of the Llama family.
    pub fn permuted_heads(&self, name: &str) -> Option<usize> {
        if self.config.family != Family::Llama {
            return None;
        }
        if name.contains(".self_attn.q_proj.") {
            Some(self.config.heads as usize)
        } else if name.contains(".self_attn.k_proj.") {
            Some(self.config.kv_heads as usize)
        } else {
            None
        }
    }
}

/// How many elements are NaN or infinite. A sum tells in one pass and without memory whether there is any to count.
fn not_finite(tensor: &Tensor) -> i64 {
    if tensor.sum(Kind::Float).double_value(&[]).is_finite() {
        return 0;
    }
    let finite = tensor.isfinite().sum(Kind::Int64).int64_value(&[]);
    tensor.numel() as i64 - finite
}

/// Every tensor the decoder needs, with its shape.
pub fn expected_tensors(config: &ModelConfig) -> BTreeMap<String, Vec<i64>> {
    let mut all = BTreeMap::new();
    all.insert(
        "model.embed_tokens.weight".into(),
        vec![config.vocab_size, config.hidden_size],
    );
    all.insert("model.norm.weight".into(), vec![config.hidden_size]);
    if !config.tied_embeddings {
        all.insert(
            "lm_head.weight".into(),
            vec![config.vocab_size, config.hidden_size],
        );
    }
    for layer in 0..config.layers {
        let mut add = |name: &str, shape: Vec<i64>| {
            all.insert(format!("model.layers.{layer}.{name}"), shape);
        };
        add("input_layernorm.weight", vec![config.hidden_size]);
        add("post_attention_layernorm.weight", vec![config.hidden_size]);
        if config.qk_norm {
            add("self_attn.q_norm.weight", vec![config.head_dim]);
            add("self_attn.k_norm.weight", vec![config.head_dim]);
        }
        for target in Target::ALL {
            let (inputs, outputs) = target.features(config);
            let in_mlp = target >= Target::GateProj;
            add(&format!("{}.weight", target.path()), vec![outputs, inputs]);
            if if in_mlp {
                config.mlp_bias
            } else {
                config.attention_bias
            } {
                add(&format!("{}.bias", target.path()), vec![outputs]);
            }
        }
    }
    all
}

fn map_file(path: &Path) -> Result<Mmap, WeightError> {
    let fail = |source| {
        WeightError::File(TensorFileError::Read {
            path: path.into(),
            source,
        })
    };
    let file = File::open(path).map_err(fail)?;
    // SAFETY: the map is read-only; weights are not changed while a run reads them, as with every mmap loader.
    unsafe { Mmap::map(&file) }.map_err(fail)
}

/// The shard files an index names, in order, each once.
fn shard_names(index: &Path) -> Result<Vec<String>, WeightError> {
    let invalid = |problem: String| WeightError::Invalid {
        path: index.into(),
        what: "field `weight_map`".into(),
        problem,
    };
    let text = std::fs::read_to_string(index).map_err(|source| TensorFileError::Read {
        path: index.into(),
        source,
    })?;
    let object: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| invalid(format!("expected JSON: {error}")))?;
    let map = object["weight_map"]
        .as_object()
        .ok_or_else(|| invalid("expected tensor names to files".into()))?;
    let mut names = std::collections::BTreeSet::new();
    for value in map.values() {
        let name = value
            .as_str()
            .filter(|n| !n.contains('/') && !n.contains(".."));
        names.insert(
            name.ok_or_else(|| invalid(format!("expected a file name, got {value}")))?
                .to_owned(),
        );
    }
    Ok(names.into_iter().collect())
}
