//! How the program starts and ends: logging, signals, what a panic says, exit codes.

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

use super::Cli;
use crate::runtime::guard::is_guarded;
use crate::runtime::interrupt::{self, Interrupted};
use crate::runtime::message::message;
use crate::runtime::ranks::launch::LaunchError;
use crate::runtime::ranks::{self, RankError};

/// Do what was asked for, and tell how it ended.
pub fn start(cli: Cli) -> ExitCode {
    ExitCode::from(run(cli))
}

/// The same, with the exit code as a number.
pub(super) fn run(cli: Cli) -> u8 {
    // A file beyond the user's limit is then an error that can be told, as a full disk is.
    // A closed pipe is one, too, also where Rust's own start has not come that far.
    // SAFETY: ignoring signals touches nothing else.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => "error",
        // What there is to say, rank 0 says.
        (false, 0) if ranks::place::rank() > 0 => "error",
        // Charts adapt to dark pages by a rule that is skipped where they become PNG, which is as it should be.
        (false, 0) => "atp_pipeline=info,simplecss=error,warn",
        (false, 1) => "atp_pipeline=debug,simplecss=error,info",
        (false, _) => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let colour = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(cli.verbose > 1)
        .compact()
        .init();
    std::panic::set_hook(Box::new(tell_panic));
    let result = std::panic::catch_unwind(|| {
        interrupt::install()?;
        cli.execute()
    });
    match result {
        Ok(Ok(())) => match UNTOLD.get() {
            None => 0,
            Some(why) => {
                eprintln!("error: cannot write to standard output: {why}");
                1
            }
        },
        Ok(Err(error)) if error.chain().any(|cause| cause.is::<Interrupted>()) => {
            eprintln!("{Interrupted}");
            interrupt::EXIT_CODE as u8
        }
        Ok(Err(error)) => tell_error(&error),
        Err(_) => 1,
    }
}

/// Why standard output took no more, where that was no reader that had gone.
static UNTOLD: OnceLock<String> = OnceLock::new();

/// A line to standard output. That whoever read it has gone, as in `… | head`, is no fault, and to die of it would cost a
/// checkpoint and hide how a command ended; what else is wrong is told at the end.
pub(super) fn tell(line: std::fmt::Arguments) {
    let Err(error) = writeln!(std::io::stdout(), "{line}") else {
        return;
    };
    if error.kind() != ErrorKind::BrokenPipe {
        let _ = UNTOLD.set(error.to_string());
    }
}

/// Say what went wrong, unless another rank or another process says it.
fn tell_error(error: &anyhow::Error) -> u8 {
    let mut chain = error.chain();
    if let Some(lost) = chain.find_map(|cause| cause.downcast_ref::<RankError>()) {
        match lost.is_told_elsewhere() || !lost.is_told_by(ranks::place::rank()) {
            true => tracing::debug!("{}", message(error)),
            false => eprintln!("error: {lost}"),
        }
        // They fail together, none because another did, and would again.
        return match lost {
            RankError::Disagree(_) => 1,
            _ => ranks::BYSTANDER_CODE as u8,
        };
    }
    let by_a_rank = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref(), Some(LaunchError::Failed { .. }))
    };
    match error.chain().any(by_a_rank) {
        true => tracing::debug!("{}", message(error)),
        false => eprintln!("error: {}", message(error)),
    }
    1
}

fn tell_panic(panic: &std::panic::PanicHookInfo) {
    let text = panic.payload_as_str().unwrap_or("unknown");
    tracing::debug!("{panic}");
    if is_guarded() {
        // It becomes an error with a place.
        return;
    }
    if text.contains("out of memory") {
        eprintln!(
            "error: out of memory: {}",
            text.lines().next().unwrap_or(text)
        );
        eprintln!(
            "  lower `group`, `max_new_tokens` or `max_length`, or use bf16; finished work is kept"
        );
    } else {
        let place = panic
            .location()
            .map(|l| format!(" at {l}"))
            .unwrap_or_default();
        eprintln!("error: this is a fault of the program{place}: {text}");
    }
}
