//! One run directory, one writer: an advisory lock on `run.lock`, which the system frees however its holder ends.
//!
//! Such a lock may hold on one machine alone (a mount with local locks) or not at all (a file system without them). So the
//! holder writes its name into the file and touches it every few seconds (`signs`): who finds the name of a process on
//! another machine there waits until that one is seen alive, and then leaves, or was silent for long, and then goes on.

mod signs;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::file::create_folder;
use super::{ArtifactError, time};
use signs::{Signs, first_alive};

/// File name of the lock in a run directory.
pub const LOCK: &str = "run.lock";

/// Tries before giving up; a `status` in another terminal holds the lock for an instant.
const TRIES: u32 = 4;

/// Where stages have their locks.
const STAGE_LOCKS: &str = "locks";

/// Who holds a run directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id on that host.
    pub pid: u32,
    /// Name of the host.
    pub host: String,
    /// When it took the lock: RFC 3339, UTC.
    pub started: String,
    /// The running system of that host: two of one name are told apart, and one before a restart and after it.
    #[serde(default)]
    pub machine: String,
}

impl Holder {
    /// This process, now.
    fn this() -> Self {
        let machine = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            pid: std::process::id(),
            host: host_name(),
            started: time::now(),
            machine: machine.trim().to_owned(),
        }
    }

    /// Whether both are on one running system, where the system's own locks tell who is alive.
    fn is_beside(&self, other: &Self) -> bool {
        self.machine == other.machine && self.host == other.host
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            pid, host, started, ..
        } = self;
        write!(f, "process {pid} on {host} since {started}")
    }
}

/// The right to write in a run directory, until it is dropped.
#[derive(Debug)]
pub struct RunLock {
    file: File,
    path: PathBuf,
    /// Signs of life, unless it works beside others.
    signs: Option<Signs>,
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
        Self::take(directory, &format!("{STAGE_LOCKS}/{stage}.lock"), false)
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
        let mut works = true;
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
                    return Err(locked(directory, holder));
                }
                Err(TryLockError::Error(error)) if is_unsupported(&error) => {
                    tracing::warn!(
                        "the file system of `{}` gives no locks ({error}); signs of life in the file take their place",
                        path.display()
                    );
                    works = false;
                    break;
                }
                Err(TryLockError::Error(error)) => {
                    return Err(ArtifactError::io("lock", &path)(error));
                }
            }
        }
        let this = Holder::this();
        // Who wants all of the directory meets those who make a stage of it, and they meet it.
        let mut others = vec![directory.join(LOCK)];
        if name != LOCK {
            others.push(path.clone());
        } else if !beside {
            others.extend(stage_locks(directory));
        }
        let may_live = |other: &Holder| !works || !other.is_beside(&this);
        if let Some(holder) = first_alive(&others, signs::silence(), may_live) {
            return Err(locked(directory, holder.to_string()));
        }
        // Of several side by side, none is the holder.
        let signs = match beside {
            true => None,
            false => {
                write_holder(&mut file, &this)
                    .map_err(ArtifactError::io("write the lock", &path))?;
                if !works && let Some(other) = signs::settle(&path, &this) {
                    return Err(locked(directory, other.to_string()));
                }
                Some(Signs::give(&path, this))
            }
        };
        Ok(Self { file, path, signs })
    }

    /// Who works in this run directory now, of several who make stages one of them; `None` if nobody does. Changes nothing
    /// on disk.
    pub fn holder(directory: &Path) -> Result<Option<Holder>, ArtifactError> {
        let mut locks = vec![directory.join(LOCK)];
        locks.extend(stage_locks(directory));
        for lock in locks {
            if let Some(holder) = Self::holder_of(lock)? {
                return Ok(Some(holder));
            }
        }
        Ok(None)
    }

    fn holder_of(path: PathBuf) -> Result<Option<Holder>, ArtifactError> {
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ArtifactError::io("open the lock", &path)(error)),
        };
        let this = Holder::this();
        match file.try_lock_shared() {
            Ok(()) => Ok(first_alive(&[path], signs::MOMENT, |other| {
                !other.is_beside(&this)
            })),
            Err(TryLockError::Error(error)) if is_unsupported(&error) => {
                Ok(first_alive(&[path], signs::MOMENT, |_| true))
            }
            Err(TryLockError::WouldBlock) => Ok(Some(read_holder(&mut file).unwrap_or(Holder {
                pid: 0,
                host: "an unknown host".to_string(),
                started: "an unknown time".to_string(),
                machine: String::new(),
            }))),
            Err(TryLockError::Error(error)) => Err(ArtifactError::io("lock", &path)(error)),
        }
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // The file stays: removing it would let two processes lock two files of one name.
        // Its text is for the reader only, and a disk that turned read-only keeps it: who holds it, the lock says.
        // Where another took it for dead and over, the text is that one's.
        if let Some(signs) = self.signs.take()
            && signs.end()
        {
            let _ = self.file.set_len(0);
        }
        if let Err(error) = self.file.unlock()
            && !is_unsupported(&error)
        {
            tracing::warn!("cannot release `{}`: {error}", self.path.display());
        }
    }
}

fn locked(directory: &Path, holder: String) -> ArtifactError {
    ArtifactError::Locked {
        directory: directory.to_path_buf(),
        holder,
    }
}

/// There are no locks here, which is said in several ways.
fn is_unsupported(error: &io::Error) -> bool {
    let codes = [libc::ENOLCK, libc::EOPNOTSUPP, libc::ENOSYS, libc::EINVAL];
    error
        .raw_os_error()
        .is_some_and(|code| codes.contains(&code))
}

/// Locks of stages in a run directory.
fn stage_locks(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.join(STAGE_LOCKS));
    let entries = entries.into_iter().flatten().flatten();
    let mut locks: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    locks.sort();
    locks
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
    fn one_who_makes_a_stage_beside_others_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let _beside = RunLock::acquire_beside(folder.path()).unwrap();
        assert_eq!(RunLock::holder(folder.path()).unwrap(), None);
        let stage = RunLock::acquire_stage(folder.path(), "data").unwrap();
        let holder = RunLock::holder(folder.path()).unwrap().unwrap();
        assert_eq!(holder.pid, std::process::id());
        drop(stage);
        assert_eq!(RunLock::holder(folder.path()).unwrap(), None);
    }

    #[test]
    fn the_text_of_a_killed_holder_does_not_lock() {
        let folder = tempfile::tempdir().unwrap();
        // Torn; and one of this machine, whose end the system has seen.
        let torn = r#"{"pid":1,"host":"elsewhere","started":"1970-01-01T00:00:00Z"} and more"#;
        let killed = Holder {
            pid: 1,
            ..Holder::this()
        };
        for stale in [torn.to_owned(), serde_json::to_string(&killed).unwrap()] {
            std::fs::write(folder.path().join(LOCK), stale).unwrap();
            let begin = std::time::Instant::now();
            assert_eq!(RunLock::holder(folder.path()).unwrap(), None);
            let lock = RunLock::acquire(folder.path()).unwrap();
            let holder = RunLock::holder(folder.path()).unwrap().unwrap();
            assert_eq!(holder.pid, std::process::id());
            drop(lock);
            assert!(
                begin.elapsed() < signs::MOMENT,
                "nobody is waited for on this machine"
            );
        }
    }
}
