//! What this machine's kernel enforces on a program.

use std::sync::OnceLock;

use serde::Serialize;

use super::{rules, spawn, syscalls};

/// Namespaces of a worker's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Namespaces {
    /// Users; made only where the others cannot be had without.
    pub user: bool,
    /// Processes, network, System V and POSIX queues, host name: all of them or none.
    pub separate: bool,
}

impl Namespaces {
    /// For `clone`.
    pub(super) fn flags(self) -> i32 {
        let mut flags = 0;
        if self.user {
            flags |= libc::CLONE_NEWUSER;
        }
        if self.separate {
            flags |=
                libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        }
        flags
    }

    /// The most that can be had here; found out once.
    pub(super) fn available() -> Self {
        static FOUND: OnceLock<Namespaces> = OnceLock::new();
        *FOUND.get_or_init(|| {
            let separate = true;
            [false, true]
                .map(|user| Self { user, separate })
                .into_iter()
                .find(|&namespaces| spawn::can_make(namespaces))
                .unwrap_or_default()
        })
    }
}

/// What the kernel enforces, and what programs can import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Landlock's version; none without Landlock. From 4 on it also denies TCP, from 6 on abstract sockets and
    /// signals, which seccomp denies on every kernel.
    pub landlock: Option<u32>,
    /// System call filters.
    pub seccomp: bool,
    /// Namespaces of their own, on top.
    pub namespaces: Namespaces,
    /// Python and the packages it has, each as name and version; empty if only the kernel was asked.
    pub packages: Vec<(String, String)>,
}

impl Capabilities {
    /// Ask the kernel alone.
    pub fn of_kernel() -> Self {
        Self {
            landlock: rules::abi(),
            seccomp: syscalls::available(),
            namespaces: Namespaces::available(),
            packages: Vec::new(),
        }
    }

    /// What is indispensable and not there, in words.
    pub fn missing(&self) -> Option<String> {
        match (self.landlock, self.seccomp) {
            (Some(_), true) => None,
            (None, true) => Some("the kernel has no Landlock".into()),
            (Some(_), false) => Some("the kernel has no seccomp filters".into()),
            (None, false) => Some("the kernel has neither Landlock nor seccomp filters".into()),
        }
    }
}

impl std::fmt::Display for Capabilities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.landlock {
            Some(abi) => write!(f, "Landlock {abi}")?,
            None => write!(f, "no Landlock")?,
        }
        f.write_str(if self.seccomp {
            ", seccomp"
        } else {
            ", no seccomp"
        })?;
        f.write_str(match (self.namespaces.separate, self.namespaces.user) {
            (true, true) => ", namespaces (user, pid, net, ipc, uts)",
            (true, false) => ", namespaces (pid, net, ipc, uts)",
            (false, _) => ", no namespaces",
        })?;
        f.write_str(", rlimits")?;
        for (index, (name, version)) in self.packages.iter().enumerate() {
            let separator = if index == 0 { ";" } else { "," };
            write!(f, "{separator} {name} {version}")?;
        }
        Ok(())
    }
}
