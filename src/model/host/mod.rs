//! Generation on a CPU: the decoder's weights in panels, a forward as a few hundred short phases of one team of threads.
//!
//! A pass computes any tokens of any sequences whose earlier tokens are in the cache. Whatever is computed for a token
//! depends on the token and what comes before it in its text alone, bit for bit: on no neighbour in the batch, on no
//! other split of a prompt, and not on whether the keys of its beginning were computed for it or found in the cache.
//! Activations, keys and values are f32 whatever the weights are.

pub mod cache;
pub mod panels;

mod attention;
mod buffer;
mod forward;
pub mod product;
mod rows;
mod tiles;
pub mod training;
mod updates;

use tch::Tensor;

use super::config::ModelConfig;
use super::fused::Parts;
use super::fused::pages::Key;
use super::lanes::Simd;
use super::lora::Adapter;
use crate::runtime::memory::{available_on_host, gib};
use buffer::{Buffer, numbers};
use cache::Cache;
use forward::Scratch;
use panels::Panels;
use updates::{Updates, key_of};

pub use forward::Stretch;

/// One block's weights.
#[derive(Debug)]
struct Layer {
    input_norm: Vec<f32>,
    qk_norm: Option<(Vec<f32>, Vec<f32>)>,
    post_norm: Vec<f32>,
    /// q k v; o; gate up; down.
    joint: [Panels; 4],
    biases: [Option<Vec<f32>>; 4],
}

/// A decoder's weights, ready for the kernels, and the cache of keys and values.
#[derive(Debug)]
pub struct Host {
    config: ModelConfig,
    simd: Simd,
    /// `(vocabulary, hidden)`, as the decoder has it.
    embedding: Tensor,
    head: Panels,
    norm: Vec<f32>,
    /// `(positions, half a head)`.
    cosines: Tensor,
    sines: Tensor,
    layers: Vec<Layer>,
    updates: Option<Updates>,
    cache: Cache,
    scratch: Scratch,
    logits: Buffer<f32>,
}

impl Host {
    /// Prepare a decoder on a CPU; an error says why it cannot be.
    pub fn new(config: &ModelConfig, parts: Parts) -> Result<Self, String> {
        let (size, panels): (usize, fn(&Tensor) -> Panels) = match parts.bytes {
            true => (1, Panels::of_bytes),
            false => (parts.embedding.kind().elt_size_in_bytes(), Panels::new),
        };
        let needed = config.parameters() as usize * size;
        if let Some(free) = available_on_host().filter(|free| needed > free / 10 * 9) {
            return Err(format!(
                "its copy of the weights takes {:.2} GiB, {:.2} GiB of memory are free",
                gib(needed),
                gib(free)
            ));
        }
        let copy = |tensor: &Tensor| numbers(tensor, <[f32]>::to_vec);
        let layers = parts.layers.iter().map(|layer| Layer {
            input_norm: copy(&layer.input_norm),
            qk_norm: layer.qk_norm.as_ref().map(|(q, k)| (copy(q), copy(k))),
            post_norm: copy(&layer.post_norm),
            joint: layer.joint.each_ref().map(panels),
            biases: layer.biases.each_ref().map(|b| b.as_ref().map(copy)),
        });
        Ok(Self {
            simd: Simd::best(),
            head: panels(&parts.head),
            norm: copy(&parts.norm),
            layers: layers.collect(),
            embedding: parts.embedding,
            cosines: parts.cosines,
            sines: parts.sines,
            updates: None,
            cache: Cache::new(config),
            scratch: Scratch::default(),
            logits: Buffer::new(0),
            config: config.clone(),
        })
    }

    /// Use this adapter from now on, or none; gives the name by which keys and values under these weights are known.
    pub fn set_adapter(&mut self, adapter: Option<&Adapter>) -> Key {
        let Some(adapter) = adapter else {
            self.updates = None;
            return [0; 32];
        };
        let key = key_of(adapter);
        if self.updates.as_ref().is_none_or(|old| old.key != key) {
            let outputs = |target: super::lora::Target| target.features(&self.config).1;
            self.updates = Some(Updates::new(adapter, key, self.layers.len(), outputs));
        }
        key
    }

    /// Shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Keys and values.
    pub fn cache(&mut self) -> &mut Cache {
        &mut self.cache
    }

    /// Give up the cache.
    pub fn release(&mut self) {
        self.cache = Cache::new(&self.config);
    }
}
