//! The machine's own copy of a model's files, on the program itself: two at once, one killed in the middle, and a run that
//! is the same with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::faults::disk;
use crate::support::{Ended, TINY_STAGES, assert_same, heavy, program, results, smollm2_path};

/// A short text of the small real model, by way of the copy in `near`.
fn sample(folder: &Path) -> Command {
    let model = smollm2_path();
    let mut command = program(
        folder,
        &[
            "sample",
            "Name a tree.",
            "--model",
            model.to_str().expect("UTF-8"),
            "--max-new-tokens",
            "4",
        ],
    );
    command
        .env("ATP_LOCAL_CACHE", folder.join("near"))
        .env("XDG_CACHE_HOME", folder.join("cache"));
    command
}

/// Files below `near`: path and length.
fn copies(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut all = vec![];
    for inner in fs::read_dir(folder.join("near")).into_iter().flatten() {
        let inner = inner.expect("an entry").path();
        for file in fs::read_dir(inner).into_iter().flatten().flatten() {
            let length = file.metadata().map_or(0, |meta| meta.len());
            all.push((file.path(), length));
        }
    }
    all.sort();
    all
}

#[test]
fn two_at_once_copy_once_and_a_killed_copy_is_gone_on_with() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let _turn = heavy();
    let folder = folder.path();
    let size = fs::metadata(smollm2_path()).expect("a model").len();
    let mut killed = false;
    for _ in 0..20 {
        let _ = fs::remove_dir_all(folder.join("near"));
        let mut child = sample(folder).spawn().expect("a process");
        let begin = Instant::now();
        let some = |(path, length): &(PathBuf, u64)| {
            path.extension().is_some_and(|e| e == "part") && *length > size / 8
        };
        while !copies(folder).iter().any(some) && child.try_wait().expect("a status").is_none() {
            assert!(begin.elapsed() < Duration::from_secs(60), "no copy");
        }
        child.kill().expect("a signal");
        child.wait().expect("an end");
        killed = copies(folder)
            .iter()
            .any(|file| some(file) && file.1 < size);
        if killed {
            break;
        }
    }
    assert!(killed, "no kill met the copy in the middle");
    let part = copies(folder)
        .into_iter()
        .find(|(path, _)| path.extension().is_some_and(|e| e == "part"));
    let begun = part.expect("a part").1;
    let both = [0, 1].map(|_| sample(folder).spawn().expect("a process"));
    let [one, other] = both.map(|child| Ended::from(child.wait_with_output().expect("an end")));
    assert_eq!(
        (one.code, other.code),
        (Some(0), Some(0)),
        "{}\n{}",
        one.err,
        other.err
    );
    assert_eq!(one.out, other.out);
    let said = format!("{}{}", one.err, other.err);
    assert_eq!(said.matches("copying `").count(), 1, "{said}");
    assert!(
        said.contains(&format!("{begun} of {size} bytes are there")),
        "{said}"
    );
    let copy = copies(folder)
        .into_iter()
        .find(|(_, length)| *length == size);
    let copy = copy.expect("a copy").0;
    assert!(fs::read(copy).expect("a copy") == fs::read(smollm2_path()).expect("a model"));
    let plain = sample(folder)
        .env_remove("ATP_LOCAL_CACHE")
        .output()
        .expect("a process");
    assert_eq!(Ended::from(plain).out, one.out);
    // And where it cannot be, a message and no text.
    fs::write(folder.join("file"), "").expect("a file");
    let nowhere = sample(folder)
        .env("ATP_LOCAL_CACHE", folder.join("file"))
        .output();
    let nowhere = Ended::from(nowhere.expect("a process"));
    assert_eq!(nowhere.code, Some(1));
    assert!(nowhere.err.contains("create folder"), "{}", nowhere.err);
}

#[test]
fn a_run_by_way_of_a_copy_is_the_same_run() {
    let folder = disk::workplace();
    let _turn = heavy();
    let folder = folder.path();
    let go = |run: &str, near: &str| {
        let mut command = program(
            folder,
            &["run", "random.toml", "--run-dir", run, "--nproc", "2"],
        );
        command
            .env("ATP_THREADS", "1")
            .env("XDG_CACHE_HOME", folder.join("cache"))
            .env("TMPDIR", folder)
            .env("ATP_LOCAL_CACHE", near);
        let ended = Ended::from(command.output().expect("a process"));
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        ended.err
    };
    let near = folder.join("near");
    go("plain", "");
    let said = go("copied", near.to_str().expect("UTF-8"));
    assert!(said.contains("INFO reading model from `"), "{said}");
    // The model's four files and the lock.
    assert_eq!(copies(folder).len(), 5, "{:?}", copies(folder));
    assert_same(
        &results(&folder.join("copied"), &TINY_STAGES),
        &results(&folder.join("plain"), &TINY_STAGES),
    );
    let manifest = |run: &str| -> Value {
        let file = folder.join(run).join("latest/train-dpo/manifest.json");
        serde_json::from_slice(&fs::read(file).expect("a manifest")).expect("JSON")
    };
    for field in ["key", "parts", "inputs"] {
        assert_eq!(
            manifest("copied")[field],
            manifest("plain")[field],
            "{field}"
        );
    }
    // Other runs read the same copy; and what was made with it is up to date without.
    let said = go("copied", "");
    assert!(
        said.contains("`report`: up to date") && !said.contains("running"),
        "{said}"
    );
}
