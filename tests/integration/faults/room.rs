//! A disk that is full, or may not be written to: one clear message, nothing half-written, and once it is mended the run
//! goes on to the same bytes.

use std::fs;

use super::disk::{Run, World, reference};
use crate::support::{Ended, files};

/// It failed with one message, which says all of this.
fn assert_says(ended: &Ended, said: &[&str]) {
    let Ended { code, out, err } = ended;
    assert_eq!(*code, Some(1), "{out}\n{err}");
    let errors: Vec<_> = err.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{err}");
    for text in said {
        assert!(errors[0].contains(text), "no `{text}` in {}", errors[0]);
    }
    for text in [" WARN ", " ERROR ", "panicked", "fault of the program"] {
        assert!(!err.contains(text), "{err}");
    }
}

/// What is there is whole: no temporary, and every output is the reference's or, of a log, its beginning.
fn assert_nothing_half_written(run: &Run) {
    for (name, bytes) in files(&run.path.join("stages")) {
        assert!(!name.contains(".atp-tmp-"), "{name} is left");
        let (folder, file) = name.split_once('/').expect("a stage's file");
        let stage = folder.rsplit_once('-').map_or(folder, |(stem, _)| stem);
        let Some(expected) = reference().results.get(&format!("{stage}/{file}")) else {
            continue;
        };
        let whole = match file.ends_with(".jsonl") {
            true => expected.starts_with(&bytes),
            false => *expected == bytes,
        };
        assert!(whole, "{name} is not what it should be");
    }
}

#[test]
fn a_full_disk_is_one_message_and_no_loss() {
    let all = reference();
    for (number, said) in [
        (
            all.find("data", "write", "train.parquet"),
            &["stage `data`", "train.parquet"][..],
        ),
        (
            all.find_nth("train-dpo", "write", "adapter.safetensors", 1),
            &["adapter.safetensors"],
        ),
        (
            all.find_nth("train-dpo", "create", "state.json", 2),
            &["state.json"],
        ),
        (
            all.find_nth("train-grpo", "write", "metrics.jsonl", 1),
            &["metrics.jsonl"],
        ),
        (
            all.find("train-grpo", "write", "manifest.json"),
            &["manifest.json"],
        ),
        (
            all.find("evaluate-base", "mkdir", "evaluate-base"),
            &["create folder", "evaluate-base"],
        ),
        (
            all.find("evaluate-dpo", "symlink", "evaluate-dpo"),
            &["link", "latest/evaluate-dpo"],
        ),
        (
            all.find("report", "write", "report.html"),
            &["stage `report`", "report.html"],
        ),
    ] {
        let run = Run::new();
        let full = World {
            fail: Some((number, libc::ENOSPC)),
            ..World::default()
        };
        let ended = run.go(&full);
        assert_says(
            &ended,
            &[
                said,
                &["No space left", "free space", "free there", "again"],
            ]
            .concat(),
        );
        if said[0].starts_with("stage") {
            // Where the size is known, it is said.
            assert!(ended.err.contains(" needed, "), "{}", ended.err);
        }
        assert_nothing_half_written(&run);
        let resumed = run.finish();
        assert!(!resumed.err.contains("damaged"), "{}", resumed.err);
        run.assert_finished();
    }
}

#[test]
fn a_disk_that_is_full_from_the_start_is_one_message() {
    let run = Run::new();
    let full = World {
        fail: Some((1, libc::ENOSPC)),
        ..World::default()
    };
    assert_says(
        &run.go(&full),
        &["create folder", "No space left", "free space"],
    );
    assert!(!run.path.exists());
    run.finish();
    run.assert_finished();
}

#[test]
fn a_quota_that_is_used_up_is_said_as_such() {
    let run = Run::new();
    let number = reference().find("pairs", "write", "pairs.parquet");
    let full = World {
        fail: Some((number, libc::EDQUOT)),
        ..World::default()
    };
    assert_says(&run.go(&full), &["quota", "pairs.parquet", "needed"]);
    run.finish();
    run.assert_finished();
}

#[test]
fn a_read_only_disk_is_one_message() {
    let all = reference();
    let (mount, mode) = (
        (libc::EROFS, "Read-only file system"),
        (libc::EACCES, "Permission denied"),
    );
    for (number, said, (error, words)) in [
        // The folder above the run directory, and what turns read-only in the middle of a stage.
        (1, &["create folder", "run-"][..], mode),
        (
            all.find_nth("train-dpo", "create", "adapter.safetensors", 1),
            &["adapter.safetensors"],
            mount,
        ),
        (
            all.find("evaluate-base", "rename", "manifest.json"),
            &["manifest.json"],
            mode,
        ),
    ] {
        let run = Run::new();
        let ended = run.go(&World {
            fail: Some((number, error)),
            ..World::default()
        });
        assert_says(&ended, &[said, &[words, "choose"]].concat());
        run.finish();
        run.assert_finished();
    }
}

/// A finished run on a read-only medium can still be looked at, and a run on it says what is wrong.
#[test]
fn a_finished_run_may_lie_on_a_read_only_medium() {
    let run = Run::new();
    run.finish();
    let read_only = World {
        fail: Some((1, libc::EROFS)),
        ..World::default()
    };
    let before = files(&run.path);
    assert_says(
        &run.go(&read_only),
        &["run.lock", "Read-only file system", "writable"],
    );
    let dry = run
        .command(&read_only, &["--dry-run"])
        .output()
        .expect("a process");
    let dry = Ended::from(dry);
    assert_eq!(dry.code, Some(0), "{}", dry.err);
    assert!(dry.out.contains("all 8 stages"), "{}", dry.out);
    assert_eq!(files(&run.path), before);
    let _ = fs::read_dir(&run.path).expect("a folder");
}
