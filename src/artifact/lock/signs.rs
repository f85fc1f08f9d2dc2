//! Signs of life of a lock's holder, for file systems on which a lock of the system's is not seen from other machines.
//!
//! The holder touches the file that has its name. Nobody compares times with a clock: what counts is that the time of
//! change becomes another one while it is watched. A holder whose name is gone from the file was taken for dead, and ends:
//! the one who took over writes where it would.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use super::Holder;

/// Between two signs.
const BEAT: Duration = Duration::from_secs(5);
/// Until the first: of two who wrote their names at once, the earlier one finds out by it.
const FIRST: Duration = Duration::from_secs(1);
/// A little longer than between two signs: enough to see one who lives.
pub(super) const MOMENT: Duration = Duration::from_secs(7);
/// How often a file is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Silence after which a holder on another machine is taken for dead: 30 s, or `ATP_LOCK_SILENCE`.
pub(super) fn silence() -> Duration {
    let given = std::env::var("ATP_LOCK_SILENCE").ok();
    let given = given.and_then(|text| text.parse().ok());
    Duration::from_secs(given.unwrap_or(30).max(1))
}

/// Holder and time of change, opened anew: over NFS that asks the server.
fn look(path: &Path) -> Option<(Holder, Option<SystemTime>)> {
    let mut file = File::open(path).ok()?;
    let changed = file.metadata().and_then(|meta| meta.modified()).ok();
    let mut text = vec![];
    file.read_to_end(&mut text).ok()?;
    Some((named(&text)?, changed))
}

fn named(text: &[u8]) -> Option<Holder> {
    serde_json::from_slice(text).ok()
}

/// The first of the holders named in these files that is seen alive within this time; none at once where no file names
/// one that may live.
pub(super) fn first_alive(
    paths: &[PathBuf],
    patience: Duration,
    may_live: impl Fn(&Holder) -> bool,
) -> Option<Holder> {
    let seen = |path: &PathBuf| {
        let (holder, changed) = look(path).filter(|(holder, _)| may_live(holder))?;
        Some((path.clone(), holder, changed))
    };
    let seen: Vec<_> = paths.iter().filter_map(seen).collect();
    let (path, holder, _) = seen.first()?;
    tracing::info!(
        "`{}` names {holder}, which a lock may not show here: waiting up to {} s for a sign of life",
        path.display(),
        patience.as_secs()
    );
    let begin = Instant::now();
    while begin.elapsed() < patience {
        std::thread::sleep(LOOK);
        for (path, before, changed) in &seen {
            match look(path) {
                Some((now, at)) if now != *before || at != *changed => return Some(now),
                _ => {}
            }
        }
    }
    for (_, holder, _) in &seen {
        tracing::warn!("no sign of life of {holder} for {} s", patience.as_secs());
    }
    None
}

/// Where no lock tells two apart that write their names at the same moment: wait until both have, and see whose stands
/// there.
pub(super) fn settle(path: &Path, this: &Holder) -> Option<Holder> {
    std::thread::sleep(FIRST);
    let (now, _) = look(path)?;
    (now != *this).then_some(now)
}

/// Gives signs until it ends.
#[derive(Debug)]
pub(super) struct Signs {
    path: PathBuf,
    this: Holder,
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Signs {
    /// Begin.
    pub(super) fn give(path: &Path, this: Holder) -> Self {
        let (stop, stopped) = channel();
        let (path, holder) = (path.to_owned(), this.clone());
        let file = path.clone();
        let body = move || {
            let mut pause = FIRST;
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                pause = BEAT;
                // One that cannot be read now is nobody else's for that.
                if std::fs::read(&file).is_ok_and(|text| named(&text).as_ref() != Some(&holder)) {
                    give_way(&file);
                }
                touch(&file);
            }
        };
        let thread = std::thread::Builder::new().name("lock".into()).spawn(body);
        let thread = thread
            .inspect_err(|error| tracing::debug!("no signs of life: {error}"))
            .ok();
        Self {
            path,
            this,
            stop,
            thread,
        }
    }

    /// End; whether the file still names this process.
    pub(super) fn end(self) -> bool {
        drop(self.stop);
        if let Some(thread) = self.thread {
            let _ = thread.join();
        }
        look(&self.path).is_none_or(|(now, _)| now == self.this)
    }
}

/// Set the file's time of change to now, as its server has it.
fn touch(path: &Path) {
    let touched = File::options().write(true).open(path).and_then(|file| {
        // SAFETY: the descriptor is that of the open file; without times it is the present.
        match unsafe { libc::futimens(file.as_raw_fd(), std::ptr::null()) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    });
    if let Err(error) = touched {
        tracing::debug!("no sign of life in `{}`: {error}", path.display());
    }
}

/// Another process took this one for dead and wrote here: end at once, nothing that counts is half-written.
fn give_way(path: &Path) -> ! {
    let other = look(path).map_or("another process".to_owned(), |(now, _)| now.to_string());
    eprintln!(
        "error: {other} took over by `{}`, since it saw no sign of life of this process in time; this one ends, and what \
         it had finished stays",
        path.display()
    );
    std::process::exit(1)
}

#[cfg(test)]
mod tests {
    use super::super::{LOCK, RunLock};
    use super::*;

    fn elsewhere() -> Holder {
        Holder {
            pid: 4711,
            host: "node-17".into(),
            started: "2031-01-02T03:04:05Z".into(),
            machine: "another".into(),
        }
    }

    fn write(path: &Path, holder: &Holder) {
        std::fs::write(path, serde_json::to_vec(holder).unwrap()).unwrap();
    }

    #[test]
    fn one_who_lives_on_another_machine_keeps_its_directory_and_a_silent_one_loses_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK);
        write(&path, &elsewhere());
        let all = [path.clone()];
        let short = Duration::from_millis(1200);
        assert_eq!(first_alive(&all, short, |_| false), None, "not looked at");
        assert_eq!(first_alive(&all, short, |_| true), None, "silent");
        let beating = {
            let path = path.clone();
            std::thread::spawn(move || {
                for _ in 0..8 {
                    std::thread::sleep(Duration::from_millis(400));
                    touch(&path);
                }
            })
        };
        let held = RunLock::acquire(folder.path()).unwrap_err().to_string();
        assert!(
            held.contains("process 4711 on node-17 since 2031"),
            "{held}"
        );
        assert_eq!(RunLock::holder(folder.path()).unwrap(), Some(elsewhere()));
        // One that makes a stage keeps out who wants all, and the other way round.
        assert!(RunLock::acquire_beside(folder.path()).is_err());
        beating.join().unwrap();
        std::fs::write(&path, "").unwrap();
        let stage = RunLock::acquire_stage(folder.path(), "data").unwrap();
        write(&folder.path().join("locks/pairs.lock"), &elsewhere());
        let beating = std::thread::spawn({
            let lock = folder.path().join("locks/pairs.lock");
            move || {
                std::thread::sleep(Duration::from_millis(600));
                touch(&lock);
            }
        });
        let held = RunLock::acquire(folder.path()).unwrap_err().to_string();
        assert!(held.contains("node-17"), "{held}");
        beating.join().unwrap();
        drop(stage);
    }

    #[test]
    fn a_holder_is_seen_alive_and_empties_the_file_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK);
        let lock = RunLock::acquire(folder.path()).unwrap();
        let seen = first_alive(std::slice::from_ref(&path), MOMENT, |_| true).unwrap();
        assert_eq!(seen.pid, std::process::id());
        drop(lock);
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }
}
