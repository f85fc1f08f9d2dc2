//! Prompts made again from rows are those that were put; two runs compared, and logs for inspect_ai, by the program.

use std::fs;
use std::path::Path;

use atp_pipeline::agent::model::text_codec;
use atp_pipeline::stages::evaluations::{Rows, evaluations};
use atp_pipeline::text::RenderOptions;
use serde_json::Value;

use crate::support::{call, finished, smollm2_path};

/// Every prompt of every evaluation of a run has as many tokens as were counted when it was put; the number of prompts.
pub fn check_prompts(run: &Path, model: &Path) -> usize {
    let codec = text_codec(model).expect("a tokenizer");
    let mut checked = 0;
    for evaluated in evaluations(run).expect("evaluations") {
        let rows = evaluated.rows().expect("rows");
        let counted: Vec<u32> = match &rows {
            Rows::RolePlay(rows) => rows.iter().map(|r| r.prompt_tokens).collect(),
            Rows::Coordination(rows) => rows.iter().map(|r| r.prompt_tokens).collect(),
            Rows::ToolUse(rows) => rows.iter().map(|r| r.prompt_tokens).collect(),
        };
        let questions = run.join(&evaluated.questions);
        let mut seen = vec![false; rows.len()];
        let mut each = |place: usize, messages: &[_]| {
            let ids = codec
                .encode_chat(messages, &RenderOptions::prompt())
                .expect("ids");
            let (stage, wanted) = (&evaluated.stage, counted[place]);
            assert_eq!(
                ids.len() as u32,
                wanted,
                "{stage}, row {place}: {messages:?}"
            );
            assert!(!seen[place], "{stage}, row {place} twice");
            seen[place] = true;
            checked += 1;
        };
        evaluated
            .prompts(&questions, &rows, &mut each)
            .expect("prompts");
    }
    checked
}

#[test]
fn prompts_of_role_play_come_back_token_for_token() {
    let checked = check_prompts(&finished().run(), &smollm2_path());
    // Four questions, two rounds, three variants.
    assert_eq!(checked, 24);
}

#[test]
fn a_run_is_compared_and_what_is_no_run_is_refused() {
    let folder = finished().folder();
    let page = tempfile::tempdir().expect("a folder");
    let html = page.path().join("both.html");
    let html = html.to_str().expect("a path");
    let same = call(folder, &["compare", "run", "run", "--json", "--html", html]);
    assert_eq!(same.code, Some(0), "{}", same.err);
    let found: Value = serde_json::from_str(&same.out).expect("JSON");
    let lines = found["lines"].as_array().expect("lines");
    // Three variants, two rounds and the change between them.
    assert_eq!(lines.len(), 9);
    assert!(
        lines
            .iter()
            .all(|l| l["paired"] == true && l["difference"]["value"] == 0.0)
    );
    assert_eq!(found["same_test_set"]["role-play"], true);
    let written = fs::read_to_string(html).expect("a page");
    assert!(written.contains("Violation rate") && written.contains("<svg class=\"chart\""));
    let text = call(folder, &["compare", "run", "run"]);
    assert!(
        text.out
            .contains("0 of 9 differences can be told from none"),
        "{}",
        text.out
    );
    for (other, said) in [
        ("nowhere", "expected a run directory, got nothing there"),
        ("tiny.toml", "expected a run directory, got a file"),
        ("environments", "this folder has no `stages`"),
    ] {
        let refused = call(folder, &["compare", "run", other]);
        assert_eq!(refused.code, Some(1), "{}", refused.out);
        assert!(refused.err.contains(said), "{}", refused.err);
    }
}

#[test]
fn rows_become_a_log_of_inspect_ai_and_other_tables_do_not() {
    let folder = finished().folder();
    let out = tempfile::tempdir().expect("a folder");
    let path = out.path().join("log.json");
    let path = path.to_str().expect("a path");
    let export = |table: &str| {
        call(
            folder,
            &[
                "data", "export", table, "--format", "inspect", "--out", path,
            ],
        )
    };
    let made = export("run/latest/evaluate-dpo/rows.parquet");
    assert_eq!(made.code, Some(0), "{}", made.err);
    let log: Value = serde_json::from_slice(&fs::read(path).expect("a log")).expect("JSON");
    let samples = log["samples"].as_array().expect("samples");
    assert_eq!(samples.len(), 8);
    for sample in samples {
        let history = sample["input"][1]["content"].as_str().expect("a turn");
        let told = history.lines().filter(|l| l.starts_with("Round ")).count() as u64;
        assert_eq!(Some(told + 1), sample["epoch"].as_u64(), "{history}");
    }
    let refused = export("run/latest/data/test.parquet");
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.err.contains("no manifest of a finished evaluation"),
        "{}",
        refused.err
    );
}
