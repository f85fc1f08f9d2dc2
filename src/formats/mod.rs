//! Model files as bytes: GGUF headers, metadata and tensors, and the way from its block formats to `f32`; GGUF and
//! TensorBoard's event files written.
//!
//! Nothing here knows tensors of libtorch or what a tensor is used for: names, dimensions and bytes go up, the model
//! layer gives them a meaning.

pub mod dequant;
pub mod events;
pub mod gguf;
pub mod kind;
