//! The report: all evaluation rows and training metrics in, HTML, Markdown, CSV and figures out.

use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use super::data::TEST;
use super::evaluate::rows_file;
use super::shared::{Machine, ModelSlot};
use crate::artifact::{Manifest, write_atomic};
use crate::recipe::Recipe;
use crate::recipe::raw::Variant;
use crate::report::{
    ModelInfo, Prompts, Provenance, Report, ReportInputs, StageTime, TrainingSeries,
    render_figures, render_html, render_markdown, render_pictures, render_tables,
};
use crate::runtime::device;
use crate::scenario::Testbed;
use crate::scenario::question::AnswerForm;
use crate::stages::evaluations::{Evaluated, Rows};
use crate::stages::{Input, Stage, StageContext};
use crate::training::METRICS_FILE;

/// Kind of the stage.
pub const KIND: &str = "report";
/// The page.
pub const HTML: &str = "report.html";

/// Names of the paper's two models on the hub.
const REFERENCE_MODELS: [&str; 2] = ["Qwen/Qwen3-8B", "meta-llama/Llama-3.1-8B-Instruct"];

/// A training stage and what it trained.
pub struct Training {
    /// In which testbed.
    pub testbed: Testbed,
    /// Which variant.
    pub variant: Variant,
    /// Its name, and with which defence.
    pub label: String,
    /// Which model.
    pub model: String,
    /// Root seed.
    pub seed: u64,
    /// Name of the stage.
    pub stage: String,
}

/// An evaluation stage and where its questions come from.
pub struct Evaluation {
    /// In which testbed.
    pub testbed: Testbed,
    /// Name of the stage.
    pub stage: String,
    /// Name of the stage that made the test set.
    pub data: String,
}

impl Evaluation {
    /// Name of the input that holds the test set.
    fn questions(&self) -> String {
        format!("questions of {}", self.stage)
    }
}

/// The stages whose results a report shows.
#[derive(Default)]
pub struct Results {
    /// Evaluations, in the order of the recipe.
    pub evaluations: Vec<Evaluation>,
    /// Trainings.
    pub trainings: Vec<Training>,
}

/// Writes the report of a whole recipe.
pub struct ReportStage {
    title: String,
    recipe: String,
    models: Vec<ModelInfo>,
    identities: Vec<(String, String)>,
    results: Results,
    without_letters: Vec<Testbed>,
    device: String,
    seed: u64,
}

impl ReportStage {
    /// `results` names the stages whose results it shows.
    pub fn new(recipe: &Recipe, slots: &[ModelSlot], results: Results, machine: &Machine) -> Self {
        let models = slots.iter().map(|slot| ModelInfo {
            name: slot.name.clone(),
            parameters: slot.parameters(),
            is_reference_model: REFERENCE_MODELS
                .iter()
                .any(|m| slot.spec.source.split('@').next() == Some(m)),
            source: slot.spec.source.clone(),
        });
        let named = |testbed: &Testbed| {
            let settings = recipe.of(*testbed);
            match testbed {
                Testbed::RolePlay => settings.role_play.answer == AnswerForm::Name,
                Testbed::Coordination => settings.coordination.draw.answer == AnswerForm::Name,
                Testbed::ToolUse => false,
            }
        };
        Self {
            without_letters: Testbed::ALL.into_iter().filter(named).collect(),
            title: recipe
                .settings
                .title
                .clone()
                .unwrap_or_else(|| recipe.name.clone()),
            recipe: recipe.text.clone(),
            models: models.collect(),
            identities: slots
                .iter()
                .map(|slot| (format!("model {}", slot.name), slot.identity()))
                .collect(),
            results,
            device: device::describe(machine.device()),
            seed: recipe.settings.seeds.first().copied().unwrap_or_default(),
        }
    }

    fn several_testbeds(&self) -> bool {
        let mut all = self.results.evaluations.iter().map(|e| e.testbed);
        let first = all.next();
        all.any(|testbed| Some(testbed) != first)
    }
}

/// Digests and wall time of the stage in this folder, after those of the stages that it read from; each stage once.
fn add_provenance(folder: &Path, provenance: &mut Provenance) -> anyhow::Result<()> {
    let Some(manifest) = Manifest::load(folder)? else {
        return Ok(());
    };
    let stage = &manifest.stage;
    if provenance.stages.iter().any(|known| known.stage == *stage) {
        return Ok(());
    }
    let all = folder.parent().context("a stage lies in a folder")?;
    for input in manifest.inputs.values() {
        // What comes from outside the run has no stage.
        let within = Path::new(input).strip_prefix("stages").ok();
        if let Some(name) = within.and_then(|path| path.components().next()) {
            add_provenance(&all.join(name), provenance)?;
        }
    }
    provenance.stages.push(StageTime {
        stage: stage.clone(),
        seconds: manifest.seconds,
    });
    for (name, entry) in &manifest.outputs {
        provenance
            .digests
            .push((format!("{stage}/{name}"), entry.digest.to_string()));
    }
    Ok(())
}

/// The folder of the stage that left this file.
fn folder_of(file: &Path) -> anyhow::Result<&Path> {
    file.parent().context("an input lies in a folder")
}

impl Stage for ReportStage {
    fn name(&self) -> String {
        KIND.into()
    }

    fn kind(&self) -> &'static str {
        KIND
    }

    fn format(&self) -> u32 {
        4
    }

    fn config(&self) -> Value {
        json!({ "title": self.title, "recipe": self.recipe, "device": self.device })
    }

    fn model_identity(&self) -> Option<String> {
        let all: Vec<&str> = self
            .identities
            .iter()
            .map(|(_, identity)| identity.as_str())
            .collect();
        Some(all.join(" "))
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn inputs(&self) -> Vec<Input> {
        let results = &self.results;
        let rows = results.evaluations.iter().flat_map(|e| {
            [
                Input::output(&e.stage, &e.stage, rows_file(e.testbed)),
                Input::output(e.questions(), &e.data, TEST),
            ]
        });
        let metrics = results
            .trainings
            .iter()
            .map(|training| Input::output(&training.stage, &training.stage, METRICS_FILE));
        rows.chain(metrics).collect()
    }

    fn run(&self, context: &StageContext) -> anyhow::Result<()> {
        let mut provenance = Provenance {
            device: self.device.clone(),
            versions: vec![
                ("atp-pipeline".into(), env!("CARGO_PKG_VERSION").into()),
                ("libtorch".into(), "2.11.0".into()),
            ],
            digests: self.identities.clone(),
            stages: vec![],
        };
        let mut training = vec![];
        for trained in &self.results.trainings {
            let path = context.input(&trained.stage)?;
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let series =
                TrainingSeries::from_jsonl(&trained.label, &trained.model, trained.seed, &text)?;
            training.push(if self.several_testbeds() {
                series.on(trained.testbed.name())
            } else {
                series
            });
            add_provenance(folder_of(path)?, &mut provenance)?;
        }
        let (mut rows, mut games, mut tools) = (vec![], vec![], vec![]);
        let mut prompts = Prompts::default();
        let mut evaluations = vec![];
        for evaluation in &self.results.evaluations {
            let path = context.input(&evaluation.stage)?;
            let folder = folder_of(path)?;
            let evaluated = Evaluated::load(folder)?
                .with_context(|| format!("`{}`: no manifest of an evaluation", folder.display()))?;
            evaluations.push((evaluation, folder, evaluated));
        }
        // The report sets rows under a defence apart; behind the others they do not move the places of prompts.
        evaluations.sort_by_key(|(_, _, evaluated)| evaluated.is_defended());
        for (evaluation, folder, evaluated) in evaluations {
            let questions = context.input(&evaluation.questions())?;
            let found = evaluated.rows()?;
            let first = prompts.make_room(evaluation.testbed, found.len());
            evaluated.prompts(questions, &found, &mut |place, messages| {
                prompts.set(evaluation.testbed, first + place, messages);
            })?;
            match found {
                Rows::RolePlay(found) => rows.extend(found),
                Rows::Coordination(found) => games.extend(found),
                Rows::ToolUse(found) => tools.extend(found),
            }
            add_provenance(folder, &mut provenance)?;
        }
        let report = Report::new(ReportInputs {
            title: self.title.clone(),
            recipe: self.recipe.clone(),
            models: self.models.clone(),
            rows,
            games,
            tools,
            without_letters: self.without_letters.clone(),
            prompts,
            training,
            provenance,
            seed: context.seed,
        })?;
        write_atomic(&context.output(HTML), render_html(&report).as_bytes())?;
        write_atomic(
            &context.output("report.md"),
            render_markdown(&report).as_bytes(),
        )?;
        for (name, csv) in render_tables(&report) {
            write_atomic(&context.output(&name), csv.as_bytes())?;
        }
        for (name, svg) in render_figures(&report) {
            write_atomic(&context.output(&name), svg.as_bytes())?;
        }
        for (name, png) in render_pictures(&report)? {
            write_atomic(&context.output(&name), &png)?;
        }
        for sentence in report.plain_summary() {
            // Standard output belongs to the summary, which may be JSON.
            eprintln!("{sentence}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::digest_bytes;

    #[test]
    fn stages_that_were_read_from_come_first_and_each_once() {
        let run = tempfile::tempdir().unwrap();
        let folder = |name: &str| run.path().join("stages").join(format!("{name}-0"));
        let stage = |name: &str, inputs: &[&str]| {
            std::fs::create_dir_all(folder(name)).unwrap();
            std::fs::write(folder(name).join("out"), name).unwrap();
            let inputs = inputs
                .iter()
                .map(|path| ((*path).into(), (*path).into()))
                .collect();
            let key = (digest_bytes(name.as_bytes()), Value::Null);
            Manifest::write(&folder(name), name, key, inputs, 1.0, &[]).unwrap();
        };
        stage("data", &["/elsewhere/stages/data-0/out"]);
        stage("pairs", &["stages/data-0/out", "model.gguf"]);
        stage("train-dpo", &["stages/pairs-0/out"]);
        let adapter = "stages/train-dpo-0/adapter";
        stage(
            "evaluate-dpo",
            &["stages/data-0/out", adapter, "stages/gone-0/out"],
        );
        let mut provenance = Provenance::default();
        for name in ["train-dpo", "evaluate-dpo"] {
            add_provenance(&folder(name), &mut provenance).unwrap();
        }
        let names: Vec<&str> = provenance.stages.iter().map(|s| s.stage.as_str()).collect();
        assert_eq!(names, ["data", "pairs", "train-dpo", "evaluate-dpo"]);
        assert_eq!(provenance.digests.len(), 4);
    }
}
