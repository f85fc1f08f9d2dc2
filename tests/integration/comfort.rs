//! What makes the program pleasant: recipes begun, checked and explained; completions and manual; JSON; quiet; Ctrl-C;
//! status while a run goes on; how long it takes to say something.

use std::fs;
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bad_inputs::workplace;
use crate::support::{call, program, repository};

#[test]
fn a_recipe_is_begun_checked_and_explained() {
    let folder = workplace();
    let at = folder.path();
    let begun = call(at, &["recipe", "init", "mine.toml"]);
    assert_eq!(begun.code, Some(0), "{}", begun.err);
    let checked = call(at, &["recipe", "check", "mine.toml"]);
    assert_eq!(checked.code, Some(0), "{}", checked.err);
    assert!(
        checked
            .out
            .starts_with("mine.toml: valid, role_play; models smollm2-135m; "),
        "{}",
        checked.out
    );
    let all = call(at, &["recipe", "check", "--json"]).json();
    let recipes = fs::read_dir(repository("recipes"))
        .expect("a folder")
        .count();
    assert_eq!(all.as_array().expect("a list").len(), recipes);
    let bad = at.join("bad.toml");
    fs::write(&bad, "extends = \"mine.toml\"\n[dpo]\nbta = 1\n").expect("a file");
    let wrong = call(at, &["recipe", "check", "bad.toml", "--json"]);
    assert_eq!(wrong.code, Some(1));
    let wrong: Value = serde_json::from_str(&wrong.out).expect("JSON");
    assert_eq!(
        (&wrong[0]["error"]["line"], &wrong[0]["error"]["column"]),
        (&3.into(), &1.into())
    );
    let explained = call(
        at,
        &[
            "recipe",
            "explain",
            "mine.toml",
            "dpo",
            "seeds",
            "--set",
            "dpo.beta=0.2",
        ],
    );
    for line in [
        "dpo.beta = 0.2 ",
        "# --set\n",
        "# mine.toml:6\n",
        "laptop:24\n",
        "# default\n",
    ] {
        assert!(
            explained.out.contains(line),
            "no `{line}` in\n{}",
            explained.out
        );
    }
    assert!(!explained.out.contains("grpo."), "{}", explained.out);
    let data = call(
        at,
        &["recipe", "explain", "mine.toml", "dpo.beta", "--json"],
    )
    .json();
    assert_eq!(
        (&data[0]["value"], &data[0]["from"]),
        (&0.1.into(), &"default".into())
    );
    let lost = call(at, &["recipe", "explain", "mine.toml", "dpo.bta"]);
    assert!(
        lost.err
            .contains("no key `dpo.bta`, did you mean `dpo.beta`?"),
        "{}",
        lost.err
    );
}

#[test]
fn every_built_in_recipe_can_be_built_upon() {
    let folder = workplace();
    let at = folder.path();
    let list = call(at, &["recipe", "list", "--json"]).json();
    let names: Vec<&str> = list
        .as_array()
        .expect("a list")
        .iter()
        .map(|recipe| recipe["name"].as_str().expect("a name"))
        .collect();
    assert!(names.len() > 4, "{names:?}");
    for name in names {
        let file = format!("on-{name}.toml");
        let begun = call(at, &["recipe", "init", &file, "--from", name]);
        assert_eq!(begun.code, Some(0), "{}", begun.err);
        let checked = call(at, &["recipe", "check", &file]);
        assert_eq!(
            checked.code,
            Some(0),
            "{name}: {}{}",
            checked.out,
            checked.err
        );
    }
    // A file of one's own that has the name of one below.
    fs::write(at.join("laptop.toml"), "extends = \"smoke\"\n").expect("a file");
    let own = call(at, &["recipe", "explain", "laptop.toml", "--json"]);
    assert_eq!(own.code, Some(0), "{}", own.err);
    fs::write(at.join("bad.toml"), "extends = \"smok\"\n").expect("a file");
    let bad = call(at, &["recipe", "check", "bad.toml"]);
    assert!(bad.out.contains("did you mean `smoke`?"), "{}", bad.out);
}

#[test]
fn shells_and_the_manual_know_every_command() {
    let folder = workplace();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = call(folder.path(), &["completions", shell]).out;
        assert!(
            text.contains("atp-pipeline") && text.contains("keep-going"),
            "{shell}"
        );
    }
    let page = call(folder.path(), &["man"]).out;
    assert!(
        page.contains(".TH atp-pipeline 1") && page.contains("Exit codes"),
        "{page}"
    );
    fs::create_dir(folder.path().join("man1")).expect("a folder");
    let written = call(folder.path(), &["man", "--out", "man1"]);
    assert_eq!(written.code, Some(0), "{}", written.err);
    for page in [
        "atp-pipeline.1",
        "atp-pipeline-run.1",
        "atp-pipeline-recipe-explain.1",
    ] {
        assert!(folder.path().join("man1").join(page).is_file(), "{page}");
    }
}

#[test]
fn lists_and_checks_are_data_too() {
    let folder = workplace();
    let at = folder.path();
    let list = call(at, &["scenario", "list", "--json"]).json();
    assert!(
        list.as_array()
            .is_some_and(|all| all.iter().any(|s| s["name"] == "bakery")),
        "{list}"
    );
    let checked = call(at, &["scenario", "check", "environments", "--json"]).json();
    let valid = checked
        .as_array()
        .expect("a list")
        .iter()
        .filter(|f| f["valid"] == true)
        .count();
    assert_eq!(valid, 3, "two files, and both together: {checked}");
    fs::write(at.join("environments/taxi.toml"), "id = 3\n").expect("a file");
    let wrong = call(at, &["scenario", "check", "environments", "--json"]);
    assert_eq!(wrong.code, Some(1));
    let wrong: Value = serde_json::from_str(&wrong.out).expect("JSON");
    assert!(
        wrong
            .as_array()
            .is_some_and(|all| all.iter().any(|f| f["problem"].is_string())),
        "{wrong}"
    );
    let doctor = call(at, &["doctor", "--json"]).json();
    for finding in doctor.as_array().expect("a list") {
        assert!(
            finding["level"] != "fault" || finding["mend"].is_string(),
            "{finding}"
        );
    }
}

#[test]
fn what_is_written_is_told_as_data() {
    let folder = workplace();
    let at = folder.path();
    let told = |arguments: &[&str]| call(at, arguments).json();
    let begun = told(&["recipe", "init", "mine.toml", "--json"]);
    assert_eq!(begun["path"], "mine.toml");
    let begun = told(&["scenario", "new", "ferry", "--json"]);
    assert_eq!(
        (&begun["path"], &begun["kind"]),
        (&"ferry.toml".into(), &"role-play".into())
    );
    let slurm = [
        "submit",
        "random.toml",
        "--run-dir",
        "run",
        "--dry-run",
        "--json",
    ];
    let scripts = told(&slurm);
    for script in scripts.as_array().expect("a list") {
        assert!(
            script["file"].is_string()
                && script["text"].as_str().is_some_and(|t| t.starts_with("#!"))
        );
    }
    let data = call(at, &["generate", "random.toml", "--run-dir", "run"]);
    assert_eq!(data.code, Some(0), "{}", data.err);
    let questions = "run/latest/data/train.parquet";
    let to = ["--format", "trl", "--out", "prompts.jsonl", "--json"];
    let export = [&["data", "export", questions], &to[..]].concat();
    let written = told(&export);
    let lines = fs::read_to_string(at.join("prompts.jsonl")).expect("a table");
    assert_eq!(written[0]["rows"], lines.lines().count());
    let merged = ["--merged", "whole", "--json"];
    let export = [&["export", "--model", "model"], &merged[..]].concat();
    let written = told(&export);
    assert_eq!(
        (&written[0]["what"], &written[0]["path"]),
        (&"merged".into(), &"whole".into())
    );
    assert!(at.join("whole/config.json").is_file());
}

#[test]
fn a_dry_run_tells_what_it_takes_and_changes_nothing() {
    let folder = workplace();
    let plan = call(folder.path(), &["run", "random.toml", "--dry-run"]);
    assert_eq!(plan.code, Some(0), "{}", plan.err);
    for text in [
        "data           would run    (never run)\n",
        "tokens: at most ",
        "memory: `random` in fp32: weights ",
        "disk:   about ",
    ] {
        assert!(plan.out.contains(text), "no `{text}` in\n{}", plan.out);
    }
    let data = call(
        folder.path(),
        &["run", "random.toml", "--dry-run", "--json"],
    )
    .json();
    assert!(
        data["needs"]["new_tokens"].as_u64().is_some_and(|n| n > 0),
        "{data}"
    );
    assert!(!folder.path().join("runs").exists());
}

#[test]
fn quiet_is_quiet_and_colour_is_for_terminals() {
    let folder = workplace();
    let quiet = call(folder.path(), &["generate", "random.toml", "-q"]);
    assert_eq!(
        (quiet.code, quiet.out.as_str(), quiet.err.as_str()),
        (Some(0), "", "")
    );
    let mut loud = program(
        folder.path(),
        &["generate", "random.toml", "--run-dir", "again"],
    );
    let loud = loud.env_remove("NO_COLOR").output().expect("a process");
    assert!(!loud.stderr.is_empty());
    assert!(
        !loud.stderr.contains(&0x1b) && !loud.stdout.contains(&0x1b),
        "a pipe is no terminal"
    );
}

#[test]
fn a_copied_adapter_is_told_as_data_and_quietly_not_at_all() {
    let folder = workplace();
    let train = |more: &str| {
        let arguments = ["train", "random.toml", "--method", "dpo", "--out", "mine"];
        call(folder.path(), &[&arguments[..], &[more]].concat())
    };
    let told = train("--json").json();
    assert_eq!(told["adapter"], "mine");
    assert!(folder.path().join("mine/adapter_config.json").is_file());
    // Over an adapter it goes again.
    let quiet = train("-q");
    assert_eq!(
        (quiet.code, quiet.out.as_str(), quiet.err.as_str()),
        (Some(0), "", "")
    );
}

/// The dynamic linker says what it initialises: libtorch's turn takes longer than these answers may.
#[test]
fn small_questions_are_answered_before_libtorch_begins() {
    let folder = workplace();
    let at = folder.path();
    fs::create_dir_all(at.join("run/stages")).expect("a folder");
    let initialised = |arguments: &[&str]| {
        let mut command = program(at, arguments);
        command
            .env("LD_DEBUG", "files")
            .env("LD_DEBUG_OUTPUT", at.join("linker"));
        let begin = Instant::now();
        let ended = command.output().expect("a process");
        let mut found = vec![];
        for entry in fs::read_dir(at).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("linker."))
            {
                found.push(
                    fs::read_to_string(&path)
                        .expect("text")
                        .contains("calling init: "),
                );
                fs::remove_file(&path).expect("a file of ours");
            }
        }
        assert!(!found.is_empty(), "{arguments:?}: the linker said nothing");
        println!("{arguments:?}: {:?}", begin.elapsed());
        (
            ended.status.code(),
            String::from_utf8_lossy(&ended.stdout).into_owned(),
            found.contains(&true),
        )
    };
    for (arguments, code, said) in [
        (&["--help"][..], 0, "Usage: atp-pipeline"),
        (&["train", "--help"], 0, "--method"),
        (&["--version"], 0, env!("CARGO_PKG_VERSION")),
        (&["trian"], 2, ""),
        (&["status", "run"], 0, "no stage was begun"),
        (&["status", "nowhere"], 1, ""),
        (&["recipe", "check", "laptop"], 0, "laptop: valid"),
        (&["completions", "bash"], 0, "complete -F"),
        (&["man"], 0, ".TH"),
    ] {
        let (ended, out, begun) = initialised(arguments);
        assert_eq!(ended, Some(code), "{arguments:?}: {out}");
        assert!(out.contains(said), "{arguments:?}: {out}");
        assert!(!begun, "{arguments:?} waited for initialisers");
    }
    assert!(
        initialised(&["compare", "nowhere", "nothing"]).2,
        "this test would see them"
    );
}

#[test]
fn what_changed_in_a_recipe_is_told_in_a_line() {
    let folder = workplace();
    let done = call(
        folder.path(),
        &["run", "random.toml", "--run-dir", "run", "-q"],
    );
    assert_eq!(done.code, Some(0), "{}", done.err);
    let plan = call(
        folder.path(),
        &[
            "run",
            "random.toml",
            "--run-dir",
            "run",
            "--dry-run",
            "--set",
            "title=Another",
        ],
    );
    let line = plan
        .out
        .lines()
        .find(|l| l.starts_with("report "))
        .expect("a line");
    assert!(
        line.contains("changed in 1 line: − title = \"A random model\" + title = \"Another\""),
        "{line}"
    );
    assert!(line.len() < 400, "{line}");
}

#[test]
fn status_follows_a_run_to_its_end_and_a_second_signal_quits() {
    let folder = workplace();
    let at = folder.path();
    // Long enough to be met at work.
    let long = [
        "run",
        "random.toml",
        "--run-dir",
        "run",
        "--set",
        "grpo.epochs=400",
        "--set",
        "dpo.epochs=400",
    ];
    let mut run = program(at, &long).spawn().expect("a process");
    let begin = Instant::now();
    let metrics = || {
        let status = call(at, &["status", "run", "--json"]);
        let status: Value = serde_json::from_str(&status.out).unwrap_or_default();
        let stages = status["stages"].as_array().cloned().unwrap_or_default();
        stages
            .iter()
            .any(|s| s["metrics"]["step"].as_u64().is_some())
    };
    while !at.join("run/stages").is_dir() || !metrics() {
        assert!(
            begin.elapsed() < Duration::from_secs(120),
            "no training is at work"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut watch = program(at, &["status", "run", "--watch", "0.2", "--json"])
        .spawn()
        .expect("a process");
    let mut lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
    let first: Value =
        serde_json::from_str(&lines.next().expect("a line").expect("UTF-8")).expect("JSON");
    assert_eq!(first["holder"]["pid"], run.id());
    // Two signals, one after the other: whichever it meets, it ends with the code of a stop.
    let stop = || {
        // SAFETY: the process is our child and not yet waited for.
        assert_eq!(unsafe { libc::kill(run.id() as i32, libc::SIGINT) }, 0);
    };
    stop();
    std::thread::sleep(Duration::from_millis(1));
    stop();
    let code = run.wait().expect("an end").code();
    assert_eq!(code, Some(130));
    // Nobody is at work any more: the watcher says so and ends.
    let last = lines.last().expect("more lines").expect("UTF-8");
    let last: Value = serde_json::from_str(&last).expect("JSON");
    assert!(last["holder"].is_null(), "{last}");
    assert_eq!(watch.wait().expect("an end").code(), Some(0));
}
