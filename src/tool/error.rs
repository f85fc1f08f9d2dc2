//! Why there is no sandbox, and what to do about it.

use std::io;
use std::path::PathBuf;

/// The sandbox could not be set up. What goes wrong with one program is a [`super::Status`] instead.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A setting out of range.
    #[error("sandbox setting `{field}`: expected {expected}, got {got}")]
    Config {
        /// The setting.
        field: &'static str,
        /// Its value.
        got: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The kernel cannot confine a program.
    #[error(
        "model-written programs are not run here: {missing}. Use a kernel that has Landlock (Linux 5.13 or later, \
         `landlock` in its list of security modules) and seccomp, or set `allow_unsandboxed = true` if the whole \
         machine may be at the programs' mercy"
    )]
    NotConfined {
        /// What is missing.
        missing: String,
    },
    /// No usable Python.
    #[error("no Python for the sandbox: `{}`: {problem}; install CPython 3.10 or later, or set `python`", python.display())]
    Python {
        /// Which was tried.
        python: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The folder of packages is not one.
    #[error("sandbox packages: `{}` is no folder; run `python3 scripts/setup.py python` or change `packages`", path.display())]
    Packages {
        /// As it was set.
        path: PathBuf,
    },
    /// A worker did not start.
    #[error("a sandbox worker did not start: {problem}")]
    Start {
        /// What it said last.
        problem: String,
    },
    /// The operating system refused.
    #[error("sandbox: cannot {action}: {source}")]
    Io {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl SandboxError {
    /// For `map_err`: the system's refusal of this action.
    pub(super) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}
