//! Generation on a Hopper GPU: the decoder's weights through kernels of our own, a step as one recorded graph.
//!
//! Slots are sequences under way; a step computes one token for each of up to 256 of them, samples it, and moves the
//! slots on, without the host. Keys and values lie in pages of 16 tokens, which sequences may share. Prompts are
//! computed packed, by libtorch's matrix products and flash attention and the same kernels between them.
//!
//! The order of every sum in a step depends on the row alone, so a text's later tokens do not depend on its neighbours;
//! a packed prompt's may, by libtorch's choice of algorithms for another number of rows.

mod adapters;
mod arguments;
mod decode;
mod kernels;
pub mod measure;
pub mod pages;
mod prefill;
pub mod source;
mod state;

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use super::config::ModelConfig;
use super::footprint::Footprint;
use super::lora::Adapter;
use crate::runtime::gpu::{Gpu, GpuError, Graph};
use crate::runtime::memory::empty_cache;
use adapters::Packed;
use kernels::{Kernels, Matrix};

pub use kernels::{Draw, PAGE};
pub use prefill::Prompt;
pub(super) use source::shape_macros;
pub use state::{Results, State};

/// Most sequences in a step.
pub const MOST_ROWS: usize = 256;

/// Tokens of prompts for whose computation memory is kept free.
pub const PROMPT_TOKENS: usize = 16_384;

/// One block's weights.
#[derive(Debug)]
struct Layer {
    input_norm: Tensor,
    qk_norm: Option<(Tensor, Tensor)>,
    post_norm: Tensor,
    /// In the order of `adapters::JOINT`.
    joint: [Matrix; 4],
}

/// Weights of a decoder, lent by it.
#[derive(Debug)]
pub struct Parts {
    /// `(vocab, hidden)`.
    pub embedding: Tensor,
    /// `(vocab, hidden)`.
    pub head: Tensor,
    /// `(hidden)`.
    pub norm: Tensor,
    /// `(positions, head width / 2)`.
    pub cosines: Tensor,
    /// The same.
    pub sines: Tensor,
    /// Input norm, q and k norms, post norm, the four joint projections, by layer.
    pub layers: Vec<LayerParts>,
    /// The matrices hold numbers of eight bits, times a scale for each output.
    pub bytes: bool,
}

/// Weights of one block.
#[derive(Debug)]
pub struct LayerParts {
    /// `(hidden)`.
    pub input_norm: Tensor,
    /// `(head width)` each.
    pub qk_norm: Option<(Tensor, Tensor)>,
    /// `(hidden)`.
    pub post_norm: Tensor,
    /// q k v; o; gate up; down.
    pub joint: [Tensor; 4],
    /// Of the same, where the model has any.
    pub biases: [Option<Tensor>; 4],
}

/// A decoder's weights, ready for the kernels, and what is under way.
#[derive(Debug)]
pub struct Fused {
    config: ModelConfig,
    device: Device,
    gpu: Gpu,
    kernels: Kernels,
    rank: i64,
    embedding: Tensor,
    head: Matrix,
    norm: Tensor,
    cosines: Tensor,
    sines: Tensor,
    layers: Vec<Layer>,
    adapter: Option<Packed>,
    state: Option<State>,
    /// Most pages of the cache, where it is to be smaller than memory allows.
    limit: Option<usize>,
    /// By number of rows.
    graphs: BTreeMap<u32, Graph>,
}

impl Fused {
    /// Prepare a decoder in bf16 on a GPU; an error says why it cannot be.
    pub fn new(config: &ModelConfig, parts: Parts) -> Result<Self, GpuError> {
        if let Some(why) = source::unsupported(config) {
            return Err(GpuError::Unsupported(why));
        }
        if parts.embedding.kind() != Kind::BFloat16 {
            return Err(GpuError::Unsupported(format!(
                "the fused kernels compute in bfloat16, the model is loaded in {:?}",
                parts.embedding.kind()
            )));
        }
        let device = parts.embedding.device();
        let gpu = Gpu::open(device)?;
        let (major, minor) = gpu.capability()?;
        if major != 9 {
            return Err(GpuError::Unsupported(format!(
                "the kernels of generation are made for compute capability 9.0 (Hopper), this GPU has {major}.{minor}"
            )));
        }
        let count = gpu.multiprocessors()?;
        let mut layers = Vec::with_capacity(parts.layers.len());
        for layer in parts.layers {
            let [qkv, output, gate_up, down] = layer.joint;
            layers.push(Layer {
                input_norm: layer.input_norm,
                qk_norm: layer.qk_norm,
                post_norm: layer.post_norm,
                joint: [
                    Matrix::new(&qkv, count)?,
                    Matrix::new(&output, count)?,
                    Matrix::new(&gate_up, count)?,
                    Matrix::new(&down, count)?,
                ],
            });
        }
        let head = Matrix::new(&parts.head, count)?;
        let rank = adapters::padded_rank(None);
        let kernels = Kernels::new(&gpu, config, rank, &outputs(&layers, &head))?;
        Ok(Self {
            config: config.clone(),
            device,
            gpu,
            kernels,
            rank,
            embedding: parts.embedding,
            head,
            norm: parts.norm,
            cosines: parts.cosines,
            sines: parts.sines,
            layers,
            adapter: None,
            state: None,
            limit: None,
            graphs: BTreeMap::new(),
        })
    }

    /// Use this adapter from now on, or none; gives its fingerprint, by which cached keys are known.
    ///
    /// Nothing may be under way.
    pub fn set_adapter(&mut self, adapter: Option<&Adapter>) -> Result<[f64; 2], GpuError> {
        self.gpu.synchronise()?;
        let Some(adapter) = adapter else {
            if self.adapter.take().is_some() {
                self.graphs.clear();
            }
            return Ok([0.0; 2]);
        };
        let rank = adapters::padded_rank(Some(adapter));
        if rank > source::LARGEST_RANK {
            return Err(GpuError::Unsupported(format!(
                "the fused kernels serve ranks up to {}, the adapter has {}",
                source::LARGEST_RANK,
                adapter.config.rank
            )));
        }
        if rank != self.rank {
            let outputs = outputs(&self.layers, &self.head);
            // What was recorded goes before the kernels that it launches.
            self.graphs.clear();
            self.kernels = Kernels::new(&self.gpu, &self.config, rank, &outputs)?;
            self.rank = rank;
        }
        let packed = tch::no_grad(|| {
            Packed::new(
                adapter,
                &self.config,
                &self.layers,
                self.gpu.multiprocessors()?,
            )
        })?;
        let fingerprint = packed.fingerprint;
        let same = self
            .adapter
            .as_ref()
            .is_some_and(|old| old.fingerprint == fingerprint);
        if !same {
            self.graphs.clear();
            self.adapter = Some(packed);
        }
        Ok(fingerprint)
    }

    /// What is under way, once [`Self::reserve`] was called.
    pub fn state(&mut self) -> Option<&mut State> {
        self.state.as_mut()
    }

    /// What the model needs of the memory.
    pub fn footprint(&self) -> Footprint {
        Footprint::of(&self.config, Kind::BFloat16, self.device)
    }

    /// Bytes of keys and values a page.
    pub fn page_bytes(&self) -> usize {
        self.footprint().page
    }

    /// Bytes free on the device, and in all; memory that libtorch holds back is given up first.
    pub fn memory(&self) -> Result<(usize, usize), GpuError> {
        empty_cache();
        self.gpu.memory()
    }

    /// Take no more than so many pages from now on.
    pub fn limit_pages(&mut self, limit: Option<usize>) {
        self.release();
        self.limit = limit;
    }

    /// Give up the cache and everything recorded.
    pub fn release(&mut self) {
        self.graphs.clear();
        self.state = None;
        empty_cache();
    }
}

impl Drop for Fused {
    fn drop(&mut self) {
        // What is still under way reads and writes what goes now.
        let _ = self.gpu.synchronise();
        self.graphs.clear();
    }
}

fn outputs(layers: &[Layer], head: &Matrix) -> Vec<i64> {
    let all = layers.iter().take(1).flat_map(|l| &l.joint).chain([head]);
    all.map(|m| m.shape().0).collect()
}
