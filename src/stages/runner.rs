//! The run loop: for each stage, decide whether it is up to date, and if not, run it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;

use super::layout::{self, CHECKPOINTS, Layout, STARTED, Started};
use super::reason::in_words;
use super::summary::disk;
use super::{
    Reason, RunSummary, Source, Stage, StageContext, StageKey, StageReport, State, plan, together,
};
use crate::artifact::file::create_folder;
use crate::artifact::{
    ArtifactError, Digest, Manifest, RunLock, digest_bytes, digest_file, free_space,
    remove_stale_temporaries, time,
};
use crate::runtime::message::message;
use crate::runtime::ranks::Ranks;
use crate::runtime::{device, interrupt, seed};

/// How a list of stages is run.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Say what would run and why, and change nothing on disk.
    pub dry_run: bool,
    /// Only these stages and what they read from; all if `None`.
    pub only: Option<Vec<String>>,
    /// After a failure go on with the stages that do not depend on the failed one; else stop.
    pub keep_going: bool,
    /// Other processes work in the run directory, too, each on another stage; what such a stage needs must be there.
    pub beside: bool,
    /// Who shares the work. Rank 0 decides and writes; a summary of another one is empty.
    pub ranks: Ranks,
}

/// Whether a stage is up to date.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It was finished with this very key, and its outputs are intact.
    Hit(Box<Manifest>),
    /// It has to run.
    Miss {
        /// Why; never empty.
        reasons: Vec<Reason>,
    },
}

/// What became of a run: always a summary, and the first error if it did not end well.
#[derive(Debug)]
#[must_use]
pub struct Run {
    /// Every stage that was asked for.
    pub summary: RunSummary,
    /// The first failure; [`is_interrupt`] tells a requested stop from it.
    pub result: anyhow::Result<()>,
}

/// Whether this error is a stop on request, under whatever context it was put.
pub fn is_interrupt(error: &anyhow::Error) -> bool {
    let mut chain = error.chain();
    chain.any(|cause| cause.is::<interrupt::Interrupted>())
}

/// Bring the stages up to date in their order. The run directory is created and locked, except in a dry run.
pub fn run(root: &Path, stages: &[Box<dyn Stage>], options: &RunOptions) -> Run {
    if !options.ranks.is_first() {
        return Run {
            summary: RunSummary::new(root, options.dry_run),
            result: match options.dry_run {
                true => Ok(()),
                false => together::follow(&options.ranks, root, stages, options.beside),
            },
        };
    }
    let mut runner = Runner {
        layout: Layout::new(root),
        dry_run: options.dry_run,
        beside: options.beside,
        ranks: options.ranks.clone(),
        broken: false,
        made: BTreeMap::new(),
        summary: RunSummary::new(root, options.dry_run),
    };
    let result = runner.run_all(stages, options);
    if !options.dry_run && !runner.broken {
        together::dismiss(&options.ranks, &result);
    }
    Run {
        summary: runner.summary,
        result,
    }
}

/// What a stage has become in this run, for those that read from it.
enum Made {
    /// Its outputs are there.
    Ready {
        folder: PathBuf,
        manifest: Box<Manifest>,
    },
    /// Dry run: it would be made first.
    Pending,
    /// It failed, or one before it did.
    Failed,
}

/// The inputs of a stage, found.
#[derive(Default)]
struct Inputs {
    digests: BTreeMap<String, Digest>,
    paths: BTreeMap<String, PathBuf>,
    /// Input name and the stage it waits for.
    pending: Vec<(String, String)>,
}

struct Runner {
    layout: Layout,
    dry_run: bool,
    beside: bool,
    ranks: Ranks,
    /// A stage failed that ranks shared: where the others are is not known, and none can go on.
    broken: bool,
    made: BTreeMap<String, Made>,
    summary: RunSummary,
}

impl Runner {
    fn run_all(&mut self, stages: &[Box<dyn Stage>], options: &RunOptions) -> anyhow::Result<()> {
        plan::check(stages)?;
        let selected = plan::select(stages, options.only.as_deref())?;
        let _lock = match self.dry_run {
            true => None,
            false if options.beside => Some(RunLock::acquire_beside(self.layout.root())?),
            false => Some(RunLock::acquire(self.layout.root())?),
        };
        if !self.dry_run && !options.beside {
            remove_stale_temporaries(&self.layout.root().join("latest"))?;
        }
        if !self.dry_run {
            self.warn_of_space(stages, &selected);
        }
        let mut failure: Option<anyhow::Error> = None;
        for (stage, _) in stages
            .iter()
            .zip(selected)
            .filter(|(_, selected)| *selected)
        {
            let stage = stage.as_ref();
            let mut report = StageReport::new(stage.name(), stage.kind());
            report.work = stage.work();
            report.model = stage.model_identity();
            let stop = failure
                .as_ref()
                .is_some_and(|error| !options.keep_going || is_interrupt(error) || self.broken);
            if stop {
                self.summary.stages.push(report);
                continue;
            }
            let result = self.run_one(stage, &mut report);
            if let Err(error) = result {
                let interrupted = is_interrupt(&error);
                self.broken |= !self.ranks.is_alone() && stage.is_shared() && !interrupted;
                report.state = if interrupted {
                    State::Interrupted
                } else {
                    State::Failed
                };
                report.error = Some(message(&error));
                self.made.insert(report.name.clone(), Made::Failed);
                // A stop on request is handed on as it came; it is nobody's failure.
                let error = match interrupted {
                    true => error,
                    false => error.context(format!("stage `{}` failed", report.name)),
                };
                match &failure {
                    Some(_) if !interrupted => tracing::error!("{}", message(&error)),
                    _ => failure = Some(error),
                }
            }
            self.summary.stages.push(report);
        }
        if self.dry_run {
            self.summary.estimate();
        }
        failure.map_or(Ok(()), Err)
    }

    /// A disk that cannot hold what was never made is told of before hours of work, not after them.
    fn warn_of_space(&self, stages: &[Box<dyn Stage>], selected: &[bool]) {
        let root = self.layout.root();
        let chosen = stages.iter().zip(selected).filter(|(_, chosen)| **chosen);
        let unmade = chosen.filter(|(stage, _)| !self.layout.latest(&stage.name()).exists());
        let bytes = unmade.filter_map(|(stage, _)| Some(stage.work()?.bytes));
        let needed = bytes.fold(0, u64::saturating_add);
        if let (told, false) = disk(needed, free_space(root)) {
            tracing::warn!("disk: {told} (`{}`)", root.display());
        }
    }

    /// One stage; fills in the report but for a failure.
    fn run_one(&mut self, stage: &dyn Stage, report: &mut StageReport) -> anyhow::Result<()> {
        let name = stage.name();
        if let Some(by) = self.failed_before(stage) {
            tracing::warn!("`{name}`: not run, because `{by}` failed");
            report.state = State::Blocked;
            report.error = Some(format!("`{by}` failed"));
            self.made.insert(name, Made::Failed);
            return Ok(());
        }
        let inputs = self.find_inputs(stage)?;
        let key = StageKey {
            kind: stage.kind().to_string(),
            format: stage.format(),
            config: stage.config(),
            inputs: inputs.digests.clone(),
            model: stage.model_identity(),
            seed: stage.seed(),
        };
        if self.dry_run {
            report.took_before = self.layout.previous(&name).map(|found| found.seconds);
        }
        if !inputs.pending.is_empty() {
            report.reasons = pending_reasons(&self.layout, &name, &key, &inputs.pending);
            let sure = |reason: &Reason| !matches!(reason, Reason::Pending { .. });
            report.state = match report.reasons.iter().any(sure) {
                true => State::WouldRun,
                false => State::MayRun,
            };
            self.made.insert(name, Made::Pending);
            return Ok(());
        }
        let folder = self.layout.folder(&name, &key.digest());
        report.folder = Some(folder.clone());
        let mut outcome = decide(&self.layout, &name, &key)?;
        let mut _lock = None;
        if self.beside && !self.dry_run && matches!(outcome, Outcome::Miss { .. }) {
            interrupt::locally(interrupt::check)?;
            _lock = Some(RunLock::acquire_stage(self.layout.root(), &name)?);
            // Another job may have made it between the look and the lock.
            outcome = decide(&self.layout, &name, &key)?;
        }
        let made = match outcome {
            Outcome::Hit(manifest) => {
                tracing::info!("`{name}`: up to date");
                report.state = State::UpToDate;
                report.took = Some(manifest.seconds);
                if !self.dry_run {
                    // A kill between the manifest and the clearing leaves these.
                    layout::unmark(&folder)?;
                    self.layout.link(&name, &folder)?;
                }
                Made::Ready { folder, manifest }
            }
            Outcome::Miss { reasons } => {
                report.reasons = reasons;
                if self.dry_run {
                    report.state = State::WouldRun;
                    Made::Pending
                } else {
                    interrupt::locally(interrupt::check)?;
                    let begin = Instant::now();
                    let result = self.make(stage, &key, &folder, inputs.paths, &report.reasons);
                    report.seconds = begin.elapsed().as_secs_f64();
                    let manifest = Box::new(result?);
                    report.state = State::Ran;
                    tracing::info!("`{name}`: done in {:.1} s", report.seconds);
                    Made::Ready { folder, manifest }
                }
            }
        };
        self.made.insert(name, made);
        Ok(())
    }

    /// A stage it reads from that failed or was held up by a failure.
    fn failed_before(&self, stage: &dyn Stage) -> Option<String> {
        stage.inputs().into_iter().find_map(|input| {
            let Source::Output { stage: from, .. } = input.source else {
                return None;
            };
            matches!(self.made.get(&from), Some(Made::Failed)).then_some(from)
        })
    }

    fn find_inputs(&self, stage: &dyn Stage) -> anyhow::Result<Inputs> {
        let mut found = Inputs::default();
        for input in stage.inputs() {
            let name = input.name;
            let (digest, path) = match input.source {
                Source::File(path) => {
                    let digest = digest_file(&path).with_context(|| format!("input `{name}`"))?;
                    (digest, path)
                }
                Source::Output { stage: from, path } => match self.made.get(&from) {
                    Some(Made::Ready { folder, manifest }) => {
                        let digest = output_digest(manifest, path.as_deref())
                            .with_context(|| format!("input `{name}` from stage `{from}`"))?;
                        (
                            digest,
                            path.map_or(folder.clone(), |path| folder.join(path)),
                        )
                    }
                    _ => {
                        found.pending.push((name, from));
                        continue;
                    }
                },
            };
            found.digests.insert(name.clone(), digest);
            found.paths.insert(name, path);
        }
        Ok(found)
    }

    /// Run a stage in its folder, from its last checkpoint if this very key was begun before.
    fn make(
        &self,
        stage: &dyn Stage,
        key: &StageKey,
        folder: &Path,
        inputs: BTreeMap<String, PathBuf>,
        reasons: &[Reason],
    ) -> anyhow::Result<Manifest> {
        let (name, digest) = (stage.name(), key.digest());
        tracing::info!("`{name}`: running ({})", in_words(reasons));
        let mut started = match layout::started(folder) {
            Some(started)
                if started.key == digest && !matches!(reasons, [Reason::Damaged { .. }]) =>
            {
                started
            }
            _ => {
                layout::discard(folder)?;
                Started {
                    stage: name.clone(),
                    key: digest,
                    started: time::now(),
                    seconds: 0.0,
                    processor: String::new(),
                }
            }
        };
        let mut processor = device::processor();
        if !self.ranks.is_alone() {
            processor.push_str(&format!(" on each of {} ranks", self.ranks.size()));
        }
        if ![String::new(), processor.clone()].contains(&started.processor) {
            tracing::warn!(
                "`{name}`: was begun on {}, goes on on {processor}: no one machine would give the same bytes",
                started.processor
            );
        }
        started.processor = processor;
        create_folder(folder)?;
        remove_stale_temporaries(folder)?;
        layout::mark_started(folder, &started)?;
        let context = StageContext {
            name: name.clone(),
            key: digest,
            out: folder.to_path_buf(),
            inputs,
            seed: seed::derive(key.seed, &format!("stage/{}", key.kind)),
            checkpoints: layout::checkpoints(folder),
        };
        let begin = Instant::now();
        let result = together::lead(&self.ranks, stage, &context);
        started.seconds += begin.elapsed().as_secs_f64();
        if let Err(error) = result {
            // The time is for the reader only; the stage's own error matters more than one from here.
            if let Err(error) = layout::mark_started(folder, &started) {
                tracing::debug!("{error}");
            }
            return Err(error);
        }
        let inputs = context.inputs.iter();
        let inputs = inputs.map(|(name, path)| (name.clone(), self.shown(path)));
        let origin = stage
            .model_origin()
            .map(|origin| ("model".to_owned(), origin));
        let inputs = inputs.chain(origin);
        let manifest = Manifest::write(
            folder,
            &name,
            (digest, serde_json::to_value(key)?),
            inputs.collect(),
            started.seconds,
            &[CHECKPOINTS, STARTED],
        )?;
        layout::unmark(folder)?;
        self.layout.link(&name, folder)?;
        Ok(manifest)
    }

    /// A path for the manifest: relative to the run directory where it lies inside.
    fn shown(&self, path: &Path) -> String {
        let path = path.strip_prefix(self.layout.root()).unwrap_or(path);
        path.display().to_string()
    }
}

/// Whether the stage `name` with this key is up to date, and if not, why.
fn decide(layout: &Layout, name: &str, key: &StageKey) -> Result<Outcome, ArtifactError> {
    let folder = layout.folder(name, &key.digest());
    let damaged = |damage: String| Outcome::Miss {
        reasons: vec![Reason::Damaged { damage }],
    };
    match Manifest::load(&folder) {
        Ok(Some(manifest)) if manifest.key != key.digest() => Ok(damaged(
            "`manifest.json` belongs to another key".to_string(),
        )),
        Ok(Some(manifest)) => Ok(match manifest.verify(&folder) {
            Ok(()) => Outcome::Hit(Box::new(manifest)),
            Err(damage) => damaged(damage.to_string()),
        }),
        Ok(None) => {
            let mut reasons = changes(layout, name, key, &[]);
            if layout::started(&folder).is_some_and(|started| started.key == key.digest()) {
                let checkpoint = layout::checkpoints(&folder).steps()?.first().copied();
                reasons.retain(|reason| *reason != Reason::NeverRun);
                reasons.push(Reason::Unfinished { checkpoint });
            }
            Ok(Outcome::Miss { reasons })
        }
        Err(ArtifactError::Damaged { reason, .. }) => {
            Ok(damaged(format!("`manifest.json` is damaged: {reason}")))
        }
        Err(error) => Err(error),
    }
}

/// What changed since the last finished run of this stage, leaving out the inputs in `unknown`; never run if none is
/// there to compare with.
fn changes(
    layout: &Layout,
    name: &str,
    key: &StageKey,
    unknown: &[(String, String)],
) -> Vec<Reason> {
    let previous = layout.previous(name).map(|manifest| manifest.parts);
    let Some(Ok(mut old)) = previous.map(serde_json::from_value::<StageKey>) else {
        return vec![Reason::NeverRun];
    };
    for (input, _) in unknown {
        old.inputs.remove(input);
    }
    let changes = key.changes_since(&old);
    if changes.is_empty() && unknown.is_empty() {
        // Equal parts under another digest: written by a program that made keys in another way.
        return vec![Reason::NeverRun];
    }
    changes
}

/// Dry run: the reasons of a stage that waits for others.
fn pending_reasons(
    layout: &Layout,
    name: &str,
    key: &StageKey,
    pending: &[(String, String)],
) -> Vec<Reason> {
    let mut reasons = changes(layout, name, key, pending);
    reasons.extend(pending.iter().map(|(input, stage)| Reason::Pending {
        name: input.clone(),
        stage: stage.clone(),
    }));
    reasons
}

/// The digest of one output, of all outputs below a folder, or of all outputs.
fn output_digest(manifest: &Manifest, path: Option<&str>) -> anyhow::Result<Digest> {
    let Some(path) = path else {
        return Ok(list_digest(manifest.outputs.iter()));
    };
    if let Some(entry) = manifest.outputs.get(path) {
        return Ok(entry.digest);
    }
    let prefix = format!("{}/", path.trim_end_matches('/'));
    let below: Vec<_> = manifest
        .outputs
        .iter()
        .filter(|(file, _)| file.starts_with(&prefix))
        .collect();
    if below.is_empty() {
        let left: Vec<_> = manifest.outputs.keys().map(String::as_str).collect();
        anyhow::bail!(
            "expected `{path}` among its outputs, got: {}",
            left.join(", ")
        );
    }
    Ok(list_digest(below.into_iter()))
}

/// One digest over names and contents.
fn list_digest<'a>(
    entries: impl Iterator<Item = (&'a String, &'a crate::artifact::manifest::Entry)>,
) -> Digest {
    let mut text = String::new();
    for (file, entry) in entries {
        text.push_str(&format!("{}  {file}\n", entry.digest));
    }
    digest_bytes(text.as_bytes())
}
