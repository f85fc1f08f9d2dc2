//! The stages of the pipeline: each reads artifacts, calls the domain, writes artifacts.

mod data;
mod data_games;
mod data_role_play;
mod data_tools;
mod evaluate;
mod pairs;
mod report;
mod shared;
mod train;

pub use report::HTML as REPORT_PAGE;
pub use shared::Machine;

use crate::recipe::Recipe;
use crate::recipe::raw::{StageKind, Variant};

use super::Stage;
use data::DataStage;
use evaluate::EvaluateStage;
use pairs::PairsStage;
use report::{Evaluation, ReportStage, Results, Training};
use shared::{ModelSlot, Names, Slot};
use train::TrainStage;

/// Kind of the stages that evaluate.
pub(super) fn evaluation_kind() -> &'static str {
    evaluate::KIND
}

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
        testbeds: settings.testbeds.len(),
        models: settings.models.len(),
        seeds: settings.seeds.len(),
    };
    let mut slots = vec![];
    for (name, spec) in &settings.models {
        slots.push(ModelSlot::find(name, spec, &recipe.base, machine, fetch)?);
    }
    let mut stages: Vec<Box<dyn Stage>> = vec![];
    let mut results = Results::default();
    for &testbed in &settings.testbeds {
        for &seed in &settings.seeds {
            let data = names.data(testbed, seed);
            stages.push(Box::new(DataStage::new(
                data.clone(),
                testbed,
                recipe,
                seed,
            )?));
            for model in &slots {
                let slot = Slot {
                    recipe,
                    testbed,
                    model,
                    seed,
                };
                agents(&slot, &data, &names, &mut stages, &mut results);
            }
        }
    }
    stages.push(Box::new(ReportStage::new(recipe, &slots, results, machine)));
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

/// The stages that train and evaluate the agents of one model in one testbed; `data` makes its questions.
fn agents(
    slot: &Slot,
    data: &str,
    names: &Names,
    stages: &mut Vec<Box<dyn Stage>>,
    results: &mut Results,
) {
    let of = |kind: &str| names.of(kind, slot.testbed, &slot.model.name, slot.seed);
    let variants = &slot.recipe.settings.variants;
    let training = |variant, stage| Training {
        testbed: slot.testbed,
        variant,
        model: slot.model.name.clone(),
        seed: slot.seed,
        stage,
    };
    if variants.contains(&Variant::Dpo) {
        let (pairs, train) = (of("pairs"), of("train-dpo"));
        stages.push(Box::new(PairsStage::new(pairs.clone(), data, slot)));
        stages.push(Box::new(TrainStage::dpo(train.clone(), &pairs, slot)));
        results.trainings.push(training(Variant::Dpo, train));
    }
    if variants.contains(&Variant::Grpo) {
        let train = of("train-grpo");
        stages.push(Box::new(TrainStage::grpo(train.clone(), data, slot)));
        results.trainings.push(training(Variant::Grpo, train));
    }
    for &variant in variants {
        let name = of(&format!("evaluate-{}", variant.name()));
        let trained = match variant {
            Variant::Base => None,
            _ => Some(of(&format!("train-{}", variant.name()))),
        };
        stages.push(Box::new(EvaluateStage::new(
            name.clone(),
            data,
            trained,
            variant,
            slot,
        )));
        results.evaluations.push(Evaluation {
            testbed: slot.testbed,
            stage: name,
            data: data.into(),
        });
    }
}
