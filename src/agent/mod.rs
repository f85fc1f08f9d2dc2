//! Text in, choice out: a model with its tokenizer and chat template, and the ways to elicit a decision from it.

pub mod elicitation;
pub mod model;

pub use crate::text::RenderOptions;
pub use elicitation::{Answer, Ask, AskError, Elicitation, GenerationConfig, ScoredChoice, ask};
pub use model::{LoadedModel, ModelError, ModelSpec};
