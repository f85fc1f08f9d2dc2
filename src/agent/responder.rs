//! Who decides: a model that is loaded here, or one that is served elsewhere.

use std::sync::Arc;

use super::elicitation::{Answer, Ask, AskError, GenerationConfig, ask};
use super::endpoint::Endpoint;
use super::model::LoadedModel;
use crate::model::Adapter;
use crate::runtime::ranks::Ended;

/// A model that can be asked for decisions.
#[derive(Debug, Clone, Copy)]
pub enum Responder<'a> {
    /// With weights of its own.
    Loaded(&'a LoadedModel),
    /// By requests.
    Served(&'a Arc<Endpoint>),
}

impl<'a> Responder<'a> {
    /// The model, where it is loaded.
    pub fn loaded(self) -> Option<&'a LoadedModel> {
        match self {
            Self::Loaded(model) => Some(model),
            Self::Served(_) => None,
        }
    }

    /// Ask for many decisions; answers come in the order of the asks. `progress` is told how many more are done. A served
    /// model takes no adapter.
    pub fn ask(
        self,
        adapter: Option<&Adapter>,
        config: &GenerationConfig,
        asks: &[Ask],
        progress: impl FnMut(usize),
    ) -> Result<Vec<Result<Answer, AskError>>, Ended> {
        match self {
            Self::Loaded(model) => ask(model, adapter, config, asks, progress),
            Self::Served(endpoint) => Ok(endpoint.ask(config, asks, progress)?),
        }
    }
}
