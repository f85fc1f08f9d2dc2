//! Arguments in, an exit code out.

use std::ffi::{c_char, c_int};
use std::process::ExitCode;

use atp_pipeline::cli::start::start;
use atp_pipeline::cli::{Cli, early};
use clap::Parser;

/// Called by the dynamic linker before any initialiser: see [`early`].
#[used]
#[unsafe(link_section = ".preinit_array")]
static EARLY: unsafe extern "C" fn(c_int, *const *const c_char, *const *const c_char) =
    early::answer;

fn main() -> ExitCode {
    start(Cli::parse())
}
