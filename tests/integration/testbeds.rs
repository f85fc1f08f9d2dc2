//! Coordination games and tool usage through the program itself, from data to report, with a model of two layers and
//! random weights; killed on the way, they end with the same bytes. And the sets have the paper's sizes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use atp_pipeline::artifact::table::read_parquet;
use atp_pipeline::datasets::{games, pairs, problems, questions};
use atp_pipeline::evaluation::coordination_row::{GAME_ROWS_FILE, GameRow};
use atp_pipeline::evaluation::tool_row::{Solved, TOOL_ROWS_FILE, ToolRow};
use atp_pipeline::scenario::tool_use::Difficulty;
use tempfile::TempDir;

use crate::faults::disk::{self, Operation, Run, When, World};
use crate::replay::check_prompts;
use crate::support::{assert_same, call, files, repository, results};

const SMALL: &str = r#"
title = "Random weights in games and with tools"
testbeds = ["coordination", "tool_use"]
seeds = [3]

[models.random]
source = "model"

[generation]
elicitation = "score"

[pairs]
attempts = 2
template_fallback = true

[dpo]
epochs = 1
accumulation = 2
checkpoint_every = 1

[grpo]
epochs = 1
group = 2
prompts_per_step = 2
skip_zero_variance = false
checkpoint_every = 1

[coordination]
folder = "games"
[coordination.draw]
instances_per_game = 2
[coordination.evaluation]
rounds = 2
agents = 3
thresholds = [2]
populations = [[{ agents = 3, is = "subject" }], [{ agents = 1, is = "base" }, { agents = 2, is = "subject" }]]

[tool_use.problems]
train_simple = 2
train_complex = 2
test_simple = 2
test_complex = 2
[tool_use.evaluation]
rounds = 2
agents = 2
[tool_use.generation]
elicitation = "free"
max_new_tokens = 12
"#;

const STAGES: [&str; 15] = [
    "data.coordination",
    "pairs.coordination",
    "train-dpo.coordination",
    "train-grpo.coordination",
    "evaluate-base.coordination",
    "evaluate-dpo.coordination",
    "evaluate-grpo.coordination",
    "data.tool-use",
    "pairs.tool-use",
    "train-dpo.tool-use",
    "train-grpo.tool-use",
    "evaluate-base.tool-use",
    "evaluate-dpo.tool-use",
    "evaluate-grpo.tool-use",
    "report",
];

/// A workplace with the small recipe and two games.
fn workplace() -> TempDir {
    let folder = disk::workplace();
    let games = folder.path().join("games");
    fs::create_dir(&games).expect("a folder");
    for name in ["public-fund.toml", "price-alliance.toml"] {
        let from = repository("data/coordination").join(name);
        fs::copy(from, games.join(name)).expect("a game");
    }
    fs::write(folder.path().join("random.toml"), SMALL).expect("a recipe");
    folder
}

/// The stage of an operation on the disk.
fn stage_of(operation: &Operation) -> Option<&'static str> {
    let target = operation.target();
    STAGES
        .into_iter()
        .find(|stage| target.starts_with(&format!("stages/{stage}-")))
}

/// What the stages left, without the times in it.
fn left(run: &Path) -> BTreeMap<String, Vec<u8>> {
    results(run, &STAGES)
}

#[test]
fn games_and_tools_run_from_data_to_report_and_resume_to_the_same_bytes() {
    let folder = workplace();
    let whole = Run::at(folder.path(), folder.path().join("whole"));
    let ended = whole.finish();
    for stage in STAGES {
        let line = ended.out.lines().find(|l| l.starts_with(stage));
        assert!(
            line.is_some_and(|l| l.contains(" ran ")),
            "{stage}: {line:?}"
        );
    }
    let operations = whole.operations();
    let expected = left(&whole.path);
    check_rows(&whole.path);
    // Two games, two populations, three agents, two rounds; two agents, two rounds, two problems: for three variants.
    let prompts = check_prompts(&whole.path, &folder.path().join("model"));
    assert_eq!(prompts, 3 * (24 + 8));
    let report = fs::read_to_string(whole.path.join("latest/report/report.md")).expect("a report");
    for part in [
        "## Coordination games",
        "## Tool usage",
        "Collusion of random, base",
        "Tool called",
    ] {
        assert!(report.contains(part), "`{part}` is missing");
    }
    for file in ["collusion.csv", "tool-use.csv"] {
        assert!(expected.contains_key(&format!("report/{file}")), "{file}");
    }
    check_tables(folder.path());
    let again = whole.finish();
    assert!(
        again.out.contains("nothing to do: all 15 stages"),
        "{}",
        again.out
    );

    // Killed right after the first checkpoint of every kind.
    let kinds = [
        "pairs.tool-use",
        "train-dpo.tool-use",
        "train-grpo.tool-use",
        "evaluate-dpo.tool-use",
        "train-grpo.coordination",
        "evaluate-grpo.coordination",
    ];
    let mut killed = BTreeSet::new();
    for operation in operations.iter().filter(|o| o.number > 0) {
        let Some(stage) = stage_of(operation) else {
            continue;
        };
        let checkpoint = operation.name == "rename" && operation.target().contains("/step-");
        if !checkpoint || !kinds.contains(&stage) || !killed.insert(stage) {
            continue;
        }
        let run = Run::at(folder.path(), folder.path().join("killed"));
        let kill = World {
            kill: Some((operation.number, When::After)),
            ..World::default()
        };
        assert_eq!(run.go(&kill).code, None, "{stage} was not killed");
        let resumed = run.finish();
        assert!(
            resumed.out.contains("up to date"),
            "{stage}: {}",
            resumed.out
        );
        assert_same(&left(&run.path), &expected);
        for name in files(&run.path).keys() {
            let unfinished = ["checkpoints/", "started.json", ".atp-tmp-"];
            assert!(
                !unfinished.iter().any(|part| name.contains(part)),
                "{name} is left"
            );
        }
    }
    assert_eq!(killed.len(), kinds.len(), "{killed:?}");
}

/// Games, problems and pairs are inspected and exported.
fn check_tables(folder: &Path) {
    let latest = "whole/latest";
    for (table, said, prompts) in [
        ("data.coordination/train.parquet", "agents and threshold", 4),
        ("data.tool-use/test.parquet", "families", 4),
        ("pairs.tool-use/pairs.parquet", "length bias", 4),
    ] {
        let table = format!("{latest}/{table}");
        let found = call(folder, &["data", "inspect", &table]);
        assert_eq!(found.code, Some(0), "{}", found.err);
        assert!(found.out.contains(said), "{table}: {}", found.out);
        let out = ["--format", "trl", "--out", "export.jsonl"];
        let made = call(folder, &[&["data", "export", &table], &out[..]].concat());
        assert_eq!(made.code, Some(0), "{}", made.err);
        let lines = fs::read_to_string(folder.join("export.jsonl")).expect("lines");
        assert_eq!(lines.lines().count(), prompts, "{table}");
        assert!(
            lines
                .lines()
                .all(|l| l.starts_with("{\"prompt\":[{\"role\":\"system\""))
        );
    }
}

/// Rows of every variant: as many as there are decisions, with what follows from the rules.
fn check_rows(run: &Path) {
    for variant in ["base", "dpo", "grpo"] {
        let folder = run.join(format!("latest/evaluate-{variant}.coordination"));
        let rows: Vec<GameRow> = read_parquet(&folder.join(GAME_ROWS_FILE)).expect("rows");
        // Two games, two populations, three agents, two rounds.
        assert_eq!(rows.len(), 24, "{variant}");
        assert!(
            rows.iter()
                .all(|r| r.variant == variant && r.error.is_none())
        );
        assert!(rows.iter().all(|r| r.success == (r.colluders >= r.t)));
        let folder = run.join(format!("latest/evaluate-{variant}.tool-use"));
        let rows: Vec<ToolRow> = read_parquet(&folder.join(TOOL_ROWS_FILE)).expect("rows");
        // Two rounds, a simple and a complex problem, two agents.
        assert_eq!(rows.len(), 8, "{variant}");
        assert!(rows.iter().all(|r| r.solved != Solved::Failed), "{rows:?}");
        for round in [1, 2] {
            let complex = rows
                .iter()
                .filter(|r| r.round == round && r.difficulty == Difficulty::Complex);
            let problems: BTreeSet<&str> = complex.map(|r| r.problem_id.as_str()).collect();
            assert_eq!(problems.len(), 2, "each agent has its own problem");
        }
    }
}

#[test]
fn the_sets_have_the_papers_sizes() {
    let folder = disk::workplace();
    let recipe = r#"
testbeds = ["role_play", "coordination", "tool_use"]
variants = ["dpo"]
[models.random]
source = "model"
[generation]
elicitation = "score"
[tool_use.generation]
elicitation = "free"
max_new_tokens = 4
[tool_use.pairs]
attempts = 20
"#;
    fs::write(folder.path().join("sizes.toml"), recipe).expect("a recipe");
    let only = ["--only", "data.role-play", "--only", "data.coordination"];
    let only = [&only[..], &["--only", "pairs.tool-use"]].concat();
    let run = ["run", "sizes.toml", "--run-dir", "run"];
    let ended = call(folder.path(), &[&run[..], &only].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let latest = folder.path().join("run/latest");
    let sizes = |stage: &str, file: &str| latest.join(stage).join(file);
    let questions = |file| questions::read(&sizes("data.role-play", file)).expect("questions");
    assert_eq!(questions("train.parquet").len(), 160);
    assert_eq!(questions("test.parquet").len(), 64);
    let games = |file| games::read(&sizes("data.coordination", file)).expect("games");
    assert_eq!(games("train.parquet").len(), 350);
    // Seven games at four thresholds.
    assert_eq!(games("test.parquet").len(), 28);
    let problems = |file| problems::read(&sizes("data.tool-use", file)).expect("problems");
    let of = |file, difficulty| {
        let all = problems(file);
        all.iter().filter(|p| p.difficulty == difficulty).count()
    };
    assert_eq!(of("test.parquet", Difficulty::Simple), 500);
    assert_eq!(of("test.parquet", Difficulty::Complex), 300);
    assert_eq!(problems("train.parquet").len(), 2000);
    let pairs = pairs::read(&sizes("pairs.tool-use", "pairs.parquet")).expect("pairs");
    assert_eq!(pairs.len(), 2000);
    let with_results = pairs.iter().filter(|p| p.chosen.contains("\n<result>\n"));
    assert_eq!(with_results.count(), 2000);
}
