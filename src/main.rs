//! Arguments in, an exit code out.

use std::process::ExitCode;

use atp_pipeline::cli::Cli;
use atp_pipeline::cli::start::start;
use clap::Parser;

fn main() -> ExitCode {
    start(Cli::parse())
}
