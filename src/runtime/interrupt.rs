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

/// `Err(Interrupted)` once a stop was asked for. Call it wherever the work on disk is whole.
pub fn check() -> Result<(), Interrupted> {
    if flag().load(Ordering::SeqCst) {
        Err(Interrupted)
    } else {
        Ok(())
    }
}
