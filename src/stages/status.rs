//! What a run directory holds, read from its manifests and marks alone: no output is opened, nothing is changed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::layout::{self, Layout};
use super::slurm::{self, JobState};
use super::summary::duration;
use crate::artifact::lock::{Holder, LOCK};
use crate::artifact::{ArtifactError, Manifest, RunLock};
use crate::runtime::message::as_text;
use crate::runtime::progress::size;

/// Where training stages write a line a step.
const METRICS: &str = "metrics.jsonl";

/// How far a stage's folder is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Progress {
    /// It has a manifest. Whether its outputs are still intact is checked by the next run.
    Finished {
        /// When: RFC 3339, UTC.
        finished: String,
        /// Wall time, in seconds.
        seconds: f64,
        /// Number of outputs.
        files: usize,
        /// Their size together.
        bytes: u64,
    },
    /// It was begun, and a process may be at work on it now; see [`Status::holder`].
    Unfinished {
        /// When its first attempt began: RFC 3339, UTC.
        started: String,
        /// Its newest checkpoint.
        checkpoint: Option<u64>,
        /// The last line of its metrics, where it writes some: step, loss and what else it measures.
        metrics: Option<serde_json::Value>,
    },
    /// Its manifest cannot be read.
    Damaged {
        /// What is wrong.
        reason: String,
    },
}

/// One folder of one stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageStatus {
    /// Name in the recipe.
    pub name: String,
    /// How far it is.
    #[serde(flatten)]
    pub progress: Progress,
    /// The last run used this one; the others were made with other keys.
    pub latest: bool,
    /// Where it lies.
    #[serde(serialize_with = "as_text")]
    pub folder: PathBuf,
}

/// What a run directory holds. `Display` is for people, serde for scripts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// The run directory.
    #[serde(serialize_with = "as_text")]
    pub run_directory: PathBuf,
    /// Who is at work in it now.
    pub holder: Option<Holder>,
    /// Its stages' folders.
    pub stages: Vec<StageStatus>,
    /// Jobs that were submitted for it, by stage.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub jobs: BTreeMap<String, JobState>,
}

/// Whether a run, or a submission of one, has begun in this folder.
pub fn is_begun(root: &Path) -> bool {
    let signs = [root.join(LOCK), root.join(slurm::FOLDER)];
    Layout::new(root).stages().is_dir() || signs.iter().any(|sign| sign.exists())
}

/// What a folder without stages is told.
pub fn no_stages(root: &Path) -> String {
    format!(
        "{}: expected a run directory, which holds the folders `stages` and `latest`; this folder has no `stages`",
        root.display()
    )
}

/// Look at a run directory. Stages stand in the order of `order` (a plan's names), others after them by name.
pub fn status(root: &Path, order: &[String]) -> Result<Status, ArtifactError> {
    let layout = Layout::new(root);
    let mut stages = Vec::new();
    for folder in layout::folders(&layout)? {
        let (name, progress) = match Manifest::load(&folder) {
            Ok(Some(manifest)) => {
                let progress = Progress::Finished {
                    finished: manifest.finished,
                    seconds: manifest.seconds,
                    files: manifest.outputs.len(),
                    bytes: manifest.outputs.values().map(|entry| entry.size).sum(),
                };
                (manifest.stage, progress)
            }
            Ok(None) => match layout::started(&folder) {
                Some(started) => {
                    let checkpoint = layout::checkpoints(&folder).steps()?.first().copied();
                    let progress = Progress::Unfinished {
                        started: started.started,
                        checkpoint,
                        metrics: last_metrics(&folder),
                    };
                    (started.stage, progress)
                }
                // Neither finished nor begun: a discarded folder whose removal was cut short.
                None => continue,
            },
            Err(error) => {
                let reason = error.to_string();
                (name_of(&folder), Progress::Damaged { reason })
            }
        };
        let latest = same_folder(&layout.latest(&name), &folder);
        stages.push(StageStatus {
            name,
            progress,
            latest,
            folder,
        });
    }
    let place = |name: &String| order.iter().position(|other| other == name);
    stages.sort_by_key(|stage| {
        let place = place(&stage.name).unwrap_or(order.len());
        (place, stage.name.clone(), !stage.latest)
    });
    Ok(Status {
        run_directory: root.to_path_buf(),
        holder: RunLock::holder(root)?,
        stages,
        jobs: BTreeMap::new(),
    })
}

impl Status {
    /// With the jobs that were submitted for the run directory, and what Slurm says of them.
    ///
    /// # Errors
    /// The list of jobs cannot be read.
    pub fn with_jobs(mut self) -> anyhow::Result<Self> {
        let jobs = slurm::submitted(&self.run_directory)?;
        if !jobs.is_empty() {
            self.jobs = slurm::states(&jobs);
        }
        Ok(self)
    }
}

/// The stage's name in its folder's name, for want of a readable manifest.
fn name_of(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.rsplit_once('-').map(|(stem, _)| stem.to_string());
    stem.unwrap_or_else(|| name.into_owned())
}

/// The last whole line of the metrics of a stage that is at work; only the file's end is read.
fn last_metrics(folder: &Path) -> Option<serde_json::Value> {
    const END: u64 = 4096;
    let mut file = File::open(folder.join(METRICS)).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(END)))
        .ok()?;
    let mut bytes = vec![];
    file.take(END).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let whole = &text[..text.rfind('\n')?];
    serde_json::from_str(whole.rsplit('\n').next()?).ok()
}

/// Step and loss of a line of metrics, in words.
fn in_words(metrics: &serde_json::Value) -> Option<String> {
    let step = metrics["step"].as_u64()?;
    let loss = metrics["loss"].as_f64();
    let reward = metrics["reward_mean"].as_f64();
    let mut text = format!("step {step}");
    for (name, value) in [("loss", loss), ("reward", reward)] {
        if let Some(value) = value {
            text += &format!(", {name} {value:.4}");
        }
    }
    Some(text)
}

fn same_folder(link: &Path, folder: &Path) -> bool {
    match (link.canonicalize(), folder.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.run_directory.display();
        match &self.holder {
            Some(holder) => writeln!(f, "`{place}`: {holder} is at work")?,
            None => writeln!(f, "`{place}`: nobody is at work")?,
        }
        let width = self.stages.iter().map(|stage| stage.name.len()).max();
        let width = width.unwrap_or(0);
        let mut older = 0;
        for stage in &self.stages {
            write!(f, "{:width$}  ", stage.name)?;
            match &stage.progress {
                Progress::Finished { .. } if !stage.latest => {
                    older += 1;
                    writeln!(f, "finished with another key: {}", stage.folder.display())?;
                }
                Progress::Finished {
                    finished,
                    seconds,
                    files,
                    bytes,
                } => {
                    let (took, size) = (duration(*seconds), size(*bytes));
                    let files_word = if *files == 1 { "file" } else { "files" };
                    writeln!(
                        f,
                        "finished {finished} in {took}, {files} {files_word}, {size}"
                    )?;
                }
                Progress::Unfinished {
                    started,
                    checkpoint,
                    metrics,
                } => {
                    write!(f, "begun {started}, not finished")?;
                    if let Some(now) = metrics.as_ref().and_then(in_words) {
                        write!(f, ", {now}")?;
                    }
                    match checkpoint {
                        Some(step) => writeln!(f, ", last checkpoint at step {step}")?,
                        None => writeln!(f, ", no checkpoint yet")?,
                    }
                }
                Progress::Damaged { reason } => writeln!(f, "damaged: {reason}")?,
            }
        }
        if !self.jobs.is_empty() {
            writeln!(f, "jobs:")?;
            let width = self.jobs.keys().map(String::len).max().unwrap_or(0);
            for (stage, job) in &self.jobs {
                let state = job
                    .state
                    .as_deref()
                    .unwrap_or("not in Slurm's queue any more");
                writeln!(f, "{stage:width$}  job {}: {state}", job.job)?;
            }
        }
        if self.stages.is_empty() {
            writeln!(f, "no stage was begun here")?;
        }
        if older > 0 {
            writeln!(
                f,
                "folders with another key are used again when their recipe comes back, and can be removed"
            )?;
        }
        Ok(())
    }
}
