//! SIGKILL at named writes, one at a time and many in a row; and what would survive a loss of power.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use atp_pipeline::runtime::seed::stream;
use rand::Rng;

use super::disk::{Operation, Run, When, World, reference};
use crate::support::TINY_STAGES;

/// A kill: number of the operation, and when.
type Point = (usize, When);

/// Some of each kind, in every stage.
fn chosen() -> Vec<Point> {
    let all = reference();
    let last = all.changes().last().expect("operations").number;
    vec![
        // The lock's text, and the first stage's table, are half there.
        (
            all.changes()
                .find(|o| o.target() == "run.lock" && o.name == "write")
                .expect("a lock")
                .number,
            When::Half,
        ),
        (all.find("data", "write", "train.parquet"), When::Half),
        // All outputs are there and no manifest.
        (all.find("data", "rename", "manifest.json"), When::Before),
        // A checkpoint is in place, the one after it not begun.
        (all.find("pairs", "rename", "/step-00000001"), When::After),
        // A manifest is half written.
        (all.find("pairs", "write", "manifest.json"), When::Half),
        // Between two files of a checkpoint; its digests are not written; it is whole and not renamed.
        (
            all.find_nth("train-dpo", "create", "moments.safetensors", 1),
            When::Before,
        ),
        (
            all.find_nth("train-dpo", "write", "digests.json", 1),
            When::Before,
        ),
        (
            all.find("train-dpo", "rename", "/step-00000003"),
            When::Before,
        ),
        // An old checkpoint is half removed.
        (
            all.find("train-dpo", "remove", "/step-00000001/"),
            When::After,
        ),
        // A line of a log is half written.
        (
            all.find_nth("train-grpo", "write", "samples.jsonl", 1),
            When::Half,
        ),
        // Between the two files of an adapter.
        (
            all.find("train-grpo", "rename", "adapter_model.safetensors"),
            When::Before,
        ),
        // The manifest is there, and the checkpoints too; the same, and the mark of an unfinished stage.
        (
            all.find("train-grpo", "rename", "manifest.json"),
            When::After,
        ),
        (
            all.find("evaluate-base", "remove", "started.json"),
            When::Before,
        ),
        (
            all.find("evaluate-dpo", "write", "rows.parquet"),
            When::Half,
        ),
        // Finished, and `latest` does not lead there; the link is made and not renamed.
        (
            all.find("evaluate-grpo", "symlink", "evaluate-grpo"),
            When::Before,
        ),
        (all.find("report", "symlink", "report"), When::After),
        (all.find("report", "write", "report.html"), When::Half),
        (last, When::After),
    ]
}

/// As many of all there are, spread evenly.
fn spread(kills: usize) -> Vec<Point> {
    let mut all = Vec::new();
    for operation in reference().changes() {
        all.push((operation.number, When::Before));
        if operation.name == "write" {
            all.push((operation.number, When::Half));
        }
    }
    all.push((reference().changes().count(), When::After));
    let kills = kills.min(all.len());
    // One of each stretch, drawn.
    let mut random = stream(1, "faults/spread");
    (0..kills)
        .map(|i| {
            let stretch = i * all.len() / kills..(i + 1) * all.len() / kills;
            all[random.random_range(stretch)]
        })
        .collect()
}

/// How many kills `ATP_KILLS` asks for.
fn asked() -> Option<usize> {
    let kills = std::env::var("ATP_KILLS").ok();
    kills.map(|text| text.parse().expect("ATP_KILLS is a number"))
}

/// `ATP_KILLS` kills spread over all operations; without it, eighteen chosen ones.
#[test]
fn a_run_killed_at_a_write_ends_with_the_same_bytes() {
    let points = asked().map_or_else(chosen, spread);
    let mut stages = BTreeMap::<&str, usize>::new();
    for &point in &points {
        let run = Run::new();
        let killed = run.go(&World {
            kill: Some(point),
            ..World::default()
        });
        let done = run.operations();
        let last = done.iter().rfind(|o| o.number > 0).expect("operations");
        assert_eq!(
            killed.code, None,
            "{point:?} killed nothing: {}",
            killed.err
        );
        assert_eq!(last.number, point.0);
        *stages.entry(last.stage().unwrap_or("run")).or_default() += 1;
        let resumed = run.finish();
        assert!(
            !resumed.err.contains("damaged"),
            "{last:?}: {}",
            resumed.err
        );
        run.assert_finished();
    }
    let all = reference().changes().count();
    println!(
        "{} of {} kills identical, of {all} operations: {stages:?}",
        points.len(),
        points.len()
    );
    for stage in TINY_STAGES {
        assert!(
            stages.contains_key(stage),
            "{stage} was never hit: {stages:?}"
        );
    }
}

/// At moments drawn at random, inside a computation more often than at a write. `ATP_KILLS` says how often.
#[test]
fn a_run_killed_at_any_moment_ends_with_the_same_bytes() {
    let begin = Instant::now();
    let whole = Run::new();
    whole.finish();
    let whole = begin.elapsed();
    let kills = asked().unwrap_or(3);
    let mut stages = BTreeMap::<&str, usize>::new();
    let mut done = 0;
    for attempt in 0.. {
        assert!(attempt < 2 * kills + 10, "missed too often");
        let mut random = stream(1, &format!("faults/moment/{attempt}"));
        let run = Run::new();
        let mut process = run
            .command(&World::default(), &[])
            .spawn()
            .expect("a process");
        std::thread::sleep(whole.mul_f64(random.random_range(0.15..1.0)));
        process.kill().expect("a signal");
        let ended = process.wait().expect("an end");
        if ended.success() {
            continue;
        }
        assert_eq!(ended.code(), None);
        let operations = run.operations();
        let last = operations.iter().rfind(|o| o.number > 0);
        *stages
            .entry(last.and_then(Operation::stage).unwrap_or("run"))
            .or_default() += 1;
        let resumed = run.finish();
        assert!(!resumed.err.contains("damaged"), "{}", resumed.err);
        run.assert_finished();
        done += 1;
        if done == kills {
            break;
        }
    }
    println!("{done} of {done} kills identical, last at work: {stages:?}");
}

#[test]
fn a_run_killed_again_and_again_ends_with_the_same_bytes() {
    let run = Run::new();
    let mut random = stream(1, "faults/chain");
    let mut kills = 0;
    loop {
        // Kills hit the resumption too: the lock, clearing up, cutting logs.
        // Now and then far enough for the report, the longest stretch without a checkpoint.
        let number = match kills % 12 {
            11 => random.random_range(60..400),
            _ => random.random_range(5..60),
        };
        let when = *[When::Before, When::Half, When::After]
            .get(random.random_range(0..3))
            .expect("one of three");
        let ended = run.go(&World {
            kill: Some((number, when)),
            ..World::default()
        });
        if let Some(code) = ended.code {
            assert_eq!(code, 0, "{}", ended.err);
            break;
        }
        kills += 1;
        assert!(kills < 200, "it gets nowhere");
    }
    println!("{kills} kills in a row");
    assert!(kills >= 10, "{kills}");
    run.assert_finished();
}

/// The order of writes and fsyncs of a whole run: a file is durable before anything says that it is there, so that a
/// loss of power is no worse than a kill.
#[test]
fn nothing_is_named_before_it_is_durable() {
    let mut unsynced = BTreeSet::<String>::new();
    let mut renames = 0;
    let mut manifests = 0;
    for Operation { name, paths, .. } in &reference().operations {
        let path = paths.last().expect("a path").clone();
        match name.as_str() {
            "create" | "write" | "cut" | "truncate" => {
                unsynced.insert(path);
            }
            "fsync" => {
                unsynced.remove(&path);
            }
            "remove" => unsynced.retain(|other| !is_below(other, &path)),
            "rename" => {
                renames += 1;
                let below: Vec<_> = unsynced
                    .iter()
                    .filter(|other| is_below(other, &paths[0]))
                    .collect();
                assert!(
                    below.is_empty(),
                    "renamed to {path}: not durable are {below:?}"
                );
                if path.ends_with("/manifest.json") {
                    manifests += 1;
                    let folder = path.trim_end_matches("/manifest.json");
                    let mark = format!("{folder}/started.json");
                    let left: Vec<_> = unsynced
                        .iter()
                        .filter(|other| is_below(other, folder) && **other != mark)
                        .collect();
                    assert!(left.is_empty(), "{path}: not durable are {left:?}");
                }
            }
            _ => {}
        }
    }
    assert!(renames > 40, "{renames}");
    assert_eq!(manifests, TINY_STAGES.len());
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Kills are at the same operations whatever else is going on: the program writes in one order.
#[test]
fn the_order_of_writes_is_always_the_same() {
    let run = Run::new();
    run.finish();
    let shape = |operations: &[Operation]| -> Vec<String> {
        let plain = |o: &Operation| {
            let target = o.target();
            // Temporaries carry a process id; a removed folder's files come in the order of the file system.
            let name = target.split(".atp-tmp-").next().unwrap_or_default();
            match o.name.as_str() {
                "remove" => "remove".to_owned(),
                other => format!("{other} {name}"),
            }
        };
        operations
            .iter()
            .filter(|o| o.number > 0)
            .map(plain)
            .collect()
    };
    assert_eq!(shape(&run.operations()), shape(&reference().operations));
}
