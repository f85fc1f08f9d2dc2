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
        Self {
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

    /// Digest and wall time of the stage whose folder holds this file.
    fn provenance(stage: &str, file: &Path, provenance: &mut Provenance) -> anyhow::Result<()> {
        let folder = file.parent().context("an input lies in a folder")?;
        if let Some(manifest) = Manifest::load(folder)? {
            provenance.stages.push(StageTime {
                stage: stage.to_owned(),
                seconds: manifest.seconds,
            });
            for (name, entry) in &manifest.outputs {
                provenance
                    .digests
                    .push((format!("{stage}/{name}"), entry.digest.to_string()));
            }
        }
        Ok(())
    }
}

impl Stage for ReportStage {
    fn name(&self) -> String {
        KIND.into()
    }

    fn kind(&self) -> &'static str {
        KIND
    }

    fn format(&self) -> u32 {
        2
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
            Self::provenance(&trained.stage, path, &mut provenance)?;
        }
        let (mut rows, mut games, mut tools) = (vec![], vec![], vec![]);
        let mut prompts = Prompts::default();
        let mut evaluations = vec![];
        for evaluation in &self.results.evaluations {
            let path = context.input(&evaluation.stage)?;
            let folder = path.parent().context("an input lies in a folder")?;
            let evaluated = Evaluated::load(folder)?
                .with_context(|| format!("`{}`: no manifest of an evaluation", folder.display()))?;
            evaluations.push((evaluation, path, evaluated));
        }
        // The report sets rows under a defence apart; behind the others they do not move the places of prompts.
        evaluations.sort_by_key(|(_, _, evaluated)| evaluated.is_defended());
        for (evaluation, path, evaluated) in evaluations {
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
            Self::provenance(&evaluation.stage, path, &mut provenance)?;
        }
        let report = Report::new(ReportInputs {
            title: self.title.clone(),
            recipe: self.recipe.clone(),
            models: self.models.clone(),
            rows,
            games,
            tools,
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
