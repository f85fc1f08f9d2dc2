//! Generation: sampling and batched decoding. Ids in, ids out; no text here.

pub mod continuous;
pub mod engine;
mod host;
mod plain;
mod running;
pub mod sampling;

pub use continuous::Stats;
pub use engine::{Completion, Completions, Engine, Finish, GenerationError, Halt, Request};
pub use sampling::{NotFinite, Sampling};
