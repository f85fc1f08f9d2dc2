//! Scratch folders: made, watched, and removed whatever was made of them.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;

/// Files and folders in a scratch folder; more are stopped as a full disk is.
const MOST_ENTRIES: usize = 4096;
/// Folders within folders.
const DEEPEST: usize = 64;

/// The folder that all scratch folders of a sandbox are in.
#[derive(Debug)]
pub(super) struct Scratch {
    root: TempDir,
    serial: AtomicU64,
}

impl Scratch {
    /// A new one among the temporary files, for this user only.
    pub(super) fn new() -> io::Result<Self> {
        let root = tempfile::Builder::new().prefix("atp-sandbox-").tempdir()?;
        fs::set_permissions(root.path(), Permissions::from_mode(0o700))?;
        Ok(Self {
            root,
            serial: AtomicU64::new(0),
        })
    }

    /// The folder itself.
    pub(super) fn root(&self) -> &Path {
        self.root.path()
    }

    fn fresh(&self) -> PathBuf {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        self.root.path().join(serial.to_string())
    }

    /// An empty folder for one program.
    pub(super) fn make(&self) -> io::Result<PathBuf> {
        let path = self.fresh();
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(path)
    }

    /// Remove a folder of a program that has ended.
    ///
    /// Folders are first moved up beside it, so that no path grows long and nothing recurses however deep they were
    /// nested, and made accessible, as a program can take its own rights away.
    pub(super) fn remove(&self, folder: PathBuf) -> io::Result<()> {
        let mut folders = vec![folder];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    fs::set_permissions(entry.path(), Permissions::from_mode(0o700))?;
                    let beside = self.fresh();
                    fs::rename(entry.path(), &beside)?;
                    folders.push(beside);
                } else {
                    fs::remove_file(entry.path())?;
                }
            }
            fs::remove_dir(&folder)?;
        }
        Ok(())
    }
}

/// Whether a folder holds more than it may: bytes on disk, entries, depth, or a folder that hides what it holds.
pub(super) fn is_full(folder: &Path, most_bytes: u64) -> bool {
    let (mut bytes, mut entries) = (0u64, 0);
    let mut folders = vec![(folder.to_path_buf(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let listing = match fs::read_dir(&folder) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => return true,
        };
        for entry in listing.flatten() {
            entries += 1;
            // Of an entry that vanished meanwhile nothing is to be counted.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            bytes += metadata.blocks() * 512;
            if entries > MOST_ENTRIES || depth > DEEPEST || bytes > most_bytes {
                return true;
            }
            if metadata.is_dir() {
                folders.push((entry.path(), depth + 1));
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_was_made_is_removed_and_links_are_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();
        let scratch = Scratch::new().unwrap();
        let folder = scratch.make().unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.join("link")).unwrap();
        let mut deep = folder.clone();
        for _ in 0..400 {
            deep.push("dddddd");
            fs::create_dir(&deep).unwrap();
        }
        fs::write(deep.join("leaf"), "x").unwrap();
        fs::set_permissions(folder.join("dddddd"), Permissions::from_mode(0o000)).unwrap();
        scratch.remove(folder).unwrap();
        assert_eq!(fs::read_dir(scratch.root()).unwrap().count(), 0);
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn bytes_entries_and_depth_are_counted() {
        let scratch = Scratch::new().unwrap();
        let folder = scratch.make().unwrap();
        assert!(!is_full(&folder, 1 << 20));
        fs::write(folder.join("a"), vec![1; 300_000]).unwrap();
        assert!(!is_full(&folder, 1 << 20));
        assert!(is_full(&folder, 1 << 17));
        let mut deep = folder.clone();
        for _ in 0..DEEPEST + 3 {
            deep.push("d");
            fs::create_dir(&deep).unwrap();
        }
        assert!(is_full(&folder, 1 << 30));
        let many = scratch.make().unwrap();
        for i in 0..=MOST_ENTRIES {
            fs::write(many.join(i.to_string()), "").unwrap();
        }
        assert!(is_full(&many, 1 << 30));
    }
}
