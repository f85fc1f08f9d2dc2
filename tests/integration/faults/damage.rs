//! Torn files and flipped bits, in the middle of a stage and after it: noticed, said, and made good to the same bytes.

use std::fs;
use std::path::{Path, PathBuf};

use atp_pipeline::runtime::seed::stream;
use rand::Rng;
use serde_json::Value;

use super::disk::{Run, When, World, reference};
use crate::support::{TINY_STAGES, files};

/// What happens to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    /// One bit is another.
    Flip,
    /// The second half is gone.
    Tear,
    /// It is gone.
    Remove,
}

impl Damage {
    fn strike(self, path: &Path) {
        let mut bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        match self {
            Self::Flip => {
                let mut random = stream(1, &format!("faults/flip/{}", bytes.len()));
                let at = random.random_range(0..bytes.len());
                bytes[at] ^= 1 << random.random_range(0..8);
            }
            Self::Tear => bytes.truncate(bytes.len() / 2),
            Self::Remove => return fs::remove_file(path).expect("a file"),
        }
        fs::write(path, bytes).expect("a writable file");
    }
}

/// A run that was killed when the second checkpoint of this stage was just in place, but for the report's stages.
fn killed_with_checkpoints(stage: &str, steps: usize) -> Run {
    let run = Run::new();
    let step = format!("/step-{steps:08}");
    let number = reference().find(stage, "rename", &step);
    let killed = run.go(&World {
        kill: Some((number, When::After)),
        ..World::default()
    });
    assert_eq!(killed.code, None, "{}", killed.err);
    run
}

/// The folders of the stage's checkpoints, the newest first.
fn checkpoints(run: &Run, stage: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(run.stage(stage).join("checkpoints")).expect("checkpoints");
    let mut folders: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("step-"))
        })
        .collect();
    folders.sort();
    folders.reverse();
    folders
}

#[test]
fn a_damaged_checkpoint_sends_back_to_the_one_before_and_says_so() {
    for (stage, newest, file, damage) in [
        ("pairs", 2, "pairs.json", Damage::Flip),
        ("train-dpo", 3, "adapter.safetensors", Damage::Flip),
        ("train-dpo", 3, "moments.safetensors", Damage::Tear),
        ("train-grpo", 3, "state.json", Damage::Flip),
        ("train-grpo", 3, "digests.json", Damage::Remove),
        ("evaluate-base", 2, "rows.parquet", Damage::Flip),
    ] {
        let run = killed_with_checkpoints(stage, newest);
        let folders = checkpoints(&run, stage);
        damage.strike(&folders[0].join(file));
        let resumed = run.finish();
        let skipped = format!("skipping the damaged checkpoint `{}`", folders[0].display());
        assert!(resumed.err.contains(&skipped), "{stage}: {}", resumed.err);
        let instead = format!("using the checkpoint of step {} instead", newest - 1);
        assert!(resumed.err.contains(&instead), "{stage}: {}", resumed.err);
        run.assert_finished();
    }
}

#[test]
fn a_stage_without_an_intact_checkpoint_starts_anew_and_says_so() {
    for (stage, file) in [
        ("train-grpo", "adapter.safetensors"),
        ("evaluate-base", "rows.parquet"),
    ] {
        let run = killed_with_checkpoints(stage, 2);
        let folders = checkpoints(&run, stage);
        assert_eq!(folders.len(), 2);
        for folder in &folders {
            Damage::Flip.strike(&folder.join(file));
        }
        let resumed = run.finish();
        for folder in &folders {
            let skipped = format!("skipping the damaged checkpoint `{}`", folder.display());
            assert!(resumed.err.contains(&skipped), "{stage}: {}", resumed.err);
        }
        let said = "no intact checkpoint is left: this stage starts anew";
        assert!(resumed.err.contains(said), "{stage}: {}", resumed.err);
        run.assert_finished();
    }
}

/// Checkpoints say which part of a log they saw; that part is as much a part of them as their own files.
#[test]
fn a_damaged_log_sends_back_like_a_damaged_checkpoint() {
    for (stage, log) in [
        ("train-dpo", "metrics.jsonl"),
        ("train-grpo", "samples.jsonl"),
    ] {
        let run = killed_with_checkpoints(stage, 3);
        let path = run.stage(stage).join(log);
        let text = fs::read(&path).expect("a log");
        // In what the last checkpoint saw and the one before did not.
        let mut damaged = text.clone();
        let at = damaged.len() - 5;
        damaged[at] ^= 1;
        fs::write(&path, &damaged).expect("a log");
        let resumed = run.finish();
        assert!(
            resumed
                .err
                .contains("using the checkpoint of step 2 instead"),
            "{}",
            resumed.err
        );
        assert!(resumed.err.contains(log), "{}", resumed.err);
        run.assert_finished();

        let run = killed_with_checkpoints(stage, 3);
        let path = run.stage(stage).join(log);
        for damage in [Damage::Tear, Damage::Remove] {
            damage.strike(&path);
        }
        let resumed = run.finish();
        assert!(
            resumed.err.contains("this stage starts anew"),
            "{}",
            resumed.err
        );
        run.assert_finished();
    }
}

/// A stage's own intermediate result, which it uses again when it is resumed.
#[test]
fn a_damaged_intermediate_result_is_computed_again() {
    let whole = killed_with_checkpoints("train-dpo", 1);
    let bytes =
        fs::read(whole.stage("train-dpo").join("reference_logprobs.parquet")).expect("a table");
    drop(whole);
    // One bit in each of several places: pages of numbers, the footer, the ends.
    for part in 0..4 {
        let run = killed_with_checkpoints("train-dpo", 1);
        let path = run.stage("train-dpo").join("reference_logprobs.parquet");
        let mut damaged = bytes.clone();
        damaged[4 + part * (bytes.len() - 8) / 4] ^= 1;
        fs::write(&path, &damaged).expect("a table");
        run.finish();
        run.assert_finished();
    }
}

#[test]
fn damaged_outputs_are_noticed_and_made_again() {
    let run = Run::new();
    run.finish();
    let outputs = |stage: &str| -> Vec<String> {
        let names = files(&run.path.join("latest").join(stage)).into_keys();
        names.collect()
    };
    let most = TINY_STAGES.iter().map(|stage| outputs(stage).len()).max();
    let damages = [Damage::Flip, Damage::Tear, Damage::Flip, Damage::Remove];
    let mut struck = 0;
    // In each turn one file of each stage, until each file of each kind had its turn.
    for turn in 0..most.expect("stages") {
        let mut expected = Vec::new();
        for stage in TINY_STAGES {
            let names = outputs(stage);
            let Some(name) = names.get(turn) else {
                continue;
            };
            // Of a manifest only what decides is held: its times are for the reader.
            let damage = match name.as_str() {
                "manifest.json" => Damage::Tear,
                _ => damages[(turn + struck) % damages.len()],
            };
            damage.strike(&run.path.join("latest").join(stage).join(name));
            struck += 1;
            expected.push((stage, name.clone()));
        }
        let output = run
            .command(&World::default(), &["--json"])
            .output()
            .expect("a process");
        let out = String::from_utf8_lossy(&output.stdout);
        // The report speaks first.
        let json = out.find("\n{").map_or(&out[..], |at| &out[at..]);
        let summary: Value = serde_json::from_str(json).expect("JSON");
        for stage in summary["stages"].as_array().expect("stages") {
            let name = stage["name"].as_str().expect("a name");
            let hit = expected.iter().find(|(stage, _)| *stage == name);
            let state = if hit.is_some() { "ran" } else { "up-to-date" };
            assert_eq!(stage["state"], state, "turn {turn}: {stage}");
            if let Some((_, file)) = hit {
                let reason = stage["reasons"][0].as_str().expect("a reason");
                assert!(
                    reason.starts_with("output ") && reason.contains(file),
                    "{reason}"
                );
            }
        }
        run.assert_finished();
    }
    assert!(struck > 25, "{struck}");
}
