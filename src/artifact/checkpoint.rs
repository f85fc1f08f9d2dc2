//! Checkpoints inside a stage: whole folders `step-00000042`, of which only an intact one is ever loaded.
//!
//! A checkpoint is written under a temporary name with its list of digests last, made durable, and renamed into place.
//! A killed process so leaves either no checkpoint of that step or a whole one; what a disk damages later is found by
//! the digests, and the checkpoint before it is taken.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ArtifactError;
use super::file::{
    check_relative, create_folder, list_files, parent, remove_folder, sync_folder,
    temporary_beside, write_atomic,
};
use super::manifest::{Entries, seal, to_json, verify};

/// File name of the digest list in a checkpoint's folder.
const DIGESTS: &str = "digests.json";

/// The content of a digest list.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DigestList {
    step: u64,
    files: Entries,
}

/// The checkpoints of one stage.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    directory: PathBuf,
    keep: usize,
}

/// An intact checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The step it was saved at.
    pub step: u64,
    /// Its folder.
    pub folder: PathBuf,
}

impl Checkpoint {
    /// The path of one of its files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The bytes of one of its files.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, ArtifactError> {
        let path = self.path(name);
        fs::read(&path).map_err(ArtifactError::io("read", &path))
    }
}

impl Checkpoints {
    /// Checkpoints below `directory`, which is created with the first one; the newest `keep` (at least one) are kept.
    pub fn new(directory: impl Into<PathBuf>, keep: usize) -> Self {
        Self {
            directory: directory.into(),
            keep: keep.max(1),
        }
    }

    /// Where they lie.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Save the state after `step` as these named files.
    pub fn save(&self, step: u64, files: &[(&str, &[u8])]) -> Result<Checkpoint, ArtifactError> {
        let saved = self.save_with(step, |folder| {
            for (name, bytes) in files {
                check_relative(folder, name)?;
                let path = folder.join(name);
                create_folder(parent(&path))?;
                fs::write(&path, bytes).map_err(ArtifactError::io("write", &path))?;
            }
            Ok(())
        });
        let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
        saved.map_err(|error: ArtifactError| error.for_bytes(bytes as u64))
    }

    /// Save the state after `step` as whatever files the closure writes into the folder it is given. Nothing of a failed
    /// save is left, and the checkpoints before it stay.
    pub fn save_with<E: From<ArtifactError>>(
        &self,
        step: u64,
        write: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<Checkpoint, E> {
        create_folder(&self.directory)?;
        let folder = self.directory.join(folder_name(step));
        let temporary = temporary_beside(&folder);
        create_folder(&temporary)?;
        let written = write(&temporary).and_then(|()| {
            self.put_in_place(step, &temporary, &folder)
                .map_err(E::from)
        });
        if let Err(error) = written {
            // Best effort: what stays is found by `remove_stale_temporaries`.
            let _ = fs::remove_dir_all(&temporary);
            return Err(error);
        }
        self.prune(step)?;
        Ok(Checkpoint { step, folder })
    }

    fn put_in_place(
        &self,
        step: u64,
        temporary: &Path,
        folder: &Path,
    ) -> Result<(), ArtifactError> {
        let files = list_files(temporary, &[])?;
        if files.iter().any(|file| file == DIGESTS) {
            return Err(ArtifactError::Name {
                directory: folder.to_path_buf(),
                name: DIGESTS.to_string(),
                reason: "the digest list has this name",
            });
        }
        for file in &files {
            let mut above = parent(Path::new(file)).to_path_buf();
            while above != Path::new(".") {
                sync_folder(&temporary.join(&above))?;
                above = parent(&above).to_path_buf();
            }
        }
        let list = DigestList {
            step,
            files: seal(temporary, &files)?,
        };
        let path = temporary.join(DIGESTS);
        write_atomic(&path, &to_json(&list, &path)?)?;
        // One of the same step is there only if it was damaged, or the work went back to before it.
        remove_folder(folder)?;
        fs::rename(temporary, folder).map_err(ArtifactError::io("rename into place", folder))?;
        sync_folder(&self.directory)
    }

    /// Remove all but the newest up to `step`. Those after it belong to work that was given up.
    fn prune(&self, step: u64) -> Result<(), ArtifactError> {
        let (kept, future): (Vec<u64>, Vec<u64>) =
            self.steps()?.into_iter().partition(|&other| other <= step);
        for old in future.into_iter().chain(kept.into_iter().skip(self.keep)) {
            remove_folder(&self.directory.join(folder_name(old)))?;
        }
        Ok(())
    }

    /// The steps that have a folder, intact or not, the newest first.
    pub fn steps(&self) -> Result<Vec<u64>, ArtifactError> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(ArtifactError::io("list folder", &self.directory)(error)),
        };
        let mut steps = Vec::new();
        for entry in entries {
            let entry = entry.map_err(ArtifactError::io("list folder", &self.directory))?;
            let name = entry.file_name();
            let step = name.to_str().and_then(|name| name.strip_prefix("step-"));
            if let Some(Ok(step)) = step.map(str::parse::<u64>) {
                steps.push(step);
            }
        }
        steps.sort_unstable_by(|a, b| b.cmp(a));
        Ok(steps)
    }

    /// The newest checkpoint whose digests hold. A damaged one is skipped, and it is said which one is taken instead.
    pub fn latest(&self) -> Result<Option<Checkpoint>, ArtifactError> {
        self.latest_where(|_| Ok(()))
    }

    /// The newest checkpoint whose digests hold and of which this holds, too; the closure says what is wrong otherwise.
    pub fn latest_where(
        &self,
        mut usable: impl FnMut(&Checkpoint) -> Result<(), String>,
    ) -> Result<Option<Checkpoint>, ArtifactError> {
        let mut skipped = false;
        for step in self.steps()? {
            let folder = self.directory.join(folder_name(step));
            let checkpoint = Checkpoint { step, folder };
            match intact(&checkpoint.folder, step).and_then(|()| usable(&checkpoint)) {
                Ok(()) => {
                    if skipped {
                        tracing::warn!("using the checkpoint of step {step} instead");
                    }
                    return Ok(Some(checkpoint));
                }
                Err(reason) => tracing::warn!(
                    "skipping the damaged checkpoint `{}`: {reason}",
                    checkpoint.folder.display()
                ),
            }
            skipped = true;
        }
        if skipped {
            tracing::warn!("no intact checkpoint is left: this stage starts anew");
        }
        Ok(None)
    }

    /// Remove them all.
    pub fn clear(&self) -> Result<(), ArtifactError> {
        remove_folder(&self.directory)
    }
}

fn folder_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// Whether the folder holds a whole checkpoint of this step; if not, why.
fn intact(folder: &Path, step: u64) -> Result<(), String> {
    let bytes = fs::read(folder.join(DIGESTS)).map_err(|error| format!("`{DIGESTS}`: {error}"))?;
    let list: DigestList =
        serde_json::from_slice(&bytes).map_err(|error| format!("`{DIGESTS}`: {error}"))?;
    if list.step != step {
        return Err(format!("it was saved as step {}", list.step));
    }
    verify(folder, &list.files).map_err(|damage| damage.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::remove_stale_temporaries;

    fn three() -> (tempfile::TempDir, Checkpoints) {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(folder.path().join("checkpoints"), 2);
        for step in [10, 20, 30] {
            let state = [step as u8; 64];
            let saved = checkpoints.save(step, &[("state", &state), ("optim/m", b"m")]);
            assert_eq!(saved.unwrap().step, step);
        }
        (folder, checkpoints)
    }

    fn latest(checkpoints: &Checkpoints) -> Option<u64> {
        let latest = checkpoints.latest().unwrap();
        if let Some(checkpoint) = &latest {
            let state = checkpoint.read("state").unwrap();
            assert_eq!(state, [checkpoint.step as u8; 64]);
        }
        latest.map(|checkpoint| checkpoint.step)
    }

    #[test]
    fn the_newest_two_are_kept_and_clear_removes_them() {
        let (_folder, checkpoints) = three();
        assert_eq!(checkpoints.steps().unwrap(), [30, 20]);
        assert_eq!(latest(&checkpoints), Some(30));
        checkpoints.clear().unwrap();
        checkpoints.clear().unwrap();
        assert_eq!(latest(&checkpoints), None);
    }

    #[test]
    fn a_flipped_bit_sends_back_to_the_one_before() {
        let (_folder, checkpoints) = three();
        let path = checkpoints.directory().join("step-00000030/state");
        let mut bytes = fs::read(&path).unwrap();
        bytes[40] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(latest(&checkpoints), Some(20));
    }

    #[test]
    fn a_torn_or_missing_file_sends_back_to_the_one_before() {
        for damaged in ["state", "optim/m", DIGESTS] {
            let (_folder, checkpoints) = three();
            let path = checkpoints.directory().join("step-00000030").join(damaged);
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            assert_eq!(latest(&checkpoints), Some(20), "{damaged} torn");
            fs::remove_file(&path).unwrap();
            assert_eq!(latest(&checkpoints), Some(20), "{damaged} missing");
        }
    }

    #[test]
    fn a_half_renamed_one_is_not_seen_and_all_damaged_is_none() {
        let (_folder, checkpoints) = three();
        let at = |step| checkpoints.directory().join(folder_name(step));
        fs::rename(at(30), temporary_beside(&at(30))).unwrap();
        assert_eq!(latest(&checkpoints), Some(20));
        assert_eq!(
            remove_stale_temporaries(checkpoints.directory()).unwrap(),
            1
        );
        fs::rename(at(20), at(50)).unwrap();
        assert_eq!(
            latest(&checkpoints),
            None,
            "a renamed step is not that step"
        );
    }

    #[test]
    fn a_save_replaces_a_damaged_one_and_drops_those_after_it() {
        let (_folder, checkpoints) = three();
        for step in [20, 30] {
            fs::write(
                checkpoints
                    .directory()
                    .join(folder_name(step))
                    .join("state"),
                "x",
            )
            .unwrap();
        }
        assert_eq!(latest(&checkpoints), None);
        checkpoints.save(20, &[("state", &[20; 64])]).unwrap();
        assert_eq!(checkpoints.steps().unwrap(), [20]);
        assert_eq!(latest(&checkpoints), Some(20));
    }

    #[test]
    fn a_failed_save_leaves_the_others_and_no_temporary() {
        let (_folder, checkpoints) = three();
        let failed = checkpoints.save_with(40, |folder| {
            fs::write(folder.join("half"), "h").unwrap();
            Err(ArtifactError::damaged(folder, "made up"))
        });
        assert!(failed.is_err());
        assert!(checkpoints.save(41, &[("../out", b"")]).is_err());
        assert!(checkpoints.save(42, &[(DIGESTS, b"")]).is_err());
        assert_eq!(latest(&checkpoints), Some(30));
        assert_eq!(
            remove_stale_temporaries(checkpoints.directory()).unwrap(),
            0
        );
    }
}
