//! Data: a testbed's texts and rules in, its training and test sets out.

use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Value, json};

use super::data_games::GameData;
use super::data_role_play::RolePlayData;
use super::data_tools::ToolData;
use super::shared::Sizes;
use crate::artifact::{digest_file, write_atomic};
use crate::recipe::Recipe;
use crate::scenario::Testbed;
use crate::scenario::disjoint::Disjointness;
use crate::stages::{Input, Stage, StageContext};

/// Kind of the stage.
pub const KIND: &str = "data";
/// Training set.
pub const TRAIN: &str = "train.parquet";
/// Test set.
pub const TEST: &str = "test.parquet";

/// The card of a set.
pub const CARD: &str = "README.md";

/// What makes the sets of one testbed.
pub trait DataSource {
    /// All that the sets depend on but the files and the seed.
    fn config(&self) -> Value;

    /// Files of the user's that the sets are made from; none where all is part of the program.
    fn files(&self) -> &[PathBuf];

    /// How large the sets will be, where that is known.
    fn sizes(&self) -> Option<Sizes>;

    /// Write the sets and their card; `seed` is the recipe's.
    ///
    /// # Errors
    /// A set that cannot be drawn or written.
    fn write(&self, context: &StageContext, seed: u64) -> anyhow::Result<()>;
}

/// Draws the sets of one testbed and seed.
pub struct DataStage {
    name: String,
    testbed: Testbed,
    source: Box<dyn DataSource>,
    seed: u64,
}

impl DataStage {
    /// Texts are read and checked at once, so that a mistake in one is told before anything runs.
    pub fn new(name: String, testbed: Testbed, recipe: &Recipe, seed: u64) -> anyhow::Result<Self> {
        let settings = recipe.of(testbed);
        let source: Box<dyn DataSource> = match testbed {
            Testbed::RolePlay => Box::new(RolePlayData::new(recipe, &settings.role_play)?),
            Testbed::Coordination => Box::new(GameData::new(recipe, &settings.coordination)?),
            Testbed::ToolUse => Box::new(ToolData::new(&settings.tool_use)),
        };
        Ok(Self {
            name,
            testbed,
            source,
            seed,
        })
    }
}

impl DataStage {
    /// How large its sets will be, where that is known.
    pub fn sizes(&self) -> Option<Sizes> {
        self.source.sizes()
    }
}

impl Stage for DataStage {
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
        let mut config = self.source.config();
        config["testbed"] = json!(self.testbed);
        config
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn inputs(&self) -> Vec<Input> {
        let name = |path: &PathBuf| {
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        self.source
            .files()
            .iter()
            .map(|path| Input::file(name(path), path))
            .collect()
    }

    fn run(&self, context: &StageContext) -> anyhow::Result<()> {
        self.source.write(context, self.seed)
    }
}

/// Write the proof that two sets are disjoint, with their sizes.
pub(super) fn write_proof(
    context: &StageContext,
    (train, test): (usize, usize),
    found: &Disjointness,
) -> anyhow::Result<()> {
    let proof = json!({
        "train": train,
        "test": test,
        "nearest_situations": found.situations,
        "nearest_phrasings": found.phrasings,
    });
    let text = serde_json::to_string_pretty(&proof)?;
    write_atomic(&context.output("disjointness.json"), text.as_bytes())?;
    Ok(())
}

/// The configuration with the digests of the user's files under `key`: what a card says that its set depends on.
pub(super) fn with_files(mut config: Value, key: &str, files: &[PathBuf]) -> anyhow::Result<Value> {
    for path in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        config[key][name.as_ref()] = json!(digest_file(path)?);
    }
    Ok(config)
}

/// The `.toml` files of a folder that a recipe names under `key`, sorted.
pub(super) fn toml_files(
    recipe: &Recipe,
    key: &str,
    folder: &std::path::Path,
) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("{}: key `{key}`: {}", recipe.name, folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    Ok(files)
}
