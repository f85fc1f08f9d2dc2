//! Runs that are killed or told to stop at some moment, again and again, end with the bytes of one that never was.
//!
//! Here on the real small model, at moments drawn at random. `ATP_MODEL_KILLS` is the number of `kill -9`, rounded up to
//! whole rounds over the stages that take time; without it one hits each. Kills at every write are in `faults::kills`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant, SystemTime};

use atp_pipeline::runtime::interrupt::EXIT_CODE;
use atp_pipeline::runtime::seed::stream;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::support::{
    Ended, Finished, TINY_STAGES, assert_same, call, files, finished, heavy, program, results,
    workplace,
};

const RUN: [&str; 4] = ["run", "tiny.toml", "--run-dir", "run"];
/// Stages that take time, and how many visible steps each makes.
const TARGETS: [(&str, usize); 6] = [
    ("pairs", 1),
    ("train-dpo", 4),
    ("train-grpo", 4),
    ("evaluate-base", 2),
    ("evaluate-dpo", 2),
    ("evaluate-grpo", 2),
];
/// Kills of one stage in one run, at most; then a fresh run is begun.
const KILLS_A_STAGE: usize = 4;
/// Longest wait for anything, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(900);

/// The folder of a stage, once there is one.
fn folder_of(run: &Path, stage: &str) -> Option<PathBuf> {
    let begin = format!("{stage}-");
    let is_hash = |rest: &str| rest.len() == 12 && rest.bytes().all(|b| b.is_ascii_hexdigit());
    fs::read_dir(run.join("stages"))
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.strip_prefix(&begin).is_some_and(is_hash)
        })
}

/// A stage is begun and not finished.
fn is_open(run: &Path, stage: &str) -> bool {
    folder_of(run, stage)
        .is_some_and(|f| f.join("started.json").is_file() && !f.join("manifest.json").is_file())
}

/// A process that began at this time is at work on the stage: its mark is rewritten by each attempt.
fn is_at_work(run: &Path, stage: &str, began: SystemTime) -> bool {
    let mark = folder_of(run, stage).map(|folder| folder.join("started.json"));
    let written = mark.and_then(|mark| fs::metadata(mark).ok()?.modified().ok());
    written.is_some_and(|at| at >= began) && is_open(run, stage)
}

/// Steps that can be seen of a stage: lines of its metrics, or else its newest checkpoint.
fn steps(run: &Path, stage: &str) -> usize {
    let Some(folder) = folder_of(run, stage) else {
        return 0;
    };
    if stage.starts_with("train") {
        let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default();
        return text.lines().count();
    }
    let names = fs::read_dir(folder.join("checkpoints"))
        .into_iter()
        .flatten();
    names
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.strip_prefix("step-")?.parse().ok()
        })
        .max()
        .unwrap_or(0)
}

/// A program at work.
struct Running(Option<Child>);

impl Running {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        Self(Some(program(folder, arguments).spawn().expect("a process")))
    }

    fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("it is waited for once")
    }

    /// Its status, if it ended.
    fn ended(&mut self) -> Option<ExitStatus> {
        self.child().try_wait().expect("a status")
    }

    /// Wait until this holds; false if the program ended before.
    fn wait_until(&mut self, mut holds: impl FnMut() -> bool) -> bool {
        let begin = Instant::now();
        loop {
            if holds() {
                return true;
            }
            if self.ended().is_some() {
                return holds();
            }
            assert!(begin.elapsed() < PATIENCE, "it takes too long");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Send a signal and wait for the end.
    fn end_by(mut self, signal: i32) -> Ended {
        let mut child = self.0.take().expect("it is waited for once");
        if child.try_wait().expect("a status").is_none() {
            // SAFETY: plain system call; the child is ours and not yet waited for, so the id is still its own.
            unsafe { libc::kill(child.id() as i32, signal) };
        }
        child.wait_with_output().expect("an end").into()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Where in a stage to strike: after so many steps, and then some part of a step.
#[derive(Debug)]
struct Aim {
    stage: &'static str,
    after: usize,
    delay: Duration,
}

impl Aim {
    /// A moment of the stage, by how long the uninterrupted run took for it. `at_least` steps are done already.
    fn draw(
        (stage, steps): (&'static str, usize),
        at_least: usize,
        reference: &Finished,
        part: std::ops::Range<f64>,
        random: &mut ChaCha8Rng,
    ) -> Self {
        let after = random.random_range(at_least.min(steps - 1)..steps);
        let step = reference.seconds(stage) / steps as f64;
        let delay = Duration::from_secs_f64(random.random_range(part) * step);
        Self {
            stage,
            after,
            delay,
        }
    }

    /// Run until that moment and send the signal; says whether the stage was at work then.
    fn strike(&self, folder: &Path, arguments: &[&str], signal: i32) -> (bool, Ended) {
        let run = folder.join("run");
        // File systems keep time in ticks.
        let began = SystemTime::now() - Duration::from_millis(10);
        let mut process = Running::start(folder, arguments);
        process.wait_until(|| {
            is_at_work(&run, self.stage, began) && steps(&run, self.stage) >= self.after
        });
        let reached = Instant::now();
        process.wait_until(|| reached.elapsed() >= self.delay || !is_open(&run, self.stage));
        let ended = process.end_by(signal);
        (is_open(&run, self.stage), ended)
    }
}

/// Nothing of unfinished work is left in a finished run.
fn assert_tidy(run: &Path) {
    for name in files(run).keys() {
        let left = name.contains("checkpoints/")
            || name.contains("started.json")
            || name.contains(".atp-tmp-");
        assert!(!left, "{name} is left in {}", run.display());
    }
}

#[test]
fn a_run_killed_in_every_stage_ends_with_the_same_bytes() {
    let kills = std::env::var("ATP_MODEL_KILLS").map_or(TARGETS.len(), |text| {
        text.parse().expect("ATP_MODEL_KILLS is a number")
    });
    let reference = finished();
    let expected = results(&reference.run(), &TINY_STAGES);
    let _turn = heavy();
    let mut hits: BTreeMap<&str, usize> = BTreeMap::new();
    let mut left = kills.max(TARGETS.len());
    let mut cycle = 0;
    while left > 0 {
        let folder = workplace();
        let run = folder.path().join("run");
        let each = left.div_ceil(TARGETS.len()).min(KILLS_A_STAGE);
        for target in TARGETS {
            let (stage, _) = target;
            let mut attempt = 0;
            let mut killed = 0;
            while killed < each {
                let name = format!("kill/{cycle}/{stage}/{attempt}");
                let mut random = stream(1, &name);
                // The last step may end early where the reference was slowed down: draw nearer with each miss.
                let part = 0.0..0.8 / (1.0 + (attempt - killed) as f64);
                let aim = Aim::draw(target, steps(&run, stage), reference, part, &mut random);
                let (hit, ended) = aim.strike(folder.path(), &RUN, libc::SIGKILL);
                attempt += 1;
                let ended_before = !hit && ended.code == Some(0);
                assert!(
                    ended.code.is_none() || ended_before,
                    "{aim:?}: {}",
                    ended.err
                );
                if hit {
                    killed += 1;
                    left = left.saturating_sub(1);
                    *hits.entry(stage).or_default() += 1;
                } else if let Some(folder) = folder_of(&run, stage) {
                    // The stage was finished before; have it done once more.
                    fs::remove_dir_all(folder).expect("a folder of ours");
                }
                assert!(attempt < each + 8, "{stage}: missed too often, {aim:?}");
                let status = call(folder.path(), &["status", "run", "--json"]).json();
                assert!(status["holder"].is_null(), "a killed process holds no lock");
            }
        }
        let last = call(folder.path(), &RUN);
        assert_eq!(last.code, Some(0), "{}", last.err);
        assert_same(&results(&run, &TINY_STAGES), &expected);
        assert_tidy(&run);
        cycle += 1;
    }
    println!("kills: {hits:?}");
    for (stage, _) in TARGETS {
        assert!(hits.contains_key(stage), "{stage} was never hit: {hits:?}");
    }
}

#[test]
fn a_run_told_to_stop_says_so_and_goes_on_with_the_same_bytes() {
    let reference = finished();
    let _turn = heavy();
    let folder = workplace();
    let run = folder.path().join("run");
    let stages = ["train-dpo", "train-grpo", "evaluate-base"];
    let mut arguments = RUN.to_vec();
    arguments.extend(stages.iter().flat_map(|stage| ["--only", stage]));
    // Whether the stage is open afterwards; nothing where the run was through before the signal came, as it may be where
    // the machine has become faster than it was for the reference.
    let stop = |aim: &Aim, signal: i32| -> Option<bool> {
        let (_, ended) = aim.strike(folder.path(), &arguments, signal);
        if ended.code == Some(0) {
            return None;
        }
        assert_eq!(ended.code, Some(EXIT_CODE), "{aim:?}: {}", ended.err);
        let last = ended.err.lines().last().unwrap_or_default();
        assert_eq!(
            last,
            "interrupted; the finished work is saved, run the same command again to go on"
        );
        assert!(ended.out.contains("interrupted"), "{}", ended.out);
        Some(is_open(&run, aim.stage))
    };
    for attempt in 0.. {
        assert!(attempt < 20, "never stopped in train-dpo");
        let mut random = stream(1, &format!("stop/train-dpo/{attempt}"));
        // The reference may have been slowed down: drawn nearer with each miss.
        let until = 0.5 / f64::from(attempt + 1);
        let aim = Aim::draw(("train-dpo", 3), 1, reference, 0.0..until, &mut random);
        if stop(&aim, libc::SIGINT) == Some(true) {
            break;
        }
        let stage = folder_of(&run, "train-dpo").expect("a folder");
        fs::remove_dir_all(stage).expect("a folder of ours");
    }
    // Between sampling a GRPO step and its update, the rollouts are saved with the checkpoint.
    let mut with_rollouts = 0;
    for attempt in 0.. {
        assert!(attempt < 40, "never stopped with rollouts in hand");
        let mut random = stream(1, &format!("stop/train-grpo/{attempt}"));
        let done = steps(&run, "train-grpo");
        if done >= 3 {
            // Too late for this one; have it done once more.
            let stage = folder_of(&run, "train-grpo").expect("a folder");
            fs::remove_dir_all(stage).expect("a folder of ours");
            continue;
        }
        let aim = Aim::draw(
            ("train-grpo", 4),
            done + 1,
            reference,
            0.25..0.7,
            &mut random,
        );
        if stop(&aim, libc::SIGTERM) != Some(true) {
            continue;
        }
        let stage = folder_of(&run, "train-grpo").expect("a folder");
        let saved = files(&stage.join("checkpoints"));
        let newest = saved.keys().filter_map(|name| name.split('/').next()).max();
        let newest = newest.expect("a checkpoint").to_owned();
        if saved.contains_key(&format!("{newest}/pending-rollouts.json")) {
            with_rollouts += 1;
            break;
        }
    }
    assert_eq!(with_rollouts, 1);
    for attempt in 0.. {
        assert!(attempt < 20, "never stopped in an evaluation");
        let mut random = stream(1, &format!("stop/evaluate-base/{attempt}"));
        let until = 0.4 / f64::from(attempt + 1);
        let aim = Aim::draw(("evaluate-base", 1), 0, reference, 0.0..until, &mut random);
        if stop(&aim, libc::SIGTERM).is_some() {
            break;
        }
        let stage = folder_of(&run, "evaluate-base").expect("a folder");
        fs::remove_dir_all(stage).expect("a folder of ours");
    }
    let last = call(folder.path(), &arguments);
    assert_eq!(last.code, Some(0), "{}", last.err);
    assert_same(&results(&run, &stages), &results(&reference.run(), &stages));
}

/// Ratios of later iterations are to the policy that sampled, which is gone after the first.
#[test]
fn a_stop_between_the_iterations_of_a_step_waits_for_the_last() {
    let _turn = heavy();
    let folder = workplace();
    let train = |run: &'static str| {
        let several = ["--set", "grpo.iterations=3", "--set", "grpo.epochs=1"];
        [
            &["train", "tiny.toml", "--method", "grpo", "--run-dir", run][..],
            &several,
        ]
        .concat()
    };
    let run = folder.path().join("run");
    let mut child = program(folder.path(), &train("run"))
        .spawn()
        .expect("a process");
    while steps(&run, "train-grpo") == 0 {
        assert_eq!(
            child.try_wait().expect("a state"),
            None,
            "it ended before a step"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    // SAFETY: a signal to a child of ours.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let ended = Ended::from(child.wait_with_output().expect("an end"));
    assert_eq!(ended.code, Some(EXIT_CODE), "{}", ended.err);
    let done = steps(&run, "train-grpo");
    assert!(done > 0 && done.is_multiple_of(3), "{done} steps");
    let stage = folder_of(&run, "train-grpo").expect("a folder");
    let saved = files(&stage.join("checkpoints"));
    let newest = format!("step-{done:0>8}/");
    assert!(
        saved.keys().any(|name| name.starts_with(&newest)),
        "{newest}: {:?}",
        saved.keys()
    );
    for run in ["run", "whole"] {
        let ended = call(folder.path(), &train(run));
        assert_eq!(ended.code, Some(0), "{}", ended.err);
    }
    let stages = ["train-grpo"];
    let whole = results(&folder.path().join("whole"), &stages);
    assert_same(&results(&run, &stages), &whole);
}
