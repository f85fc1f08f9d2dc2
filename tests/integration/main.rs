//! Tests across modules, one file a feature.

mod dpo;
mod grpo;
mod layers;
mod lora;
mod model;
mod optim;
mod resume;
mod stages;
mod support;
