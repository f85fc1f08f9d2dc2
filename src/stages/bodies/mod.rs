//! The stages of the pipeline: each reads artifacts, calls the domain, writes artifacts.

mod data;
mod evaluate;
mod pairs;
mod report;
mod shared;
mod train;

pub use shared::Machine;

use crate::recipe::Recipe;
use crate::recipe::raw::{StageKind, Variant};

use super::Stage;
use data::DataStage;
use evaluate::EvaluateStage;
use pairs::PairsStage;
use report::ReportStage;
use shared::{ModelSlot, Names};
use train::TrainStage;

/// A recipe's stages in order, and the names of those it wants.
pub struct Pipeline {
    /// In the order of the data's flow.
    pub stages: Vec<Box<dyn Stage>>,
    /// What the recipe's `stages` asks for; all if `None`.
    pub wanted: Option<Vec<String>>,
}

impl Pipeline {
    /// Names of all stages of a kind.
    pub fn of_kind(&self, kind: StageKind) -> Vec<String> {
        let kind = kind_name(kind);
        self.stages
            .iter()
            .filter(|s| s.kind() == kind)
            .map(|s| s.name())
            .collect()
    }
}

fn kind_name(kind: StageKind) -> &'static str {
    match kind {
        StageKind::Data => data::KIND,
        StageKind::Pairs => pairs::KIND,
        StageKind::TrainDpo => train::DPO_KIND,
        StageKind::TrainGrpo => train::GRPO_KIND,
        StageKind::Evaluate => evaluate::KIND,
        StageKind::Report => report::KIND,
    }
}

/// Lay out the stages of a recipe: everything a seed, and a model, of the matrix needs, and one report of it all.
///
/// Models are found, with `fetch` got from a hub where need be, but not loaded.
pub fn pipeline(recipe: &Recipe, machine: &Machine, fetch: bool) -> anyhow::Result<Pipeline> {
    let settings = &recipe.settings;
    let names = Names {
        models: settings.models.len(),
        seeds: settings.seeds.len(),
    };
    let mut slots = vec![];
    for (name, spec) in &settings.models {
        slots.push(ModelSlot::find(name, spec, &recipe.base, machine, fetch)?);
    }
    let mut stages: Vec<Box<dyn Stage>> = vec![];
    let mut evaluations = vec![];
    let mut trainings = vec![];
    for &seed in &settings.seeds {
        let data = names.data(seed);
        stages.push(Box::new(DataStage::new(data.clone(), recipe, seed)?));
        for slot in &slots {
            let of = |kind: &str| names.of(kind, &slot.name, seed);
            let wants = |variant| settings.variants.contains(&variant);
            if wants(Variant::Dpo) {
                let (pairs, train) = (of("pairs"), of("train-dpo"));
                stages.push(Box::new(PairsStage::new(
                    pairs.clone(),
                    &data,
                    slot,
                    recipe,
                    seed,
                )));
                stages.push(Box::new(TrainStage::dpo(
                    train.clone(),
                    &pairs,
                    slot,
                    recipe,
                    seed,
                )));
                trainings.push((Variant::Dpo, slot.name.clone(), seed, train));
            }
            if wants(Variant::Grpo) {
                let train = of("train-grpo");
                stages.push(Box::new(TrainStage::grpo(
                    train.clone(),
                    &data,
                    slot,
                    recipe,
                    seed,
                )));
                trainings.push((Variant::Grpo, slot.name.clone(), seed, train));
            }
            for &variant in &settings.variants {
                let name = of(&format!("evaluate-{}", variant.name()));
                let trained = match variant {
                    Variant::Base => None,
                    _ => Some(of(&format!("train-{}", variant.name()))),
                };
                let stage =
                    EvaluateStage::new(name.clone(), &data, trained, variant, slot, recipe, seed);
                stages.push(Box::new(stage));
                evaluations.push(name);
            }
        }
    }
    stages.push(Box::new(ReportStage::new(
        recipe,
        &slots,
        evaluations,
        trainings,
        machine,
    )));
    let mut pipeline = Pipeline {
        stages,
        wanted: None,
    };
    pipeline.wanted = settings.stages.as_ref().map(|kinds| {
        kinds
            .iter()
            .flat_map(|&kind| pipeline.of_kind(kind))
            .collect()
    });
    Ok(pipeline)
}
