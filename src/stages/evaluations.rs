//! The finished evaluations of a run directory: what was evaluated, its rows, and its prompts made again.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

use super::bodies::evaluation_kind;
use super::{no_stages, status};
use crate::agent::GenerationConfig;
use crate::artifact::table::read_parquet;
use crate::artifact::{Digest, Manifest};
use crate::datasets::{games, problems, questions};
use crate::evaluation::coordination::{GameEvaluation, prompts};
use crate::evaluation::coordination_row::{GAME_ROWS_FILE, GameRow};
use crate::evaluation::inspect_ai::{LogHead, LogSample, log};
use crate::evaluation::replay;
use crate::evaluation::rounds::{EvaluationConfig, ROWS_FILE, read_rows};
use crate::evaluation::row::EvalRow;
use crate::evaluation::tool_row::{TOOL_ROWS_FILE, ToolRow};
use crate::evaluation::tool_use::ToolEvaluation;
use crate::runtime::seed::derive;
use crate::scenario::Testbed;
use crate::scenario::defence::Defence;
use crate::scenario::tool_use::prompt::Costs;
use crate::text::Message;

/// Rows of one evaluation.
#[derive(Debug, Clone, PartialEq)]
pub enum Rows {
    /// Of role-play.
    RolePlay(Vec<EvalRow>),
    /// Of coordination games.
    Coordination(Vec<GameRow>),
    /// Of tool usage.
    ToolUse(Vec<ToolRow>),
}

impl Rows {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::RolePlay(rows) => rows.len(),
            Self::Coordination(rows) => rows.len(),
            Self::ToolUse(rows) => rows.len(),
        }
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One finished evaluation stage.
#[derive(Debug, Clone)]
pub struct Evaluated {
    /// Name of the stage.
    pub stage: String,
    /// Its folder.
    pub folder: PathBuf,
    /// In which testbed.
    pub testbed: Testbed,
    /// Which model.
    pub model: String,
    /// `base`, `dpo`, `grpo` or `dpo-grpo`.
    pub variant: String,
    /// The recipe's seed.
    pub seed: u64,
    /// Digest of the test questions.
    pub test_set: Digest,
    /// Where they lay, relative to the run directory.
    pub questions: String,
    settings: Settings,
    manifest: Manifest,
}

/// The part of an evaluation stage's configuration that prompts are made from.
#[derive(Debug, Clone, Deserialize)]
struct Settings {
    testbed: Testbed,
    evaluation: Value,
    generation: GenerationConfig,
    model: String,
    variant: String,
    defence: Option<Defended>,
}

/// The defence that agents were under, as the configuration has it.
#[derive(Debug, Clone, Deserialize)]
struct Defended {
    measures: Defence,
}

/// The same of its key.
#[derive(Debug, Deserialize)]
struct Parts {
    config: Value,
    inputs: std::collections::BTreeMap<String, Digest>,
    seed: u64,
}

/// Settings of tool usage within `evaluation`.
#[derive(Debug, Deserialize)]
struct ToolSettings {
    rounds: ToolEvaluation,
    costs: Costs,
}

/// The evaluations that the last run of a directory used, by stage name.
///
/// # Errors
/// No run directory, no finished evaluation in it, a manifest that cannot be read.
pub fn evaluations(run: &Path) -> anyhow::Result<Vec<Evaluated>> {
    if !run.is_dir() {
        bail!(
            "{}: expected a run directory, got {}; `atp-pipeline run` makes one",
            run.display(),
            if run.exists() {
                "a file"
            } else {
                "nothing there"
            }
        );
    }
    if !run.join("stages").is_dir() {
        bail!(no_stages(run));
    }
    let mut found = vec![];
    for stage in status(run, &[])?.stages {
        if stage.latest
            && let Some(evaluated) = Evaluated::load(&stage.folder)?
        {
            found.push(evaluated);
        }
    }
    if found.is_empty() {
        bail!(
            "{}: no evaluation has finished in this run; `atp-pipeline status {}` says how far it is",
            run.display(),
            run.display()
        );
    }
    Ok(found)
}

impl Evaluated {
    /// The evaluation in a stage's folder; none where another stage, or none that is finished, lies there.
    ///
    /// # Errors
    /// A manifest that cannot be read, or that another version of the program wrote with other settings.
    pub fn load(folder: &Path) -> anyhow::Result<Option<Self>> {
        let Some(manifest) = Manifest::load(folder)? else {
            return Ok(None);
        };
        let of = || format!("`{}`: manifest of an evaluation", folder.display());
        if manifest.parts.get("kind").and_then(Value::as_str) != Some(evaluation_kind()) {
            return Ok(None);
        }
        let parts: Parts = serde_json::from_value(manifest.parts.clone()).with_context(of)?;
        let settings: Settings = serde_json::from_value(parts.config).with_context(of)?;
        let test_set = *parts
            .inputs
            .get("questions")
            .with_context(|| format!("{}: input `questions` is missing", of()))?;
        Ok(Some(Self {
            stage: manifest.stage.clone(),
            folder: folder.to_path_buf(),
            testbed: settings.testbed,
            model: settings.model.clone(),
            variant: settings.variant.clone(),
            seed: parts.seed,
            test_set,
            questions: manifest
                .inputs
                .get("questions")
                .cloned()
                .unwrap_or_default(),
            settings,
            manifest,
        }))
    }

    /// Whether its agents were under a defence.
    pub fn is_defended(&self) -> bool {
        self.settings.defence.is_some()
    }

    /// Its rows, their bytes checked against the manifest.
    ///
    /// # Errors
    /// Files that are missing, damaged, or written by another version.
    pub fn rows(&self) -> anyhow::Result<Rows> {
        if let Err(damage) = self.manifest.verify(&self.folder) {
            bail!("`{}`: {damage}; run it again", self.folder.display());
        }
        let path = |file: &str| self.folder.join(file);
        Ok(match self.testbed {
            Testbed::RolePlay => Rows::RolePlay(read_rows(&path(ROWS_FILE))?),
            Testbed::Coordination => Rows::Coordination(read_parquet(&path(GAME_ROWS_FILE))?),
            Testbed::ToolUse => Rows::ToolUse(read_parquet(&path(TOOL_ROWS_FILE))?),
        })
    }

    /// The evaluation as a log of inspect_ai, prompts made from the test set in the run directory `run`.
    ///
    /// # Errors
    /// As [`Self::rows`] and [`Self::prompts`].
    pub fn inspect_ai(&self, run: &Path) -> anyhow::Result<Value> {
        let rows = self.rows()?;
        let mut prompts: Vec<Option<Vec<Message>>> = vec![None; rows.len()];
        self.prompts(&run.join(&self.questions), &rows, &mut |place, messages| {
            prompts[place] = Some(messages.to_vec());
        })?;
        let samples: Vec<LogSample> = match &rows {
            Rows::RolePlay(rows) => rows.iter().map(Into::into).collect(),
            Rows::Coordination(rows) => rows.iter().map(Into::into).collect(),
            Rows::ToolUse(rows) => rows.iter().map(Into::into).collect(),
        };
        let program = self.manifest.program.split_once(' ').unwrap_or_default();
        let head = LogHead {
            task: self.stage.clone(),
            id: self.manifest.key.to_string(),
            created: self.manifest.finished.clone(),
            model: format!("{}/{}", self.model, self.variant),
            program: (program.0.into(), program.1.into()),
            test_set: self.test_set.to_string(),
            seed: self.seed,
        };
        // An agent that follows a fixed rule was asked nothing.
        let asked = samples.into_iter().zip(prompts);
        let asked: Vec<_> = asked.filter_map(|(s, p)| Some((s, p?))).collect();
        Ok(log(&head, &asked))
    }

    /// Hands the prompt of every row to `each`, by the row's place; rows are made from `questions`, the file of the test
    /// set. A fixed agent of a game has no prompt.
    ///
    /// # Errors
    /// A test set that cannot be read, or rows that do not fit it.
    pub fn prompts(
        &self,
        questions: &Path,
        rows: &Rows,
        each: &mut dyn FnMut(usize, &[Message]),
    ) -> anyhow::Result<()> {
        let style = self.settings.generation.answer_style();
        let root = derive(self.seed, &format!("stage/{}", evaluation_kind()));
        let of = || format!("stage `{}`: its settings", self.stage);
        let settings = self.settings.evaluation.clone();
        let none = Defence::default();
        let defence = self
            .settings
            .defence
            .as_ref()
            .map_or(&none, |d| &d.measures);
        match rows {
            Rows::RolePlay(rows) => {
                let config: EvaluationConfig = serde_json::from_value(settings).with_context(of)?;
                let questions = questions::read(questions)?;
                replay::role_play(&questions, rows, &config, defence, style, each)?;
            }
            Rows::Coordination(rows) => {
                let config: GameEvaluation = serde_json::from_value(settings).with_context(of)?;
                let games = games::read(questions)?;
                prompts(&config, &games, rows, defence, style, root, each)?;
            }
            Rows::ToolUse(rows) => {
                let config: ToolSettings = serde_json::from_value(settings).with_context(of)?;
                let (problems, costs) = (problems::read(questions)?, config.costs);
                let rounds = &config.rounds;
                replay::tool_use(&problems, rows, rounds, costs, defence, root, each)?;
            }
        }
        Ok(())
    }
}
