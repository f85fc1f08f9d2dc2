//! The one decoder for every model family, its LoRA adapters, weights and KV cache.

pub mod backprop;
pub mod batch;
pub mod config;
pub mod decoder;
pub mod footprint;
pub mod fused;
pub mod host;
pub mod kv_cache;
pub mod logprobs;
pub mod lora;
pub mod tensors;
pub mod weights;

mod attention;
pub mod gguf_names;
mod lanes;
mod linear;
mod room;
pub mod rope;

pub use batch::{Packed, SegmentId};
pub use config::ModelConfig;
pub use decoder::Decoder;
pub use kv_cache::KvCache;
pub use lora::{Adapter, LoraConfig};
pub use weights::Weights;
