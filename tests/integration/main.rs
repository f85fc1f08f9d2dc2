//! Tests across modules, one file a feature.

mod batches;
mod cli;
mod dpo;
mod faults;
mod grpo;
mod kill;
mod layers;
mod lora;
mod model;
mod optim;
mod pipeline;
mod resume;
mod stages;
mod support;
