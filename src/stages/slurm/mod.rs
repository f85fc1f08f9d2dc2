//! A plan of stages as jobs of Slurm: one job a stage, stages that do not wait for each other in one array, dependencies
//! as the stages have them. What was submitted is remembered in the run directory, for `status`.

mod queue;
mod script;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::{Source, Stage};
use crate::artifact::file::create_folder;
use crate::artifact::write_atomic;
pub use queue::{JobState, states};
pub use script::Resources;

/// Folder of the scripts and logs in a run directory.
pub(super) const FOLDER: &str = "slurm";
/// What was submitted.
const JOBS: &str = "jobs.json";

/// Stages of one kind that wait for the same kinds of stages: one job, an array where they are several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// What its stages have in common, as a name.
    pub name: String,
    /// Names of its stages, in order.
    pub stages: Vec<String>,
    /// Their work can be divided among ranks.
    pub shared: bool,
    /// What it waits for.
    pub after: Vec<After>,
}

/// A group that is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct After {
    /// Its place among the groups.
    pub group: usize,
    /// Each stage waits for the one in its own place alone.
    pub one_by_one: bool,
}

/// A job that was handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Number of the job, or of the array.
    pub id: u64,
    /// Its stages; of an array, by task.
    pub stages: Vec<String>,
}

/// The stages of a plan in groups, in an order in which each waits for earlier ones alone.
pub fn groups(stages: &[Box<dyn Stage>], wanted: &[bool]) -> Vec<Group> {
    // The kinds that a stage waits for, all the way down, tell stages of one kind apart that can begin at another time.
    let mut kinds: BTreeMap<String, String> = BTreeMap::new();
    let mut groups: Vec<(String, Group)> = vec![];
    let mut of: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut needs: Vec<Vec<Vec<String>>> = vec![];
    for (stage, _) in stages.iter().zip(wanted).filter(|(_, wanted)| **wanted) {
        let mut from: Vec<String> = stage
            .inputs()
            .into_iter()
            .filter_map(|input| match input.source {
                Source::Output { stage, .. } => Some(stage),
                Source::File(_) => None,
            })
            .filter(|name| of.contains_key(name))
            .collect();
        from.sort();
        from.dedup();
        let mut below: Vec<&str> = from.iter().map(|name| kinds[name].as_str()).collect();
        below.sort_unstable();
        below.dedup();
        // Stages that read from many of a kind, as the report does, are one by one; those of a kind share a group.
        let kind = format!("{}({})", stage.kind(), below.join(","));
        let group = match groups.iter().position(|(known, _)| *known == kind) {
            Some(group) => group,
            None => {
                let name = unique_name(&groups, &stage.name(), stage.kind());
                let (stages, after) = (vec![], vec![]);
                let shared = stage.is_shared();
                groups.push((
                    kind.clone(),
                    Group {
                        name,
                        stages,
                        shared,
                        after,
                    },
                ));
                needs.push(vec![]);
                groups.len() - 1
            }
        };
        of.insert(stage.name(), (group, groups[group].1.stages.len()));
        groups[group].1.stages.push(stage.name());
        needs[group].push(from);
        kinds.insert(stage.name(), kind);
    }
    for (place, needs) in needs.iter().enumerate() {
        let mut after: BTreeMap<usize, bool> = BTreeMap::new();
        for (task, from) in needs.iter().enumerate() {
            for (group, at) in from.iter().map(|name| of[name]) {
                *after.entry(group).or_insert(true) &= at == task;
            }
        }
        let several = |group: usize| groups[group].1.stages.len();
        groups[place].1.after = after
            .into_iter()
            .map(|(group, paired)| After {
                group,
                one_by_one: paired && several(place) > 1 && several(group) == several(place),
            })
            .collect();
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The stage's own name up to what tells models and seeds apart, or its kind; a number where that is taken.
fn unique_name(groups: &[(String, Group)], stage: &str, kind: &str) -> String {
    let stem = stage.split('.').next().unwrap_or(kind);
    let taken = |name: &str| groups.iter().any(|(_, group)| group.name == name);
    let numbered = |n: usize| match n {
        1 => stem.to_owned(),
        n => format!("{stem}-{n}"),
    };
    (1..)
        .map(numbered)
        .find(|name| !taken(name))
        .unwrap_or_default()
}

/// How jobs are made: where, with what, of which command.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The run directory.
    pub root: PathBuf,
    /// What each job asks for.
    pub resources: Resources,
    /// The program and its arguments but for the stage.
    pub command: Vec<String>,
}

impl Submission {
    /// The scripts, in order: file name and text.
    pub fn scripts(&self, groups: &[Group]) -> anyhow::Result<Vec<(String, String)>> {
        let folder = std::path::absolute(self.root.join(FOLDER))?;
        let text = |group: &Group| {
            let file = format!("{}.sbatch", group.name);
            (
                file,
                script::text(group, &self.resources, &self.command, &folder),
            )
        };
        Ok(groups.iter().map(text).collect())
    }

    /// Write the scripts and hand them to `sbatch`, each to wait for those before it.
    ///
    /// # Errors
    /// Slurm refuses one; those before it were handed over, and are named.
    pub fn submit(&self, groups: &[Group]) -> anyhow::Result<Vec<Job>> {
        let folder = self.root.join(FOLDER);
        create_folder(&folder)?;
        let mut jobs: Vec<Job> = vec![];
        for (group, (file, text)) in groups.iter().zip(self.scripts(groups)?) {
            let path = folder.join(file);
            write_atomic(&path, text.as_bytes())?;
            let mut command = Command::new("sbatch");
            command.arg("--parsable");
            if let Some(after) = dependency(group, &jobs) {
                command.args([
                    "--kill-on-invalid-dep=yes",
                    &format!("--dependency={after}"),
                ]);
            }
            let output = command
                .arg(&path)
                .output()
                .context("cannot start `sbatch`; is Slurm on this machine?")?;
            let said = String::from_utf8_lossy(&output.stdout);
            let id = said.trim().split(';').next().and_then(|id| id.parse().ok());
            let Some(id) = id.filter(|_| output.status.success()) else {
                let before: Vec<String> = jobs.iter().map(|job| job.id.to_string()).collect();
                let problem = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                remember(&self.root, &jobs)?;
                anyhow::bail!(
                    "sbatch refuses `{}`: {problem}{}",
                    path.display(),
                    match before.is_empty() {
                        true => String::new(),
                        false => format!(
                            "; already in the queue: {}, end them by `scancel {}`",
                            before.join(", "),
                            before.join(" ")
                        ),
                    }
                );
            };
            jobs.push(Job {
                id,
                stages: group.stages.clone(),
            });
        }
        remember(&self.root, &jobs)?;
        Ok(jobs)
    }
}

/// Slurm's words for what a group waits for.
fn dependency(group: &Group, jobs: &[Job]) -> Option<String> {
    let words: Vec<String> = group
        .after
        .iter()
        .map(|after| {
            let kind = if after.one_by_one {
                "aftercorr"
            } else {
                "afterok"
            };
            format!("{kind}:{}", jobs[after.group].id)
        })
        .collect();
    (!words.is_empty()).then(|| words.join(","))
}

fn remember(root: &Path, jobs: &[Job]) -> anyhow::Result<()> {
    let text = serde_json::to_vec_pretty(jobs)?;
    Ok(write_atomic(&root.join(FOLDER).join(JOBS), &text)?)
}

/// The jobs that were last submitted for a run directory; none where none were.
pub fn submitted(root: &Path) -> anyhow::Result<Vec<Job>> {
    let path = root.join(FOLDER).join(JOBS);
    match std::fs::read(&path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).with_context(|| format!("`{}`", path.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(vec![]),
        Err(error) => Err(error).with_context(|| format!("`{}`", path.display())),
    }
}

#[cfg(test)]
mod tests;
