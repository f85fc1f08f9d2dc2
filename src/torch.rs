//! The program with libtorch: what `atp-pipeline` goes on as for commands that compute.

use std::process::ExitCode;

use atp_pipeline::cli::Cli;
use atp_pipeline::cli::start::start;
use clap::Parser;

fn main() -> ExitCode {
    start(Cli::parse(), Cli::execute)
}
