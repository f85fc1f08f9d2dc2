//! Whole files or none: write beside, fsync, rename, fsync the folder.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufWriter, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ArtifactError;

/// Marks a temporary: `.<name>.atp-tmp-<process>-<of its own>-<count>`.
const MARK: &str = ".atp-tmp-";

static COUNT: AtomicU64 = AtomicU64::new(0);
/// What tells this process from those of other machines and containers, which may have its number.
static OWN: LazyLock<u32> = LazyLock::new(|| RandomState::new().hash_one(0) as u32);

/// A name beside `path` that no other writer uses and that [`is_temporary`] knows.
pub(crate) fn temporary_beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(
        ".{name}{MARK}{}-{:08x}-{count}",
        std::process::id(),
        *OWN
    ))
}

/// Whether this file name is that of a temporary.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.contains(MARK)
}

/// Removes the temporary on every way out but success.
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // Best effort: what stays is found by `remove_stale_temporaries`.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Replace the content of `path` by `bytes`: afterwards it is whole and durable, or as it was before.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), ArtifactError> {
    write_atomic_with(path, |writer| writer.write_all(bytes))
        .map_err(|error| error.for_bytes(bytes.len() as u64))
}

/// As [`write_atomic`], with the content written by a closure into a buffered writer.
pub fn write_atomic_with(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), ArtifactError> {
    let mut temporary = Temporary {
        path: temporary_beside(path),
        renamed: false,
    };
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&temporary.path)
        .map_err(ArtifactError::io("create a temporary beside", path))?;
    let mut writer = BufWriter::new(file);
    write(&mut writer)
        .and_then(|()| writer.flush())
        .and_then(|()| writer.get_ref().sync_all())
        .map_err(ArtifactError::io("write", path))?;
    fs::rename(&temporary.path, path).map_err(ArtifactError::io("replace", path))?;
    temporary.renamed = true;
    sync_folder(parent(path))
}

/// The folder of a path; `.` for a bare name.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Make renames, creations and removals in this folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), ArtifactError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(ArtifactError::io("sync folder", folder))
}

/// Make a file that somebody else wrote durable.
pub(crate) fn sync_file(path: &Path) -> Result<(), ArtifactError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(ArtifactError::io("sync", path))
}

/// Whether something is there that a new folder of this name would write over: a file, or a folder with something in it.
pub(crate) fn is_taken(folder: &Path) -> bool {
    folder.is_file() || fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

/// Create a folder and those above it.
pub(crate) fn create_folder(folder: &Path) -> Result<(), ArtifactError> {
    fs::create_dir_all(folder).map_err(ArtifactError::io("create folder", folder))
}

/// Remove a folder with all it holds; that it is not there is no error.
pub(crate) fn remove_folder(folder: &Path) -> Result<(), ArtifactError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(ArtifactError::io("remove folder", folder)(error))
        }
        _ => Ok(()),
    }
}

/// Remove a file; that it is not there is no error.
pub(crate) fn remove_file(path: &Path) -> Result<(), ArtifactError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(ArtifactError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Whether `name` stays inside the folder it is joined to: relative, without `..`, not empty.
pub(crate) fn check_relative(directory: &Path, name: &str) -> Result<(), ArtifactError> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if Path::new(name)
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        return Ok(());
    } else {
        "it must be a relative path without `..`"
    };
    Err(ArtifactError::Name {
        directory: directory.to_path_buf(),
        name: name.to_string(),
        reason,
    })
}

/// All files below `folder` as relative paths with `/`, sorted; temporaries and the top-level names in `skip` are left
/// out. A link or a special file is an error: its content could change behind a manifest's back.
pub(crate) fn list_files(folder: &Path, skip: &[&str]) -> Result<Vec<String>, ArtifactError> {
    let mut files = Vec::new();
    visit(folder, "", &mut |path, relative, kind| {
        let name = relative.rsplit('/').next().unwrap_or(relative);
        if skip.contains(&relative) || is_temporary(name) {
            return Ok(false);
        }
        if kind.is_file() {
            files.push(relative.to_string());
        } else if !kind.is_dir() {
            return Err(ArtifactError::damaged(
                path,
                "expected a plain file or a folder, got a link or a special file",
            ));
        }
        Ok(kind.is_dir())
    })?;
    files.sort();
    Ok(files)
}

/// Remove the temporaries that a killed process left anywhere below `folder`, and say how many there were.
///
/// Call it only where nobody else writes: under the run's lock.
pub fn remove_stale_temporaries(folder: &Path) -> Result<usize, ArtifactError> {
    let mut stale = Vec::new();
    visit(folder, "", &mut |path, relative, kind| {
        let temporary = is_temporary(relative.rsplit('/').next().unwrap_or(relative));
        if temporary {
            stale.push((path.to_path_buf(), kind.is_dir()));
        }
        Ok(kind.is_dir() && !temporary)
    })?;
    for (path, is_folder) in &stale {
        if *is_folder {
            remove_folder(path)?;
        } else {
            remove_file(path)?;
        }
        tracing::debug!("removed the stale temporary `{}`", path.display());
    }
    Ok(stale.len())
}

/// Called for each entry with its path, its relative path and its type; says whether to descend.
type Visitor<'a> = dyn FnMut(&Path, &str, fs::FileType) -> Result<bool, ArtifactError> + 'a;

/// Walk a folder depth first, without following links. A folder that is not there is empty.
fn visit(folder: &Path, prefix: &str, visitor: &mut Visitor) -> Result<(), ArtifactError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ArtifactError::io("list folder", folder)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(ArtifactError::io("list folder", folder))?;
        let path = entry.path();
        let kind = entry
            .file_type()
            .map_err(ArtifactError::io("examine", &path))?;
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(ArtifactError::damaged(&path, "its name is not UTF-8"));
        };
        let relative = if prefix.is_empty() {
            name.to_string()
        } else {
            format!("{prefix}/{name}")
        };
        if visitor(&path, &relative, kind)? {
            visit(&path, &relative, visitor)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write_atomic(&path, b"a long first content").unwrap();
        write_atomic(&path, b"short").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        assert_eq!(names(folder.path()), ["a.bin"]);
    }

    #[test]
    fn a_failed_write_keeps_the_old_content_and_cleans_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write_atomic(&path, b"old").unwrap();
        let error = write_atomic_with(&path, |writer| {
            writer.write_all(&[7; 100_000])?;
            Err(io::Error::from_raw_os_error(libc::ENOSPC))
        })
        .unwrap_err();
        assert!(error.to_string().contains("free space"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a.bin"]);
    }

    #[test]
    fn the_real_no_space_error_names_the_file() {
        // /dev/full answers every write with ENOSPC.
        let Ok(full) = OpenOptions::new().write(true).open("/dev/full") else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.bin");
        let error = write_atomic_with(&path, |_| (&full).write_all(b"x")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("weights.bin"), "{text}");
        assert!(text.contains("free space"), "{text}");
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_atomic(&folder.path().join("none/a"), b"").unwrap_err();
        assert!(error.to_string().contains("none/a"), "{error}");
    }

    #[test]
    fn stale_temporaries_go_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("deep");
        fs::create_dir(&deep).unwrap();
        fs::write(deep.join("kept"), "k").unwrap();
        fs::write(deep.join(".hidden"), "k").unwrap();
        fs::write(temporary_beside(&deep.join("torn")), "half").unwrap();
        let torn_folder = temporary_beside(&folder.path().join("step-1"));
        fs::create_dir(&torn_folder).unwrap();
        fs::write(torn_folder.join("x"), "half").unwrap();
        assert_eq!(
            list_files(folder.path(), &[]).unwrap(),
            ["deep/.hidden", "deep/kept"]
        );
        assert_eq!(remove_stale_temporaries(folder.path()).unwrap(), 2);
        assert_eq!(names(folder.path()), ["deep"]);
        assert_eq!(names(&deep), [".hidden", "kept"]);
    }

    #[test]
    fn a_link_is_no_output() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join("l")).unwrap();
        assert!(list_files(folder.path(), &[]).is_err());
    }

    #[test]
    fn names_must_stay_inside() {
        let inside = |name| check_relative(Path::new("d"), name).is_ok();
        assert!(inside("a/b.txt"));
        for name in ["", "../a", "/a", "a/../b", "."] {
            assert!(!inside(name), "{name}");
        }
    }
}
