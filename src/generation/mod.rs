//! Generation: sampling and batched decoding. Ids in, ids out; no text here.

pub mod continuous;
pub mod engine;
mod host;
pub mod outside;
mod plain;
mod running;
pub mod sampling;
#[cfg(test)]
mod script;

pub use continuous::Stats;
pub use engine::{Completion, Completions, Engine, Finish, GenerationError, Halt, Request};
pub use outside::{Onward, Outside};
pub use sampling::{NotFinite, Sampling};
