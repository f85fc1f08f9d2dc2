//! Answers that need no libtorch, before libtorch has begun.
//!
//! libtorch's own initialisers take a quarter of a second of processor time before `main`. The dynamic linker calls the
//! functions of a program's `.preinit_array` ahead of them, so help, completions and a look at a run directory cost what
//! they should. Nothing that calls libtorch may be answered here: it is mapped, but not initialised.

use std::ffi::{CStr, OsString, c_char, c_int};
use std::io::Write;
use std::os::unix::ffi::OsStringExt;

use clap::Parser;

use super::{Cli, Command};

// Environment as C keeps it; libc sets it in an initialiser of its own, which has not run yet.
unsafe extern "C" {
    static mut environ: *const *const c_char;
}

/// To be named in `.preinit_array` of the program: answers and ends the process, or returns and `main` goes on.
///
/// # Safety
/// Only the dynamic linker may call it, with the arguments and the environment of the process.
pub unsafe extern "C" fn answer(
    count: c_int,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) {
    // SAFETY: no other thread is there yet, and the linker hands out the process's own environment.
    unsafe { environ = environment };
    let argument = |place| {
        // SAFETY: there are `count` arguments, each a text that ends in zero.
        let text = unsafe { CStr::from_ptr(*arguments.add(place)) };
        OsString::from_vec(text.to_bytes().to_vec())
    };
    let arguments = (0..count.max(0) as usize).map(argument).collect();
    // What panics here is left to `main`, which tells it.
    let quietly = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let code = std::panic::catch_unwind(|| code(arguments));
    std::panic::set_hook(quietly);
    if let Ok(Some(code)) = code {
        let _ = std::io::stdout().flush();
        // SAFETY: ends the process without running what was registered for its end: nothing of it has begun.
        unsafe { libc::_exit(code) }
    }
}

/// The exit code, once the answer is printed; nothing where `main` is needed.
fn code(arguments: Vec<OsString>) -> Option<c_int> {
    match Cli::try_parse_from(arguments) {
        Err(said) => {
            // Whoever read may have gone.
            let _ = said.print();
            Some(said.exit_code())
        }
        Ok(cli) if cli.command.is_light() => Some(super::start::run(cli).into()),
        Ok(_) => None,
    }
}

impl Command {
    /// It calls nothing of libtorch.
    fn is_light(&self) -> bool {
        matches!(
            self,
            Self::Status(_) | Self::Recipe(_) | Self::Completions(_) | Self::Man(_)
        )
    }
}
