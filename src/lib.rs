//! Train aligned LLM agents, let them evolve on their own experience, and measure whether they tip.
//!
//! The modules stand in layer order; a module imports only from those below it (a test enforces it):
//!
//! ```text
//! cli          one file a subcommand, no logic of its own
//! export       adapters, whole models, GGUF and TensorBoard logs for other programs
//! stages       the pipeline: data → pairs → train-dpo → train-grpo → evaluate → report; skip, resume, run
//! recipe       the recipe file: raw mirror, then a validated plan
//! report       tables, figures, HTML from evaluation rows
//! evaluation   self-evolution rounds, rates and intervals
//! training     preference pairs, DPO, GRPO, optimiser
//! agent        text in, choice out: a model, its tokenizer and an elicitation
//! generation   sampling and decoding: ids in, ids out
//! model        the one decoder, LoRA, weights, KV cache, the one log-probability function
//! datasets     question sets and preference pairs as Parquet
//! scenario     environments, prompts, histories, the one answer parser; no tensors
//! tool         the sandbox for model-written Python
//! text         tokenizer and chat template
//! formats      GGUF: header, metadata, dequantisation; bytes only
//! hub          files of a hub's repositories: cache, resumed and checked transfer
//! artifact     atomic files, digests, manifests, checkpoints, Parquet tables
//! runtime      devices, seeded streams, signals, progress
//! ```
#![warn(missing_docs)]

pub mod agent;
pub mod artifact;
pub mod cli;
pub mod datasets;
pub mod evaluation;
pub mod export;
pub mod formats;
pub mod generation;
pub mod hub;
pub mod model;
pub mod recipe;
pub mod report;
pub mod runtime;
pub mod scenario;
pub mod stages;
pub mod text;
pub mod tool;
pub mod training;
