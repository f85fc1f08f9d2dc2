//! The program itself, from data to report, on the real small model and two environments.

use std::collections::BTreeSet;
use std::fs;

use atp_pipeline::evaluation::rounds::read_rows;
use atp_pipeline::model::Adapter;
use atp_pipeline::scenario::Outcome;
use serde_json::{Value, json};
use tch::Device;

use crate::support::{
    TINY_STAGES, assert_same, call, files, finished, heavy, results, smollm2, workplace,
};

const TRAIN_QUESTIONS: usize = 8;
const TEST_QUESTIONS: usize = 4;
const ROUNDS: u32 = 2;
const RUN: [&str; 4] = ["run", "tiny.toml", "--run-dir", "run"];

/// The stages of a summary in JSON, as `(name, state, reasons)`.
fn states(summary: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let stages = summary["stages"].as_array().expect("stages");
    let reasons = |stage: &Value| {
        let reasons = stage["reasons"].as_array().expect("reasons");
        reasons.iter().map(text).collect::<Vec<_>>().join("; ")
    };
    stages
        .iter()
        .map(|stage| (text(&stage["name"]), text(&stage["state"]), reasons(stage)))
        .collect()
}

/// Names of the stages in this state.
fn in_state(summary: &Value, wanted: &str) -> Vec<String> {
    states(summary)
        .into_iter()
        .filter(|(_, state, _)| state == wanted)
        .map(|(name, _, _)| name)
        .collect()
}

#[test]
fn a_first_run_does_everything_and_a_second_one_nothing() {
    let first = finished();
    for stage in TINY_STAGES {
        let line = first.ended.out.lines().find(|l| l.starts_with(stage));
        assert!(
            line.is_some_and(|l| l.contains(" ran ") && l.contains("(never run)")),
            "{stage}: {line:?}"
        );
    }
    let before = files(&first.run());
    let second = call(first.folder(), &RUN);
    assert_eq!(second.code, Some(0), "{}", second.err);
    assert!(
        second
            .out
            .contains("nothing to do: all 8 stages in `run` are up to date"),
        "{}",
        second.out
    );
    assert_same(&files(&first.run()), &before);
    let status = call(first.folder(), &["status", "run", "--json"]).json();
    let stages = status["stages"].as_array().expect("stages");
    assert_eq!(stages.len(), TINY_STAGES.len());
    for stage in stages {
        assert_eq!(
            (&stage["state"], &stage["latest"]),
            (&json!("finished"), &json!(true)),
            "{stage}"
        );
    }
    assert_eq!(status["holder"], Value::Null);
}

#[test]
fn a_dry_run_names_what_a_changed_key_touches_and_nothing_else() {
    let run = finished();
    let before = files(&run.run());
    let dry = |set: &str| {
        let arguments = [&RUN[..], &["--dry-run", "--json", "--set", set]].concat();
        call(run.folder(), &arguments).json()
    };
    let summary = dry("evaluation.rounds=3");
    let evaluations = ["evaluate-base", "evaluate-dpo", "evaluate-grpo"];
    assert_eq!(
        in_state(&summary, "up-to-date"),
        ["data", "pairs", "train-dpo", "train-grpo"]
    );
    for (name, state, reasons) in states(&summary).into_iter().skip(4) {
        assert_eq!(state, "would-run", "{name}");
        if evaluations.contains(&name.as_str()) {
            assert_eq!(reasons, "config key `evaluation.rounds` changed: 2 → 3");
        } else {
            for input in evaluations {
                assert!(
                    reasons.contains(&format!("input `{input}` may change")),
                    "{reasons}"
                );
            }
        }
    }
    let summary = dry("dpo.optim.lr=1e-4");
    assert_eq!(
        in_state(&summary, "up-to-date"),
        [
            "data",
            "pairs",
            "train-grpo",
            "evaluate-base",
            "evaluate-grpo"
        ]
    );
    // A changed rate changes nothing about how long it takes.
    let seconds = summary["stages"][2]["estimated_seconds"].as_f64();
    let off = seconds.expect("a time") - run.seconds("train-dpo");
    assert!(off.abs() < 1e-6, "{off}");
    let train = states(&summary).swap_remove(2);
    assert_eq!(
        (train.0.as_str(), train.1.as_str()),
        ("train-dpo", "would-run")
    );
    assert_eq!(
        train.2,
        "config key `dpo.optim.lr` changed: 0.0004 → 0.0001"
    );
    assert_eq!(in_state(&summary, "may-run"), ["evaluate-dpo"]);
    assert_same(&files(&run.run()), &before);
}

#[test]
fn rows_and_metrics_have_a_line_for_each_decision_and_step() {
    let run = finished();
    let latest = run.run().join("latest");
    for variant in ["base", "dpo", "grpo"] {
        let path = latest.join(format!("evaluate-{variant}/rows.parquet"));
        let rows = read_rows(&path).expect("rows");
        assert_eq!(rows.len(), TEST_QUESTIONS * ROUNDS as usize, "{variant}");
        let decisions: BTreeSet<_> = rows
            .iter()
            .map(|row| (row.round, &row.question_id))
            .collect();
        assert_eq!(decisions.len(), rows.len(), "each decision once");
        for row in &rows {
            assert_eq!(row.variant, variant);
            assert!((1..=ROUNDS).contains(&row.round));
            // Options are scored: every answer can be read.
            let valid = matches!(row.outcome, Outcome::Compliant | Outcome::Deviant);
            assert!(valid && row.error.is_none(), "{row:?}");
            assert!(
                row.deviant_probability.is_some_and(|p| p > 0.0 && p < 1.0),
                "{row:?}"
            );
        }
        let longest = |round| {
            let of_round = rows.iter().filter(|row| row.round == round);
            of_round.map(|row| row.prompt_tokens).max()
        };
        assert!(longest(2) > longest(1), "round 2 shows what was before");
    }
    for (stage, steps) in [
        ("train-dpo", TRAIN_QUESTIONS / 2),
        ("train-grpo", TRAIN_QUESTIONS / 2),
    ] {
        let text = fs::read_to_string(latest.join(stage).join("metrics.jsonl")).expect("metrics");
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let numbers: Vec<_> = lines.iter().map(|line| line["step"].clone()).collect();
        let expected: Vec<_> = (1..=steps).map(|step| json!(step)).collect();
        assert_eq!(numbers, expected, "{stage}");
        for line in &lines {
            for key in ["loss", "grad_norm", "lr"] {
                assert!(line[key].is_f64(), "{stage}: {line}");
            }
        }
    }
    let samples = fs::read_to_string(latest.join("train-grpo/samples.jsonl")).expect("samples");
    // The first group of each step, four completions each.
    assert_eq!(samples.lines().count(), TRAIN_QUESTIONS / 2 * 4);
}

#[test]
fn adapters_load_and_change_scores() {
    let run = finished();
    let folder = workplace();
    let line = json!({"prompt": "The rule says to weigh every piece. I will", "completion": " follow the rule."});
    fs::write(folder.path().join("in.jsonl"), format!("{line}\n")).expect("a file");
    let score = |out: &str, adapter: Option<&str>| -> Vec<f64> {
        let mut arguments = vec!["score", "--in", "in.jsonl", "--out", out];
        arguments.extend(adapter.iter().flat_map(|a| ["--adapter", a]));
        let ended = call(folder.path(), &arguments);
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        let text = fs::read_to_string(folder.path().join(out)).expect("scores");
        let scored: Value = serde_json::from_str(&text).expect("JSON");
        let logprobs = scored["logprobs"].as_array().expect("a list");
        logprobs
            .iter()
            .map(|l| l.as_f64().expect("a number"))
            .collect()
    };
    let without = score("base.jsonl", None);
    assert!(without.iter().all(|l| l.is_finite() && *l < 0.0));
    for stage in ["train-dpo", "train-grpo"] {
        let path = run.run().join("latest").join(stage).join("adapter");
        let adapter =
            Adapter::load(&path, smollm2().config(), Device::Cpu).expect("a loadable adapter");
        let moved = adapter
            .named()
            .iter()
            .filter(|(name, _)| name.contains("lora_B"))
            .all(|(_, b)| b.abs().max().double_value(&[]) > 0.0);
        assert!(moved, "{stage}: a B that is still zero");
        let with = score(&format!("{stage}.jsonl"), path.to_str());
        assert_eq!(with.len(), without.len());
        let change = with
            .iter()
            .zip(&without)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        assert!(
            change > 1e-4 && change < 5.0,
            "{stage}: {without:?} became {with:?}"
        );
    }
}

#[test]
fn the_report_says_what_a_small_model_is_good_for() {
    let run = finished();
    let report = files(&run.run().join("latest/report"));
    let names: Vec<_> = report.keys().map(String::as_str).collect();
    for name in [
        "manifest.json",
        "rates.csv",
        "report.html",
        "report.md",
        "violation-rate.svg",
    ] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    let text = |name: &str| String::from_utf8(report[name].clone()).expect("UTF-8");
    let statement = "At that size these numbers are a check that the pipeline works";
    for name in ["report.html", "report.md"] {
        assert!(text(name).contains(statement), "{name}");
        assert!(
            text(name).contains("They are no finding about alignment"),
            "{name}"
        );
    }
    assert!(run.ended.err.contains(statement), "also on the terminal");
    assert!(
        !run.ended.err.contains("@media"),
        "no word of what is meant so: {}",
        run.ended.err
    );
    let html = text("report.html");
    assert!(html.contains("<svg"));
    for outside in ["src=\"http", "@import", "<link", "<script src"] {
        assert!(!html.contains(outside), "not self-contained: {outside}");
    }
    // One line a variant, model, seed and round, below the header.
    assert_eq!(text("rates.csv").lines().count(), 1 + 3 * ROUNDS as usize);
}

#[test]
fn two_runs_from_scratch_give_the_same_bytes() {
    let first = finished();
    let _turn = heavy();
    let folder = workplace();
    let second = call(folder.path(), &RUN);
    assert_eq!(second.code, Some(0), "{}", second.err);
    let run = folder.path().join("run");
    let got = results(&run, &TINY_STAGES);
    assert!(
        got.contains_key("train-grpo/adapter/adapter_model.safetensors")
            && got.contains_key("evaluate-grpo/rows.parquet")
            && got.contains_key("train-dpo/metrics.jsonl")
    );
    assert_same(&got, &results(&first.run(), &TINY_STAGES));
}
