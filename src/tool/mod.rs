//! The sandbox for model-written Python.
//!
//! A program is one process that calculates, prints and ends. It has no network, no files but an empty scratch folder
//! and, for reading, Python with its packages; no other processes, no threads; limited time, memory, files, output.
//!
//! **How.** A worker is a Python started with a clean environment under Landlock (files, TCP, abstract sockets,
//! signals), seccomp (an allow-list of system calls), rlimits, without capabilities or privileges to gain, and in pid,
//! net, ipc and uts namespaces of its own where the kernel lets us have them. It imports numpy and sympy once, and forks
//! a child for every program. The child lays a second Landlock domain (its own scratch folder alone) and a narrower
//! allow-list over the first: no `execve`, no `clone`, no sockets, no signals, no limits. So there is no process tree
//! to hunt down: killing the one child is killing everything. Output comes through pipes that we read, and how it ended
//! is the kernel's word to the worker (`wait4`); the worker's socket is closed before the program's text is even read.
//!
//! **Why not bubblewrap.** It needs user namespaces or a setuid binary, which containers, many clusters and Ubuntu
//! 24.04 refuse, and a process start a call. Landlock and seccomp work for any user wherever the kernel has them, also
//! inside containers; namespaces are a second wall, never the only one. Where Landlock or seccomp is missing, nothing
//! runs unless `allow_unsandboxed` is set.
//!
//! **What a program sees.** It runs as `__main__` in `program.py`, standard input empty, `TMPDIR` and the current folder
//! its scratch folder, time zone UTC, numpy on one thread. As in an interactive session, the value of the last
//! expression statement is printed (`repr`), if it is not None and the program printed nothing: models forget `print`.
//! `PYTHONHASHSEED` is 0, and `random` and numpy's global generator are seeded with the CRC-32 of the program, so that
//! it gives the same result again; `default_rng()` without a seed, `os.urandom`, `secrets` and clocks do not.
//!
//! **What is not hidden.** Landlock does not know `stat` and `readlink`: that a path exists, its size and times can be
//! found out. The processor's type and the kernel's version can be, too.
//!
//! ```no_run
//! # use atp_pipeline::tool::{Sandbox, SandboxConfig};
//! let sandbox = Sandbox::new(&SandboxConfig::default())?;
//! let results = sandbox.run(&["print(2 ** 100 % 7)", "sum(range(10))"]);
//! assert_eq!(results[1].stdout, "45\n");
//! # Ok::<(), atp_pipeline::tool::SandboxError>(())
//! ```

#[cfg(target_os = "linux")]
mod capabilities;
mod config;
mod error;
#[cfg(target_os = "linux")]
mod program;
#[cfg(target_os = "linux")]
mod python;
mod queue;
#[cfg(target_os = "linux")]
mod rules;
#[cfg(target_os = "linux")]
mod sandbox;
#[cfg(target_os = "linux")]
mod scratch;
#[cfg(target_os = "linux")]
mod spawn;
#[cfg(target_os = "linux")]
mod syscalls;
#[cfg(not(target_os = "linux"))]
mod unsupported;
#[cfg(target_os = "linux")]
mod worker;

use serde::{Deserialize, Serialize};

#[cfg(target_os = "linux")]
pub use capabilities::{Capabilities, Namespaces};
pub use config::SandboxConfig;
pub use error::SandboxError;
pub use queue::Queue;
#[cfg(target_os = "linux")]
pub use sandbox::Sandbox;
#[cfg(not(target_os = "linux"))]
pub use unsupported::{Capabilities, Sandbox};

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Status {
    /// By itself, with exit code 0.
    Finished,
    /// By an exception, or by another exit code of its choice.
    Raised {
        /// 1 for an exception.
        code: i32,
    },
    /// It took more time, on the clock or of the processor, than it may.
    TimedOut,
    /// By a `MemoryError` that it did not handle.
    OutOfMemory,
    /// It wrote more, to its streams or its scratch folder, than it may.
    OutputLimit,
    /// By a signal, such as 11 after a wild pointer.
    Killed {
        /// The signal's number.
        signal: i32,
    },
    /// By a system call that no calculation makes. Milder ones, such as opening a socket, only fail, and the program
    /// sees a `PermissionError`.
    Refused,
    /// Its worker was lost with it, by its own doing or the machine's. It has no result, and that is none of its answers.
    Lost,
    /// The sandbox failed. It says nothing about the program and is never to be counted as its answer.
    Broken,
}

/// What became of one program.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Execution {
    /// How it ended.
    pub status: Status,
    /// Standard output, up to the limit; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// The end of standard error, where a traceback has its message, 8 KiB at most. If `status` is [`Status::Lost`] or
    /// [`Status::Broken`], why.
    pub stderr: String,
    /// Seconds on the clock from the request to the end, the sandbox's own included.
    pub seconds: f64,
}

impl Execution {
    /// The sandbox failed for this reason.
    pub(crate) fn broken(reason: impl std::fmt::Display, seconds: f64) -> Self {
        Self {
            status: Status::Broken,
            stdout: String::new(),
            stderr: reason.to_string(),
            seconds,
        }
    }
}
