//! Tests across modules, one file a feature.

mod batches;
mod bradley_terry;
mod choices;
mod cli;
mod coordination;
mod defences;
mod dpo;
mod faults;
mod gpu;
mod grpo;
mod kill;
mod layers;
mod lora;
mod model;
mod optim;
mod pipeline;
mod replay;
mod resume;
mod sampling;
mod sandbox;
mod sandbox_attacks;
mod scenario;
mod solve;
mod stages;
mod support;
mod testbeds;
