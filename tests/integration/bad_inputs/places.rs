//! Places that cannot be read or written, and names that are no text.

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::{Row, Taken, row, typed, workplace};
use crate::support::{Ended, files, program};

/// The rows.
pub fn rows() -> Vec<Row> {
    vec![
        row(
            "run directory below a file",
            |folder| {
                fs::write(folder.join("file"), "").expect("a file");
                typed(&["generate", "random.toml", "--run-dir", "file/run"])
            },
            &["cannot create folder `file/run`", "Not a directory"],
        ),
        row(
            "status of no run directory",
            |_| typed(&["status", "nothing"]),
            &["nothing: no such run directory; `atp-pipeline run` makes one"],
        ),
        row(
            "output in no folder",
            |folder| {
                fs::write(folder.join("in.jsonl"), "{\"input_ids\": [1, 2]}\n").expect("a file");
                typed(&[
                    "score",
                    "--model",
                    "model",
                    "--in",
                    "in.jsonl",
                    "--out",
                    "nowhere/out.jsonl",
                ])
            },
            &["nowhere/out.jsonl: the folder to write it to is not there"],
        ),
        row(
            "recipe to begin where there is one",
            |_| typed(&["recipe", "init", "random.toml"]),
            &["`random.toml` is there already; it is left as it is"],
        ),
        row(
            "scenario to begin in no folder",
            |_| typed(&["scenario", "new", "town", "--out", "nowhere/town.toml"]),
            &["--out: there is no folder `nowhere`"],
        ),
        row(
            "command that is not there",
            |_| typed(&["rnu"]),
            &["unrecognized subcommand 'rnu'"],
        ),
        row(
            "device that is not there",
            |_| typed(&["run", "random.toml", "--device", "cuda:x"]),
            &["invalid value 'cuda:x' for '--device"],
        ),
        row(
            "threads that are no number",
            |_| typed(&["run", "random.toml", "--threads", "many"]),
            &["invalid value 'many' for '--threads"],
        ),
    ]
}

/// Inputs that are taken, and those whose tests need more than arguments.
pub fn taken() -> Vec<Taken> {
    vec![
        Taken {
            input: "run directory whose name is no UTF-8",
            gets: "used as any other",
        },
        Taken {
            input: "recipe or model whose name is no UTF-8",
            gets: "exit code 2: invalid UTF-8 was detected in one or more arguments",
        },
        Taken {
            input: "run directory without the right to write",
            gets: "cannot create folder … Permission denied … check who owns it and its mode, or choose another place",
        },
        Taken {
            input: "model without the right to read",
            gets: "model/config.json … Permission denied",
        },
        Taken {
            input: "disk of 64 KB",
            gets: "cannot write … No space left on device … free space … nothing half-written stays; the same command goes on",
        },
        Taken {
            input: "limit on the size of files (`ulimit -f`)",
            gets: "cannot write … File too large … nothing half-written stays",
        },
    ]
}

/// Run to the end with a hook in the child before the program begins.
fn ended(mut command: Command) -> Ended {
    command.output().expect("a process").into()
}

/// It failed with one message with all of this.
fn assert_says(ended: &Ended, said: &[&str]) {
    let Ended { code, out, err } = ended;
    assert_eq!(*code, Some(1), "{out}\n{err}");
    assert_eq!(
        err.lines().filter(|l| l.starts_with("error: ")).count(),
        1,
        "{err}"
    );
    for text in said {
        assert!(err.contains(text), "no `{text}` in {err}");
    }
    assert!(!err.contains("fault of the program"), "{err}");
}

fn assert_no_temporaries(folder: &Path) {
    let left: Vec<String> = files(folder)
        .into_keys()
        .filter(|name| name.contains(".atp-tmp-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn names_that_are_no_text() {
    let folder = workplace();
    let name = OsString::from_vec(b"run-\xff\xfe".to_vec());
    let mut command = program(folder.path(), &["generate", "random.toml", "--run-dir"]);
    command.arg(&name);
    let done = ended(command);
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert!(
        folder
            .path()
            .join(&name)
            .join("latest/data/train.parquet")
            .is_file()
    );
    let mut again = program(folder.path(), &["status", "--json"]);
    again.arg(&name);
    // JSON has no bytes: the path is told as near as a text comes.
    assert_eq!(ended(again).json()["stages"][0]["state"], "finished");
    for arguments in [&["run"][..], &["sample", "hello", "--model"]] {
        let mut command = program(folder.path(), arguments);
        command.arg(&name);
        let refused = ended(command);
        assert_eq!(refused.code, Some(2), "{}", refused.err);
        assert!(refused.err.contains("invalid UTF-8"), "{}", refused.err);
    }
}

/// The command as a user without rights, where the tests run as one who has all.
fn without_rights(mut command: Command) -> Command {
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } == 0 {
        const NOBODY: u32 = 65_534;
        command.uid(NOBODY).gid(NOBODY).env("HOME", "/nonexistent");
    }
    command
}

#[test]
fn places_without_rights() {
    let folder = workplace();
    let at = folder.path();
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions")
    };
    mode(at, 0o755);
    // A machine may hide the program itself from others; then nothing can be said here.
    let probe = without_rights(program(at, &["--version"])).output();
    if !probe.is_ok_and(|out| out.status.success()) {
        eprintln!("skipped: another user cannot start the program here");
        return;
    }
    let run = without_rights(program(
        at,
        &["generate", "random.toml", "--run-dir", "run"],
    ));
    assert_says(
        &ended(run),
        &[
            "cannot create folder `run`",
            "Permission denied",
            "or choose another place",
        ],
    );
    assert!(!at.join("run").exists());
    mode(&at.join("model/config.json"), 0o000);
    let sample = without_rights(program(at, &["sample", "--model", "model", "hello"]));
    assert_says(&ended(sample), &["model/config.json", "Permission denied"]);
}

/// A command that sees a small disk of its own at `place`.
fn on_a_small_disk(mut command: Command, place: &Path, size: &str) -> Command {
    let place = CString::new(place.as_os_str().as_bytes()).expect("no NUL");
    let options = CString::new(format!("size={size}")).expect("no NUL");
    let tmpfs = CString::new("tmpfs").expect("no NUL");
    let own = move || {
        // SAFETY: system calls on strings that live as long as the closure; nothing is allocated.
        let done = unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(
                    std::ptr::null(),
                    c"/".as_ptr(),
                    std::ptr::null(),
                    libc::MS_REC | libc::MS_PRIVATE,
                    std::ptr::null(),
                ) == 0
                && libc::mount(
                    tmpfs.as_ptr(),
                    place.as_ptr(),
                    tmpfs.as_ptr(),
                    0,
                    options.as_ptr().cast(),
                ) == 0
        };
        if done {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: the closure only makes system calls.
    unsafe { command.pre_exec(own) };
    command
}

#[test]
fn a_disk_of_64_kilobytes() {
    let folder = workplace();
    let at = folder.path();
    let small = at.join("small");
    fs::create_dir(&small).expect("a folder");
    // The disk is gone with the process; what is left on it is listed by a shell on the way out.
    let mut probe = Command::new("true");
    probe = on_a_small_disk(probe, &small, "64k");
    if probe.output().is_err() {
        eprintln!(
            "skipped: no rights to mount; `faults::room` holds the same with a disk that says it is full"
        );
        return;
    }
    let binary = OsStr::new(env!("CARGO_BIN_EXE_atp-pipeline"));
    let mut shell = program(at, &[]);
    let mut command = Command::new("sh");
    command
        .current_dir(at)
        .envs(shell.get_envs().filter_map(|(k, v)| Some((k, v?))));
    shell = command;
    shell.args(["-c", "\"$0\" run random.toml --run-dir small/run; code=$?; find small -name '*.atp-tmp-*'; exit $code"]);
    shell.arg(binary);
    let done = ended(on_a_small_disk(shell, &small, "64k"));
    assert_says(&done, &["No space left", "free space"]);
    assert!(!done.out.contains(".atp-tmp-"), "{}", done.out);
}

#[test]
fn a_limit_on_the_size_of_files() {
    let folder = workplace();
    let at = folder.path();
    let mut command = program(at, &["generate", "random.toml", "--run-dir", "run"]);
    let limit = || {
        let limit = libc::rlimit {
            rlim_cur: 2048,
            rlim_max: 2048,
        };
        // SAFETY: the struct is whole.
        match unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: one system call.
    unsafe { command.pre_exec(limit) };
    assert_says(&ended(command), &["cannot write", "File too large"]);
    assert_no_temporaries(at);
}
