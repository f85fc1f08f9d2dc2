//! A run's numbers as TensorBoard shows them: a folder a stage; training metrics by step, evaluation rates by round.
//!
//! The same run directory gives the same bytes. A stage's manifest has its end and how long it took; its steps are spread
//! evenly between, since the log has no times.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{ExportError, new_folder, write};
use crate::artifact::time::seconds_of;
use crate::artifact::{ArtifactError, Manifest};
use crate::evaluation::observation::{self, Strand};
use crate::formats::events::{Scalar, encode};
use crate::stages::evaluations::{Evaluated, Rows};
use crate::stages::status;

const METRICS: &str = "metrics.jsonl";
/// TensorBoard takes files with `tfevents` in their name; it wants a number there.
const FILE: &str = "events.out.tfevents.0000000000.atp-pipeline";

/// Write a folder that `tensorboard --logdir` shows; gives the names of the stages in it.
///
/// # Errors
/// No run directory, nothing finished in it, a folder that is taken, files that cannot be read or written.
pub fn write_events(run: &Path, folder: &Path) -> Result<Vec<String>, ExportError> {
    let problem = |text: String| ExportError::Problem(text);
    if !run.join("stages").is_dir() {
        return Err(problem(format!(
            "{}: expected a run directory, which holds the folders `stages` and `latest`; `atp-pipeline run` makes one",
            run.display()
        )));
    }
    let mut logs: Vec<(String, Vec<Scalar>, f64)> = vec![];
    for stage in status(run, &[])?.stages {
        let Some(manifest) = Manifest::load(&stage.folder)?.filter(|_| stage.latest) else {
            continue;
        };
        let end = seconds_of(&manifest.finished).unwrap_or(0.0);
        let span = (end - manifest.seconds, manifest.seconds);
        for file in manifest
            .outputs
            .keys()
            .filter(|f| f.rsplit('/').next() == Some(METRICS))
        {
            let below = file
                .strip_suffix(METRICS)
                .unwrap_or_default()
                .trim_end_matches('/');
            let name = match below {
                "" => stage.name.clone(),
                below => format!("{}/{below}", stage.name),
            };
            logs.push((name, training(&stage.folder.join(file), span)?, span.0));
        }
        let evaluated = Evaluated::load(&stage.folder).map_err(|e| problem(format!("{e:#}")))?;
        if let Some(evaluated) = evaluated {
            let rows = evaluated.rows().map_err(|e| problem(format!("{e:#}")))?;
            logs.push((stage.name.clone(), evaluation(&rows, span), span.0));
        }
    }
    logs.retain(|(_, scalars, _)| !scalars.is_empty());
    if logs.is_empty() {
        return Err(problem(format!(
            "{}: no training or evaluation has finished in this run; `atp-pipeline status {}` says how far it is",
            run.display(),
            run.display()
        )));
    }
    new_folder(folder, |place| {
        for (name, scalars, begin) in &logs {
            let at = place.join(name);
            std::fs::create_dir_all(&at).map_err(ArtifactError::io("create folder", &at))?;
            write(&at, FILE, &encode(scalars, *begin))?;
        }
        Ok(())
    })?;
    Ok(logs.into_iter().map(|(name, ..)| name).collect())
}

/// Every number of every line, by the line's `step`.
fn training(path: &PathBuf, (begin, seconds): (f64, f64)) -> Result<Vec<Scalar>, ExportError> {
    let text = std::fs::read_to_string(path).map_err(ArtifactError::io("read", path))?;
    let count = text.lines().count().max(1) as f64;
    let mut scalars = vec![];
    for (number, line) in text.lines().enumerate() {
        let wrong = |what: &str| {
            let place = format!("{}:{}", path.display(), number + 1);
            ExportError::Problem(format!("{place}: expected {what}"))
        };
        let line: Value = serde_json::from_str(line).map_err(|_| wrong("a JSON object"))?;
        let line = line.as_object().ok_or_else(|| wrong("a JSON object"))?;
        let step = line.get("step").and_then(Value::as_i64);
        let step = step.ok_or_else(|| wrong("a number `step`"))?;
        let wall_time = begin + seconds * (number + 1) as f64 / count;
        for (name, value) in line.iter().filter(|(name, _)| *name != "step") {
            if let Some(value) = value.as_f64() {
                scalars.push(Scalar {
                    tag: format!("train/{name}"),
                    step,
                    wall_time,
                    value: value as f32,
                });
            }
        }
    }
    Ok(scalars)
}

/// Rates and what has no outcome, by round.
fn evaluation(rows: &Rows, (begin, seconds): (f64, f64)) -> Vec<Scalar> {
    let strands = match rows {
        Rows::RolePlay(rows) => observation::role_play(rows),
        Rows::Coordination(rows) => observation::games(rows),
        Rows::ToolUse(rows) => observation::tools(rows),
    };
    let mut scalars = vec![];
    for strand in &strands {
        let rounds = strand.rounds();
        for (place, &round) in rounds.iter().enumerate() {
            let wall_time = begin + seconds * (place + 1) as f64 / rounds.len() as f64;
            let mut put = |name: &str, value: f64| {
                scalars.push(Scalar {
                    tag: tag(strand, name),
                    step: round.into(),
                    wall_time,
                    value: value as f32,
                });
            };
            let of = strand.observations.iter().filter(|o| o.round == round);
            let all: Vec<_> = of.collect();
            let events: Vec<bool> = all.iter().filter_map(|o| o.event).collect();
            if !events.is_empty() {
                let hits = events.iter().filter(|e| **e).count();
                put("rate", hits as f64 / events.len() as f64);
            }
            let failed = all.iter().filter(|o| o.failed).count();
            put("decisions", events.len() as f64);
            put("failed", failed as f64);
            put("unreadable", (all.len() - events.len() - failed) as f64);
        }
    }
    scalars
}

/// `evaluation/violation/rate`; with the agents and settings where there are several.
fn tag(strand: &Strand, name: &str) -> String {
    let plain = |text: &str| text.replace(['/', ' '], "_");
    let mut tag = format!("evaluation/{}", strand.measure.name());
    if !strand.who.is_empty() {
        tag = format!("{tag}/{}", plain(&strand.who));
    }
    if strand.settings != "all" {
        tag = format!("{tag}/{}", plain(&strand.settings));
    }
    format!("{tag}/{name}")
}
