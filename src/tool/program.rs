//! One program: handed to a worker, read from, stopped at its limits, judged.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::rules::Domain;
use super::worker::{Ended, Worker, poll_for, wait};
use super::{Execution, SandboxConfig, Status, scratch, spawn};

/// How often the scratch folder is looked at.
const LOOK: Duration = Duration::from_millis(25);
/// How long a worker may take over killing its child and saying so.
const GRACE: Duration = Duration::from_secs(5);
/// How much of the end of standard error is kept.
const TAIL: usize = 8 << 10;
/// Exit code after a `MemoryError`, as in worker.py.
const OUT_OF_MEMORY: i32 = 113;

/// Why there is no execution.
pub(super) enum Lost {
    /// The worker was gone before it had the program; another one can have it.
    Before(io::Error),
    /// The worker went while it had the program.
    During(io::Error),
}

/// What a program gets.
pub(super) struct Request<'a> {
    pub config: &'a SandboxConfig,
    pub source: &'a str,
    pub folder: &'a Path,
    pub readable: &'a [PathBuf],
    pub confined: bool,
}

/// A stream of the program.
struct Stream {
    pipe: Option<File>,
    kept: Vec<u8>,
    seen: usize,
    most: usize,
}

impl Stream {
    fn new(most: usize) -> io::Result<(Self, OwnedFd)> {
        let mut ends = [0; 2];
        // SAFETY: two descriptors are written to `ends`.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both were just made and are owned by nobody else.
        let (ours, theirs) = unsafe { (File::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
        let stream = Self {
            pipe: Some(ours),
            kept: Vec::new(),
            seen: 0,
            most,
        };
        Ok((stream, theirs))
    }

    /// Read what is there. False if that is more than is allowed.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        if let Some(pipe) = &mut self.pipe {
            let count = pipe.read(buffer)?;
            if count == 0 {
                self.pipe = None;
            }
            self.seen += count;
            let room = self.most.saturating_sub(self.kept.len()).min(count);
            self.kept.extend_from_slice(&buffer[..room]);
        }
        Ok(self.seen <= self.most)
    }
}

impl Request<'_> {
    /// Run it on this worker.
    pub(super) fn run(&self, worker: &Worker) -> Result<Execution, Lost> {
        let start = Instant::now();
        let most = self.config.output_kib << 10;
        let (mut out, out_end) = Stream::new(most).map_err(Lost::During)?;
        let (mut err, err_end) = Stream::new(most).map_err(Lost::During)?;
        self.hand_over(worker, &out_end, &err_end)?;
        drop((out_end, err_end));

        let deadline = start + self.config.wall();
        let mut stopped: Option<(Status, Instant)> = None;
        let mut ended: Option<Ended> = None;
        let mut buffer = vec![0; 64 << 10];
        let mut look = Instant::now() + LOOK;
        while ended.is_none() || out.pipe.is_some() || err.pipe.is_some() {
            let until = match &stopped {
                Some((_, since)) => *since + GRACE,
                None => deadline.min(look),
            };
            let mut waited = Vec::with_capacity(3);
            waited.extend(out.pipe.as_ref().map(poll_for));
            waited.extend(err.pipe.as_ref().map(poll_for));
            if ended.is_none() {
                waited.push(poll_for(worker.control()));
            }
            wait(&mut waited, until).map_err(Lost::During)?;
            let is_ready = |fd: i32| waited.iter().any(|w| w.fd == fd && w.revents != 0);
            let mut verdict = None;
            for stream in [&mut out, &mut err] {
                let ready = stream.pipe.as_ref().is_some_and(|p| is_ready(fd_of(p)));
                if ready && !stream.read(&mut buffer).map_err(Lost::During)? {
                    verdict = Some(Status::OutputLimit);
                }
            }
            if ended.is_none() && is_ready(fd_of(worker.control())) {
                ended = worker.ended(Instant::now()).map_err(Lost::During)?;
            }
            let now = Instant::now();
            if now >= look && ended.is_none() {
                if scratch::is_full(self.folder, self.config.scratch_mib << 20) {
                    verdict = Some(Status::OutputLimit);
                }
                look = Instant::now() + LOOK;
            }
            if now >= deadline && ended.is_none() {
                verdict = verdict.or(Some(Status::TimedOut));
            }
            match &stopped {
                None => {
                    if let Some(verdict) = verdict {
                        stopped = Some((verdict, now));
                        if ended.is_none() {
                            worker.send(b"K", &[]).map_err(Lost::During)?;
                        }
                    }
                }
                Some((_, since)) if now >= *since + GRACE => {
                    return Err(Lost::During(io::ErrorKind::TimedOut.into()));
                }
                Some(_) => {}
            }
        }
        let ended = ended.ok_or_else(|| Lost::During(io::ErrorKind::InvalidData.into()))?;
        let status = match stopped {
            _ if !ended.prepared => Status::Broken,
            Some((verdict, _)) => verdict,
            None => judge(&ended, self.config),
        };
        let tail = err.kept.len().saturating_sub(TAIL);
        Ok(Execution {
            status,
            stdout: String::from_utf8_lossy(&out.kept).into_owned(),
            stderr: String::from_utf8_lossy(&err.kept[tail..]).into_owned(),
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    fn hand_over(&self, worker: &Worker, out: &OwnedFd, err: &OwnedFd) -> Result<(), Lost> {
        let mut source = spawn::memory_file(c"program").map_err(Lost::During)?;
        source
            .write_all(self.source.as_bytes())
            .and_then(|()| source.rewind())
            .map_err(Lost::During)?;
        let domain = Domain {
            readable: self.readable,
            executable: &[],
            scratch: self.folder,
        };
        let mut descriptors = vec![source.as_fd(), out.as_fd(), err.as_fd()];
        let ruleset = match self.confined {
            true => domain
                .ruleset()
                .map_err(|error| Lost::During(io::Error::other(error)))?,
            false => None,
        };
        descriptors.extend(ruleset.as_ref().map(AsFd::as_fd));
        // As `REQUEST` in worker.py, whose fields are aligned as in C.
        let mut packet = vec![b'R', 0, 0, 0, 0, 0, 0, 0];
        for number in [
            worker.address_space + (self.config.memory_mib << 20),
            self.config.whole_cpu_seconds(),
            self.config.file_mib << 20,
            self.config.open_files,
        ] {
            packet.extend(number.to_ne_bytes());
        }
        packet.extend(self.folder.as_os_str().as_encoded_bytes());
        worker.send(&packet, &descriptors).map_err(Lost::Before)
    }
}

fn fd_of(descriptor: &impl std::os::fd::AsRawFd) -> i32 {
    descriptor.as_raw_fd()
}

/// From how the kernel says it ended.
fn judge(ended: &Ended, config: &SandboxConfig) -> Status {
    if libc::WIFEXITED(ended.status) {
        return match libc::WEXITSTATUS(ended.status) {
            0 => Status::Finished,
            OUT_OF_MEMORY => Status::OutOfMemory,
            code => Status::Raised { code },
        };
    }
    // The kernel's limit counts ticks and its bookkeeping does not, so the two disagree a little. Nobody else sends
    // SIGKILL but the kernel when memory runs out.
    let spent = ended.cpu_seconds >= config.whole_cpu_seconds() as f64 * 0.9;
    match libc::WTERMSIG(ended.status) {
        libc::SIGXCPU => Status::TimedOut,
        libc::SIGKILL if spent => Status::TimedOut,
        libc::SIGSYS => Status::Refused,
        signal => Status::Killed { signal },
    }
}
