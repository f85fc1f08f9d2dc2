//! `--nproc N`: the same command as N processes on this machine.
//!
//! The starter computes nothing. It hands on signals, and when a rank ends badly it ends the others, waits for them, and
//! names the one that began. Ranks end with it: the system tells them when it dies.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use signal_hook::consts::SIGTERM;

use super::{BYSTANDER_CODE, pause};
use crate::runtime::interrupt::{self, Interrupted};

/// Names the socket that rank 0 inherits.
pub const LISTENING: &str = "ATP_RANKS_SOCKET";
/// Set for ranks that a starter of ours looks after.
const LAUNCHED: &str = "ATP_RANKS_LAUNCHED";
/// How long the others may take to end once one has failed in order.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether a starter of ours looks after this process, and names ranks that are lost.
pub fn is_launched() -> bool {
    std::env::var_os(LAUNCHED).is_some()
}

/// A rank ended badly.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The processes could not be started.
    #[error("cannot start rank {rank} of {size}: {problem}")]
    Start {
        /// Which.
        rank: usize,
        /// Number of ranks.
        size: usize,
        /// What the system says.
        problem: String,
    },
    /// It did not say itself why.
    #[error(
        "rank {rank} of {size} (process {pid}) {how}; the other ranks were stopped, and the last checkpoint stands: run the \
         same command again to go on from it, with any number of ranks"
    )]
    Lost {
        /// Which.
        rank: usize,
        /// Number of ranks.
        size: usize,
        /// Its process.
        pid: u32,
        /// How it ended.
        how: String,
    },
    /// It said why on standard error.
    #[error("rank {rank} of {size} failed")]
    Failed {
        /// Which.
        rank: usize,
        /// Number of ranks.
        size: usize,
    },
    /// All stopped on request.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
}

/// A started rank.
struct Rank {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Rank {
    fn look(&mut self) {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap_or_default();
        }
    }

    fn signal(&self, signal: i32) {
        if self.ended.is_none() {
            // SAFETY: plain system call; the child is ours and not waited for yet, so the id is still its own.
            unsafe { libc::kill(self.child.id() as i32, signal) };
        }
    }
}

/// Ranks that are ended when this goes, however it goes.
struct Started(Vec<Rank>);

impl Drop for Started {
    fn drop(&mut self) {
        for rank in &mut self.0 {
            rank.look();
            rank.signal(libc::SIGKILL);
            let _ = rank.child.wait();
        }
    }
}

/// Run this very command as `size` ranks, and wait for them.
///
/// # Errors
/// One ended badly, or all stopped on request.
pub fn run(size: usize) -> Result<(), LaunchError> {
    let fail = |rank: usize, problem: String| LaunchError::Start {
        rank,
        size,
        problem,
    };
    // Bound here and inherited by rank 0, so that nobody takes the port in between.
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| fail(0, e.to_string()))?;
    let port = socket
        .local_addr()
        .map_err(|e| fail(0, e.to_string()))?
        .port();
    let program = std::env::current_exe().map_err(|e| fail(0, e.to_string()))?;
    let mut started = Started(vec![]);
    for rank in 0..size {
        let mut command = Command::new(&program);
        command
            .args(std::env::args_os().skip(1))
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", size.to_string())
            .env("LOCAL_RANK", rank.to_string())
            .env("LOCAL_WORLD_SIZE", size.to_string())
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", port.to_string())
            .env(LAUNCHED, "1")
            // A terminal's Ctrl-C is for the starter, which hands it on once.
            .process_group(0);
        let descriptor = socket.as_raw_fd();
        if rank == 0 {
            command.env(LISTENING, descriptor.to_string());
        } else {
            command.stdin(Stdio::null()).stdout(Stdio::null());
        }
        let parent = std::process::id();
        // SAFETY: only system calls that are allowed between fork and exec.
        unsafe {
            command.pre_exec(move || {
                if rank == 0 {
                    libc::fcntl(descriptor, libc::F_SETFD, 0);
                }
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                // It may have died before that.
                match libc::getppid() as u32 == parent {
                    true => Ok(()),
                    false => Err(std::io::Error::other("the starter is gone")),
                }
            });
        }
        let child = command.spawn().map_err(|e| fail(rank, e.to_string()))?;
        started.0.push(Rank { child, ended: None });
    }
    drop(socket);
    wait(&mut started.0)
}

/// Look after the ranks to their end.
fn wait(ranks: &mut [Rank]) -> Result<(), LaunchError> {
    let mut asked = false;
    let mut bystander: Option<Instant> = None;
    let mut culprit: Option<(usize, ExitStatus, Instant)> = None;
    loop {
        ranks.iter_mut().for_each(Rank::look);
        if !asked && interrupt::is_requested() {
            asked = true;
            ranks.iter().for_each(|rank| rank.signal(SIGTERM));
        }
        // Before any is ended from here: afterwards all look alike.
        if culprit.is_none() {
            let own = |status: ExitStatus| !is_orderly(status) && !is_bystander(status);
            culprit = find(ranks, |status| status.signal().is_some())
                .or_else(|| find(ranks, own))
                .map(|(rank, status)| (rank, status, Instant::now()));
        }
        if bystander.is_none() && find(ranks, is_bystander).is_some() {
            bystander = Some(Instant::now());
        }
        if ranks.iter().all(|rank| rank.ended.is_some()) {
            break;
        }
        // One that failed in order tells the others, and they end by themselves; of one that is lost they cannot know.
        let over = match culprit {
            Some((_, status, _)) if status.signal().is_some() => true,
            Some((_, _, since)) => since.elapsed() > PATIENCE,
            None => bystander.is_some_and(|since| since.elapsed() > PATIENCE),
        };
        if over {
            // Nothing is lost by it: whatever counts is on disk, and whole.
            ranks.iter().for_each(|rank| rank.signal(libc::SIGKILL));
        }
        pause();
    }
    let size = ranks.len();
    let lost = |rank: usize, how: String| LaunchError::Lost {
        rank,
        size,
        pid: ranks[rank].child.id(),
        how,
    };
    match culprit.map(|(rank, status, _)| (rank, status.signal())) {
        Some((rank, Some(libc::SIGKILL))) => Err(lost(rank, "was killed (signal 9)".into())),
        Some((rank, Some(signal))) => Err(lost(rank, format!("ended by signal {signal}"))),
        Some((rank, None)) => Err(LaunchError::Failed { rank, size }),
        None => match (find(ranks, is_bystander), find(ranks, |s| !s.success())) {
            (Some((rank, _)), _) => Err(lost(rank, "lost the others".into())),
            (None, Some(_)) => Err(Interrupted.into()),
            (None, None) => Ok(()),
        },
    }
}

/// The first rank that ended so.
fn find(ranks: &[Rank], so: impl Fn(ExitStatus) -> bool) -> Option<(usize, ExitStatus)> {
    let mut ended = ranks.iter().enumerate();
    ended.find_map(|(place, rank)| Some((place, rank.ended.filter(|status| so(*status))?)))
}

fn is_orderly(status: ExitStatus) -> bool {
    status.success() || status.code() == Some(interrupt::EXIT_CODE)
}

fn is_bystander(status: ExitStatus) -> bool {
    status.code() == Some(BYSTANDER_CODE)
}
