//! The run loop on small stages that write real files: what is skipped, what is run again and why, what survives a kill.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Context;
use atp_pipeline::artifact::write_atomic;
use atp_pipeline::runtime::seed;
use atp_pipeline::stages::{
    Input, Run, RunOptions, RunSummary, Stage, StageContext, State, run, status,
};
use serde_json::{Value, json};

/// What a stage of these tests does.
#[derive(Clone, Copy)]
enum Work {
    /// Writes `n` to `out.txt`, and the seed it was given to `seed.txt`.
    Number,
    /// Writes whether its input is even.
    Parity,
    /// Writes its input's number, doubled.
    Double,
    /// Writes all its inputs, one a line.
    Join,
    /// Fails.
    Fail,
}

struct Small {
    name: &'static str,
    work: Work,
    format: u32,
    seed: u64,
    config: Value,
    inputs: Vec<Input>,
    /// Names of the stages that ran, in order.
    ran: Rc<RefCell<Vec<String>>>,
}

impl Stage for Small {
    fn name(&self) -> String {
        self.name.to_string()
    }
    fn kind(&self) -> &'static str {
        match self.work {
            Work::Number => "number",
            Work::Parity => "parity",
            Work::Double => "double",
            Work::Join => "join",
            Work::Fail => "fail",
        }
    }
    fn format(&self) -> u32 {
        self.format
    }
    fn config(&self) -> Value {
        self.config.clone()
    }
    fn seed(&self) -> u64 {
        self.seed
    }
    fn inputs(&self) -> Vec<Input> {
        self.inputs.clone()
    }

    fn run(&self, context: &StageContext) -> anyhow::Result<()> {
        self.ran.borrow_mut().push(self.name.to_string());
        let n = || self.config["n"].as_u64().context("n");
        let number = |name: &str| -> anyhow::Result<u64> {
            let path = context.input(name)?;
            Ok(fs::read_to_string(path)?.trim().parse()?)
        };
        let text = match self.work {
            Work::Number => {
                let seed = context.seed.to_string();
                write_atomic(&context.output("seed.txt"), seed.as_bytes())?;
                n()?.to_string()
            }
            Work::Parity => (number("n")? % 2 == 0).to_string(),
            Work::Double => (2 * number("n")?).to_string(),
            Work::Join => {
                let texts = context.inputs.values().map(fs::read_to_string);
                texts.collect::<Result<Vec<_>, _>>()?.join("\n")
            }
            Work::Fail => anyhow::bail!("made to fail"),
        };
        write_atomic(&context.output("out.txt"), text.as_bytes())?;
        Ok(())
    }
}

/// A run directory with the plan
///
/// ```text
/// n → parity → join
///   ↘ double ↗   side (reads nothing)
/// ```
struct Pipeline {
    folder: tempfile::TempDir,
    n: u64,
    seed: u64,
    double_format: u32,
    side: Work,
    ran: Rc<RefCell<Vec<String>>>,
}

impl Pipeline {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            n: 2,
            seed: 7,
            double_format: 1,
            side: Work::Number,
            ran: Rc::default(),
        }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    fn plan(&self) -> Vec<Box<dyn Stage>> {
        let small = |name, work, inputs: &[(&str, &str)]| Small {
            name,
            work,
            format: 1,
            seed: 0,
            config: json!({}),
            inputs: inputs
                .iter()
                .map(|(name, stage)| Input::output(*name, *stage, "out.txt"))
                .collect(),
            ran: Rc::clone(&self.ran),
        };
        let mut number = small("n", Work::Number, &[]);
        (number.config, number.seed) = (json!({"n": self.n}), self.seed);
        let mut double = small("double", Work::Double, &[("n", "n")]);
        double.format = self.double_format;
        let mut side = small("side", self.side, &[]);
        side.config = json!({"n": 1});
        vec![
            Box::new(number),
            Box::new(side),
            Box::new(small("parity", Work::Parity, &[("n", "n")])),
            Box::new(double),
            Box::new(small(
                "join",
                Work::Join,
                &[("a", "parity"), ("b", "double")],
            )),
        ]
    }

    /// Run with these options; the stages that ran are in the answer.
    fn run_with(&self, options: &RunOptions) -> (Vec<String>, Run) {
        self.ran.borrow_mut().clear();
        let run = run(&self.root(), &self.plan(), options);
        (self.ran.borrow().clone(), run)
    }

    fn run(&self) -> (Vec<String>, RunSummary) {
        let (ran, run) = self.run_with(&RunOptions::default());
        run.result.unwrap();
        (ran, run.summary)
    }

    fn read(&self, stage: &str, file: &str) -> String {
        fs::read_to_string(self.root().join("latest").join(stage).join(file)).unwrap()
    }
}

fn reasons(summary: &RunSummary, stage: &str) -> Vec<String> {
    let stage = summary.stage(stage).unwrap();
    stage.reasons.iter().map(ToString::to_string).collect()
}

fn states(summary: &RunSummary) -> Vec<State> {
    summary.stages.iter().map(|stage| stage.state).collect()
}

/// Every path below a folder with its content or target and its time of change.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let content = if metadata.is_dir() {
                folders.push(path.clone());
                String::new()
            } else if metadata.is_symlink() {
                format!("{:?}", fs::read_link(&path).unwrap())
            } else {
                format!("{:?}", fs::read(&path).unwrap())
            };
            all.insert(
                path,
                format!("{:?} {content}", metadata.modified().unwrap()),
            );
        }
    }
    all
}

#[test]
fn a_second_run_does_nothing() {
    let pipeline = Pipeline::new();
    let (ran, summary) = pipeline.run();
    assert_eq!(ran, ["n", "side", "parity", "double", "join"]);
    assert_eq!(states(&summary), [State::Ran; 5]);
    assert_eq!(reasons(&summary, "join"), ["never run"]);
    assert_eq!(pipeline.read("join", "out.txt"), "true\n4");
    let before = snapshot(&pipeline.root().join("stages"));
    let (ran, summary) = pipeline.run();
    assert!(ran.is_empty());
    assert_eq!(states(&summary), [State::UpToDate; 5]);
    assert!(summary.to_string().contains("nothing to do"), "{summary}");
    assert_eq!(snapshot(&pipeline.root().join("stages")), before);
}

#[test]
fn a_changed_value_reruns_what_depends_on_it_and_going_back_runs_nothing() {
    let mut pipeline = Pipeline::new();
    pipeline.run();
    pipeline.n = 3;
    let (ran, summary) = pipeline.run();
    assert_eq!(ran, ["n", "parity", "double", "join"]);
    assert_eq!(reasons(&summary, "n"), ["config key `n` changed: 2 → 3"]);
    assert_eq!(reasons(&summary, "parity"), ["input `n` changed"]);
    assert_eq!(
        reasons(&summary, "join"),
        ["input `a` changed", "input `b` changed"]
    );
    assert_eq!(pipeline.read("join", "out.txt"), "false\n6");
    pipeline.n = 2;
    let (ran, _) = pipeline.run();
    assert!(ran.is_empty(), "{ran:?}");
    assert_eq!(
        pipeline.read("join", "out.txt"),
        "true\n4",
        "the links follow"
    );
    let held = status(&pipeline.root(), &["n".into(), "side".into()]).unwrap();
    let names: Vec<_> = held
        .stages
        .iter()
        .map(|s| (s.name.as_str(), s.latest))
        .collect();
    assert_eq!(&names[..3], [("n", true), ("n", false), ("side", true)]);
}

#[test]
fn the_same_outputs_from_changed_inputs_stop_the_reruns() {
    let mut pipeline = Pipeline::new();
    pipeline.run();
    pipeline.n = 4;
    let (ran, summary) = pipeline.run();
    assert_eq!(ran, ["n", "parity", "double", "join"]);
    assert_eq!(
        reasons(&summary, "join"),
        ["input `b` changed"],
        "parity came out the same"
    );
    // A new version of `double` that leaves the same: nothing after it runs.
    pipeline.double_format = 2;
    let (ran, summary) = pipeline.run();
    assert_eq!(ran, ["double"]);
    assert_eq!(
        reasons(&summary, "double"),
        ["format version changed: 1 → 2"]
    );
    // Another seed changes `seed.txt`, which nobody reads.
    pipeline.seed = 8;
    let (ran, summary) = pipeline.run();
    assert_eq!(ran, ["n"]);
    assert_eq!(reasons(&summary, "n"), ["seed changed: 7 → 8"]);
    let derived = seed::derive(8, "stage/number").to_string();
    assert_eq!(pipeline.read("n", "seed.txt"), derived);
}

#[test]
fn a_damaged_output_is_made_again() {
    let pipeline = Pipeline::new();
    pipeline.run();
    let path = pipeline.root().join("latest/double/out.txt");
    fs::write(&path, "5").unwrap();
    let (ran, summary) = pipeline.run();
    assert_eq!(ran, ["double"], "it comes out as before, so `join` stays");
    let reason = &reasons(&summary, "double")[0];
    assert!(
        reason.starts_with("output `out.txt` is damaged: expected SHA-256"),
        "{reason}"
    );
    assert_eq!(pipeline.read("double", "out.txt"), "4");
    fs::remove_file(&path).unwrap();
    let (ran, summary) = pipeline.run();
    assert_eq!(
        (ran, reasons(&summary, "double")),
        (
            vec!["double".to_string()],
            vec!["output `out.txt` is missing".to_string()]
        )
    );
    let manifest = pipeline.root().join("latest/double/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, &text[..40]).unwrap();
    let (ran, _) = pipeline.run();
    assert_eq!(ran, ["double"]);
    assert_eq!(pipeline.run().0, [] as [&str; 0]);
}

#[test]
fn a_dry_run_gives_the_reasons_and_changes_nothing() {
    let mut pipeline = Pipeline::new();
    let dry = RunOptions {
        dry_run: true,
        ..RunOptions::default()
    };
    let (ran, run) = pipeline.run_with(&dry);
    run.result.unwrap();
    assert!(ran.is_empty() && !pipeline.root().exists());
    assert_eq!(states(&run.summary), [State::WouldRun; 5]);

    pipeline.run();
    pipeline.n = 5;
    let before = snapshot(&pipeline.root());
    let (ran, run) = pipeline.run_with(&dry);
    run.result.unwrap();
    assert!(ran.is_empty());
    assert_eq!(snapshot(&pipeline.root()), before);
    let expected = [
        State::WouldRun,
        State::UpToDate,
        State::MayRun,
        State::MayRun,
        State::MayRun,
    ];
    assert_eq!(states(&run.summary), expected);
    assert_eq!(
        reasons(&run.summary, "n"),
        ["config key `n` changed: 2 → 5"]
    );
    assert_eq!(
        reasons(&run.summary, "double"),
        ["input `n` may change: `n` runs first"]
    );
    let json = serde_json::to_value(&run.summary).unwrap();
    assert_eq!(json["stages"][0]["state"], "would-run");
}

#[test]
fn a_failure_names_its_stage_and_stops_or_spares_the_others() {
    let mut pipeline = Pipeline::new();
    pipeline.side = Work::Fail;
    let (ran, run) = pipeline.run_with(&RunOptions::default());
    assert_eq!(ran, ["n", "side"]);
    let text = format!("{:#}", run.result.unwrap_err());
    assert_eq!(text, "stage `side` failed: made to fail");
    assert_eq!(
        states(&run.summary)[1..3],
        [State::Failed, State::NotReached]
    );
    let keep_going = RunOptions {
        keep_going: true,
        ..RunOptions::default()
    };
    let (ran, run) = pipeline.run_with(&keep_going);
    assert_eq!(ran, ["side", "parity", "double", "join"]);
    assert!(run.result.is_err());
}

#[test]
fn a_request_for_one_stage_brings_what_it_needs() {
    let pipeline = Pipeline::new();
    let only = RunOptions {
        only: Some(vec!["double".into()]),
        ..RunOptions::default()
    };
    let (ran, run) = pipeline.run_with(&only);
    run.result.unwrap();
    assert_eq!(ran, ["n", "double"]);
    assert_eq!(run.summary.stages.len(), 2);
    assert_eq!(pipeline.run().0, ["side", "parity", "join"]);
}

#[test]
fn what_waits_for_a_failed_stage_is_blocked() {
    let folder = tempfile::tempdir().unwrap();
    let ran: Rc<RefCell<Vec<String>>> = Rc::default();
    let stage = |name, work, inputs| -> Box<dyn Stage> {
        let (config, ran) = (json!({"n": 1}), Rc::clone(&ran));
        Box::new(Small {
            name,
            work,
            format: 1,
            seed: 0,
            config,
            inputs,
            ran,
        })
    };
    let plan = [
        stage("bad", Work::Fail, vec![]),
        stage("next", Work::Join, vec![Input::all_outputs("all", "bad")]),
        stage("far", Work::Join, vec![Input::all_outputs("all", "next")]),
        stage("apart", Work::Number, vec![]),
    ];
    let keep_going = RunOptions {
        keep_going: true,
        ..RunOptions::default()
    };
    let run = run(folder.path(), &plan, &keep_going);
    assert_eq!(
        states(&run.summary),
        [State::Failed, State::Blocked, State::Blocked, State::Ran]
    );
    assert_eq!(*ran.borrow(), ["bad", "apart"]);
    assert!(run.result.unwrap_err().to_string().contains("`bad`"));
}

#[test]
fn files_from_outside_and_missing_outputs() {
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside.txt");
    let ran: Rc<RefCell<Vec<String>>> = Rc::default();
    let go = |file: &str| {
        let stage = |name, work, inputs| -> Box<dyn Stage> {
            let (config, ran) = (json!({"n": 1}), Rc::clone(&ran));
            Box::new(Small {
                name,
                work,
                format: 1,
                seed: 0,
                config,
                inputs,
                ran,
            })
        };
        let plan = [
            stage("copy", Work::Join, vec![Input::file("f", &outside)]),
            stage("again", Work::Join, vec![Input::output("c", "copy", file)]),
        ];
        ran.borrow_mut().clear();
        run(&folder.path().join("run"), &plan, &RunOptions::default())
    };
    let error = format!("{:#}", go("out.txt").result.unwrap_err());
    assert!(
        error.contains("`copy`") && error.contains("outside.txt"),
        "{error}"
    );
    fs::write(&outside, "one").unwrap();
    go("out.txt").result.unwrap();
    go("out.txt").result.unwrap();
    assert!(ran.borrow().is_empty());
    fs::write(&outside, "two").unwrap();
    let run = go("out.txt");
    assert_eq!(reasons(&run.summary, "copy"), ["input `f` changed"]);
    assert_eq!(*ran.borrow(), ["copy", "again"]);
    let error = format!("{:#}", go("none.txt").result.unwrap_err());
    assert!(
        error.contains("expected `none.txt` among its outputs, got: out.txt"),
        "{error}"
    );
}
