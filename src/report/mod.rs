//! From evaluation rows and training metrics to a report: Markdown, CSV and one self-contained HTML file.
//!
//! Pure functions: text in, text out. [`Report::new`] computes every number once ([`crate::evaluation::summary`]); the
//! renderers only lay out. Sentences (`narrative`) and tables (`tables`) are made once as plain text and escaped by
//! each format on its way out, so no format can say something another does not. What models wrote is hostile input.

mod beside;
pub mod compare;
mod comparisons;
mod csv;
mod defences;
mod escape;
mod exhibits;
mod figures;
mod games;
mod how_to_read;
mod html;
mod markdown;
mod narrative;
pub mod paper;
pub mod picture;
mod prompts;
mod samples;
mod section;
mod series;
#[cfg(test)]
mod simulation;
pub mod svg;
mod tables;
mod tipping;
mod tools;
mod traces;
pub mod verdict;
mod words;

use crate::evaluation::bias::{BiasCheck, StrandBias, biases};
use crate::evaluation::comparisons::{Comparison, compare};
use crate::evaluation::coordination_row::GameRow;
use crate::evaluation::coordination_summary::GameSummaryError;
use crate::evaluation::defence_summary::{DefendedSummary, summarise_defences};
use crate::evaluation::observation;
use crate::evaluation::row::EvalRow;
use crate::evaluation::summary::{SummaryError, VariantSummary, summarise};
use crate::evaluation::tipping::critical_mass::{CriticalMass, critical_masses};
use crate::evaluation::tipping::{Tipping, measure};
use crate::evaluation::tool_row::ToolRow;
use crate::evaluation::tool_summary::{DuplicateSolution, ToolSummary, summarise_tools};
use crate::scenario::{Testbed, defence};
use section::Section;

pub use csv::render_tables;
pub use figures::{render_figures, render_pictures};
pub use html::render_html;
pub use markdown::render_markdown;
pub use prompts::Prompts;
pub use series::{SeriesError, TrainingSeries};

/// Below this many parameters a model's numbers are a check of the pipeline, not a finding.
pub const FINDING_PARAMETERS: u64 = 1_000_000_000;

/// One model of the run.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// Name, as the recipe and the rows call it.
    pub name: String,
    /// Number of parameters, adapters not counted.
    pub parameters: u64,
    /// One of the two models the paper evaluates, so that its table can be compared row by row.
    pub is_reference_model: bool,
    /// Where the weights came from: a directory, a file, a hub name.
    pub source: String,
}

/// How long one stage took.
#[derive(Debug, Clone, PartialEq)]
pub struct StageTime {
    /// Stage with what tells it apart, for example `train-dpo smollm2 seed 1`.
    pub stage: String,
    /// Wall time in seconds.
    pub seconds: f64,
}

/// What the numbers were made with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Provenance {
    /// Device in words, for example `CPU, 2 threads, float32`.
    pub device: String,
    /// Name and version of the program and its libraries, in the order to be shown.
    pub versions: Vec<(String, String)>,
    /// Name and digest of inputs and outputs, in the order to be shown.
    pub digests: Vec<(String, String)>,
    /// Wall times, in the order of the run.
    pub stages: Vec<StageTime>,
}

/// Everything a report is made from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReportInputs {
    /// Title of the report.
    pub title: String,
    /// The recipe file, verbatim.
    pub recipe: String,
    /// Models in the order to be shown; a model only the rows name is shown after them.
    pub models: Vec<ModelInfo>,
    /// Role-play rows of all models, variants, seeds and rounds, in any order.
    pub rows: Vec<EvalRow>,
    /// Rows of coordination games, likewise.
    pub games: Vec<GameRow>,
    /// Rows of tool usage, likewise.
    pub tools: Vec<ToolRow>,
    /// Testbeds whose prompts show no letters: the rows have some, but no agent saw them.
    pub without_letters: Vec<Testbed>,
    /// Prompts of the rows, where they are known.
    pub prompts: Prompts,
    /// Training metrics.
    pub training: Vec<TrainingSeries>,
    /// Versions, digests, device, wall times.
    pub provenance: Provenance,
    /// Root seed of the bootstraps.
    pub seed: u64,
}

/// Inputs with the numbers computed from them.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    inputs: ReportInputs,
    variants: Vec<VariantSummary>,
    games: games::Games,
    tools: Vec<ToolSummary>,
    tipping: Vec<Tipping>,
    comparisons: Vec<Comparison>,
    masses: Vec<CriticalMass>,
    biases: Vec<StrandBias>,
    defences: Vec<DefendedSummary>,
}

/// Rows that cannot be summarised.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReportError {
    /// Those of role-play.
    #[error(transparent)]
    RolePlay(#[from] SummaryError),
    /// Those of coordination games.
    #[error(transparent)]
    Games(#[from] GameSummaryError),
    /// Those of tool usage.
    #[error(transparent)]
    Tools(#[from] DuplicateSolution),
}

impl Report {
    /// Computes all rates and intervals. Fails where a decision stands in the rows twice.
    pub fn new(mut inputs: ReportInputs) -> Result<Self, ReportError> {
        let (rows, games, tools) = (&inputs.rows, &inputs.games, &inputs.tools);
        let defences = summarise_defences(rows, games, tools, inputs.seed);
        // Defences have a part of their own; all others are about agents without one.
        inputs.rows.retain(|row| row.defence == defence::NONE);
        inputs.games.retain(|row| row.defence == defence::NONE);
        inputs.tools.retain(|row| row.defence == defence::NONE);
        let mut variants = summarise(&inputs.rows, inputs.seed)?;
        let games = games::Games::new(&inputs.games, inputs.seed)?;
        let tools = summarise_tools(&inputs.tools, inputs.seed)?;
        let place = |v: &VariantSummary| {
            inputs
                .models
                .iter()
                .position(|m| m.name == v.model)
                .unwrap_or(usize::MAX)
        };
        variants.sort_by_key(place); // stable: variants of a model keep their order
        if inputs.without_letters.contains(&Testbed::RolePlay) {
            for variant in &mut variants {
                variant.label = BiasCheck::default();
            }
        }
        let mut played = observation::games(&inputs.games);
        if inputs.without_letters.contains(&Testbed::Coordination) {
            for decision in played.iter_mut().flat_map(|s| &mut s.observations) {
                decision.label = None;
            }
        }
        let (alone, together) = (
            observation::role_play(&inputs.rows),
            [played, observation::tools(&inputs.tools)].concat(),
        );
        let biases = biases(&together, inputs.seed);
        let strands = [alone, together].concat();
        let (tipping, comparisons) = (
            measure(&strands, inputs.seed),
            compare(&strands, inputs.seed),
        );
        let masses = critical_masses(&inputs.games, inputs.seed);
        Ok(Self {
            inputs,
            variants,
            games,
            tools,
            tipping,
            comparisons,
            masses,
            biases,
            defences,
        })
    }

    /// The parts after those about role-play, in the order shown: the other testbeds, defences, what all have in common,
    /// the paper, and how to read it.
    fn sections(&self) -> Vec<Section> {
        let found = [
            games::section(&self.games),
            tools::section(&self.tools),
            defences::section(&self.defences),
            tipping::section(&self.tipping, &self.masses),
            comparisons::section(&self.comparisons, &self.tipping, &self.biases),
            beside::section(self),
            (!self.is_empty()).then(how_to_read::section),
        ];
        found.into_iter().flatten().collect()
    }

    /// There are no rows of any testbed.
    fn is_empty(&self) -> bool {
        self.variants.is_empty() && self.games.all.is_empty() && self.tools.is_empty()
    }

    /// What the report was made from.
    pub fn inputs(&self) -> &ReportInputs {
        &self.inputs
    }

    /// One summary a model and variant, in the order shown.
    pub fn variants(&self) -> &[VariantSummary] {
        &self.variants
    }

    /// The plain-words summary: paragraphs without markup, for a terminal.
    pub fn plain_summary(&self) -> Vec<String> {
        let spoken = self.sections().into_iter().filter(|s| s.in_summary);
        let sections = spoken.flat_map(|s| s.paragraphs);
        narrative::summary(self)
            .into_iter()
            .chain(sections)
            .map(|p| p.whole())
            .collect()
    }

    /// Models by name with their variants, in the order shown.
    fn by_model(&self) -> Vec<(&str, Vec<&VariantSummary>)> {
        let mut models: Vec<(&str, Vec<&VariantSummary>)> = Vec::new();
        for variant in &self.variants {
            match models.last_mut() {
                Some((name, variants)) if *name == variant.model => variants.push(variant),
                _ => models.push((&variant.model, vec![variant])),
            }
        }
        models
    }

    fn info(&self, model: &str) -> Option<&ModelInfo> {
        self.inputs.models.iter().find(|info| info.name == model)
    }
}
