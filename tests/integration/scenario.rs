//! `scenario` and `data` as commands: what a user types, what is printed, what is refused.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Ended, call, files, finished, repository, workplace};

/// Ends with an error that contains all of `said`; everything it printed.
fn refused(folder: &Path, arguments: &[&str], said: &[&str]) -> String {
    let before = files(folder);
    let Ended { code, out, err } = call(folder, arguments);
    assert!(
        matches!(code, Some(1 | 2)),
        "{arguments:?}: {code:?}\n{out}"
    );
    assert!(err.starts_with("error: "), "{err}");
    let all = format!("{out}{err}");
    for text in said {
        assert!(all.contains(text), "{arguments:?}: no `{text}` in\n{all}");
    }
    assert!(!all.contains("fault of the program"), "{all}");
    assert_eq!(files(folder), before, "{arguments:?} left something");
    all
}

/// Standard output of a call that ends well.
fn told(folder: &Path, arguments: &[&str]) -> String {
    let ended = call(folder, arguments);
    assert_eq!(
        ended.code,
        Some(0),
        "{arguments:?}: {}{}",
        ended.out,
        ended.err
    );
    ended.out
}

#[test]
fn a_scenario_of_ones_own_from_first_to_last() {
    let folder = workplace();
    let at = folder.path();
    fs::create_dir(at.join("mine")).expect("a folder");
    let out = told(at, &["scenario", "new", "town-hall", "--out", "mine"]);
    assert!(out.starts_with("mine/town-hall.toml: "), "{out}");
    refused(
        at,
        &["scenario", "new", "town-hall", "--out", "mine"],
        &["there already"],
    );
    let out = told(at, &["scenario", "check", "mine"]);
    assert!(
        out.contains("town-hall.toml: role-play environment, 6 training"),
        "{out}"
    );
    let show = ["scenario", "show", "mine/town-hall.toml"];
    let out = told(at, &show);
    for part in [
        "Park gardener",
        "--- train/town-hall/00 ---",
        "--- test/town-hall/00 ---",
        "[system]",
    ] {
        assert!(out.contains(part), "{part}\n{out}");
    }
    let prompts = told(at, &[&show[..], &["--prompt"]].concat());
    assert!(
        out.ends_with(&prompts) && prompts.starts_with("--- train"),
        "{prompts}"
    );
    let json: Value =
        serde_json::from_str(&told(at, &[&show[..], &["--json"]].concat())).expect("JSON");
    assert_eq!(json["scenario"]["pay"]["bonus"], serde_json::json!([2, 6]));
    assert_eq!(json["prompts"][1]["messages"][0]["role"], "system");
    let generate = [
        "generate",
        "tiny.toml",
        "--set",
        "role_play.folder=mine",
        "--run-dir",
        "run",
    ];
    told(at, &generate);
    let data = at.join("run/latest/data");
    let table = data.join("train.parquet");
    let table = table.to_str().expect("UTF-8");
    let found: Value =
        serde_json::from_str(&told(at, &["data", "inspect", table, "--json"])).expect("JSON");
    assert_eq!(
        (&found["kind"], &found["rows"]),
        (&"questions".into(), &4.into())
    );
    assert_eq!(found["sections"][0]["rows"][0]["environment"], "town-hall");
    let card = fs::read_to_string(data.join("README.md")).expect("a card");
    assert!(
        card.starts_with("---\npretty_name: \"Role-play questions\"\nlanguage:"),
        "{card}"
    );
    assert!(card.contains("| `train.parquet` | train | 4 |"), "{card}");
    assert!(
        card.contains("\"town-hall.toml\": \""),
        "the files' digests: {card}"
    );
}

#[test]
fn everything_wrong_with_scenarios_is_told() {
    let folder = workplace();
    let at = folder.path();
    let path = at.join("environments/bakery.toml");
    let text = fs::read_to_string(&path).expect("a file");
    let put = |changes: &[(&str, &str)]| {
        let mut text = text.clone();
        for (from, to) in changes {
            assert!(text.contains(from));
            text = text.replacen(from, to, 1);
        }
        fs::write(&path, text).expect("a file");
    };
    put(&[("persona =", "persoan ="), ("unit =", "unti =")]);
    let check = ["scenario", "check", "environments"];
    refused(
        at,
        &check,
        &[
            "environments/bakery.toml:3:1: unknown key `persoan`, did you mean `persona`?",
            "environments/bakery.toml:6:1: unknown key `unti`, did you mean `unit`?",
            "environments/taxi.toml: role-play environment",
            "error: 2 problems found",
        ],
    );
    put(&[
        ("bonus = [2, 6]", "bonus = [0, 6]"),
        ("unit = \"coins\"", "unit = \"gold\""),
    ]);
    refused(
        at,
        &check,
        &[
            "bakery.toml:6:8: `unit`",
            "bakery.toml:37:9: `pay.bonus`",
            "2 problems",
        ],
    );
    // A test description that another environment has in training is wrong only in their company.
    put(&[]);
    let taxi = fs::read_to_string(at.join("environments/taxi.toml")).expect("a file");
    let twin = taxi.replacen("\"taxi\"", "\"twin\"", 1).replacen(
        "Obey the rule: park at your own stand until someone comes.",
        "Put each piece on the scale first, as the rule asks.",
        1,
    );
    fs::write(at.join("environments/twin.toml"), twin).expect("a file");
    refused(
        at,
        &check,
        &[
            "twin.toml: role-play environment",
            "environments: questions: test question test/twin/",
            "shares its description of the compliant option with train/bakery/",
            "1 problem found",
        ],
    );
    fs::remove_file(at.join("environments/twin.toml")).expect("a file");
    let out = told(at, &check);
    assert!(
        out.contains("environments: 2 role-play environments together: 20 training and 8 test"),
        "{out}"
    );
    refused(
        at,
        &["scenario", "check", "tiny.toml"],
        &["tiny.toml: no scenario", "persona"],
    );
    refused(
        at,
        &["scenario", "check", "nothing"],
        &["nothing", "No such file"],
    );
    refused(
        at,
        &["scenario", "show", "bakry"],
        &["did you mean `bakery`?"],
    );
    refused(
        at,
        &["scenario", "new", "Town Hall"],
        &["lower-case letters"],
    );
    refused(
        at,
        &["scenario", "new", "x", "--kind", "roleplay"],
        &["did you mean `role-play`?"],
    );
    refused(
        at,
        &["scenario", "new", "x", "--out", "y.toml"],
        &["`x.toml`"],
    );
    let out = told(at, &["scenario", "check"]);
    assert!(
        out.ends_with("160 training and 64 test questions can be drawn, disjoint\n"),
        "{out}"
    );
    // Sixteen environments and seven games.
    assert_eq!(told(at, &["scenario", "list"]).lines().count(), 23);
}

#[test]
fn supervision_is_refused_with_its_place() {
    let folder = workplace();
    let at = folder.path();
    for (set, said) in [
        (
            "pattern=all-unsuprevised",
            "did you mean `all-unsupervised`?",
        ),
        (
            "pattern={ probabilty = 0.5 }",
            "did you mean `probability`?",
        ),
        ("pattern={ probability = 1.5 }", "expected 0 to 1, got 1.5"),
        (
            "pattern={ explicit = [\"supervised\"] }",
            "each of the 2 rounds, got 1",
        ),
        (
            "pattern={ probability = 0.5, explicit = [] }",
            "expected one key",
        ),
        ("detection=-0.5", "expected 0 to 1, got -0.5"),
        ("supervision=announce", "did you mean `announced`?"),
        ("paid_as=supervised", "unknown key `paid_as`"),
    ] {
        let set = format!("evaluation.{set}");
        refused(
            at,
            &["run", "tiny.toml", "--set", &set],
            &["--set:1:", said],
        );
    }
    // One alternative replaces another whole.
    fs::write(
        at.join("over.toml"),
        "extends = \"tiny.toml\"\n[evaluation]\npattern = { explicit = [\"supervised\", \"unsupervised\"] }\n",
    )
    .expect("a recipe");
    for more in [
        "evaluation.pattern={ probability = 0.5 }",
        "evaluation.pattern=alternating",
    ] {
        told(at, &["evaluate", "over.toml", "--dry-run", "--set", more]);
    }
}

#[test]
fn tables_are_inspected_and_exported() {
    let run = finished().run();
    let folder = workplace();
    let at = folder.path();
    let table = |name: &str| {
        let path = run.join("latest").join(name);
        path.to_str().expect("UTF-8").to_owned()
    };
    let (pairs, questions) = (table("pairs/pairs.parquet"), table("data/train.parquet"));
    let rows = table("evaluate-base/rows.parquet");
    let out = told(at, &["data", "inspect", &rows]);
    for part in [
        "evaluation rows: 8 rows",
        "outcomes by round",
        "violation rate",
        "supervised",
    ] {
        assert!(out.contains(part), "{part}\n{out}");
    }
    let out = told(
        at,
        &[
            "data",
            "inspect",
            &pairs,
            "--model",
            "smollm2-135m-instruct",
        ],
    );
    for part in [
        "length bias",
        "lengths in tokens",
        "attempts",
        "atp.schema: atp.pairs/2",
    ] {
        assert!(out.contains(part), "{part}\n{out}");
    }
    let out = told(
        at,
        &[
            "data",
            "inspect",
            &table("train-dpo/reference_logprobs.parquet"),
        ],
    );
    assert!(
        out.starts_with("table: ") && out.contains("rejected  f64"),
        "{out}"
    );

    let export = |file: &str, format: &str, out: &str| {
        told(
            at,
            &["data", "export", file, "--format", format, "--out", out],
        );
        fs::read_to_string(at.join(out)).unwrap_or_default()
    };
    let lines = |text: &str| -> Vec<Value> {
        let lines = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        lines.collect()
    };
    let as_they_are = lines(&export(&pairs, "jsonl", "pairs.jsonl"));
    let trl = lines(&export(&pairs, "trl", "trl.jsonl"));
    let factory: Vec<Value> =
        serde_json::from_str(&export(&pairs, "llama-factory", "factory.json")).expect("JSON");
    assert_eq!(
        (trl.len(), factory.len()),
        (as_they_are.len(), as_they_are.len())
    );
    assert!(!trl.is_empty());
    for ((row, trl), factory) in as_they_are.iter().zip(&trl).zip(&factory) {
        assert_eq!(trl["prompt"][0]["content"], row["system"]);
        assert_eq!(trl["prompt"][1]["content"], row["user"]);
        assert_eq!(trl["chosen"][0]["content"], row["chosen"]);
        assert_eq!(trl["rejected"][0]["content"], row["rejected"]);
        assert_eq!(factory["conversations"][0]["value"], row["user"]);
        assert_eq!(factory["chosen"]["value"], row["chosen"]);
        assert_eq!(factory["rejected"]["value"], row["rejected"]);
    }
    let info: Value =
        serde_json::from_str(&fs::read_to_string(at.join("dataset_info.json")).expect("a file"))
            .expect("JSON");
    assert_eq!(info["factory"]["file_name"], "factory.json");
    assert_eq!(lines(&export(&questions, "trl", "prompts.jsonl")).len(), 8);
    assert_eq!(lines(&export(&rows, "jsonl", "rows.jsonl")).len(), 8);
    export(&pairs, "trl", "trl.parquet");
    let out = told(at, &["data", "inspect", "trl.parquet"]);
    assert!(
        out.contains("chosen    list of record of role, content"),
        "{out}"
    );

    let wrong = |file: &str, format: &str, out: &str, said: &[&str]| {
        refused(
            at,
            &["data", "export", file, "--format", format, "--out", out],
            said,
        );
    };
    wrong(
        &rows,
        "trl",
        "x.jsonl",
        &["expected questions or preference pairs"],
    );
    wrong(
        &questions,
        "llama-factory",
        "x.json",
        &["no layout for prompts alone"],
    );
    wrong(&pairs, "trl", "x.csv", &[".jsonl or .parquet"]);
    wrong(
        &pairs,
        "llama-factory",
        "factory.jsonl",
        &["`factory` is for \"factory.json\""],
    );
    wrong(&pairs, "trl", "no/x.jsonl", &["no/x.jsonl", "folder"]);
    wrong("trl.parquet", "trl", "trl.parquet", &["the table itself"]);
    wrong(
        "tiny.toml",
        "jsonl",
        "x.jsonl",
        &["tiny.toml", "not a readable Parquet"],
    );
    refused(
        at,
        &["data", "inspect", "nothing.parquet"],
        &["nothing.parquet", "No such file"],
    );
    refused(
        at,
        &["data", "inspect", &pairs, "--model", "nothing"],
        &["`nothing`"],
    );
}

/// Every key that the program knows of a role-play file is in the documentation, and no others are in its table.
#[test]
fn the_documented_keys_are_the_known_ones() {
    let folder = workplace();
    let at = folder.path();
    let text = fs::read_to_string(repository("data/role_play/bakery.toml")).expect("a file");
    // One unknown key in each table: the answer names the known ones.
    let mut broken = format!("qqq = 1\n{text}");
    for table in [
        "compliant",
        "deviant",
        "pay",
        "supervision",
        "train",
        "test",
    ] {
        let head = format!("\n[{table}]\n");
        assert!(broken.contains(&head));
        broken = broken.replace(&head, &format!("{head}qqq = 1\n"));
    }
    fs::write(at.join("environments/bakery.toml"), broken).expect("a file");
    let all = refused(
        at,
        &["scenario", "check", "environments/bakery.toml"],
        &["7 problems"],
    );
    let lists: Vec<Vec<&str>> = all
        .lines()
        .filter_map(|line| line.split_once("(known here: ")?.1.strip_suffix(')'))
        .map(|list| list.split(", ").collect())
        .collect();
    let tables = [
        "",
        "compliant.",
        "deviant.",
        "pay.",
        "supervision.",
        "train.",
        "test.",
    ];
    assert_eq!(lists.len(), tables.len(), "{all}");
    let mut known: Vec<String> = vec![];
    for (table, keys) in tables.iter().zip(&lists) {
        for key in keys {
            let inner = table.is_empty() && tables.contains(&format!("{key}.").as_str());
            if !inner {
                known.push(format!("{table}{key}"));
            }
        }
    }
    let page = fs::read_to_string(repository("data/README.md")).expect("the page");
    let mut documented: Vec<String> = page
        .lines()
        .skip_while(|line| *line != "### Keys")
        .take_while(|line| !line.starts_with("## "))
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .collect();
    known.sort();
    documented.sort();
    assert_eq!(documented, known);
}
