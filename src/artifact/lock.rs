//! One run directory, one writer: an advisory lock on `run.lock`, which the system frees however its holder ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::file::create_folder;
use super::{ArtifactError, time};

/// File name of the lock in a run directory.
pub const LOCK: &str = "run.lock";

/// Tries before giving up; a `status` in another terminal holds the lock for an instant.
const TRIES: u32 = 4;

/// Who holds a run directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id on that host.
    pub pid: u32,
    /// Name of the host.
    pub host: String,
    /// When it took the lock: RFC 3339, UTC.
    pub started: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { pid, host, started } = self;
        write!(f, "process {pid} on {host} since {started}")
    }
}

/// The right to write in a run directory, until it is dropped.
#[derive(Debug)]
pub struct RunLock {
    file: File,
    path: PathBuf,
    beside: bool,
}

impl RunLock {
    /// Take the lock of this run directory (created if need be), or say who has it.
    pub fn acquire(directory: &Path) -> Result<Self, ArtifactError> {
        Self::take(directory, LOCK, false)
    }

    /// Work in this run directory beside others that do the same, each on another stage: it keeps those out who want the
    /// directory for themselves.
    pub fn acquire_beside(directory: &Path) -> Result<Self, ArtifactError> {
        Self::take(directory, LOCK, true)
    }

    /// The right to make one stage beside others who make other ones.
    pub fn acquire_stage(directory: &Path, stage: &str) -> Result<Self, ArtifactError> {
        Self::take(directory, &format!("locks/{stage}.lock"), false)
    }

    fn take(directory: &Path, name: &str, beside: bool) -> Result<Self, ArtifactError> {
        create_folder(directory)?;
        let path = directory.join(name);
        create_folder(super::file::parent(&path))?;
        // Not truncated here: until the lock is ours, its text is the holder's.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(ArtifactError::io("open the lock", &path))?;
        for attempt in 1.. {
            let tried = match beside {
                true => file.try_lock_shared(),
                false => file.try_lock(),
            };
            match tried {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if attempt < TRIES => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(TryLockError::WouldBlock) => {
                    let holder = read_holder(&mut file)
                        .map_or_else(|| "another process".to_string(), |it| it.to_string());
                    return Err(ArtifactError::Locked {
                        directory: directory.to_path_buf(),
                        holder,
                    });
                }
                Err(TryLockError::Error(error)) => {
                    return Err(ArtifactError::io("lock", &path)(error));
                }
            }
        }
        let holder = Holder {
            pid: std::process::id(),
            host: host_name(),
            started: time::now(),
        };
        // Of several side by side, none is the holder.
        if !beside {
            write_holder(&mut file, &holder).map_err(ArtifactError::io("write the lock", &path))?;
        }
        Ok(Self { file, path, beside })
    }

    /// Who holds this run directory now; `None` if nobody does. Changes nothing on disk.
    pub fn holder(directory: &Path) -> Result<Option<Holder>, ArtifactError> {
        let path = directory.join(LOCK);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ArtifactError::io("open the lock", &path)(error)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(Some(read_holder(&mut file).unwrap_or(Holder {
                pid: 0,
                host: "an unknown host".to_string(),
                started: "an unknown time".to_string(),
            }))),
            Err(TryLockError::Error(error)) => Err(ArtifactError::io("lock", &path)(error)),
        }
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // The file stays: removing it would let two processes lock two files of one name.
        // Its text is for the reader only, and a disk that turned read-only keeps it: who holds it, the lock says.
        if !self.beside {
            let _ = self.file.set_len(0);
        }
        if let Err(error) = self.file.unlock() {
            tracing::warn!("cannot release `{}`: {error}", self.path.display());
        }
    }
}

fn read_holder(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn write_holder(file: &mut File, holder: &Holder) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    let mut text = serde_json::to_vec(holder)?;
    text.push(b'\n');
    file.write_all(&text)
}

/// The name of this host, for people.
fn host_name() -> String {
    let mut buffer = [0_u8; 256];
    // SAFETY: the pointer and the length are those of a live, writable buffer.
    let status = unsafe { libc::gethostname(buffer.as_mut_ptr().cast(), buffer.len()) };
    let length = buffer.iter().position(|&byte| byte == 0);
    match (status, length) {
        (0, Some(length)) => String::from_utf8_lossy(&buffer[..length]).into_owned(),
        _ => "an unknown host".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_holds_it_and_the_third_gets_it() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("run");
        assert_eq!(RunLock::holder(&directory).unwrap(), None);
        let first = RunLock::acquire(&directory).unwrap();
        let holder = RunLock::holder(&directory).unwrap().unwrap();
        assert_eq!((holder.pid, holder.host), (std::process::id(), host_name()));
        let text = RunLock::acquire(&directory).unwrap_err().to_string();
        let pid = format!("process {}", std::process::id());
        assert!(
            text.contains(&pid) && text.contains("run directory"),
            "{text}"
        );
        drop(first);
        assert_eq!(RunLock::holder(&directory).unwrap(), None);
        RunLock::acquire(&directory).unwrap();
    }

    #[test]
    fn the_text_of_a_killed_holder_does_not_lock() {
        let folder = tempfile::tempdir().unwrap();
        let stale = r#"{"pid":1,"host":"elsewhere","started":"1970-01-01T00:00:00Z"} and more"#;
        std::fs::write(folder.path().join(LOCK), stale).unwrap();
        let lock = RunLock::acquire(folder.path()).unwrap();
        let holder = RunLock::holder(folder.path()).unwrap().unwrap();
        assert_eq!(holder.pid, std::process::id());
        drop(lock);
    }
}
