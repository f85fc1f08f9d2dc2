//! Several processes as the ranks of one run: the same order and nearly the same numbers on one, two and four; a rank that
//! is lost ends the run with its name, and the run goes on to the same bytes, also on another number of ranks.
//!
//! On the program itself with the random model of two layers, and on processes of this test for single gradients.
//! `ATP_RANK_KILLS` is the number of `kill -9`; two without it.

mod drift;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use atp_pipeline::model::backprop::Gradients;
use atp_pipeline::model::tensors::{encode_safetensors, read_safetensors};
use atp_pipeline::model::{Adapter, Decoder, Weights};
use atp_pipeline::runtime::ranks::{Ended as RanksEnded, Place, Ranks};
use atp_pipeline::runtime::seed::stream;
use atp_pipeline::training::dpo_trainer::{
    DpoConfig, DpoSums, PairTokens, accumulate, reference_logprobs,
};
use atp_pipeline::training::grpo_trainer::GrpoConfig;
use atp_pipeline::training::rollout::{
    self, GroupPlan, GrpoSums, Known, Rollout, plan_group, score_groups,
};
use rand::Rng;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::faults::disk;
use crate::grpo::sampled;
use crate::support::{
    Ended, TINY_STAGES, assert_same, fixture, heavy, program, relative_error, results, with_policy,
};

/// A lost rank ends the run within this.
const LIMIT: Duration = Duration::from_secs(60);

/// The tiny recipe on so many ranks, one thread each.
fn command(folder: &Path, run: &str, ranks: &str) -> Command {
    let arguments = ["run", "random.toml", "--run-dir", run, "--nproc", ranks];
    let mut command = program(folder, &arguments);
    command
        .env("ATP_THREADS", "1")
        .env("XDG_CACHE_HOME", folder.join("cache"))
        .env("TMPDIR", folder);
    command
}

fn go(folder: &Path, run: &str, ranks: &str) -> Ended {
    command(folder, run, ranks)
        .output()
        .expect("a process")
        .into()
}

/// As [`go`], to a good end.
fn finish(folder: &Path, run: &str, ranks: &str) -> Ended {
    let ended = go(folder, run, ranks);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    ended
}

fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn assert_near(got: &Value, expected: &Value, tolerance: f64, what: &str) {
    match (got, expected) {
        (Value::Object(a), Value::Object(b)) => {
            assert_eq!(
                a.keys().collect::<Vec<_>>(),
                b.keys().collect::<Vec<_>>(),
                "{what}"
            );
            for (key, value) in a {
                assert_near(value, &b[key], tolerance, &format!("{what}.{key}"));
            }
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().expect("a number"), b.as_f64().expect("a number"));
            assert!(
                (a - b).abs() <= tolerance * b.abs().max(1.0),
                "{what}: {a} and {b}"
            );
        }
        _ => assert_eq!(got, expected, "{what}"),
    }
}

/// The run directory and the others' folders beside it: nothing of a rank's own is left.
fn assert_cleared(folder: &Path) {
    let left: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| name.contains("-rank-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Pairs, questions and their order are the same to the byte; sums are rounded in another order, which f32 shows in its
/// last places.
#[test]
fn one_two_and_four_ranks_do_the_same_in_the_same_order() {
    let folder = disk::workplace();
    let _turn = heavy();
    let folder = folder.path();
    for ranks in ["1", "2", "4"] {
        finish(folder, &format!("run-{ranks}"), ranks);
    }
    assert_cleared(folder);
    let stage = |ranks: &str, name: &str| folder.join(format!("run-{ranks}/latest/{name}"));
    let alone = results(&folder.join("run-1"), &["data", "pairs", "evaluate-base"]);
    for ranks in ["2", "4"] {
        let run = folder.join(format!("run-{ranks}"));
        assert_same(&results(&run, &["data", "pairs", "evaluate-base"]), &alone);
        for (method, files) in [
            ("train-dpo", &["metrics.jsonl"][..]),
            ("train-grpo", &["metrics.jsonl", "samples.jsonl"]),
        ] {
            for file in files {
                let got = lines(&stage(ranks, method).join(file));
                let expected = lines(&stage("1", method).join(file));
                assert_eq!(got.len(), expected.len());
                for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                    assert_near(
                        got,
                        expected,
                        1e-5,
                        &format!("{method}/{file} line {i} on {ranks} ranks"),
                    );
                }
            }
            let adapter = "adapter/adapter_model.safetensors";
            let got = read_safetensors(&stage(ranks, method).join(adapter)).expect("an adapter");
            let expected = read_safetensors(&stage("1", method).join(adapter)).expect("an adapter");
            assert_eq!(got.len(), expected.len());
            for (name, tensor) in &got {
                let error = relative_error(tensor, &expected[name]);
                assert!(error < 1e-3, "{method} on {ranks} ranks: {name}: {error:e}");
            }
        }
        // And again: nothing to do, on any number of ranks.
        let again = finish(folder, &format!("run-{ranks}"), "2");
        assert!(
            again.out.contains("up to date") && !again.out.contains("ran"),
            "{}",
            again.out
        );
    }
}

/// What the tests' own ranks compute: gradients of DPO and of GRPO over the items that are this rank's, summed.
fn gradients(ranks: &Ranks) -> BTreeMap<String, Tensor> {
    let mut all = BTreeMap::new();
    let load = |method: &str, adapter: &str| {
        let folder = fixture("oracle").join(method);
        let weights = Weights::open(&folder.join("model")).expect("a model folder");
        let model = Decoder::load(&weights, Kind::Float, Device::Cpu).expect("a model");
        let adapter = Adapter::load(&folder.join(adapter), model.config(), Device::Cpu);
        (model, adapter.expect("an adapter"))
    };
    let mut keep = |method: &str, adapter: &Adapter, gradients: &Gradients| {
        ranks.sum(gradients.flat()).expect("a sum");
        for (name, gradient) in adapter.named_views(gradients.flat()) {
            all.insert(format!("{method}/{name}"), gradient.copy());
        }
    };
    let mut draw = stream(7, "ranks/gradients");
    let (model, adapter) = load("dpo", "adapter_initial");
    let vocabulary = model.config().vocab_size as u32;
    let mut ids = |most: usize| -> Vec<u32> {
        let count = draw.random_range(2..most);
        (0..count)
            .map(|_| draw.random_range(3..vocabulary))
            .collect()
    };
    let pairs: Vec<PairTokens> = (0..7)
        .map(|_| PairTokens {
            prompt: ids(30),
            chosen: ids(20),
            rejected: ids(20),
            inserted: Default::default(),
        })
        .collect();
    let costs: Vec<u64> = pairs.iter().map(|p| p.size() as u64).collect();
    let config = DpoConfig::default();
    let mut learnt = Gradients::zeros(&adapter, model.config());
    with_policy(&model, &adapter, |policy| {
        for pair in ranks.mine(&costs) {
            let pair = [&pairs[pair]];
            let reference = reference_logprobs(&model, &pair, config.loss)?;
            let mut sums = DpoSums::default();
            accumulate(
                policy,
                &pair,
                &reference,
                &config,
                pairs.len(),
                &mut learnt,
                &mut sums,
            )?;
        }
        Ok(())
    });
    keep("dpo", &adapter, &learnt);

    let (model, adapter) = load("grpo", "adapter");
    let groups: Vec<GroupPlan> = (0..5)
        .map(|_| {
            let prompt = ids(30);
            let rollouts = [1.0, -0.5, -0.5].map(|advantage| {
                let tokens = ids(20);
                let logprobs = vec![-1.0; tokens.len()];
                Rollout {
                    advantage,
                    ..sampled(&tokens, logprobs, 1.0)
                }
            });
            plan_group(&prompt, &rollouts, false)
        })
        .collect();
    let terms = GrpoConfig::default().terms(&groups, 20);
    let costs: Vec<u64> = groups
        .iter()
        .map(|group| group.batch.len() as u64)
        .collect();
    let mut learnt = Gradients::zeros(&adapter, model.config());
    with_policy(&model, &adapter, |policy| {
        for group in ranks.mine(&costs) {
            let plan = &groups[group];
            let reference = score_groups(&model, None, &[plan])?;
            let known = Known {
                plan,
                old: None,
                reference: reference.first(),
            };
            let mut sums = GrpoSums::default();
            rollout::accumulate(policy, &[known], &terms, &mut learnt, &mut sums)?;
        }
        Ok(())
    });
    keep("grpo", &adapter, &learnt);
    all
}

/// Not a test: what a process of the tests below does as one rank. Its folder is in `ATP_TEST_RANK`.
#[test]
#[ignore = "run by other tests as one of several processes"]
fn as_a_rank() {
    let Ok(folder) = std::env::var("ATP_TEST_RANK") else {
        return;
    };
    tch::set_num_threads(1);
    let place = Place::from_environment()
        .expect("variables that fit")
        .expect("a rank");
    let ranks = Ranks::connect(place).expect("the others");
    // Bytes of any length, empty ones too, in rank order.
    let own = vec![ranks.rank() as u8; ranks.rank() * 3];
    let all = ranks.gather(&own).expect("all");
    // A wait in the middle of the work is none for ranks to come.
    if ranks.size() == 2 && ranks.is_first() {
        std::thread::sleep(Duration::from_secs(8));
    }
    let expected: Vec<Vec<u8>> = (0..ranks.size()).map(|r| vec![r as u8; r * 3]).collect();
    assert_eq!(all, expected);
    assert_eq!(
        ranks.broadcast(&[ranks.rank() as u8, 5]).expect("bytes"),
        [0, 5]
    );
    let mut numbers = [ranks.rank() as f64, 0.5];
    let [first, second] = &mut numbers;
    ranks.sum_numbers(&mut [first, second]).expect("a sum");
    let size = ranks.size() as f64;
    assert_eq!(numbers, [size * (size - 1.0) / 2.0, size / 2.0]);
    assert_eq!(
        ranks.largest(-(ranks.rank() as f64)).expect("a number"),
        0.0
    );
    let costs = [3, 9, 1, 1, 4, 4, 2];
    let done = ranks.share(&costs, |mine| {
        Ok::<_, RanksEnded>(mine.iter().map(|i| format!("item {i}")).collect())
    });
    let expected: Vec<String> = (0..costs.len()).map(|i| format!("item {i}")).collect();
    assert_eq!(done.expect("all items"), expected);
    assert!(ranks.agree_on("a word", "same").is_ok());
    assert!(
        ranks
            .agree_on("a number", &ranks.rank().to_string())
            .is_err()
    );
    let gradients: Vec<(String, Tensor)> = gradients(&ranks).into_iter().collect();
    let file = Path::new(&folder).join(format!("gradients-{}.safetensors", ranks.rank()));
    fs::write(&file, encode_safetensors(&gradients).expect("bytes")).expect("a file");
    ranks.conclude(Ok(())).expect("a good end");
}

/// A test of this very program as so many ranks.
fn start_as(test: &str, folder: &Path, size: usize) -> Vec<Child> {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let rank = |rank: usize| {
        let program = std::env::current_exe().expect("this program");
        Command::new(program)
            .args(["--exact", test, "--ignored", "--nocapture"])
            .env("ATP_TEST_RANK", folder)
            .env("ATP_RANKS_TIMEOUT", if size == 2 { "6" } else { "60" })
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", size.to_string())
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", port.to_string())
            .spawn()
            .expect("a process")
    };
    (0..size).map(rank).collect()
}

/// On the same global batch in f32, with other orders of summation; every rank has the same bits.
#[test]
fn gradients_of_several_ranks_are_those_of_one() {
    tch::set_num_threads(1);
    let expected = gradients(&Ranks::alone());
    for size in [2, 4] {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        for mut child in start_as("ranks::as_a_rank", folder.path(), size) {
            assert!(child.wait().expect("an end").success());
        }
        let of = |rank: usize| folder.path().join(format!("gradients-{rank}.safetensors"));
        let first = fs::read(of(0)).expect("gradients");
        for rank in 1..size {
            assert!(
                fs::read(of(rank)).expect("gradients") == first,
                "rank {rank} has other bits"
            );
        }
        let got = read_safetensors(&of(0)).expect("gradients");
        assert_eq!(got.len(), expected.len());
        let mut largest: f64 = 0.0;
        for (name, tensor) in &got {
            let error = relative_error(tensor, &expected[name]);
            assert!(error <= 1e-6, "{size} ranks: {name}: {error:e}");
            largest = largest.max(error);
        }
        println!("{size} ranks: gradients within {largest:e} of one rank's");
    }
}

/// Processes of a starter, in rank order.
fn children(parent: u32) -> Vec<i32> {
    let file = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// What the whole run left but for the report's own times.
fn left(run: &Path) -> BTreeMap<String, Vec<u8>> {
    results(run, &TINY_STAGES)
}

/// `kill -9` of one rank at a random moment: the others end, one message names it, and the run goes on exactly.
#[test]
fn a_killed_rank_is_named_and_the_run_goes_on_to_the_same_bytes() {
    let kills: u64 = std::env::var("ATP_RANK_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(2);
    let folder = disk::workplace();
    let _turn = heavy();
    let folder = folder.path();
    let begin = Instant::now();
    finish(folder, "whole", "2");
    let whole = begin.elapsed();
    let expected = left(&folder.join("whole"));
    let mut draw = stream(11, "ranks/kills");
    let (mut struck, mut slowest) = (0, Duration::ZERO);
    for attempt in 0..kills * 10 {
        if struck == kills {
            break;
        }
        let run = format!("killed-{attempt}");
        let mut child = command(folder, &run, "2").spawn().expect("a process");
        let mut pids = children(child.id());
        while pids.len() < 2 && child.try_wait().expect("a status").is_none() {
            std::thread::sleep(Duration::from_millis(2));
            pids = children(child.id());
        }
        std::thread::sleep(whole.mul_f64(draw.random_range(0.1..0.95)));
        let rank = draw.random_range(0..2);
        // Its processes are not waited for by anybody but it: a number is still theirs while it lives.
        let pids = children(child.id());
        if pids.len() < 2 || child.try_wait().expect("a status").is_some() {
            child.wait().expect("an end");
            continue;
        }
        // SAFETY: plain system call.
        unsafe { libc::kill(pids[rank], libc::SIGKILL) };
        let at = Instant::now();
        let ended = Ended::from(child.wait_with_output().expect("an end"));
        slowest = slowest.max(at.elapsed());
        if ended.code == Some(0) {
            continue;
        }
        assert!(at.elapsed() < LIMIT, "it took {:?}", at.elapsed());
        assert_eq!(ended.code, Some(1), "{}", ended.err);
        let told: Vec<&str> = ended
            .err
            .lines()
            .filter(|line| line.contains("error:"))
            .collect();
        let says = format!("rank {rank} of 2");
        assert!(
            told.len() == 1 && told[0].contains(&says) && told[0].contains("killed (signal 9)"),
            "rank {rank}: {}",
            ended.err
        );
        finish(folder, &run, "2");
        assert_same(&left(&folder.join(&run)), &expected);
        assert_cleared(folder);
        fs::remove_dir_all(folder.join(&run)).expect("a folder of ours");
        struck += 1;
    }
    assert_eq!(struck, kills, "too many runs were over before the kill");
    println!("{kills} kills; the run had ended {slowest:?} later at most");
}

/// Ranks as `srun` or torchrun starts them, with nobody of ours above: those that are left notice it by themselves.
#[test]
fn without_a_starter_of_ours_the_others_name_the_lost_rank() {
    let folder = disk::workplace();
    let _turn = heavy();
    let folder = folder.path();
    for lost in [1, 0] {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let run = format!("lost-{lost}");
        let mut ranks: Vec<Child> = (0..3)
            .map(|rank: usize| {
                let arguments = [
                    "run",
                    "random.toml",
                    "--run-dir",
                    &run,
                    "--set",
                    "grpo.epochs=200",
                ];
                let mut command = program(folder, &arguments);
                command.env("ATP_THREADS", "1").env("TMPDIR", folder);
                command
                    .env("XDG_CACHE_HOME", folder.join("cache"))
                    .env("RANK", rank.to_string())
                    .env("WORLD_SIZE", "3")
                    .env("MASTER_ADDR", "127.0.0.1")
                    .env("MASTER_PORT", port.to_string());
                command.spawn().expect("a process")
            })
            .collect();
        let mark = folder.join(&run).join("latest/train-dpo");
        let begin = Instant::now();
        while !mark.exists() {
            assert!(
                begin.elapsed() < Duration::from_secs(120),
                "training does not begin"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        ranks[lost].kill().expect("a signal");
        let at = Instant::now();
        let mut said = String::new();
        for (rank, child) in ranks.into_iter().enumerate() {
            let ended = Ended::from(child.wait_with_output().expect("an end"));
            assert!(at.elapsed() < LIMIT, "it took {:?}", at.elapsed());
            assert!(
                rank == lost || ended.code == Some(69),
                "{rank}: {:?} {}",
                ended.code,
                ended.err
            );
            said.push_str(&ended.err);
        }
        println!(
            "rank {lost} lost: the others had ended {:?} later",
            at.elapsed()
        );
        let told: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("error:"))
            .collect();
        let says = format!("rank {lost} of 3 was lost");
        assert!(told.len() == 1 && told[0].contains(&says), "{said}");
    }
}

/// SIGTERM stops all at one point; another number of ranks goes on from there, and says that it is another.
#[test]
fn ranks_stop_on_request_together_and_others_go_on() {
    let folder = disk::workplace();
    let _turn = heavy();
    let folder = folder.path();
    finish(folder, "whole", "2");
    let child = command(folder, "stopped", "2").spawn().expect("a process");
    let log = |run: &str| {
        let stages = fs::read_dir(folder.join(run).join("stages"))
            .into_iter()
            .flatten();
        let mut stages = stages.filter_map(|entry| Some(entry.ok()?.path()));
        stages.find(|path| {
            path.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("train-grpo"))
        })
    };
    let begin = Instant::now();
    while log("stopped").is_none_or(|stage| !stage.join("metrics.jsonl").is_file()) {
        assert!(
            begin.elapsed() < Duration::from_secs(120),
            "GRPO does not begin"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: plain system call; the child is ours and not waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let ended = Ended::from(child.wait_with_output().expect("an end"));
    assert_eq!(ended.code, Some(130), "{}", ended.err);
    let copy = folder.join("elsewhere");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(folder.join("stopped"))
        .arg(&copy)
        .status();
    assert!(copied.expect("a copy").success());
    finish(folder, "stopped", "2");
    assert_same(&left(&folder.join("stopped")), &left(&folder.join("whole")));
    let other = finish(folder, "elsewhere", "3");
    assert!(
        other.err.contains("2 ranks") && other.err.contains("3 ranks"),
        "{}",
        other.err
    );
    let metrics = |run: &str| lines(&folder.join(run).join("latest/train-grpo/metrics.jsonl"));
    for (got, expected) in metrics("elsewhere").iter().zip(&metrics("whole")) {
        assert_near(got, expected, 1e-5, "metrics on three ranks");
    }
}

/// What fails on all ranks alike, or on rank 0 alone, is said once.
#[test]
fn a_failure_is_said_once() {
    let folder = disk::workplace();
    let _turn = heavy();
    for (setting, part) in [
        ("dpo.max_length=4", "more than max_length 4"),
        ("role_play.folder='nowhere'", "nowhere"),
    ] {
        let mut command = command(folder.path(), "failed", "2");
        let ended = Ended::from(
            command
                .args(["--set", setting])
                .output()
                .expect("a process"),
        );
        assert_eq!(ended.code, Some(1), "{}", ended.err);
        let told: Vec<&str> = ended
            .err
            .lines()
            .filter(|line| line.contains("error:"))
            .collect();
        assert!(told.len() == 1 && told[0].contains(part), "{}", ended.err);
    }
}
