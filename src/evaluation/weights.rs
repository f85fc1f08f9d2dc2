//! Whose weights answer in a round: those of one adapter throughout, or of one that is trained on between rounds.

use std::path::Path;

use super::rounds::EvaluationError;
use crate::agent::{LoadedModel, RenderOptions};
use crate::artifact::Checkpoints;
use crate::artifact::file::create_folder;
use crate::model::Adapter;
use crate::runtime::seed::derive;
use crate::scenario::defence::Realignment;
use crate::training::lessons::Lessons;
use crate::training::{TrainContext, TrainError};

/// The adapter of the agents that are evaluated.
pub trait Weights {
    /// The one in effect in this round, from 1; none for the untrained model. Rounds are asked for in their order; a
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

/// Where and with what realignment is done.
#[derive(Clone, Copy)]
pub struct RealignmentPlace<'a> {
    /// The frozen model.
    pub model: &'a LoadedModel,
    /// Its name, for the adapters' description.
    pub base: &'a str,
    /// How conversations are rendered.
    pub render: &'a RenderOptions,
    /// Root of the random streams.
    pub seed: u64,
    /// Gets a folder after each round that is trained after, with adapter and metrics.
    pub out: &'a Path,
    /// Gets the checkpoints of these trainings.
    pub checkpoints: &'a Path,
}

/// An adapter that takes some training steps between rounds.
///
/// Each time is a training of its own with its own checkpoints, all of which stay until the evaluation is finished. So an
/// evaluation that was stopped finds the adapters of all rounds again, bit for bit.
pub struct Realigned<'a> {
    plan: Realignment,
    rounds: u32,
    lessons: Lessons<'a>,
    place: RealignmentPlace<'a>,
    /// None only while it is trained.
    adapter: Option<Adapter>,
    /// The last round whose end was reached.
    over: u32,
}

impl<'a> Realigned<'a> {
    /// An evaluation of so many rounds that begins with this adapter.
    pub fn new(
        plan: Realignment,
        rounds: u32,
        lessons: Lessons<'a>,
        place: RealignmentPlace<'a>,
        adapter: Adapter,
    ) -> Self {
        Self {
            plan,
            rounds,
            lessons,
            place,
            adapter: Some(adapter),
            over: 0,
        }
    }

    fn train(&self, round: u32, adapter: Adapter) -> Result<Adapter, TrainError> {
        let name = format!("after-round-{round}");
        let folder = self.place.out.join(&name);
        create_folder(&folder)?;
        let context = TrainContext {
            model: self.place.model,
            render: self.place.render,
            seed: derive(self.place.seed, &format!("realignment/{name}")),
            folder: &folder,
            checkpoints: &Checkpoints::new(self.place.checkpoints.join(&name), 2),
        };
        tracing::info!("realignment after round {round}");
        let (steps, lr) = (self.plan.steps, self.plan.lr);
        let adapter = self.lessons.refresh(&context, adapter, steps, lr)?;
        adapter.save(&folder.join("adapter"), self.place.base)?;
        Ok(adapter)
    }
}

impl Weights for Realigned<'_> {
    fn in_round(&mut self, round: u32) -> Result<Option<&Adapter>, EvaluationError> {
        while self.over + 1 < round {
            let last = self.over + 1;
            if self.plan.is_after(last, self.rounds)
                && let Some(adapter) = self.adapter.take()
            {
                self.adapter = Some(self.train(last, adapter)?);
            }
            self.over = last;
        }
        Ok(self.adapter.as_ref())
    }
}
