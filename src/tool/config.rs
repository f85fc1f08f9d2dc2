//! Settings of the sandbox.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::SandboxError;

/// What a program may use. All limits are for one program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SandboxConfig {
    /// The Python to use; `python3` of the search path if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub python: Option<PathBuf>,
    /// Folder with numpy, sympy and mpmath; if not set, what `scripts/setup.py python` fetched, else Python's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packages: Option<PathBuf>,
    /// Seconds on the clock, the fork included.
    pub wall_seconds: f64,
    /// Seconds of processor time; the kernel counts whole seconds, so it is rounded up, and gives one more
    /// to a program that ignores SIGXCPU.
    pub cpu_seconds: f64,
    /// MiB of address space beyond what Python and its packages take.
    pub memory_mib: u64,
    /// MiB of one file in the scratch folder.
    pub file_mib: u64,
    /// MiB of all files in the scratch folder together, looked at every 25 ms.
    pub scratch_mib: u64,
    /// Files open at a time, standard streams included.
    pub open_files: u64,
    /// KiB of standard output, and as much of standard error.
    pub output_kib: usize,
    /// Programs run at a time; 0 for as many as there are processors.
    pub workers: usize,
    /// Namespaces of their own for workers, where the kernel lets us have them.
    pub namespaces: bool,
    /// Run programs even where the kernel lacks Landlock or seccomp. They can then read and write what you can.
    pub allow_unsandboxed: bool,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            python: None,
            packages: None,
            wall_seconds: 10.0,
            cpu_seconds: 5.0,
            memory_mib: 1024,
            file_mib: 16,
            scratch_mib: 64,
            open_files: 32,
            output_kib: 64,
            workers: 0,
            namespaces: true,
            allow_unsandboxed: false,
        }
    }
}

impl SandboxConfig {
    /// Refuse values that make no sense.
    ///
    /// # Errors
    /// [`SandboxError::Config`] naming the field.
    pub fn check(&self) -> Result<(), SandboxError> {
        let fault = |field, got: String, expected| {
            Err(SandboxError::Config {
                field,
                got,
                expected,
            })
        };
        for (field, seconds) in [
            ("wall_seconds", self.wall_seconds),
            ("cpu_seconds", self.cpu_seconds),
        ] {
            if !(seconds > 0.0 && seconds <= 86400.0) {
                return fault(field, seconds.to_string(), "more than 0 and at most 86400");
            }
        }
        for (field, mib) in [
            ("memory_mib", self.memory_mib),
            ("file_mib", self.file_mib),
            ("scratch_mib", self.scratch_mib),
        ] {
            if !(1..=1 << 20).contains(&mib) {
                return fault(field, mib.to_string(), "1 to 1048576");
            }
        }
        if !(8..=1024).contains(&self.open_files) {
            return fault("open_files", self.open_files.to_string(), "8 to 1024");
        }
        if !(1..=1 << 20).contains(&self.output_kib) {
            return fault("output_kib", self.output_kib.to_string(), "1 to 1048576");
        }
        if self.workers > 1024 {
            return fault("workers", self.workers.to_string(), "0 to 1024");
        }
        Ok(())
    }

    /// The wall limit.
    pub(super) fn wall(&self) -> Duration {
        Duration::from_secs_f64(self.wall_seconds)
    }

    /// Processor seconds as the kernel takes them.
    pub(super) fn whole_cpu_seconds(&self) -> u64 {
        self.cpu_seconds.ceil() as u64
    }

    /// How many workers there will be.
    pub(super) fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_settings_are_refused_and_the_rest_is_filled_in() {
        let config: SandboxConfig = toml::from_str("wall_seconds = 2.5").unwrap();
        assert_eq!(config.wall_seconds, 2.5);
        assert_eq!(config.memory_mib, SandboxConfig::default().memory_mib);
        assert!(toml::from_str::<SandboxConfig>("wall_second = 2.5").is_err());
    }

    #[test]
    fn senseless_limits_are_named() {
        for (text, field) in [
            ("wall_seconds = 0.0", "wall_seconds"),
            ("cpu_seconds = nan", "cpu_seconds"),
            ("memory_mib = 0", "memory_mib"),
            ("open_files = 3", "open_files"),
            ("output_kib = 0", "output_kib"),
        ] {
            let config: SandboxConfig = toml::from_str(text).unwrap();
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(field), "{text}: {error}");
        }
        SandboxConfig::default().check().unwrap();
    }
}
