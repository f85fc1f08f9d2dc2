//! The README's cluster section on a Slurm of its own: real daemons on loopback, jobs of two ranks, arrays over two seeds
//! side by side, a rank that is killed and a job that is told to stop, both requeued, and in the end the bytes of a run
//! that nothing happened to.
//!
//! Ignored, since it wants Slurm's daemons and a user who may start them: `make test-slurm`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::faults::disk;
use crate::support::{Ended, assert_same, heavy, program, repository, results};

/// Longest wait for a run of all jobs.
const PATIENCE: Duration = Duration::from_secs(400);

/// The daemons, ended with this. Their folder has a short path: a socket's name is limited.
struct Slurm(TempDir);

impl Slurm {
    fn start() -> Self {
        let slurm = Self(
            tempfile::Builder::new()
                .prefix("atp-slurm-")
                .tempdir()
                .expect("a folder"),
        );
        let started = Ended::from(slurm.loopback("start").output().expect("a process"));
        assert_eq!(started.code, Some(0), "{}", started.err);
        slurm
    }

    fn loopback(&self, what: &str) -> Command {
        let mut command = Command::new(repository("scripts/slurm/loopback.sh"));
        command.arg(what).arg(self.0.path()).arg("4");
        command
    }

    fn configuration(&self) -> std::path::PathBuf {
        self.0.path().join("slurm.conf")
    }

    /// The program in this folder, with this Slurm.
    fn program(&self, folder: &Path, arguments: &[&str]) -> Command {
        let mut command = program(folder, arguments);
        command
            .env_remove("ATP_THREADS")
            .env("XDG_CACHE_HOME", folder.join("cache"))
            .env("TMPDIR", folder)
            .env("SLURM_CONF", self.configuration());
        command
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let output = Command::new(arguments[0])
            .args(&arguments[1..])
            .env("SLURM_CONF", self.configuration())
            .output();
        Ended::from(output.expect("a command of Slurm")).out
    }

    /// Jobs that are not over: number and name.
    fn queue(&self) -> Vec<(String, String)> {
        let said = self.ask(&["squeue", "--noheader", "--array", "--format=%i %j"]);
        let fields = said.lines().filter_map(|line| line.trim().split_once(' '));
        fields
            .map(|(job, name)| (job.to_owned(), name.to_owned()))
            .collect()
    }

    /// Submit the tiny recipe with two seeds; gives the numbers of the jobs.
    fn submit(&self, folder: &Path, run: &str) -> String {
        let arguments = [
            "submit",
            "random.toml",
            "--run-dir",
            run,
            "--seed",
            "1,2",
            "--partition",
            "main",
            "--gpus",
            "0",
            "--ranks",
            "2",
            "--cpus",
            "1",
            "--notice",
            "30",
        ];
        let ended = Ended::from(
            self.program(folder, &arguments)
                .output()
                .expect("a process"),
        );
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        ended.out
    }

    fn wait(&self, folder: &Path, run: &str) {
        let begin = Instant::now();
        while !self.queue().is_empty() {
            assert!(
                begin.elapsed() < PATIENCE,
                "{:?}\n{}",
                self.queue(),
                logs(folder, run)
            );
            std::thread::sleep(Duration::from_millis(200));
        }
        assert!(
            folder.join(run).join("latest/report/report.html").is_file(),
            "{}",
            logs(folder, run)
        );
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        let _ = self.loopback("stop").output();
    }
}

fn logs(folder: &Path, run: &str) -> String {
    let files = fs::read_dir(folder.join(run).join("slurm"))
        .into_iter()
        .flatten();
    let mut all = String::new();
    for path in files.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.extension().is_some_and(|e| e == "log") {
            let text = fs::read_to_string(&path).unwrap_or_default();
            all.push_str(&format!("== {}\n{text}\n", path.display()));
        }
    }
    all
}

/// Processes of the second rank at work on a stage of a run.
fn second_ranks(run: &str, stage: &str) -> Vec<i32> {
    let all = fs::read_dir("/proc").into_iter().flatten();
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let read = |pid: i32, what: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
        let words = bytes.split(|b| *b == 0);
        words
            .map(|w| String::from_utf8_lossy(w).into_owned())
            .collect::<Vec<_>>()
    };
    pids.filter(|&pid| {
        let words = read(pid, "cmdline");
        let has = |word: &str| words.iter().any(|w| w == word);
        has(run)
            && has(stage)
            && read(pid, "environ").iter().any(|v| v == "SLURM_PROCID=1")
            && words.first().is_some_and(|w| w.contains("atp-pipeline"))
    })
    .collect()
}

/// Wait until a stage has written a line of metrics.
fn until_begun(folder: &Path, run: &str, stage: &str) {
    let begin = Instant::now();
    let begun = || {
        let stages = fs::read_dir(folder.join(run).join("stages"))
            .into_iter()
            .flatten();
        let mut stages = stages.filter_map(|entry| Some(entry.ok()?.path()));
        let wanted = |path: &Path| {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            name.starts_with(&format!("{stage}-"))
        };
        stages.any(|path| wanted(&path) && path.join("metrics.jsonl").is_file())
    };
    while !begun() {
        assert!(
            begin.elapsed() < PATIENCE,
            "`{stage}` does not begin\n{}",
            logs(folder, run)
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
#[ignore = "needs slurmctld, slurmd and munged, and a user who may start them"]
fn jobs_that_are_killed_and_stopped_end_with_the_same_bytes() {
    let folder = disk::workplace();
    let _turn = heavy();
    let folder = folder.path();
    // Long enough to be hit in the middle.
    let recipe = fs::read_to_string(folder.join("random.toml")).expect("a recipe");
    let recipe = recipe
        .replace("epochs = 1\ngroup", "epochs = 8\ngroup")
        .replace("epochs = 1\naccumulation", "epochs = 8\naccumulation");
    fs::write(folder.join("random.toml"), recipe).expect("a recipe");
    let slurm = Slurm::start();

    let dry = slurm.program(
        folder,
        &["submit", "random.toml", "--seed", "1,2", "--dry-run"],
    );
    let dry = Ended::from({ dry }.output().expect("a process"));
    assert_eq!(dry.code, Some(0), "{}", dry.err);
    assert!(
        dry.out.contains("#SBATCH --array=0-1") && dry.out.contains("#SBATCH --gpus-per-node=1")
    );
    assert!(!folder.join("runs").exists(), "a dry run leaves nothing");

    let submitted = slurm.submit(folder, "whole");
    assert!(
        submitted.contains("train-dpo.s1, train-dpo.s2"),
        "{submitted}"
    );
    slurm.wait(folder, "whole");
    let stages: Vec<String> = fs::read_dir(folder.join("whole/latest"))
        .expect("stages")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert_eq!(stages.len(), 15, "{stages:?}");
    let stages: Vec<&str> = stages.iter().map(String::as_str).collect();
    let expected = results(&folder.join("whole"), &stages);
    assert!(
        !logs(folder, "whole").contains("attempt 2"),
        "{}",
        logs(folder, "whole")
    );

    slurm.submit(folder, "struck");
    until_begun(folder, "struck", "train-dpo.s1");
    let status = Ended::from(
        slurm
            .program(folder, &["status", "struck"])
            .output()
            .expect("a process"),
    );
    assert!(
        status.out.contains("train-dpo.s1")
            && status.out.contains(": running")
            && status.out.contains("(Dependency)"),
        "{}",
        status.out
    );
    let struck = second_ranks("struck", "train-dpo.s1");
    assert_eq!(struck.len(), 1, "{}", logs(folder, "struck"));
    // SAFETY: plain system call, on a process that this test began.
    unsafe { libc::kill(struck[0], libc::SIGKILL) };
    until_begun(folder, "struck", "train-grpo.s2");
    // What Slurm does before a time limit or a preemption.
    let job = slurm
        .queue()
        .into_iter()
        .find(|(job, name)| name == "atp-train-grpo" && job.ends_with("_1"));
    let (job, _) = job.expect("the job is at work");
    slurm.ask(&["scancel", "--batch", "--signal=USR1", &job]);
    slurm.wait(folder, "struck");
    let said = logs(folder, "struck");
    assert!(said.contains("rank 1 of 2 was lost"), "{said}");
    assert!(
        said.contains("train-dpo.s1: job") && said.contains("attempt 2"),
        "{said}"
    );
    assert!(
        said.contains("train-grpo.s2: stopped with its work saved"),
        "{said}"
    );
    assert_same(&results(&folder.join("struck"), &stages), &expected);
}
