//! The report: all evaluation rows and training metrics in, HTML, Markdown, CSV and figures out.

use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use super::shared::{Machine, ModelSlot};
use crate::artifact::{Manifest, write_atomic};
use crate::evaluation::rounds::{ROWS_FILE, read_rows};
use crate::recipe::Recipe;
use crate::recipe::raw::Variant;
use crate::report::{
    ModelInfo, Provenance, Report, ReportInputs, StageTime, TrainingSeries, render_csv,
    render_figures, render_html, render_markdown,
};
use crate::runtime::device;
use crate::stages::{Input, Stage, StageContext};
use crate::training::METRICS_FILE;

/// Kind of the stage.
pub const KIND: &str = "report";
/// The page.
pub const HTML: &str = "report.html";

/// Names of the paper's two models on the hub.
const REFERENCE_MODELS: [&str; 2] = ["Qwen/Qwen3-8B", "meta-llama/Llama-3.1-8B-Instruct"];

/// A training stage: what for, which model, which seed, its name.
type Training = (Variant, String, u64, String);

/// Writes the report of a whole recipe.
pub struct ReportStage {
    title: String,
    recipe: String,
    models: Vec<ModelInfo>,
    identities: Vec<(String, String)>,
    evaluations: Vec<String>,
    trainings: Vec<Training>,
    device: String,
    seed: u64,
}

impl ReportStage {
    /// `evaluations` and `trainings` name the stages whose results it shows.
    pub fn new(
        recipe: &Recipe,
        slots: &[ModelSlot],
        evaluations: Vec<String>,
        trainings: Vec<Training>,
        machine: &Machine,
    ) -> Self {
        let models = slots.iter().map(|slot| ModelInfo {
            name: slot.name.clone(),
            parameters: slot.config.parameters() as u64,
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
            evaluations,
            trainings,
            device: device::describe(machine.device()),
            seed: recipe.settings.seeds.first().copied().unwrap_or_default(),
        }
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
        1
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
        let rows = self
            .evaluations
            .iter()
            .map(|stage| Input::output(stage, stage, ROWS_FILE));
        let metrics = self
            .trainings
            .iter()
            .map(|(_, _, _, stage)| Input::output(stage, stage, METRICS_FILE));
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
        for (variant, model, seed, stage) in &self.trainings {
            let path = context.input(stage)?;
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            training.push(TrainingSeries::from_jsonl(
                variant.name(),
                model,
                *seed,
                &text,
            )?);
            Self::provenance(stage, path, &mut provenance)?;
        }
        let mut rows = vec![];
        for stage in &self.evaluations {
            let path = context.input(stage)?;
            rows.extend(read_rows(path)?);
            Self::provenance(stage, path, &mut provenance)?;
        }
        let report = Report::new(ReportInputs {
            title: self.title.clone(),
            recipe: self.recipe.clone(),
            models: self.models.clone(),
            rows,
            training,
            provenance,
            seed: context.seed,
        })?;
        write_atomic(&context.output(HTML), render_html(&report).as_bytes())?;
        write_atomic(
            &context.output("report.md"),
            render_markdown(&report).as_bytes(),
        )?;
        write_atomic(&context.output("rates.csv"), render_csv(&report).as_bytes())?;
        for (name, svg) in render_figures(&report) {
            write_atomic(&context.output(&name), svg.as_bytes())?;
        }
        for sentence in report.plain_summary() {
            println!("{sentence}");
        }
        Ok(())
    }
}
