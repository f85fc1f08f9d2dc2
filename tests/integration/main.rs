//! Tests across modules, one file a feature.

mod cli;
mod dpo;
mod grpo;
mod kill;
mod layers;
mod lora;
mod model;
mod optim;
mod pipeline;
mod resume;
mod scenario;
mod stages;
mod support;
