//! What can go wrong with a file, said with its path and a way to mend it.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

/// An artifact could not be read, written or trusted.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The operating system refused.
    #[error("cannot {action} `{}`: {source}{}", path.display(), hint(source))]
    Io {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The disk or the user's share of it is full.
    #[error(
        "cannot {action} `{}`: {source}{}; free space on that file system or choose another place, then run the \
         same command again: finished work is kept",
        path.display(), room(*needed, *free)
    )]
    NoSpace {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Bytes that were to be written, where that is known.
        needed: Option<u64>,
        /// Bytes that are free there, where the system says.
        free: Option<u64>,
        /// The system's reason: no space, or no quota.
        source: io::Error,
    },
    /// A file is there, but its content is not what this program writes.
    #[error("`{}` is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// Another process works in the run directory.
    #[error(
        "run directory `{}` is in use by {holder}; wait for it to end, stop it, or choose another run directory",
        directory.display()
    )]
    Locked {
        /// The run directory.
        directory: PathBuf,
        /// Who holds it, in words.
        holder: String,
    },
    /// A name that cannot be used for a file of an artifact.
    #[error("`{name}` cannot name a file of `{}`: {reason}", directory.display())]
    Name {
        /// The folder it was meant for.
        directory: PathBuf,
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
}

impl ArtifactError {
    /// For `map_err`: an I/O error of this action on this path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace {
                action,
                needed: None,
                free: free_space(&path),
                path,
                source,
            },
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }

    /// The same, where it is a lack of space, with the bytes that were to be written and with what is free by now: a
    /// half-written temporary is removed before anything is reported.
    pub(crate) fn for_bytes(self, bytes: u64) -> Self {
        match self {
            Self::NoSpace {
                action,
                path,
                source,
                ..
            } => Self::NoSpace {
                action,
                needed: Some(bytes),
                free: free_space(&path),
                path,
                source,
            },
            other => other,
        }
    }

    /// Bytes that may still be written beside this path.
    pub(crate) fn free_space(path: &Path) -> Option<u64> {
        free_space(path)
    }

    /// The file at `path` is not what it should be.
    pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }
}

/// How the reader can mend what the operating system reports.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            "; that file system is mounted read-only: choose another place, on a writable one"
        }
        io::ErrorKind::PermissionDenied => {
            "; check who owns it and its mode, or choose another place"
        }
        io::ErrorKind::Unsupported => {
            "; that file system cannot do this: choose a place on another"
        }
        _ => match error.raw_os_error() {
            Some(libc::ENOLCK) => {
                "; that file system gives no locks: choose a run directory on another"
            }
            _ => "",
        },
    }
}

/// Needed and free bytes in words.
fn room(needed: Option<u64>, free: Option<u64>) -> String {
    let free = free.map(|free| format!("{} free there", size(free)));
    match (needed, free) {
        (Some(needed), Some(free)) => format!(" ({} needed, {free})", size(needed)),
        (Some(needed), None) => format!(" ({} needed)", size(needed)),
        (None, Some(free)) => format!(" ({free})"),
        (None, None) => String::new(),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// Bytes an unprivileged user may still write beside this path, or in the nearest folder above it that is there.
pub fn free_space(path: &Path) -> Option<u64> {
    let folder = path
        .ancestors()
        .map(|folder| match folder == Path::new("") {
            true => Path::new("."),
            false => folder,
        })
        .find(|folder| folder.is_dir())?;
    let folder = CString::new(folder.as_os_str().as_encoded_bytes()).ok()?;
    let mut stats = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path is a C string and the struct is ours to fill.
    if unsafe { libc::statvfs(folder.as_ptr(), stats.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: statvfs answered, so the struct is filled; it was zeroed before in any case.
    let stats = unsafe { stats.assume_init() };
    Some(stats.f_bavail.saturating_mul(stats.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_with_path_and_remedy() {
        let error = ArtifactError::io("write", Path::new("/run/a.bin"))(
            io::Error::from_raw_os_error(libc::ENOSPC),
        );
        let text = error.to_string();
        assert!(text.contains("cannot write `/run/a.bin`"), "{text}");
        assert!(text.contains("free space"), "{text}");
        let error = ArtifactError::io("write", Path::new("/run/a.bin"))(
            io::Error::from_raw_os_error(libc::EDQUOT),
        );
        let text = error.for_bytes(2_500_000).to_string();
        assert!(text.contains("2.5 MB needed, "), "{text}");
        assert!(text.contains(" free there)"), "{text}");
        let error =
            ArtifactError::io("write", Path::new("a"))(io::Error::from_raw_os_error(libc::EROFS));
        let text = error.to_string();
        // Not of run directories alone: `--out` and `recipe init` write elsewhere.
        assert!(text.contains("read-only: choose another place"), "{text}");
    }
}
