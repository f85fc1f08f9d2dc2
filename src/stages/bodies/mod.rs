//! The stages of the pipeline: each reads artifacts, calls the domain, writes artifacts.

mod curriculum;
mod data;
mod data_games;
mod data_role_play;
mod data_tools;
mod evaluate;
mod pairs;
mod report;
mod shared;
mod train;

pub use curriculum::START;
pub use report::HTML as REPORT_PAGE;
pub use shared::Machine;

use std::collections::BTreeMap;

use crate::recipe::Recipe;
use crate::recipe::defences::NamedDefence;
use crate::recipe::raw::{StageKind, Variant};
use crate::scenario::Testbed;
use crate::scenario::defence::{Defence, NONE};

use super::Stage;
use curriculum::Curriculum;
use data::DataStage;
use evaluate::{EvaluateStage, Evaluated};
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
    /// What each model takes of the memory, in words.
    pub memory: Vec<String>,
    /// The stages that train, each with the variant that it trains.
    trainings: Vec<(Variant, String)>,
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

    /// Names of all stages that train this variant.
    pub fn training(&self, variant: Variant) -> Vec<String> {
        let of = self.trainings.iter().filter(|(of, _)| *of == variant);
        of.map(|(_, stage)| stage.clone()).collect()
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
        warn_of_misfits(recipe, testbed);
        let mut sizes = None;
        if let Some(seed) = settings.data_seed {
            let data = names.data(testbed, None);
            let stage = DataStage::new(data, testbed, recipe, seed)?;
            sizes = stage.sizes();
            stages.push(Box::new(stage));
        }
        for &seed in &settings.seeds {
            let own = settings.data_seed.is_none().then_some(seed);
            let data = names.data(testbed, own);
            if own.is_some() {
                let stage = DataStage::new(data.clone(), testbed, recipe, seed)?;
                sizes = stage.sizes();
                stages.push(Box::new(stage));
            }
            for model in &slots {
                let slot = Slot {
                    recipe,
                    testbed,
                    model,
                    seed,
                    sizes,
                };
                agents(&slot, &data, &names, &mut stages, &mut results);
            }
        }
    }
    let trainings = results.trainings.iter();
    let trainings = trainings.map(|training| (training.variant, training.stage.clone()));
    let trainings = trainings.collect();
    stages.push(Box::new(ReportStage::new(recipe, &slots, results, machine)));
    let mut pipeline = Pipeline {
        trainings,
        stages,
        wanted: None,
        memory: slots.iter().filter_map(ModelSlot::memory).collect(),
    };
    pipeline.wanted = settings.stages.as_ref().map(|kinds| {
        kinds
            .iter()
            .flat_map(|&kind| pipeline.of_kind(kind))
            .collect()
    });
    Ok(pipeline)
}

/// Say which defences are left out of a testbed, and why.
fn warn_of_misfits(recipe: &Recipe, testbed: Testbed) {
    for NamedDefence { name, defence } in &recipe.defences {
        if let Some(reason) = defence.misfit(testbed) {
            tracing::warn!(
                "defence `{name}` is not tried in {}: {reason}",
                testbed.name()
            );
        }
    }
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
    let settings = &slot.recipe.settings;
    let pairs = of("pairs");
    if settings.trains(Variant::Dpo) {
        stages.push(Box::new(PairsStage::new(pairs.clone(), data, slot)));
    }
    let curriculum = |variant, defence: &Defence| match variant {
        Variant::Base => None,
        Variant::Dpo => Some(Curriculum::dpo(&pairs, data, slot, defence)),
        Variant::Grpo | Variant::DpoGrpo => Some(Curriculum::grpo(data, slot, defence)),
    };
    // What was trained, with what the defence changed about it: defences that change the same share an adapter.
    let mut trained: Vec<(Variant, Defence, String)> = vec![];
    let fitting = slot.recipe.defences.iter();
    let fitting = fitting.filter(|named| named.defence.misfit(slot.testbed).is_none());
    let mut order: Vec<&NamedDefence> = fitting.collect();
    // Without a defence first: adapters without one are shared by all that do not change training.
    order.sort_by_key(|named| named.name != NONE);
    for named in order {
        let with = |what: String| match named.name.as_str() {
            NONE => of(&what),
            name => of(&format!("{what}-with-{name}")),
        };
        let changes = named.defence.of_training();
        let mut adapters: BTreeMap<Variant, String> = BTreeMap::new();
        for variant in Variant::TRAINED {
            let Some(mut lessons) =
                curriculum(variant, &changes).filter(|_| settings.trains(variant))
            else {
                continue;
            };
            if let Some(start) = variant.start().and_then(|start| adapters.get(&start)) {
                lessons = lessons.beginning_with(start);
            }
            let known = trained
                .iter()
                .find(|(of, by, _)| (*of, by) == (variant, &changes));
            let stage = match known {
                Some((_, _, stage)) => stage.clone(),
                None => {
                    let stage = with(format!("train-{}", variant.name()));
                    stages.push(Box::new(TrainStage::new(stage.clone(), lessons, slot)));
                    trained.push((variant, changes.clone(), stage.clone()));
                    results.trainings.push(Training {
                        testbed: slot.testbed,
                        variant,
                        label: match named.name.as_str() {
                            NONE => variant.name().to_owned(),
                            name => format!("{} with {name}", variant.name()),
                        },
                        model: slot.model.name.clone(),
                        seed: slot.seed,
                        stage: stage.clone(),
                    });
                    stage
                }
            };
            adapters.insert(variant, stage);
        }
        let plain = |variant| {
            let undefended = |(of, by, _): &&(Variant, Defence, String)| {
                *of == variant && *by == Defence::default()
            };
            trained
                .iter()
                .find(undefended)
                .map(|(_, _, stage)| stage.clone())
        };
        let tried = settings.variants.iter().filter(|&&v| named.is_for(v));
        for &variant in tried {
            let name = with(format!("evaluate-{}", variant.name()));
            let lessons = curriculum(variant, &changes).map(Curriculum::beside_questions);
            let who = Evaluated {
                variant,
                trained: adapters.get(&variant).cloned(),
                name: named.name.clone(),
                curriculum: lessons.filter(|_| named.defence.realignment.is_some()),
                defence: named.defence.clone(),
            };
            let others = [plain(Variant::Dpo), plain(Variant::Grpo)];
            let stage = EvaluateStage::new(name.clone(), data, who, &others, slot);
            stages.push(Box::new(stage));
            results.evaluations.push(Evaluation {
                testbed: slot.testbed,
                stage: name,
                data: data.into(),
            });
        }
    }
}

#[cfg(test)]
mod tests;
