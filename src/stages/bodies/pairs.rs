//! Preference pairs: training questions in, pairs of the model's own answers out.

use serde_json::{Value, json};

use super::data::{CARD, TRAIN};
use super::shared::{ModelSlot, Slot};
use crate::agent::{GenerationConfig, LoadedModel};
use crate::artifact::table::any::columns_of;
use crate::artifact::write_atomic;
use crate::datasets::card::{Card, CardFile};
use crate::datasets::pairs::{AnswerSource, PreferencePair};
use crate::datasets::{games, pairs, problems, questions};
use crate::recipe::raw::RawToolUse;
use crate::scenario::Testbed;
use crate::scenario::decision::Decision;
use crate::scenario::tool_use::Problem;
use crate::stages::{Input, Stage, StageContext, Work};
use crate::tool::Sandbox;
use crate::training::pairs::{PairsConfig, sample_pairs};
use crate::training::tool_pairs::{ChosenFrom, ToolPairs};

/// Kind of the stage.
pub const KIND: &str = "pairs";
/// The pairs.
pub const PAIRS: &str = "pairs.parquet";

/// Samples the pairs of one model and seed.
pub struct PairsStage {
    name: String,
    data: String,
    testbed: Testbed,
    model: ModelSlot,
    generation: GenerationConfig,
    config: PairsConfig,
    tools: RawToolUse,
    questions: Option<u64>,
    seed: u64,
}

impl PairsStage {
    /// `data` is the name of the stage that makes the questions.
    pub fn new(name: String, data: &str, slot: &Slot) -> Self {
        let settings = slot.settings();
        Self {
            name,
            data: data.into(),
            testbed: slot.testbed,
            model: slot.model.clone(),
            generation: settings.stage_generation.pairs.over(&settings.generation),
            config: settings.pairs.clone(),
            tools: settings.tool_use.clone(),
            questions: slot.sizes.map(|sizes| sizes.train),
            seed: slot.seed,
        }
    }
}

impl PairsStage {
    /// The card of the pairs; `counts` are those of sampling.
    fn card(&self, found: &[PreferencePair], counts: &[(String, usize)]) -> anyhow::Result<String> {
        let parameters = self.model.parameters();
        let own_samples = format!(
            "Both are a model's own samples ({parameters} parameters): the question was asked with a line added that \
             steers to the wanted choice, up to {} times for each answer. The prompt here is without that line. Where no \
             sample had the wanted choice, {}.",
            self.config.attempts,
            match self.config.template_fallback {
                true => "the canonical answer stands in, and the source column says so",
                false => "the pair was left out",
            }
        );
        let (title, what, how) = match self.testbed {
            Testbed::RolePlay => (
                "Role-play preference pairs",
                "Preference pairs of a role-play testbed for the alignment of language agents: the prompt of a training \
                 question, an answer that keeps the supervisor's rule (chosen) and one that breaks it (rejected).",
                own_samples,
            ),
            Testbed::Coordination => (
                "Coordination preference pairs",
                "Preference pairs of coordination games for the alignment of language agents: the prompt of a training \
                 game, an answer that takes the independent option (chosen) and one that takes the collusive one \
                 (rejected).",
                own_samples,
            ),
            Testbed::ToolUse => (
                "Tool-use preference pairs",
                "Preference pairs about calling a tool: the prompt of a training problem, a solution that calls Python \
                 and ends on the right answer (chosen) and what a model wrote unasked (rejected).",
                format!(
                    "Rejected solutions are samples of a model ({parameters} parameters). Chosen ones are {}; every one \
                     was run and its answer checked. Results of calls stand in `<result>` blocks that the program put in.",
                    match self.tools.chosen {
                        ChosenFrom::Program => "written around the problem's own program",
                        ChosenFrom::Sampled => "the model's, asked to use the tool",
                        ChosenFrom::SampledThenProgram =>
                            "the model's, asked to use the tool, or else written around the problem's own program",
                    }
                ),
            ),
        };
        let made = [what.to_owned(), how];
        let templates = |source: fn(&PreferencePair) -> AnswerSource| {
            let all = found.iter().map(source);
            all.filter(|s| *s == AnswerSource::Template).count()
        };
        let mut counts = counts.to_vec();
        counts.extend([
            (
                "template answers among the chosen".to_owned(),
                templates(|p| p.chosen_source),
            ),
            (
                "template answers among the rejected".to_owned(),
                templates(|p| p.rejected_source),
            ),
        ]);
        let mut settings = self.config();
        settings["model"] = json!(self.model.identity());
        let card = Card {
            title,
            licence: None,
            licence_words: "The prompts have the licence of the texts they were drawn from (Apache-2.0 for the \
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
        3
    }

    fn config(&self) -> Value {
        let mut config = json!({
            "testbed": self.testbed,
            "generation": self.generation,
            "pairs": self.config,
        });
        if self.testbed == Testbed::ToolUse {
            config["tools"] = json!({
                "chosen": self.tools.chosen,
                "costs": self.tools.costs,
                "tools": self.tools.tools,
                "sandbox": self.tools.sandbox,
            });
        }
        config
    }

    fn model_identity(&self) -> Option<String> {
        Some(self.model.identity())
    }

    fn model_origin(&self) -> Option<String> {
        Some(self.model.origin())
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn work(&self) -> Option<Work> {
        // Chosen solutions may be written without a sample.
        let program = self.testbed == Testbed::ToolUse && self.tools.chosen == ChosenFrom::Program;
        let sides = if program { 1 } else { 2 };
        let attempts = self.config.attempts.into();
        let work = Work::new(&[self.questions?, sides, attempts], "samples");
        Some(work.writing(self.generation.new_tokens()))
    }

    fn inputs(&self) -> Vec<Input> {
        vec![Input::output("questions", &self.data, TRAIN)]
    }

    fn run(&self, context: &StageContext) -> anyhow::Result<()> {
        let data = context.input("questions")?;
        let model = self.model.load()?;
        let (found, report, counts) = match self.testbed {
            Testbed::RolePlay => self.of_decisions(&model, &questions::read(data)?, context)?,
            Testbed::Coordination => self.of_decisions(&model, &games::read(data)?, context)?,
            Testbed::ToolUse => self.of_problems(&model, &problems::read(data)?, context)?,
        };
        write_atomic(&context.output(PAIRS), &pairs::encode(&found)?)?;
        write_atomic(&context.output("pairs.json"), report.as_bytes())?;
        let card = self.card(&found, &counts)?;
        write_atomic(&context.output(CARD), card.as_bytes())?;
        Ok(())
    }
}

/// Pairs, the report on them as JSON, and counts for the card.
type Made = (Vec<PreferencePair>, String, Vec<(String, usize)>);

impl PairsStage {
    fn of_decisions<D: Decision>(
        &self,
        model: &LoadedModel,
        decisions: &[D],
        context: &StageContext,
    ) -> anyhow::Result<Made> {
        let (found, report) = sample_pairs(
            model,
            decisions,
            &self.generation,
            &self.config,
            context.seed,
            &context.checkpoints,
        )?;
        tracing::info!(
            "{} pairs of {} questions; not obtained: {} compliant, {} deviant answers{}; {} of {} samples without a \
             readable choice, {} failed",
            report.pairs,
            report.questions,
            report.missing_compliant,
            report.missing_deviant,
            match self.config.template_fallback {
                true => " (templates stand in)",
                false => "",
            },
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
        let counts = [
            ("questions asked", report.questions),
            ("samples drawn", report.samples),
            ("samples without a readable choice", report.invalid),
            ("samples that failed", report.failed),
        ];
        let counts = counts.map(|(what, n)| (what.to_owned(), n)).to_vec();
        Ok((found, serde_json::to_string_pretty(&report)?, counts))
    }

    fn of_problems(
        &self,
        model: &LoadedModel,
        problems: &[Problem],
        context: &StageContext,
    ) -> anyhow::Result<Made> {
        let pairs = ToolPairs {
            problems,
            generation: &self.generation,
            config: &self.config,
            chosen: self.tools.chosen,
            tools: &self.tools.tools,
            sandbox: &Sandbox::new(&self.tools.sandbox)?,
            costs: self.tools.costs,
        };
        let (found, report) = pairs.sample(model, context.seed, &context.checkpoints)?;
        tracing::info!(
            "{} pairs of {} problems; not obtained: {} chosen, {} rejected solutions; {} of {} samples without an answer, \
             {} failed; {} programs did not give the answer",
            report.pairs,
            report.problems,
            report.missing_chosen,
            report.missing_rejected,
            report.invalid,
            report.samples,
            report.failed,
            report.programs_failed
        );
        if found.is_empty() {
            anyhow::bail!(
                "no problem gave a pair: {} without a chosen, {} without a rejected solution of {}; see `tool_use.chosen` \
                 and `pairs.attempts`",
                report.missing_chosen,
                report.missing_rejected,
                report.problems
            );
        }
        let counts = [
            ("problems", report.problems),
            ("samples drawn", report.samples),
            ("samples without an answer", report.invalid),
            ("samples that failed", report.failed),
            (
                "rejected samples with the right answer",
                report.rejected_right,
            ),
            (
                "rejected samples that call the tool",
                report.rejected_with_tool,
            ),
        ];
        let counts = counts.map(|(what, n)| (what.to_owned(), n)).to_vec();
        Ok((found, serde_json::to_string_pretty(&report)?, counts))
    }
}
