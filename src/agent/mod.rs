//! Text in, choice or solution out: a model with its tokenizer and chat template, the ways to elicit a decision from it,
//! and the loop in which it calls a tool.

pub mod elicitation;
pub mod model;
pub mod solve;

pub use crate::text::RenderOptions;
pub use elicitation::{Answer, Ask, AskError, Elicitation, GenerationConfig, ScoredChoice, ask};
pub use model::{LoadedModel, ModelError, ModelSpec};
