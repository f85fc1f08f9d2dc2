//! Run directories that are moved, copied, held by others; clocks that go back. None of it decides anything.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::disk::{Run, When, World, reference, workplace};
use crate::support::{Ended, TINY_STAGES, assert_same, files};

fn kill_at(run: &Run, world: &World, number: usize) {
    let killed = run.go(&World {
        kill: Some((number, When::After)),
        ..world.clone()
    });
    assert_eq!(killed.code, None, "{}", killed.err);
}

/// Copy as `cp -a` does: links stay links.
fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(status.expect("cp").success());
}

fn assert_nothing_to_do(run: &Run) {
    let again = run.finish();
    assert!(
        again.out.contains("nothing to do: all 8 stages"),
        "{}",
        again.out
    );
}

#[test]
fn a_moved_run_goes_on_and_a_copied_one_has_nothing_to_do() {
    let first = Run::new();
    kill_at(
        &first,
        &World::default(),
        reference().find("train-grpo", "rename", "/step-00000002"),
    );
    // To another folder, in the middle of a stage.
    let moved = Run::new();
    fs::rename(&first.path, &moved.path).expect("a folder of ours");
    let resumed = moved.finish();
    assert!(
        resumed.err.contains("going on from step 2"),
        "{}",
        resumed.err
    );
    assert!(!resumed.err.contains("was begun on"), "{}", resumed.err);
    moved.assert_finished();

    // A copy is as good as the original, which is gone.
    let copied = Run::new();
    copy(&moved.path, &copied.path);
    drop(moved);
    // Its links lead into itself before any run has had a chance to mend them.
    for name in TINY_STAGES {
        let link = copied.path.join("latest").join(name);
        let leads_to = link.canonicalize().expect("a link that leads somewhere");
        let inside = copied.path.canonicalize().expect("a folder");
        assert!(
            leads_to.starts_with(inside),
            "{name}: {}",
            leads_to.display()
        );
    }
    assert_nothing_to_do(&copied);
    copied.assert_finished();

    // To another machine: another place of recipe, environments and model, too.
    let elsewhere = workplace();
    let there = Run::at(elsewhere.path(), elsewhere.path().join("deep/er/run"));
    fs::create_dir_all(there.path.parent().expect("a folder")).expect("a folder");
    copy(&copied.path, &there.path);
    drop(copied);
    assert_nothing_to_do(&there);
    there.assert_finished();

    // In the middle of a stage, too.
    let begun = Run::new();
    kill_at(
        &begun,
        &World::default(),
        reference().find("evaluate-dpo", "rename", "/step-00000001"),
    );
    let there = Run::at(elsewhere.path(), elsewhere.path().join("second"));
    copy(&begun.path, &there.path);
    drop(begun);
    let resumed = there.finish();
    assert!(
        resumed.err.contains("going on after round 1"),
        "{}",
        resumed.err
    );
    there.assert_finished();
}

/// The promise of equal bytes is for one thread count; breaking it in the middle of a stage is said.
#[test]
fn another_thread_count_in_the_middle_of_a_stage_is_said() {
    let run = Run::new();
    let number = reference().find("train-dpo", "rename", "/step-00000001");
    kill_at(&run, &World::default(), number);
    let resumed = run
        .command(
            &World::default(),
            &["--threads", "2", "--only", "train-dpo"],
        )
        .output();
    let resumed = Ended::from(resumed.expect("a process"));
    assert_eq!(resumed.code, Some(0), "{}", resumed.err);
    for said in [
        "`train-dpo`: was begun on ",
        ", 1 thread, goes on on ",
        ", 2 threads: ",
    ] {
        assert!(resumed.err.contains(said), "no `{said}` in {}", resumed.err);
    }
}

/// Separate runs, from scratch, in different folders: the same files, manifests but for their times.
#[test]
fn two_runs_in_different_folders_give_the_same_bytes() {
    let elsewhere = workplace();
    let run = Run::at(elsewhere.path(), elsewhere.path().join("other"));
    run.finish();
    assert_same(&run.results(), &reference().results);
}

/// What the deterministic mode forbids on a GPU must not be met on the way; on a CPU it changes nothing.
#[test]
fn the_deterministic_mode_gives_the_same_bytes_on_a_cpu() {
    let run = Run::new();
    let mut command = run.command(&World::default(), &[]);
    let ended = command.env("ATP_DETERMINISTIC", "1").output();
    let ended = Ended::from(ended.expect("a process"));
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(
        ended.err.contains("deterministic algorithms only"),
        "{}",
        ended.err
    );
    run.assert_finished();
    let mut command = run.command(&World::default(), &["--deterministic"]);
    let ended = command.env("CUBLAS_WORKSPACE_CONFIG", ":0:0").output();
    let ended = Ended::from(ended.expect("a process"));
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    for said in ["--deterministic", "`:0:0`", ":4096:8", "unset"] {
        assert!(ended.err.contains(said), "no `{said}` in {}", ended.err);
    }
}

fn set_times(folder: &Path, time: SystemTime) {
    for name in files(folder).into_keys() {
        let file = File::options().write(true).open(folder.join(name));
        file.and_then(|file| file.set_modified(time))
            .expect("a file of ours");
    }
}

#[test]
fn a_clock_that_goes_back_decides_nothing() {
    let back = World {
        back: Some(3600),
        ..World::default()
    };
    let run = Run::new();
    kill_at(
        &run,
        &back,
        reference().find("train-dpo", "rename", "/step-00000002"),
    );
    // What is there comes from the future, or from before the first computers.
    for time in [
        SystemTime::now() + Duration::from_secs(100 * 365 * 86_400),
        SystemTime::UNIX_EPOCH,
    ] {
        set_times(&run.path, time);
        let killed = run.go(&World {
            kill: Some((8, When::Before)),
            ..back.clone()
        });
        assert_eq!(killed.code, None, "{}", killed.err);
    }
    let resumed = run.go(&back);
    assert_eq!(resumed.code, Some(0), "{}", resumed.err);
    assert!(
        resumed.err.contains("going on from step 2"),
        "{}",
        resumed.err
    );
    for text in ["panicked", "fault of the program", " -"] {
        assert!(!resumed.out.contains(text), "{}", resumed.out);
    }
    run.assert_finished();
    set_times(&run.path, SystemTime::now() + Duration::from_secs(86_400));
    let again = run.go(&back);
    assert!(
        again.out.contains("nothing to do: all 8 stages"),
        "{}",
        again.out
    );
    // A clock before the epoch.
    let before = World {
        back: Some(2_000_000_000),
        ..World::default()
    };
    let again = run.go(&before);
    assert!(
        again.out.contains("nothing to do: all 8 stages"),
        "{}\n{}",
        again.out,
        again.err
    );
    run.assert_finished();
}

#[test]
fn a_lock_held_elsewhere_is_told_and_a_dead_ones_is_taken() {
    let run = Run::new();
    kill_at(
        &run,
        &World::default(),
        reference().find("data", "rename", "manifest.json"),
    );
    // What a process on another host writes: its lock is seen through the file system, its end as well.
    let other = r#"{"pid":4711,"host":"node-17","started":"2031-01-02T03:04:05Z"}"#;
    fs::write(run.path.join("run.lock"), other).expect("a lock");
    let before = files(&run.path);
    let refused = run.go(&World {
        lock: Some(libc::EWOULDBLOCK),
        ..World::default()
    });
    assert_eq!(refused.code, Some(1), "{}", refused.err);
    for said in [
        "process 4711 on node-17 since 2031-01-02T03:04:05Z",
        run.path.to_str().expect("UTF-8"),
        "choose another run directory",
    ] {
        assert!(refused.err.contains(said), "{}", refused.err);
    }
    assert_eq!(
        files(&run.path),
        before,
        "a refused process changes nothing"
    );
    // A file system without locks: the one who is named gives no sign of life.
    let silent = |lock| {
        let world = World {
            lock,
            ..World::default()
        };
        let mut command = run.command(&world, &[]);
        Ended::from(
            command
                .env("ATP_LOCK_SILENCE", "1")
                .output()
                .expect("a process"),
        )
    };
    let taken = silent(Some(libc::ENOLCK));
    assert_eq!(taken.code, Some(0), "{}", taken.err);
    for said in [
        "gives no locks",
        "no sign of life of process 4711 on node-17",
    ] {
        assert!(taken.err.contains(said), "{}", taken.err);
    }
    run.assert_finished();
    // One with locks that machines do not see of each other: the name is watched as well.
    fs::write(run.path.join("run.lock"), other).expect("a lock");
    let taken = silent(None);
    assert!(taken.out.contains("nothing to do"), "{}", taken.out);
    assert!(taken.err.contains("no sign of life"), "{}", taken.err);
    assert_eq!(fs::read(run.path.join("run.lock")).expect("a lock"), b"");
}

/// Two machines that do not see each other's locks: the second is told of the first while that one lives, and takes over
/// once it is silent; one that was only held up finds that out and ends.
#[test]
fn two_machines_do_not_write_one_run() {
    let on = |host| World {
        host: Some(host),
        ..World::default()
    };
    let run = Run::new();
    let start = |arguments: &[&str]| {
        let mut first = run
            .command(&on("node-1"), arguments)
            .spawn()
            .expect("a process");
        let lock = run.path.join("run.lock");
        let named = format!("\"pid\":{},", first.id());
        while !fs::read_to_string(&lock)
            .unwrap_or_default()
            .contains(&named)
        {
            assert!(first.try_wait().expect("a status").is_none(), "it ended");
            std::thread::sleep(Duration::from_millis(1));
        }
        first
    };
    let mut first = start(&["--set", "grpo.epochs=2000"]);
    let second = run.go(&on("node-2"));
    let alive = first.try_wait().expect("a status").is_none();
    first.kill().expect("a signal");
    first.wait().expect("an end");
    assert!(alive, "the first ended too early for this test");
    assert_eq!(second.code, Some(1), "{}", second.err);
    let held = format!("is in use by process {} on node-1", first.id());
    assert!(second.err.contains(&held), "{}", second.err);
    let first = start(&["--set", "grpo.epochs=2000"]);
    // SAFETY: plain system calls, on a child that is not waited for yet.
    let signal = |signal| unsafe { libc::kill(first.id() as i32, signal) };
    assert_eq!(signal(libc::SIGSTOP), 0);
    let second = run.go(&on("node-2"));
    assert_eq!(signal(libc::SIGCONT), 0);
    let late = Ended::from(first.wait_with_output().expect("an end"));
    assert_eq!(second.code, Some(0), "{}", second.err);
    assert!(second.err.contains("no sign of life"), "{}", second.err);
    assert_eq!(late.code, Some(1), "{}", late.err);
    assert!(late.err.contains("took over by"), "{}", late.err);
    assert_same(&run.results(), &reference().results);
}

#[test]
fn of_two_at_once_one_works_and_the_other_is_told() {
    let run = Run::new();
    let mut first = run
        .command(&World::default(), &[])
        .spawn()
        .expect("a process");
    let lock = run.path.join("run.lock");
    while fs::read_to_string(&lock).unwrap_or_default().is_empty() {
        assert!(
            first.try_wait().expect("a status").is_none(),
            "it ended too soon"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    let second = run.go(&World::default());
    let pid = first.id();
    let ended = first.wait_with_output().expect("an end");
    assert!(ended.status.success());
    // The second came while the first was at work, or else found nothing to do.
    if second.code == Some(1) {
        let held = format!("is in use by process {pid} on ");
        assert!(
            second.err.contains(&held) && second.err.contains(" since 2"),
            "{}",
            second.err
        );
    } else {
        assert!(
            second.out.contains("nothing to do"),
            "{}\n{}",
            second.out,
            second.err
        );
    }
    run.assert_finished();
}
