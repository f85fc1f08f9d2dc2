//! Tests across modules, one file a feature.

mod bradley_terry;
mod choices;
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
mod sampling;
mod sandbox;
mod sandbox_attacks;
mod stages;
mod support;
