//! What can go wrong with a file, said with its path and a way to mend it.

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
        move |source| Self::Io {
            action,
            path,
            source,
        }
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
        io::ErrorKind::StorageFull => {
            "; free space on that file system or choose another run directory, then run the same command again"
        }
        io::ErrorKind::QuotaExceeded => {
            "; your quota there is used up: free space or choose another run directory, then run the same command again"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "; that file system is mounted read-only: choose a run directory on a writable one"
        }
        io::ErrorKind::PermissionDenied => {
            "; check who owns it and its mode, or choose another run directory"
        }
        _ => "",
    }
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
        let error =
            ArtifactError::io("write", Path::new("a"))(io::Error::from_raw_os_error(libc::EROFS));
        assert!(error.to_string().contains("read-only"), "{error}");
    }
}
