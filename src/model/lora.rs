//! LoRA adapters as a part of the decoder: a low-rank update `s · B A` beside each frozen linear layer.
//!
//! The base weights are never touched, so an adapter is switched on or off by passing it to a forward or not, and the
//! reference model of DPO and GRPO is the same model without it, or with another one. On disk an adapter is a PEFT directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand::Rng;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::config::ModelConfig;
use super::tensors::{TensorFileError, encode_safetensors, read_safetensors};
use crate::artifact::ArtifactError;
use crate::runtime::seed::stream;

/// A linear layer of a decoder block that can carry an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the names are those of the checkpoints
pub enum Target {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
}

impl Target {
    /// Every linear layer, in checkpoint order: PEFT's `all-linear` (the output head is never included).
    pub const ALL: [Self; 7] = [
        Self::QProj,
        Self::KProj,
        Self::VProj,
        Self::OProj,
        Self::GateProj,
        Self::UpProj,
        Self::DownProj,
    ];

    /// Path inside a layer, as in the checkpoint.
    pub fn path(self) -> &'static str {
        match self {
            Self::QProj => "self_attn.q_proj",
            Self::KProj => "self_attn.k_proj",
            Self::VProj => "self_attn.v_proj",
            Self::OProj => "self_attn.o_proj",
            Self::GateProj => "mlp.gate_proj",
            Self::UpProj => "mlp.up_proj",
            Self::DownProj => "mlp.down_proj",
        }
    }

    /// Name alone, as PEFT lists target modules.
    pub fn name(self) -> &'static str {
        let path = self.path();
        path.rsplit('.').next().unwrap_or(path)
    }

    /// `(in, out)` features.
    pub fn features(self, config: &ModelConfig) -> (i64, i64) {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let (queries, keys) = (
            config.heads * config.head_dim,
            config.kv_heads * config.head_dim,
        );
        match self {
            Self::QProj => (hidden, queries),
            Self::KProj | Self::VProj => (hidden, keys),
            Self::OProj => (queries, hidden),
            Self::GateProj | Self::UpProj => (hidden, wide),
            Self::DownProj => (wide, hidden),
        }
    }
}

/// Shape of an adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank r of the update.
    pub rank: i64,
    /// The update is scaled by alpha / r (by alpha / √r with `rslora`).
    pub alpha: f64,
    /// Layers that carry an update.
    pub targets: Vec<Target>,
    /// Rank-stabilised scale, alpha / √r.
    pub rslora: bool,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            targets: Target::ALL.to_vec(),
            rslora: false,
        }
    }
}

impl LoraConfig {
    /// Trainable numbers in a model of this shape.
    pub fn parameters(&self, model: &ModelConfig) -> usize {
        let of = |target: &Target| {
            let (inputs, outputs) = target.features(model);
            self.rank * (inputs + outputs)
        };
        (model.layers * self.targets.iter().map(of).sum::<i64>()) as usize
    }

    /// Factor of the update.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }
}

/// An adapter that cannot be read or does not fit.
#[derive(Debug, thiserror::Error)]
pub enum LoraError {
    /// A tensor file is damaged or missing.
    #[error(transparent)]
    Tensors(#[from] TensorFileError),
    /// Writing failed.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// `adapter_config.json` is missing or not what it should be.
    #[error("{path}: {problem}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Expected and got.
        problem: String,
    },
    /// The adapter belongs to another model.
    #[error(
        "{path}: tensor `{tensor}`: {problem}; the adapter belongs to another model or configuration"
    )]
    Mismatch {
        /// The adapter's folder.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Expected and got.
        problem: String,
    },
}

/// One update: `y += scale · (x Aᵀ) Bᵀ`.
#[derive(Debug)]
pub struct LowRank {
    /// `(r, in)`.
    pub a: Tensor,
    /// `(out, r)`.
    pub b: Tensor,
}

/// Targets that share their input and are computed as one matrix, in the order a layer computes them.
pub const JOINT: [&[Target]; 4] = [
    &[Target::QProj, Target::KProj, Target::VProj],
    &[Target::OProj],
    &[Target::GateProj, Target::UpProj],
    &[Target::DownProj],
];

/// The updates of all layers.
///
/// All matrices lie in one buffer, so that a step of the optimiser, a conversion or an exchange between processes is one
/// operation. A layer's joint projections follow one another, each with its A matrices first: they are one matrix.
#[derive(Debug)]
pub struct Adapter {
    /// Shape.
    pub config: LoraConfig,
    flat: Tensor,
    /// Where a layer's matrices begin: A and B of each target.
    starts: BTreeMap<Target, (i64, i64)>,
    /// Numbers of a layer.
    stride: i64,
    /// By layer, then by target: views of the buffer.
    layers: Vec<BTreeMap<Target, LowRank>>,
}

const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// The file that PEFT knows an adapter's folder by.
pub const CONFIG_FILE: &str = "adapter_config.json";

impl Adapter {
    /// A fresh adapter in f32: A Kaiming-uniform (√5), that is uniform within ±1/√in, and B zero, so that it changes
    /// nothing yet (Hu et al. 2021; PEFT's initialisation).
    pub fn new(config: &LoraConfig, model: &ModelConfig, seed: u64, device: Device) -> Self {
        let (mut starts, mut stride) = (BTreeMap::new(), 0);
        for joint in JOINT {
            let carried = || joint.iter().filter(|t| config.targets.contains(t));
            for &target in carried() {
                starts.insert(target, (stride, 0));
                stride += config.rank * target.features(model).0;
            }
            for &target in carried() {
                starts.entry(target).and_modify(|start| start.1 = stride);
                stride += config.rank * target.features(model).1;
            }
        }
        let flat = Tensor::zeros([stride * model.layers], (Kind::Float, device));
        let matrix = |start: i64, rows: i64, columns: i64| {
            flat.narrow(0, start, rows * columns).view([rows, columns])
        };
        let layers = (0..model.layers).map(|layer| {
            let updates = starts.iter().map(|(&target, &(a, b))| {
                let (inputs, outputs) = target.features(model);
                let bound = 1.0 / (inputs as f32).sqrt();
                let mut draw = stream(seed, &format!("lora/layers.{layer}.{}", target.path()));
                let numbers: Vec<f32> = (0..config.rank * inputs)
                    .map(|_| draw.random_range(-bound..bound))
                    .collect();
                let a = matrix(layer * stride + a, config.rank, inputs);
                a.shallow_clone()
                    .copy_(&Tensor::from_slice(&numbers).view([config.rank, inputs]));
                let b = matrix(layer * stride + b, outputs, config.rank);
                (target, LowRank { a, b })
            });
            updates.collect()
        });
        Self {
            config: config.clone(),
            layers: layers.collect(),
            starts,
            stride,
            flat,
        }
    }

    /// The same with matrices of its own.
    pub fn copied(&self) -> Self {
        let flat = self.flat.detach().copy();
        let layers = self.layers.iter().enumerate().map(|(layer, updates)| {
            let own = |start: i64, matrix: &Tensor| {
                let start = layer as i64 * self.stride + start;
                let numbers = flat.narrow(0, start, matrix.numel() as i64);
                numbers.view(matrix.size().as_slice())
            };
            let copied = updates.iter().map(|(target, LowRank { a, b })| {
                let (a_start, b_start) = self.starts[target];
                let (a, b) = (own(a_start, a), own(b_start, b));
                (*target, LowRank { a, b })
            });
            copied.collect()
        });
        Self {
            config: self.config.clone(),
            layers: layers.collect(),
            starts: self.starts.clone(),
            stride: self.stride,
            flat,
        }
    }

    /// All matrices in one buffer, `(parameters)`.
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// The A matrices of a joint projection of [`JOINT`] one below the other, `(targets · r, in)`, as a view of a buffer
    /// with this adapter's layout; none where no target carries an update.
    pub fn joint_a(&self, flat: &Tensor, layer: usize, joint: usize) -> Option<Tensor> {
        let updates = self.layers.get(layer)?;
        let mut carried = JOINT[joint]
            .iter()
            .filter_map(|t| Some((self.starts.get(t)?, updates.get(t)?)));
        let (&(start, _), first) = carried.next()?;
        let (rank, inputs) = (first.a.size()[0], first.a.size()[1]);
        let rows = rank * (1 + carried.count() as i64);
        let start = layer as i64 * self.stride + start;
        Some(flat.narrow(0, start, rows * inputs).view([rows, inputs]))
    }

    /// Where A of a target that carries an update begins in [`Self::flat`].
    pub fn start_of_a(&self, layer: usize, target: Target) -> i64 {
        layer as i64 * self.stride + self.starts[&target].0
    }

    /// Where its B begins.
    pub fn start_of_b(&self, layer: usize, target: Target) -> i64 {
        layer as i64 * self.stride + self.starts[&target].1
    }

    /// The B matrix of a target that carries an update, `(out, r)`, as a view of a buffer with this adapter's layout.
    pub fn b_of(&self, flat: &Tensor, layer: usize, target: Target) -> Tensor {
        let size = self.layers[layer][&target].b.size();
        flat.narrow(0, self.start_of_b(layer, target), size[0] * size[1])
            .view(size.as_slice())
    }

    /// The update of one layer's target.
    pub fn get(&self, layer: usize, target: Target) -> Option<&LowRank> {
        self.layers.get(layer)?.get(&target)
    }

    /// Every matrix with its name in the checkpoint, in a fixed order: the trainable parameters.
    pub fn named(&self) -> Vec<(String, Tensor)> {
        self.named_views(&self.flat)
    }

    /// As [`Self::named`], of another buffer with this adapter's layout: gradients, moments.
    pub fn named_views(&self, flat: &Tensor) -> Vec<(String, Tensor)> {
        let own = flat.data_ptr() == self.flat.data_ptr();
        let mut all = Vec::new();
        for (layer, updates) in self.layers.iter().enumerate() {
            for (target, update) in updates {
                let path = format!("base_model.model.model.layers.{layer}.{}", target.path());
                let (a_start, b_start) = self.starts[target];
                for (letter, start, matrix) in
                    [("A", a_start, &update.a), ("B", b_start, &update.b)]
                {
                    let view = match own {
                        // The matrices themselves: autograd keeps its gradients with them.
                        true => matrix.shallow_clone(),
                        false => flat
                            .narrow(0, layer as i64 * self.stride + start, matrix.numel() as i64)
                            .view(matrix.size().as_slice()),
                    };
                    all.push((format!("{path}.lora_{letter}.weight"), view));
                }
            }
        }
        all
    }

    /// Ask autograd to keep gradients for the matrices, or not to. Training needs none; tests compare with them.
    pub fn set_trainable(&self, on: bool) {
        for (_, tensor) in self.named() {
            let _ = tensor.set_requires_grad(on);
        }
    }

    /// The weights file's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, LoraError> {
        // One copy from the device for all.
        let flat = self.flat.to_device(Device::Cpu);
        Ok(encode_safetensors(&self.named_views(&flat))?)
    }

    /// Overwrite the matrices by those of a weights file's bytes; names and shapes must agree.
    pub fn decode_into(
        &self,
        path: &Path,
        tensors: &BTreeMap<String, Tensor>,
    ) -> Result<(), LoraError> {
        let mismatch = |tensor: &str, problem: String| LoraError::Mismatch {
            path: path.into(),
            tensor: tensor.into(),
            problem,
        };
        let named = self.named();
        for (name, tensor) in &named {
            let Some(loaded) = tensors.get(name) else {
                return Err(mismatch(name, "expected a tensor, got none".into()));
            };
            if loaded.size() != tensor.size() {
                return Err(mismatch(
                    name,
                    format!("expected {:?}, got {:?}", tensor.size(), loaded.size()),
                ));
            }
            tch::no_grad(|| tensor.shallow_clone().copy_(loaded));
        }
        if let Some(surplus) = tensors
            .keys()
            .find(|name| named.iter().all(|(known, _)| known != *name))
        {
            return Err(mismatch(surplus, "expected no such tensor".into()));
        }
        Ok(())
    }

    /// Write a PEFT directory.
    ///
    /// `base` is the name or path of the base model, for people and for PEFT.
    pub fn save(&self, folder: &Path, base: &str) -> Result<(), LoraError> {
        let targets: Vec<_> = self.config.targets.iter().map(|t| t.name()).collect();
        std::fs::create_dir_all(folder).map_err(ArtifactError::io("create folder", folder))?;
        let described = serde_json::json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base,
            "r": self.config.rank, "lora_alpha": self.config.alpha, "lora_dropout": 0.0, "bias": "none",
            "use_rslora": self.config.rslora, "use_dora": false, "fan_in_fan_out": false,
            "inference_mode": true, "target_modules": targets, "modules_to_save": null,
        });
        let text = serde_json::to_string_pretty(&described).expect("JSON of plain values");
        crate::artifact::write_atomic(&folder.join(CONFIG_FILE), text.as_bytes())?;
        crate::artifact::write_atomic(&folder.join(WEIGHTS_FILE), &self.encode()?)?;
        Ok(())
    }

    /// Read a PEFT directory made here or by PEFT, for this model.
    pub fn load(folder: &Path, model: &ModelConfig, device: Device) -> Result<Self, LoraError> {
        let config = read_config(&folder.join(CONFIG_FILE))?;
        let adapter = Self::new(&config, model, 0, device);
        let tensors = read_safetensors(&folder.join(WEIGHTS_FILE))?;
        adapter.decode_into(folder, &tensors)?;
        Ok(adapter)
    }
}

/// The fields of PEFT's `adapter_config.json` that this decoder has; others must be at their neutral values.
fn read_config(path: &Path) -> Result<LoraConfig, LoraError> {
    let error = |problem: String| LoraError::Config {
        path: path.into(),
        problem,
    };
    let text = std::fs::read_to_string(path).map_err(|e| {
        error(format!(
            "{e}; an adapter is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}"
        ))
    })?;
    let object: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| error(format!("expected JSON: {e}")))?;
    for (field, neutral) in [
        ("use_dora", false),
        ("fan_in_fan_out", false),
        ("lora_bias", false),
    ] {
        if object[field]
            .as_bool()
            .is_some_and(|value| value != neutral)
        {
            return Err(error(format!(
                "field `{field}`: expected {neutral}, got {}",
                object[field]
            )));
        }
    }
    for field in [
        "modules_to_save",
        "rank_pattern",
        "alpha_pattern",
        "layers_to_transform",
    ] {
        let value = &object[field];
        let empty = value.is_null()
            || value.as_object().is_some_and(|o| o.is_empty())
            || value.as_array().is_some_and(|a| a.is_empty());
        if !empty {
            return Err(error(format!(
                "field `{field}`: expected nothing, got {value}"
            )));
        }
    }
    let rank = object["r"].as_i64().filter(|r| *r > 0);
    let rank = rank.ok_or_else(|| {
        error(format!(
            "field `r`: expected a positive whole number, got {}",
            object["r"]
        ))
    })?;
    let alpha = object["lora_alpha"].as_f64();
    let alpha = alpha.ok_or_else(|| {
        error(format!(
            "field `lora_alpha`: expected a number, got {}",
            object["lora_alpha"]
        ))
    })?;
    let listed = &object["target_modules"];
    let mut targets: Vec<Target> = if listed == "all-linear" {
        Target::ALL.to_vec()
    } else {
        vec![]
    };
    for name in listed.as_array().into_iter().flatten() {
        // PEFT writes bare names or whole paths; that every layer has its matrices is checked with the tensors.
        let bare = name.as_str().and_then(|path| path.rsplit('.').next());
        let found = Target::ALL
            .into_iter()
            .find(|t| bare.is_some_and(|n| n == t.name()));
        targets.push(found.ok_or_else(|| {
            let known: Vec<_> = Target::ALL.iter().map(|t| t.name()).collect();
            error(format!(
                "field `target_modules`: expected some of {}, got {name}",
                known.join(", ")
            ))
        })?);
    }
    if targets.is_empty() {
        return Err(error(
            "field `target_modules`: expected a list of layer names, got none".into(),
        ));
    }
    targets.sort();
    targets.dedup();
    Ok(LoraConfig {
        rank,
        alpha,
        targets,
        rslora: object["use_rslora"].as_bool().unwrap_or(false),
    })
}
