//! Where things lie in a run directory; see the folder tree in the module above.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::artifact::file::{
    create_folder, parent, remove_file, remove_folder, sync_folder, temporary_beside,
};
use crate::artifact::manifest::{MANIFEST, to_json};
use crate::artifact::{ArtifactError, Checkpoints, Digest, Manifest, write_atomic};

/// Folder of the checkpoints in a stage's folder.
pub(super) const CHECKPOINTS: &str = "checkpoints";
/// Marks a stage that is begun and not finished.
pub(super) const STARTED: &str = "started.json";
/// Checkpoints kept: the newest, and the one before it in case the newest is damaged.
const KEEP: usize = 2;

/// What is written when a stage begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Started {
    /// Name of the stage.
    pub stage: String,
    /// Its key.
    pub key: Digest,
    /// When its first attempt began: RFC 3339, UTC.
    pub started: String,
    /// Seconds of the attempts that ended in order.
    pub seconds: f64,
    /// Processor and threads of the last attempt; empty where it was not written.
    #[serde(default)]
    pub processor: String,
}

/// The paths of one run directory.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of all stages' folders.
    pub(super) fn stages(&self) -> PathBuf {
        self.root.join("stages")
    }

    /// The folder of a stage with this key.
    pub(super) fn folder(&self, name: &str, key: &Digest) -> PathBuf {
        self.stages().join(format!("{name}-{}", key.short()))
    }

    /// The link to the folder that the last run used.
    pub(super) fn latest(&self, name: &str) -> PathBuf {
        self.root.join("latest").join(name)
    }

    /// The manifest that the last run used or made; `None` if there is none that can be read.
    pub(super) fn previous(&self, name: &str) -> Option<Manifest> {
        Manifest::load(&self.latest(name)).ok().flatten()
    }

    /// Let `latest/<name>` lead to this folder.
    pub(super) fn link(&self, name: &str, folder: &Path) -> Result<(), ArtifactError> {
        let link = self.latest(name);
        let folder_name = folder.file_name().unwrap_or_default();
        // Relative, so that a run directory can be moved.
        let target = Path::new("../stages").join(folder_name);
        if fs::read_link(&link).is_ok_and(|old| old == target) {
            return Ok(());
        }
        create_folder(parent(&link))?;
        let temporary = temporary_beside(&link);
        std::os::unix::fs::symlink(&target, &temporary)
            .and_then(|()| fs::rename(&temporary, &link))
            .map_err(ArtifactError::io("link", &link))?;
        sync_folder(parent(&link))
    }
}

/// The checkpoints of the stage in this folder.
pub(super) fn checkpoints(folder: &Path) -> Checkpoints {
    Checkpoints::new(folder.join(CHECKPOINTS), KEEP)
}

/// The mark of a stage that is begun; `None` if there is none that can be read.
pub(super) fn started(folder: &Path) -> Option<Started> {
    let bytes = fs::read(folder.join(STARTED)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Write the mark of a stage that is begun.
pub(super) fn mark_started(folder: &Path, started: &Started) -> Result<(), ArtifactError> {
    let path = folder.join(STARTED);
    write_atomic(&path, &to_json(started, &path)?)
}

/// Remove what only an unfinished stage has.
pub(super) fn unmark(folder: &Path) -> Result<(), ArtifactError> {
    checkpoints(folder).clear()?;
    remove_file(&folder.join(STARTED))
}

/// Remove a stage's folder, its marks first: whenever this is cut short, the stage counts neither as done nor as one to
/// go on with.
pub(super) fn discard(folder: &Path) -> Result<(), ArtifactError> {
    remove_file(&folder.join(STARTED))?;
    remove_file(&folder.join(MANIFEST))?;
    if folder.exists() {
        sync_folder(folder)?;
    }
    remove_folder(folder)
}

/// The folders below `stages`, sorted by name.
pub(super) fn folders(layout: &Layout) -> Result<Vec<PathBuf>, ArtifactError> {
    let stages = layout.stages();
    let fail = |source| ArtifactError::io("list folder", &stages)(source);
    let entries = match fs::read_dir(&stages) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(error)),
    };
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry.map_err(fail)?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}
