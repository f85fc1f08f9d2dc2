//! How the program starts and ends: logging, signals, what a panic says, exit codes.

use std::any::Any;
use std::io::IsTerminal;
use std::process::ExitCode;

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
    // SAFETY: ignoring a signal touches nothing else.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
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
        Ok(Ok(())) => 0,
        Ok(Err(error)) if error.chain().any(|cause| cause.is::<Interrupted>()) => {
            eprintln!("{Interrupted}");
            interrupt::EXIT_CODE as u8
        }
        Ok(Err(error)) => tell_error(&error),
        Err(panic) => match unprintable(panic_text(panic.as_ref())) {
            Some(Unprintable::ReaderGone) => 0,
            _ => 1,
        },
    }
}

/// Why standard output took no more.
enum Unprintable<'a> {
    /// As in `… | head`: no fault, and to die of SIGPIPE would cost a checkpoint.
    ReaderGone,
    Error(&'a str),
}

fn unprintable(panic: &str) -> Option<Unprintable<'_>> {
    let why = panic.strip_prefix("failed printing to stdout: ")?;
    Some(match why.contains("Broken pipe") {
        true => Unprintable::ReaderGone,
        false => Unprintable::Error(why),
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied())
        .unwrap_or_default()
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
    match unprintable(text) {
        Some(Unprintable::ReaderGone) => return,
        Some(Unprintable::Error(why)) => {
            eprintln!("error: cannot write to standard output: {why}");
            return;
        }
        None => {}
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
