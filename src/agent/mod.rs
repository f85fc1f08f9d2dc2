//! Text in, choice or solution out: a model with its tokenizer and chat template, the ways to elicit a decision from it,
//! and the loop in which it calls a tool; or a model that another program serves.

mod choosing;
mod divided;
pub mod elicitation;
pub mod endpoint;
pub mod local;
pub mod model;
mod repository;
mod responder;
pub mod scoring;
pub mod solve;

pub use crate::text::RenderOptions;
pub use elicitation::{Answer, Ask, AskError, Elicitation, GenerationConfig, ScoredChoice, ask};
pub use endpoint::{Endpoint, ServedError};
pub use model::{LoadedModel, ModelError, ModelSpec};
pub use responder::Responder;
