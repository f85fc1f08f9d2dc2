//! The command line: what is wrong is said in one clear message and leaves nothing behind; what is right works as typed.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use atp_pipeline::runtime::device;
use serde_json::{Value, json};
use tch::{Kind, Tensor};
use tempfile::TempDir;

use crate::support::{
    Ended, call, files, finished, fixture, ids, program, repository, smollm2, smollm2_path,
    tensors, workplace,
};

/// Run with these arguments, which must fail: with an error that contains all of `said`, and without a trace on disk.
pub fn refused(folder: &Path, arguments: &[&str], said: &[&str]) -> Ended {
    let before: Vec<String> = files(folder).into_keys().collect();
    let ended = call(folder, arguments);
    let Ended { code, out, err } = &ended;
    assert!(
        matches!(code, Some(1 | 2)),
        "{arguments:?}: {code:?}\n{out}\n{err}"
    );
    let errors = err.lines().filter(|l| l.starts_with("error: ")).count();
    assert_eq!(errors, 1, "{arguments:?}: one message\n{err}");
    for text in said {
        assert!(err.contains(text), "{arguments:?}: no `{text}` in\n{err}");
    }
    for text in ["panicked", "backtrace", "fault of the program"] {
        assert!(!err.contains(text), "{arguments:?}:\n{err}");
    }
    assert!(!out.contains("up to date"), "{arguments:?}:\n{out}");
    // Each cause once: a system's error code is not repeated.
    assert!(
        err.matches("(os error").count() <= 1,
        "{arguments:?}:\n{err}"
    );
    let after: Vec<String> = files(folder).into_keys().collect();
    assert_eq!(after, before, "{arguments:?}");
    ended
}

/// Write a file into a folder.
fn put(folder: &TempDir, name: &str, text: &str) {
    fs::write(folder.path().join(name), text).expect("a file");
}

#[test]
fn a_folder_hides_no_recipe_of_the_program() {
    let folder = workplace();
    fs::create_dir(folder.path().join("smoke")).expect("a folder");
    let ended = call(folder.path(), &["recipe", "check", "smoke"]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
}

#[test]
fn recipes_that_cannot_be_used() {
    let folder = workplace();
    let at = folder.path();
    refused(
        at,
        &["run", "laptp"],
        &["`laptp`", "did you mean `laptop`?"],
    );
    refused(
        at,
        &["run", "nothing.toml"],
        &["nothing.toml", "No such file"],
    );
    put(
        &folder,
        "key.toml",
        "extends = \"tiny.toml\"\n\n[dpo.optim]\nlrr = 1e-5\n",
    );
    refused(
        at,
        &["run", "key.toml"],
        &["key.toml:4:1:", "unknown key `lrr`", "did you mean `lr`?"],
    );
    put(
        &folder,
        "type.toml",
        "extends = \"tiny.toml\"\n[dpo]\nepochs = \"three\"\n",
    );
    refused(
        at,
        &["run", "type.toml"],
        &["type.toml:3:10:", "`dpo.epochs`", "whole number", "three"],
    );
    put(&folder, "torn.toml", "extends = \"tiny.toml\"\n[dpo\n");
    refused(at, &["run", "torn.toml"], &["torn.toml:2:"]);
    for (set, said) in [
        ("grpo.group=1", &["`grpo.group`", "2 or more", "got 1"][..]),
        ("evaluation.rounds=0", &["`evaluation.rounds`", "got 0"]),
        ("dpo.optim.lr=nan", &["optim.lr", "NaN"]),
        ("dpo=3", &["`dpo`", "a table"]),
        ("seeds", &["key=value"]),
        ("dpo.optim.lr", &["key=value", "`dpo.optim.lr=5e-6`"]),
        ("role_play.folder=\"elsewhere\"", &["elsewhere"]),
    ] {
        refused(at, &["run", "tiny.toml", "--set", set], said);
    }
    refused(
        at,
        &["run", "tiny.toml", "--only", "nothing"],
        &["`nothing`", "train-dpo"],
    );
    refused(
        at,
        &["run", "tiny.toml", "--threads", "many"],
        &["--threads", "many"],
    );
    refused(
        at,
        &["train", "--method", "dpo", "--group", "4"],
        &["--group"],
    );
    refused(
        at,
        &["train", "--method", "dpo", "--lr", "-1"],
        &["optim.lr", "-1"],
    );
    refused(
        at,
        &["train", "--method", "dpo", "--lr", "-5e-6"],
        &["optim.lr=-5e-6"],
    );
    refused(
        at,
        &["train", "tiny.toml", "--method", "dpo-grpo"],
        &["leave it out: --set 'variants=[\"base\", \"dpo\", \"grpo\", \"dpo-grpo\"]'"],
    );
    refused(at, &["train", "--method", "ppo"], &["ppo", "grpo"]);
    put(&folder, "environments/bakery.toml", "id = \"bakery\"\n");
    refused(at, &["run", "tiny.toml"], &["bakery.toml"]);
}

#[test]
fn models_and_adapters_that_cannot_be_used() {
    let folder = workplace();
    let at = folder.path();
    let missing = |model: &str, said: &[&str]| {
        refused(at, &["sample", "--model", model, "hello"], said);
        refused(at, &["run", "tiny.toml", "--model", model], said);
    };
    missing("./nothing", &["`./nothing`", "not there"]);
    fs::create_dir(at.join("empty")).expect("a folder");
    missing("empty", &["empty", "no config.json"]);
    let whole = fs::read(smollm2_path()).expect("a model file");
    for (name, length) in [("head.gguf", 1_000_000), ("tail.gguf", whole.len() - 10)] {
        fs::write(at.join(name), &whole[..length]).expect("a file");
        missing(name, &[name, "GGUF"]);
    }
    put(&folder, "text.gguf", "this is no model");
    missing("text.gguf", &["text.gguf"]);
    put(
        &folder,
        "in.jsonl",
        "{\"prompt\": \"a\", \"completion\": \"b\"}\n",
    );
    let adapter = fixture("oracle/lora/all_linear");
    let adapter = adapter.to_str().expect("UTF-8");
    let score = [
        "score",
        "--in",
        "in.jsonl",
        "--out",
        "out.jsonl",
        "--adapter",
    ];
    refused(
        at,
        &[&score[..], &[adapter]].concat(),
        &["all_linear", "lora_A", "[4, 24]", "another model"],
    );
    refused(
        at,
        &[&score[..], &["empty"]].concat(),
        &["adapter_config.json"],
    );
    if !device::gpu_present() {
        refused(
            at,
            &["run", "tiny.toml", "--device", "cuda"],
            &["cuda", "--device cpu"],
        );
    }
    refused(at, &["run", "tiny.toml", "--device", "tpu"], &["tpu"]);
}

#[test]
fn lines_and_settings_that_cannot_be_used() {
    let folder = workplace();
    let at = folder.path();
    let good = "{\"prompt\": \"a\", \"completion\": \"b\"}\n";
    let score = ["score", "--in", "in.jsonl", "--out", "out.jsonl"];
    refused(at, &score, &["in.jsonl", "No such file"]);
    for bad in [
        "{\"prompt\": 3}",
        "{\"prompt\": \"a\"",
        "[]",
        "{\"input_ids\": [1.5]}",
    ] {
        put(&folder, "in.jsonl", &format!("{good}\n{bad}\n"));
        refused(at, &score, &["in.jsonl:3:", "input_ids", bad]);
    }
    for (bad, said) in [
        ("{\"input_ids\": [5]}", "at least two"),
        ("{\"input_ids\": [5, 49152]}", "49152"),
        ("{\"prompt\": \"\", \"completion\": \"b\"}", "empty"),
    ] {
        put(&folder, "in.jsonl", &format!("{good}{bad}\n"));
        refused(at, &score, &["in.jsonl:2", said]);
    }
    put(&folder, "in.jsonl", "");
    refused(at, &score, &["in.jsonl", "no lines"]);
    put(&folder, "in.jsonl", good);
    let nowhere = ["score", "--in", "in.jsonl", "--out", "nowhere/out.jsonl"];
    refused(at, &nowhere, &["nowhere/out.jsonl", "folder"]);
    refused(
        at,
        &["sample", "--temperature", "-1", "hi"],
        &["--temperature", "got -1"],
    );
    refused(at, &["sample", "--top-p", "0", "hi"], &["--top-p", "got 0"]);
    refused(
        at,
        &["sample", "--top-p", "-0.5", "hi"],
        &["--top-p", "got -0.5"],
    );
    refused(
        at,
        &["sample", "--max-new-tokens", "0", "hi"],
        &["--max-new-tokens"],
    );
    refused(
        at,
        &["status", "nothing"],
        &["nothing", "no such run directory"],
    );
    refused(
        at,
        &["status", "environments"],
        &["environments: expected a run directory", "no `stages`"],
    );
    refused(at, &["frobnicate"], &["frobnicate"]);
}

#[test]
fn run_directories_that_cannot_be_used() {
    let folder = workplace();
    let at = folder.path();
    put(&folder, "file", "");
    refused(
        at,
        &["generate", "tiny.toml", "--run-dir", "file/run"],
        &["file/run", "Not a directory"],
    );
    let run = at.join("locked");
    fs::create_dir(&run).expect("a folder");
    let mode = |mode| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&run, fs::Permissions::from_mode(mode)).expect("permissions");
    };
    mode(0o555);
    // Root may write anywhere.
    if fs::write(run.join("probe"), "").is_err() {
        refused(
            at,
            &["generate", "tiny.toml", "--run-dir", "locked"],
            &["locked", "Permission denied"],
        );
    }
    mode(0o755);
}

#[test]
fn a_second_process_is_told_who_works_in_a_run_directory() {
    let folder = workplace();
    let at = folder.path();
    let mut first = program(at, &["pairs", "tiny.toml", "--run-dir", "run"])
        .spawn()
        .expect("a process");
    let lock = at.join("run/run.lock");
    let begin = Instant::now();
    while fs::read_to_string(&lock).unwrap_or_default().is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(120), "no lock");
        std::thread::sleep(Duration::from_millis(5));
    }
    let second = call(at, &["generate", "tiny.toml", "--run-dir", "run"]);
    let status = call(at, &["status", "run", "--json"]);
    let alone = first.try_wait().expect("a status").is_none();
    first.kill().expect("a signal");
    first.wait().expect("an end");
    assert!(alone, "the first process ended too early for this test");
    assert_eq!(second.code, Some(1), "{}", second.err);
    let holder = format!("process {}", first.id());
    assert!(second.err.contains(&holder), "{}", second.err);
    assert_eq!(status.json()["holder"]["pid"], json!(first.id()));
}

#[test]
fn scores_are_those_of_transformers() {
    let folder = workplace();
    let expected = tensors("oracle/smollm2_logits/medium.safetensors");
    let record = crate::support::json("oracle/smollm2_logits/smollm2_logits.json");
    let tokens = ids(&expected["ids"]);
    let text = record["prompts"]["medium"]["text"]
        .as_str()
        .expect("a text");
    // Cut where a word begins, so that both halves are encoded as the whole is.
    let cut = text.rfind("<|im_start|>").expect("a turn");
    let lines = [
        json!({"input_ids": tokens}),
        json!({"prompt": text[..cut], "completion": text[cut..]}),
    ];
    put(
        &folder,
        "in.jsonl",
        &format!("{}\n\n{}\n", lines[0], lines[1]),
    );
    let ended = call(
        folder.path(),
        &["score", "--in", "in.jsonl", "--out", "out.jsonl"],
    );
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let out = fs::read_to_string(folder.path().join("out.jsonl")).expect("scores");
    let scored: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(scored.len(), 2);
    let list = |value: &Value| -> Vec<f64> {
        let all = value.as_array().expect("a list").iter();
        all.map(|v| v.as_f64().expect("a number")).collect()
    };
    let (all, part) = (list(&scored[0]["logprobs"]), list(&scored[1]["logprobs"]));
    assert_eq!(scored[0]["tokens"], json!(tokens[1..]));
    assert_eq!(all.len(), tokens.len() - 1);
    // Log-probability = logit − logsumexp: the sums are transformers', the logits the library's, which another test holds
    // to transformers' own.
    let mut batch = atp_pipeline::model::Packed::new();
    batch.root(&tokens);
    let logits = tch::no_grad(|| {
        smollm2()
            .hidden(&batch, None)
            .linear(smollm2().head(), None::<&Tensor>)
    });
    let next = Tensor::from_slice(
        &tokens[1..]
            .iter()
            .map(|&t| i64::from(t))
            .collect::<Vec<_>>(),
    );
    let chosen = logits
        .narrow(0, 0, all.len() as i64)
        .gather(1, &next.unsqueeze(1), false)
        .squeeze_dim(1);
    let exact = chosen - expected["logsumexp"].narrow(0, 0, all.len() as i64);
    let exact = Vec::<f64>::try_from(exact.to_kind(Kind::Double)).expect("numbers");
    for (place, (got, exact)) in all.iter().zip(&exact).enumerate() {
        assert!((got - exact).abs() < 1e-3, "{place}: {got} and {exact}");
    }
    let tail = &all[all.len() - part.len()..];
    for (got, expected) in part.iter().zip(tail) {
        assert!((got - expected).abs() < 1e-4, "{part:?} and {tail:?}");
    }
    let sum = scored[0]["sum"].as_f64().expect("a number");
    assert!((sum - all.iter().sum::<f64>()).abs() < 1e-3);
}

#[test]
fn greedy_samples_are_always_the_same() {
    let folder = workplace();
    let sample = || {
        let arguments = [
            "sample",
            "--json",
            "--temperature",
            "0",
            "--max-new-tokens",
            "12",
        ];
        call(
            folder.path(),
            &[&arguments[..], &["Name three colours."]].concat(),
        )
        .json()
    };
    let first = sample();
    assert!(!first["text"].as_str().expect("a text").is_empty());
    assert!(
        first["completion_tokens"]
            .as_u64()
            .is_some_and(|n| (1..=12).contains(&n))
    );
    assert_eq!(sample(), first);
}

#[test]
fn commands_work_as_typed() {
    let folder = workplace();
    let at = folder.path();
    let doctor = call(at, &["doctor", "--json"]).json();
    let found: Vec<_> = doctor.as_array().expect("a list").iter().collect();
    assert!(
        found
            .iter()
            .any(|f| f["what"] == "model" && f["level"] == "good"),
        "{doctor}"
    );
    let train = call(
        at,
        &["train", "--method", "grpo", "--lr", "5e-6", "--dry-run"],
    );
    assert_eq!(train.code, Some(0), "{}", train.err);
    assert!(train.out.contains("train-grpo  would run"), "{}", train.out);
    assert!(!at.join("runs").exists(), "a dry run leaves nothing");
    let help = call(at, &["--help"]);
    assert_eq!(help.code, Some(0));
    for command in [
        "run", "status", "generate", "pairs", "train", "evaluate", "report", "scenario", "data",
        "sample", "score", "bench", "doctor",
    ] {
        assert!(help.out.contains(&format!("  {command} ")), "{command}");
        let help = call(at, &[command, "--help"]);
        assert_eq!((help.code, help.err.as_str()), (Some(0), ""), "{command}");
        assert!(help.out.contains("Usage: atp-pipeline"), "{command}");
    }
    // Every recipe of the program is a valid one.
    for entry in fs::read_dir(repository("recipes")).expect("a folder") {
        let name = entry.expect("an entry").file_name();
        let name = name.to_string_lossy();
        let recipe = name.trim_end_matches(".toml");
        // Also where its model would have to be fetched first.
        let plan = call(at, &["run", recipe, "--dry-run"]);
        assert_eq!(plan.code, Some(0), "{recipe}: {}", plan.err);
        assert!(plan.out.contains("would run"), "{recipe}: {}", plan.out);
    }
}

#[test]
fn the_adapter_goes_where_train_is_told() {
    let run = finished();
    let folder = workplace();
    let run_dir = run.run();
    let arguments = ["train", "tiny.toml", "--method", "dpo", "--run-dir"];
    let tail = [run_dir.to_str().expect("UTF-8"), "--out", "mine/adapter"];
    let ended = call(folder.path(), &[&arguments[..], &tail].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert_eq!(
        files(&folder.path().join("mine/adapter")),
        files(&run_dir.join("latest/train-dpo/adapter"))
    );
    let other = [tail[0], "--out", "environments"];
    refused(
        folder.path(),
        &[&arguments[..], &other].concat(),
        &["environments: expected nothing there, an empty folder or an adapter"],
    );
}

#[test]
fn a_dry_run_of_training_copies_nothing() {
    let run = finished();
    let folder = workplace();
    let run_dir = run.run();
    let arguments = ["train", "tiny.toml", "--method", "dpo", "--run-dir"];
    let run_dir = run_dir.to_str().expect("UTF-8");
    // Trained, and not yet trained.
    for run_dir in [run_dir, "nothing"] {
        let tail = [run_dir, "--out", "mine/adapter", "--dry-run"];
        let ended = call(folder.path(), &[&arguments[..], &tail].concat());
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        assert!(!ended.out.contains("adapter:"), "{}", ended.out);
        assert!(!folder.path().join("mine").exists());
    }
}

#[test]
fn a_reader_that_goes_away_is_no_fault() {
    let folder = workplace();
    let mut child = program(folder.path(), &["doctor"])
        .spawn()
        .expect("a process");
    drop(child.stdout.take());
    let mut err = String::new();
    let mut stderr = child.stderr.take().expect("a pipe");
    stderr.read_to_string(&mut err).expect("UTF-8");
    let ended = child.wait().expect("an end");
    assert_eq!((ended.code(), err.as_str()), (Some(0), ""));
}

/// How a command ended is told all the same.
#[test]
fn a_failure_is_told_to_a_reader_that_went_away() {
    let folder = workplace();
    let bad = "extends = \"smoke\"\n[models.m]\nsource = \"nowhere\"\n";
    fs::write(folder.path().join("bad.toml"), bad).expect("a recipe");
    fs::write(folder.path().join("worse.toml"), "nonsense = 1\n").expect("a recipe");
    for (arguments, told) in [
        (&["recipe", "check", "worse.toml"][..], ""),
        (&["evaluate", "bad.toml"], "nowhere"),
    ] {
        let mut child = program(folder.path(), arguments)
            .spawn()
            .expect("a process");
        drop(child.stdout.take());
        let ended = Ended::from(child.wait_with_output().expect("an end"));
        assert_eq!(ended.code, Some(1), "{arguments:?}: {}", ended.err);
        assert!(ended.err.contains(told), "{arguments:?}: {}", ended.err);
    }
}

#[test]
fn standard_output_that_takes_nothing_is_told() {
    let full = fs::File::options().write(true).open("/dev/full");
    let ended = program(workplace().path(), &["doctor"])
        .stdout(full.expect("Linux has it"))
        .output()
        .expect("a process");
    let err = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{err}");
    assert!(
        err.starts_with("error: cannot write to standard output: No space left"),
        "{err}"
    );
}

/// Before the first is trained, not after the last.
#[test]
fn one_place_for_several_adapters_is_refused_at_once() {
    let folder = workplace();
    let train = ["train", "tiny.toml", "--method", "dpo", "--seed", "1,2"];
    refused(
        folder.path(),
        &[&train[..], &["--out", "mine"]].concat(),
        &["--out takes one adapter, this recipe trains 2: train-dpo"],
    );
    // Also where they are what another stage needs.
    refused(
        folder.path(),
        &[&train[..], &["--only", "report", "--out", "mine"]].concat(),
        &["--out takes one adapter, this recipe trains 2: train-dpo"],
    );
    assert!(!folder.path().join("mine").exists());
}
