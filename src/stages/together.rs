//! A stage on several ranks: rank 0 decides, writes and tells; the others do their share of the work in a folder of their
//! own that is thrown away.
//!
//! Before a stage they copy what its folder holds (checkpoints, logs) as rank 0 lists it. So all begin at the same place,
//! all take the same steps, and nothing that one of them writes can reach the run directory. On a shared file system what
//! rank 0 has just written may be seen late by others: they wait for each listed file to be there in its length.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::layout::{self, CHECKPOINTS};
use super::{Stage, StageContext, is_interrupt};
use crate::artifact::file::{create_folder, list_files, parent, remove_folder};
use crate::artifact::{ArtifactError, Digest, digest_bytes};
use crate::runtime::interrupt;
use crate::runtime::ranks::{RankError, Ranks};

/// How long a file may take to be seen on another machine: longer than NFS keeps attributes by default.
const VISIBLE: Duration = Duration::from_secs(90);

/// What rank 0 tells the others to do.
#[derive(Serialize, Deserialize)]
enum Order {
    Make(Box<Make>),
    /// The run is over, whether well or not.
    End {
        well: bool,
    },
}

#[derive(Serialize, Deserialize)]
struct Make {
    name: String,
    key: Digest,
    seed: u64,
    inputs: BTreeMap<String, PathBuf>,
    folder: PathBuf,
    /// What it holds: path below it, length.
    files: Vec<(String, u64)>,
}

/// Rank 0: run a stage together with the others.
pub(super) fn lead(ranks: &Ranks, stage: &dyn Stage, context: &StageContext) -> anyhow::Result<()> {
    if ranks.is_alone() || !stage.is_shared() {
        // Nobody else is at it: a stop counts at once.
        return interrupt::locally(|| stage.run(context));
    }
    let mut files = vec![];
    for file in list_files(&context.out, &[])? {
        let path = context.out.join(&file);
        let length = fs::metadata(&path).map_err(ArtifactError::io("look at", &path))?;
        files.push((file, length.len()));
    }
    let absolute = |path: &Path| std::path::absolute(path);
    let mut inputs = BTreeMap::new();
    for (name, path) in &context.inputs {
        inputs.insert(name.clone(), absolute(path)?);
    }
    let make = Make {
        name: context.name.clone(),
        key: context.key,
        seed: context.seed,
        inputs,
        folder: absolute(&context.out)?,
        files,
    };
    tell(ranks, &Order::Make(Box::new(make)))?;
    // The others copy what there is before it changes.
    agree_on(ranks, stage)?;
    stage.run(context)
}

/// All ranks, once they are ready, are about to make the same of this stage: another recipe or model is told here.
fn agree_on(ranks: &Ranks, stage: &dyn Stage) -> anyhow::Result<()> {
    let settings = serde_json::to_string(&(
        stage.kind(),
        stage.format(),
        stage.config(),
        stage.model_identity(),
        stage.seed(),
    ))?;
    let what = format!("the settings or the model of stage `{}`", stage.name());
    Ok(ranks.agree_on(&what, &digest_bytes(settings.as_bytes()).to_string())?)
}

/// Rank 0: no stage follows. Not to be called where one failed that is shared: the others may be in the middle of it,
/// and hear of it in another way.
pub(super) fn dismiss(ranks: &Ranks, result: &anyhow::Result<()>) {
    if ranks.is_alone() {
        return;
    }
    let well = result.as_ref().err().is_none_or(is_interrupt);
    if let Err(error) = tell(ranks, &Order::End { well }) {
        tracing::debug!("{error}");
    }
}

fn tell(ranks: &Ranks, order: &Order) -> anyhow::Result<()> {
    let bytes = serde_json::to_vec(order).context("an order among ranks")?;
    Ok(ranks.broadcast(&bytes).map(|_| ())?)
}

/// Every other rank: do as rank 0 tells until the run is over. `beside` other jobs of the run, folders of a rank's own may be
/// theirs; otherwise those that killed ranks left are removed.
pub(super) fn follow(
    ranks: &Ranks,
    root: &Path,
    stages: &[Box<dyn Stage>],
    beside: bool,
) -> anyhow::Result<()> {
    if !beside {
        sweep(&Place::prefix(root)?, |rank| {
            rank == ranks.rank() || rank >= ranks.size()
        });
    }
    let mut stopped = None;
    loop {
        let order: Order =
            serde_json::from_slice(&ranks.broadcast(&[])?).context("an order among ranks")?;
        let make = match (order, stopped) {
            (Order::Make(make), _) => make,
            (Order::End { .. }, Some(stop)) => return Err(stop),
            (Order::End { well: true }, None) => return Ok(()),
            (Order::End { well: false }, None) => {
                let message = "its message is its own".to_owned();
                return Err(RankError::Failed { rank: 0, message }.into());
            }
        };
        let stage = stages
            .iter()
            .find(|stage| stage.name() == make.name)
            .with_context(|| format!("rank 0 asks for the unknown stage `{}`", make.name))?;
        let place = Place::copy(ranks.rank(), root, &make)?;
        agree_on(ranks, stage.as_ref())?;
        let result = stage.run(&StageContext {
            name: make.name.clone(),
            key: make.key,
            out: place.0.clone(),
            inputs: make.inputs,
            seed: make.seed,
            checkpoints: layout::checkpoints(&place.0),
        });
        stopped = match result {
            Ok(()) => None,
            Err(error) if is_interrupt(&error) => Some(error),
            Err(error) => return Err(error.context(format!("stage `{}` failed", make.name))),
        };
    }
}

/// Remove the folders of a run that belong to these ranks; best effort.
fn sweep(prefix: &str, of: impl Fn(usize) -> bool) {
    let entries = fs::read_dir(std::env::temp_dir());
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let rank = name.strip_prefix(prefix);
        let rank = rank.and_then(|rest| rest.rsplit_once("-rank-")?.1.parse().ok());
        if rank.is_some_and(&of)
            && let Err(error) = remove_folder(&entry.path())
        {
            tracing::debug!("{error}");
        }
    }
}

/// The folder of a rank's own, removed with this.
struct Place(PathBuf);

impl Place {
    /// How the names of a run's folders begin.
    fn prefix(root: &Path) -> anyhow::Result<String> {
        let run = digest_bytes(std::path::absolute(root)?.as_os_str().as_encoded_bytes());
        Ok(format!("atp-{}-", run.short()))
    }

    /// A copy of the stage's folder as rank 0 has it. Its name is of the run, the stage and the rank: one left by a killed
    /// process is found and cleared, and jobs that make other stages of the run on the same machine have their own.
    fn copy(rank: usize, root: &Path, make: &Make) -> anyhow::Result<Self> {
        let name = format!("{}{}-rank-{rank}", Self::prefix(root)?, make.name);
        let place = Self(std::env::temp_dir().join(name));
        remove_folder(&place.0)?;
        create_folder(&place.0.join(CHECKPOINTS))?;
        for (file, length) in &make.files {
            let (from, to) = (make.folder.join(file), place.0.join(file));
            wait_for(&from, *length)?;
            create_folder(parent(&to))?;
            fs::copy(&from, &to).map_err(ArtifactError::io("copy", &from))?;
        }
        for path in make.inputs.values() {
            wait_for(path, 0)?;
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = remove_folder(&self.0) {
            tracing::debug!("{error}");
        }
    }
}

/// Until a file is there in its length; a folder, or any length, for 0.
fn wait_for(path: &Path, length: u64) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        let found = fs::metadata(path);
        match &found {
            Ok(found) if length == 0 || found.len() == length => return Ok(()),
            _ if begin.elapsed() < VISIBLE => std::thread::sleep(Duration::from_millis(100)),
            Ok(found) => anyhow::bail!(
                "`{}` has {} bytes here and {length} for rank 0; all ranks need the same file system",
                path.display(),
                found.len()
            ),
            Err(error) => anyhow::bail!(
                "`{}` is not seen from here ({error}), and rank 0 sees it; all ranks need the same file system",
                path.display()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_killed_ranks_left_is_removed_and_nothing_of_others() {
        let mine = format!("atp-test{}-", std::process::id());
        let at = |name: &str| std::env::temp_dir().join(name);
        let names = [
            "data-rank-1",
            "train-dpo.s2-rank-5",
            "data-rank-2",
            "rank-x",
        ]
        .map(|name| format!("{mine}{name}"));
        names
            .iter()
            .for_each(|name| create_folder(&at(name)).unwrap());
        sweep(&mine, |rank| rank == 1 || rank >= 4);
        let left = names.each_ref().map(|name| at(name).exists());
        names
            .iter()
            .for_each(|name| remove_folder(&at(name)).unwrap());
        assert_eq!(left, [false, false, true, true]);
    }
}
