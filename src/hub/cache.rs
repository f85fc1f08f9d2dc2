//! One repository's folder in the cache, laid out as `huggingface_hub` does:
//!
//! ```text
//! models--owner--name/refs/<revision>              a commit
//! models--owner--name/snapshots/<commit>/<file>    a link to
//! models--owner--name/blobs/<etag>                 the bytes; with `.incomplete` while they come
//! models--owner--name/listings/<commit>.json       names of all files of the commit (ours alone)
//! .locks/models--owner--name/<etag>.lock           held by who fetches it
//! ```

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{HubError, Revision};
use crate::artifact::file::{create_folder, temporary_beside};
use crate::artifact::{ArtifactError, write_atomic};
use crate::runtime::http::wait;

/// The folder of one repository.
pub(super) struct Folder {
    path: PathBuf,
    locks: PathBuf,
}

impl Folder {
    pub(super) fn new(cache: &Path, name: &str) -> Self {
        Self {
            path: cache.join(name),
            locks: cache.join(".locks").join(name),
        }
    }

    /// The commit that a revision stands for; a commit stands for itself.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        let is_commit =
            |text: &str| text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.path.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|text| is_commit(text))
    }

    pub(super) fn set_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        let path = self.path.join("refs").join(revision);
        if let Some(folder) = path.parent() {
            create_folder(folder)?;
        }
        Ok(write_atomic(&path, commit.as_bytes())?)
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.path.join("snapshots").join(commit)
    }

    pub(super) fn pointer(&self, commit: &str, file: &str) -> PathBuf {
        self.snapshot(commit).join(file)
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.path.join("blobs").join(etag)
    }

    fn listing_path(&self, commit: &str) -> PathBuf {
        self.path.join("listings").join(format!("{commit}.json"))
    }

    /// Which files a commit has is remembered, so that offline a part of them is not taken for all.
    pub(super) fn remember_listing(&self, revision: &Revision) -> Result<(), HubError> {
        let path = self.listing_path(&revision.commit);
        if path.is_file() {
            return Ok(());
        }
        create_folder(&self.path.join("listings"))?;
        let text = serde_json::json!(revision.files).to_string();
        Ok(write_atomic(&path, text.as_bytes())?)
    }

    /// The files of a commit, as remembered; else those that another program fetched.
    pub(super) fn listing(&self, commit: &str) -> Option<Vec<String>> {
        let remembered = fs::read_to_string(self.listing_path(commit)).ok();
        if let Some(files) = remembered.and_then(|text| serde_json::from_str(&text).ok()) {
            return Some(files);
        }
        let mut files = vec![];
        walk(&self.snapshot(commit), "", &mut files);
        files.sort();
        (!files.is_empty()).then_some(files)
    }

    /// Put a link to a blob where the commit has its file.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<PathBuf, HubError> {
        let pointer = self.pointer(commit, file);
        if let Some(folder) = pointer.parent() {
            create_folder(folder)?;
        }
        let up = "../".repeat(file.split('/').count() + 1);
        let temporary = temporary_beside(&pointer);
        std::os::unix::fs::symlink(format!("{up}blobs/{etag}"), &temporary)
            .and_then(|()| fs::rename(&temporary, &pointer))
            .map_err(ArtifactError::io("link", &pointer))?;
        Ok(pointer)
    }

    /// Wait until nobody else fetches this blob.
    pub(super) fn lock(&self, etag: &str) -> Result<Lock, HubError> {
        create_folder(&self.locks)?;
        let path = self.locks.join(format!("{etag}.lock"));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(ArtifactError::io("open", &path))?;
        let mut told = false;
        // SAFETY: the descriptor is that of the open file.
        while unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::WouldBlock {
                // Some network file systems have no locks: two who fetch the same then do it twice.
                tracing::debug!("no lock on {}: {error}", path.display());
                break;
            }
            if !std::mem::replace(&mut told, true) {
                tracing::info!(
                    "waiting: another process fetches this file ({})",
                    path.display()
                );
            }
            wait(Duration::from_millis(200))?;
        }
        Ok(Lock { _file: file })
    }
}

/// Held until dropped.
pub(super) struct Lock {
    _file: File,
}

fn walk(folder: &Path, prefix: &str, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if path.is_dir() {
            walk(&path, &format!("{prefix}{name}/"), files);
        } else if path.is_file() {
            files.push(format!("{prefix}{name}"));
        }
    }
}
