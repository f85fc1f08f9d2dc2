//! Ctrl-C, SIGTERM and SIGUSR1: the first asks for a checkpoint and an orderly stop, the second Ctrl-C quits at once.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};

static REQUESTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// The work was stopped on request; what was finished is on disk.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("interrupted; the finished work is saved, run the same command again to go on")]
pub struct Interrupted;

/// Exit code of an orderly stop on request (128 + SIGINT, as shells expect).
pub const EXIT_CODE: i32 = 130;

fn flag() -> &'static Arc<AtomicBool> {
    REQUESTED.get_or_init(|| Arc::new(AtomicBool::new(false)))
}

/// Install the handlers. A second signal while the first is being served ends the process at once.
pub fn install() -> std::io::Result<()> {
    for signal in [SIGINT, SIGTERM, SIGUSR1] {
        // Order matters: the conditional exit sees the flag as it was before this signal.
        signal_hook::flag::register_conditional_shutdown(signal, EXIT_CODE, Arc::clone(flag()))?;
        signal_hook::flag::register(signal, Arc::clone(flag()))?;
    }
    Ok(())
}

/// Several ranks work together: a stop counts once all know of it.
static AMONG_RANKS: AtomicBool = AtomicBool::new(false);
/// They all know.
static AGREED: AtomicBool = AtomicBool::new(false);
/// This rank works on its own share, to be told of at its end.
static LOCALLY: AtomicBool = AtomicBool::new(false);

/// `Err(Interrupted)` once a stop was asked for. Call it wherever the work on disk is whole.
///
/// Among ranks it is that once all agreed ([`agree`]), so that all stop at the same point; inside [`locally`] it is as
/// soon as this one was asked.
pub fn check() -> Result<(), Interrupted> {
    let counts = match AMONG_RANKS.load(Ordering::SeqCst) && !LOCALLY.load(Ordering::SeqCst) {
        true => AGREED.load(Ordering::SeqCst),
        false => is_requested(),
    };
    if counts { Err(Interrupted) } else { Ok(()) }
}

/// Whether this process was asked to stop.
pub fn is_requested() -> bool {
    flag().load(Ordering::SeqCst)
}

/// From here on a stop counts once all ranks know of it.
pub fn among_ranks() {
    AMONG_RANKS.store(true, Ordering::SeqCst);
}

/// All ranks know that one was asked to stop.
pub fn agree() {
    AGREED.store(true, Ordering::SeqCst);
}

/// Do a share of the work that ends in telling all ranks whether it was stopped.
pub fn locally<T>(work: impl FnOnce() -> T) -> T {
    LOCALLY.store(true, Ordering::SeqCst);
    let done = work();
    LOCALLY.store(false, Ordering::SeqCst);
    done
}
