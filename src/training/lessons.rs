//! What an agent is trained on by a method: all of it, or a draw for a few steps.

use rand::seq::SliceRandom;

use super::dpo_trainer::{DpoConfig, train_dpo};
use super::grpo_trainer::{Group, GrpoConfig, KlReference, RolloutSource, train_grpo};
use super::optim::{OptimConfig, Schedule};
use super::{TrainContext, TrainError};
use crate::datasets::pairs::PreferencePair;
use crate::model::Adapter;
use crate::runtime::seed::stream;

/// A training set and the settings of the method that learns from it.
#[derive(Clone, Copy)]
pub enum Lessons<'a> {
    /// By DPO.
    Dpo {
        /// The pairs.
        pairs: &'a [PreferencePair],
        /// The method's settings.
        config: &'a DpoConfig,
    },
    /// By GRPO.
    Grpo {
        /// What is asked, and how answers are judged.
        source: &'a dyn RolloutSource,
        /// The method's settings.
        config: &'a GrpoConfig,
    },
}

impl Lessons<'_> {
    /// Train a fresh adapter, or `start` further.
    ///
    /// # Errors
    /// See [`TrainError`].
    pub fn train(
        &self,
        context: &TrainContext,
        start: Option<Adapter>,
    ) -> Result<Adapter, TrainError> {
        match self {
            Self::Dpo { pairs, config } => train_dpo(context, pairs, config, start),
            Self::Grpo { source, config } => train_grpo(context, *source, config, start),
        }
    }

    /// Train an adapter for a few steps: at most `steps` batches, drawn from the whole set, each used once, by a fresh
    /// optimiser at a constant rate (`lr`, or else the method's peak), with a checkpoint a step. The reference is the model
    /// without an adapter.
    ///
    /// # Errors
    /// See [`TrainError`].
    pub fn refresh(
        &self,
        context: &TrainContext,
        start: Adapter,
        steps: u64,
        lr: Option<f64>,
    ) -> Result<Adapter, TrainError> {
        let draw = |all: usize, batch: usize| {
            let mut places: Vec<usize> = (0..all).collect();
            places.shuffle(&mut stream(context.seed, "lessons"));
            places.truncate(batch.saturating_mul(steps as usize).max(1));
            places
        };
        let optim = |method: OptimConfig| OptimConfig {
            lr: lr.unwrap_or(method.lr),
            schedule: Schedule::Constant,
            warmup_ratio: 0.0,
            ..method
        };
        match self {
            Self::Dpo { pairs, config } => {
                let drawn = draw(pairs.len(), config.micro_batch * config.accumulation);
                let drawn: Vec<PreferencePair> = drawn.iter().map(|&i| pairs[i].clone()).collect();
                let config = DpoConfig {
                    epochs: 1,
                    checkpoint_every: 1,
                    optim: optim(config.optim),
                    ..(*config).clone()
                };
                train_dpo(context, &drawn, &config, Some(start))
            }
            Self::Grpo { source, config } => {
                let part = Part {
                    places: draw(source.prompts(), config.prompts_per_step),
                    source: *source,
                };
                let config = GrpoConfig {
                    epochs: 1,
                    checkpoint_every: 1,
                    // As in DPO: were it where each of several trainings begins, it would move with them.
                    reference: KlReference::Base,
                    optim: optim(config.optim),
                    ..(*config).clone()
                };
                train_grpo(context, &part, &config, Some(start))
            }
        }
    }
}

/// Some prompts of a source.
struct Part<'a> {
    places: Vec<usize>,
    source: &'a dyn RolloutSource,
}

impl RolloutSource for Part<'_> {
    fn prompts(&self) -> usize {
        self.places.len()
    }

    fn most_actions(&self) -> usize {
        self.source.most_actions()
    }

    fn collect(
        &self,
        context: &TrainContext,
        adapter: &Adapter,
        places: &[usize],
        group: usize,
        step: u64,
    ) -> Result<Vec<Group>, TrainError> {
        let places: Vec<usize> = places.iter().map(|&place| self.places[place]).collect();
        self.source.collect(context, adapter, &places, group, step)
    }
}
