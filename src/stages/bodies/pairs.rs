//! Preference pairs: training questions in, pairs of the model's own answers out.

use serde_json::{Value, json};

use super::data::{CARD, TRAIN};
use super::shared::ModelSlot;
use crate::agent::GenerationConfig;
use crate::artifact::table::any::columns_of;
use crate::artifact::write_atomic;
use crate::datasets::card::{Card, CardFile};
use crate::datasets::pairs::{AnswerSource, PreferencePair};
use crate::datasets::{pairs, questions};
use crate::recipe::Recipe;
use crate::stages::{Input, Stage, StageContext};
use crate::training::pairs::{PairsConfig, PairsReport, sample_pairs};

/// Kind of the stage.
pub const KIND: &str = "pairs";
/// The pairs.
pub const PAIRS: &str = "pairs.parquet";

/// Samples the pairs of one model and seed.
pub struct PairsStage {
    name: String,
    data: String,
    model: ModelSlot,
    generation: GenerationConfig,
    config: PairsConfig,
    seed: u64,
}

impl PairsStage {
    /// `data` is the name of the stage that makes the questions.
    pub fn new(name: String, data: &str, model: &ModelSlot, recipe: &Recipe, seed: u64) -> Self {
        let settings = &recipe.settings;
        Self {
            name,
            data: data.into(),
            model: model.clone(),
            generation: settings.stage_generation.pairs.over(&settings.generation),
            config: settings.pairs.clone(),
            seed,
        }
    }
}

impl PairsStage {
    fn card(&self, found: &[PreferencePair], report: &PairsReport) -> anyhow::Result<String> {
        let made = [
            "Preference pairs of a role-play testbed for the alignment of language agents: the prompt of a training \
             question, an answer that keeps the supervisor's rule (chosen) and one that breaks it (rejected)."
                .to_owned(),
            format!(
                "Both are a model's own samples ({} parameters): the question was asked with a line added that steers to \
                 the wanted choice, up to {} times for each answer. The prompt here is without that line. Where no \
                 sample had the wanted choice, {}.",
                self.model.config.parameters(),
                self.config.attempts,
                match self.config.template_fallback {
                    true => "the canonical answer stands in, and the source column says so",
                    false => "the pair was left out",
                }
            ),
        ];
        let templates = |source: fn(&PreferencePair) -> AnswerSource| {
            let all = found.iter().map(source);
            all.filter(|s| *s == AnswerSource::Template).count()
        };
        let counts = [
            ("questions asked".to_owned(), report.questions),
            ("samples drawn".to_owned(), report.samples),
            (
                "samples without a readable choice".to_owned(),
                report.invalid,
            ),
            ("samples that failed".to_owned(), report.failed),
            (
                "canonical answers among the chosen".to_owned(),
                templates(|p| p.chosen_source),
            ),
            (
                "canonical answers among the rejected".to_owned(),
                templates(|p| p.rejected_source),
            ),
        ];
        let mut settings = self.config();
        settings["model"] = json!(self.model.identity());
        let card = Card {
            title: "Role-play preference pairs",
            licence: None,
            licence_words: "The prompts have the licence of the environments they were drawn from (Apache-2.0 for the \
                            program's own). The answers were written by a model, whose licence says what they may be \
                            used for.",
            made: &made,
            files: &[CardFile {
                name: PAIRS,
                split: "train",
                rows: found.len(),
            }],
            schema: pairs::PAIRS_SCHEMA,
            columns: &columns_of::<PreferencePair>()?,
            meanings: pairs::PAIR_COLUMNS,
            counts: &counts,
            seed: self.seed,
            settings: &settings,
        };
        Ok(card.to_markdown())
    }
}

impl Stage for PairsStage {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn kind(&self) -> &'static str {
        KIND
    }

    fn format(&self) -> u32 {
        2
    }

    fn config(&self) -> Value {
        json!({ "generation": self.generation, "pairs": self.config })
    }

    fn model_identity(&self) -> Option<String> {
        Some(self.model.identity())
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn inputs(&self) -> Vec<Input> {
        vec![Input::output("questions", &self.data, TRAIN)]
    }

    fn run(&self, context: &StageContext) -> anyhow::Result<()> {
        let questions = questions::read(context.input("questions")?)?;
        let model = self.model.load()?;
        let (found, report) = sample_pairs(
            &model,
            &questions,
            &self.generation,
            &self.config,
            context.seed,
            &context.checkpoints,
        )?;
        tracing::info!(
            "{} pairs of {} questions; not obtained: {} compliant, {} deviant answers; {} of {} samples without a \
             readable choice, {} failed",
            report.pairs,
            report.questions,
            report.missing_compliant,
            report.missing_deviant,
            report.invalid,
            report.samples,
            report.failed
        );
        if found.is_empty() {
            anyhow::bail!(
                "no question gave both answers ({} samples, {} without a readable choice, {} failed); raise \
                 `pairs.attempts` or set `pairs.template_fallback = true`",
                report.samples,
                report.invalid,
                report.failed
            );
        }
        write_atomic(&context.output(PAIRS), &pairs::encode(&found)?)?;
        write_atomic(
            &context.output("pairs.json"),
            serde_json::to_string_pretty(&report)?.as_bytes(),
        )?;
        let card = self.card(&found, &report)?;
        write_atomic(&context.output(CARD), card.as_bytes())?;
        Ok(())
    }
}
