//! What a stage is to the run loop, and what it is given when it runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::artifact::{Checkpoints, Digest};
use crate::runtime::interrupt::{self, Interrupted};

/// Where an input comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// What an earlier stage leaves: a file, or all files below a folder.
    Output {
        /// Name of that stage.
        stage: String,
        /// Path relative to its folder; `None` for all it leaves.
        path: Option<String>,
    },
    /// A file from outside the run.
    File(PathBuf),
}

/// Something a stage reads, under the name it knows it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Name in the stage's key, its reasons and its context.
    pub name: String,
    /// Where it comes from.
    pub source: Source,
}

impl Input {
    /// A file, or a folder with all below it, that the stage `stage` leaves.
    pub fn output(
        name: impl Into<String>,
        stage: impl Into<String>,
        path: impl Into<String>,
    ) -> Self {
        let (stage, path) = (stage.into(), Some(path.into()));
        Self {
            name: name.into(),
            source: Source::Output { stage, path },
        }
    }

    /// All that the stage `stage` leaves.
    pub fn all_outputs(name: impl Into<String>, stage: impl Into<String>) -> Self {
        let (stage, path) = (stage.into(), None);
        Self {
            name: name.into(),
            source: Source::Output { stage, path },
        }
    }

    /// A file from outside the run.
    pub fn file(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            source: Source::File(path.into()),
        }
    }
}

/// How much a stage has to do, as far as the recipe tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Work {
    /// How many, at most.
    pub count: u64,
    /// Of what, in the plural.
    pub unit: &'static str,
    /// New tokens, at most.
    pub tokens: u64,
    /// Bytes on disk, about.
    pub bytes: u64,
}

impl Work {
    /// So many times so many of a unit; numbers that are too large for any computer are cut.
    pub fn new(factors: &[u64], unit: &'static str) -> Self {
        let count = factors.iter().fold(1, |all: u64, n| all.saturating_mul(*n));
        Self {
            count,
            unit,
            tokens: 0,
            bytes: 0,
        }
    }

    /// With so many new tokens each, and what is stored of each.
    pub fn writing(self, tokens_each: u64) -> Self {
        /// A row without its text; and a token of text with its share of JSON and Parquet, not compressed.
        const ROW: u64 = 256;
        const TOKEN: u64 = 5;
        let bytes = tokens_each.saturating_mul(TOKEN).saturating_add(ROW);
        Self {
            tokens: self.count.saturating_mul(tokens_each),
            bytes: self.bytes.saturating_add(self.count.saturating_mul(bytes)),
            ..self
        }
    }

    /// With so many bytes more on disk.
    pub fn storing(self, bytes: u64) -> Self {
        Self {
            bytes: self.bytes.saturating_add(bytes),
            ..self
        }
    }
}

/// One step from files to files.
///
/// All but [`Stage::run`] is asked on every run and must be cheap: no model is loaded there.
pub trait Stage {
    /// Its name in the recipe, unique in a plan: ASCII letters, digits, `-`, `_` and `.`. Not part of the key.
    fn name(&self) -> String;

    /// What it does. Part of the key.
    fn kind(&self) -> &'static str;

    /// Version of its behaviour, to be raised when the same key would give another result. Part of the key.
    fn format(&self) -> u32;

    /// Its own configuration with all defaults filled in. Part of the key.
    fn config(&self) -> Value;

    /// Which model it uses: a text that changes with the model's files. Part of the key.
    fn model_identity(&self) -> Option<String> {
        None
    }

    /// Where that model is from, for who reads the manifest: `owner/name@commit`, a path, an address. Not part of the key.
    fn model_origin(&self) -> Option<String> {
        None
    }

    /// Root seed of its random streams; a stage that draws nothing returns 0. Part of the key.
    fn seed(&self) -> u64;

    /// Its work can be divided among ranks; otherwise rank 0 does it alone. Not part of the key.
    fn is_shared(&self) -> bool {
        false
    }

    /// How much it has to do, if that can be told beforehand. Not part of the key.
    fn work(&self) -> Option<Work> {
        None
    }

    /// What it reads; stages it names must stand before it in the plan. Digests are part of the key.
    fn inputs(&self) -> Vec<Input>;

    /// Do the work: read the context's inputs, leave files in `context.out`.
    ///
    /// The folder may hold files of an attempt that was stopped; what is to be kept of it is said by the checkpoints
    /// alone. A stage asks [`StageContext::check_interrupt`] wherever its work on disk is whole.
    fn run(&self, context: &StageContext) -> anyhow::Result<()>;
}

/// What a running stage is given.
#[derive(Debug)]
pub struct StageContext {
    /// Name of the stage.
    pub name: String,
    /// Its key.
    pub key: Digest,
    /// Where its outputs go: every file left here, but for the checkpoints, is an output.
    pub out: PathBuf,
    /// The files and folders it reads, by input name.
    pub inputs: BTreeMap<String, PathBuf>,
    /// Root of its random streams, derived from [`Stage::seed`] and [`Stage::kind`]: equal for equal keys, whatever
    /// the stage is called.
    pub seed: u64,
    /// Its checkpoints, which are removed when it is finished.
    pub checkpoints: Checkpoints,
}

impl StageContext {
    /// The path of an input.
    pub fn input(&self, name: &str) -> anyhow::Result<&Path> {
        self.inputs.get(name).map(PathBuf::as_path).ok_or_else(|| {
            let known: Vec<_> = self.inputs.keys().map(String::as_str).collect();
            anyhow::anyhow!(
                "stage `{}` asks for its input `{name}`, but declares only: {}",
                self.name,
                known.join(", ")
            )
        })
    }

    /// The path of an output.
    pub fn output(&self, file: &str) -> PathBuf {
        self.out.join(file)
    }

    /// `Err(Interrupted)` once a stop was asked for.
    pub fn check_interrupt(&self) -> Result<(), Interrupted> {
        interrupt::check()
    }
}
