//! Arguments. Commands that need no tensor are done here; the others by `atp-pipeline-torch` beside this file, which takes
//! this process over: loading libtorch alone takes a quarter of a second, too long for `--help`.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use atp_pipeline::cli::Cli;
use atp_pipeline::cli::start::start;
use clap::Parser;

/// The program with libtorch.
const WITH_TORCH: &str = "atp-pipeline-torch";

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.is_light() {
        return start(cli, Cli::execute_light);
    }
    let here = std::env::current_exe();
    let path = here.as_deref().map(|here| here.with_file_name(WITH_TORCH));
    let path = path.unwrap_or_else(|_| WITH_TORCH.into());
    // Only comes back where it cannot be started.
    let error = Command::new(&path).args(std::env::args_os().skip(1)).exec();
    eprintln!(
        "error: cannot start `{}`: {error}; it belongs beside `atp-pipeline`: build or install both again",
        path.display()
    );
    ExitCode::FAILURE
}
