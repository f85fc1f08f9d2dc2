//! Whose weights answer in a round: those of one adapter throughout, or of one that is trained on between rounds.

use std::path::{Path, PathBuf};

use rand::seq::SliceRandom;

use super::rounds::EvaluationError;
use crate::agent::{LoadedModel, RenderOptions};
use crate::artifact::Checkpoints;
use crate::datasets::pairs::PreferencePair;
use crate::model::Adapter;
use crate::runtime::seed::{derive, stream};
use crate::scenario::defence::Realignment;
use crate::training::dpo_trainer::{DpoConfig, train_dpo};
use crate::training::grpo_trainer::{Group, GrpoConfig, RolloutSource, train_grpo};
use crate::training::optim::{OptimConfig, Schedule};
use crate::training::{TrainContext, TrainError};

/// The adapter of the agents that are evaluated.
pub trait Weights {
    /// The one in effect in this round, from 1; none for the untrained model. Rounds are asked for in their order, a
    /// resumed evaluation begins with the round it goes on with.
    ///
    /// # Errors
    /// Training between rounds that cannot go on, or was told to stop.
    fn in_round(&mut self, round: u32) -> Result<Option<&Adapter>, EvaluationError>;
}

/// The same weights in all rounds.
impl Weights for Option<&Adapter> {
    fn in_round(&mut self, _: u32) -> Result<Option<&Adapter>, EvaluationError> {
        Ok(*self)
    }
}

/// What an adapter is trained on between rounds.
pub enum Lessons<'a> {
    /// By DPO.
    Dpo {
        /// The training set.
        pairs: &'a [PreferencePair],
        /// The method's settings.
        config: &'a DpoConfig,
    },
    /// By GRPO.
    Grpo {
        /// The training set.
        source: &'a dyn RolloutSource,
        /// The method's settings.
        config: &'a GrpoConfig,
    },
}

/// Where realignment leaves its files.
pub struct RealignmentFolders<'a> {
    /// For adapters and metrics: a folder of its own after each round.
    pub out: &'a Path,
    /// For checkpoints of the training; the adapter after every round can be had from here again.
    pub checkpoints: &'a Path,
    /// Name of the base model, for the adapters' description.
    pub base: &'a str,
}

/// An adapter that takes some training steps after rounds.
///
/// Each time, the lessons are a draw from the training set as large as the steps need, and the training is a run of its
/// own with a fresh optimiser and a checkpoint a step. So an evaluation that was stopped finds all of its adapters again.
pub struct Realigned<'a> {
    /// When, and how much.
    pub plan: Realignment,
    /// Rounds of the evaluation.
    pub rounds: u32,
    /// On what.
    pub lessons: Lessons<'a>,
    /// The frozen model.
    pub model: &'a LoadedModel,
    /// How conversations are rendered.
    pub render: &'a RenderOptions,
    /// Root of the random streams.
    pub seed: u64,
    /// Where files go.
    pub folders: RealignmentFolders<'a>,
    adapter: Option<Adapter>,
    /// The last round that was looked at for what comes after it.
    after: u32,
}

impl<'a> Realigned<'a> {
    /// Begin with this adapter.
    pub fn new(
        plan: Realignment,
        rounds: u32,
        lessons: Lessons<'a>,
        model: (&'a LoadedModel, &'a RenderOptions),
        seed: u64,
        folders: RealignmentFolders<'a>,
        adapter: Adapter,
    ) -> Self {
        Self {
            plan,
            rounds,
            lessons,
            model: model.0,
            render: model.1,
            seed,
            folders,
            adapter: Some(adapter),
            after: 0,
        }
    }

    /// Train after this round.
    fn train(&self, round: u32, adapter: Adapter) -> Result<Adapter, TrainError> {
        let name = format!("after-round-{round}");
        let folder: PathBuf = self.folders.out.join(&name);
        std::fs::create_dir_all(&folder)
            .map_err(crate::artifact::ArtifactError::io("create folder", &folder))?;
        let checkpoints = Checkpoints::new(self.folders.checkpoints.join(&name), 2);
        let seed = derive(self.seed, &format!("realignment/{name}"));
        let context = TrainContext {
            model: self.model,
            render: self.render,
            seed,
            folder: &folder,
            checkpoints: &checkpoints,
        };
        tracing::info!("realignment after round {round}");
        let adapter = match &self.lessons {
            Lessons::Dpo { pairs, config } => {
                let batch = config.micro_batch * config.accumulation;
                let drawn = self.draw(pairs.len(), batch, seed);
                let drawn: Vec<PreferencePair> = drawn.iter().map(|&i| pairs[i].clone()).collect();
                let config = DpoConfig {
                    epochs: 1,
                    checkpoint_every: 1,
                    optim: self.optim(config.optim),
                    ..(*config).clone()
                };
                train_dpo(&context, &drawn, &config, Some(adapter))?
            }
            Lessons::Grpo { source, config } => {
                let part = Part {
                    places: self.draw(source.prompts(), config.prompts_per_step, seed),
                    source: *source,
                };
                let config = GrpoConfig {
                    epochs: 1,
                    checkpoint_every: 1,
                    optim: self.optim(config.optim),
                    ..(*config).clone()
                };
                train_grpo(&context, &part, &config, Some(adapter))?
            }
        };
        adapter.save(&folder.join("adapter"), self.folders.base)?;
        Ok(adapter)
    }

    /// Places of the training set that the steps learn from.
    fn draw(&self, all: usize, batch: usize, seed: u64) -> Vec<usize> {
        let mut places: Vec<usize> = (0..all).collect();
        places.shuffle(&mut stream(seed, "lessons"));
        places.truncate(batch.saturating_mul(self.plan.steps as usize).max(1));
        places
    }

    fn optim(&self, method: OptimConfig) -> OptimConfig {
        OptimConfig {
            lr: self.plan.lr.unwrap_or(method.lr),
            schedule: Schedule::Constant,
            warmup_ratio: 0.0,
            ..method
        }
    }
}

impl Weights for Realigned<'_> {
    fn in_round(&mut self, round: u32) -> Result<Option<&Adapter>, EvaluationError> {
        while self.after + 1 < round {
            let last = self.after + 1;
            if self.plan.is_after(last, self.rounds)
                && let Some(adapter) = self.adapter.take()
            {
                self.adapter = Some(self.train(last, adapter)?);
            }
            self.after = last;
        }
        Ok(self.adapter.as_ref())
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
