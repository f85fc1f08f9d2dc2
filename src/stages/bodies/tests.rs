//! Which stages a recipe with defences, seeds and populations has, and what their keys depend on.

use std::path::PathBuf;

use serde_json::Value;
use tch::Device;

use super::*;
use crate::runtime::ranks::Ranks;
use crate::stages::{Input, Source, Stage};

/// The stages of a recipe on a tiny model.
fn stages(text: &str) -> Vec<Box<dyn Stage>> {
    laid_out(text).stages
}

/// The same with what is wanted of them.
fn laid_out(text: &str) -> Pipeline {
    let folder = tempfile::tempdir().unwrap();
    let model = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/oracle/tiny_models/llama_gqa1_tied");
    let path = folder.path().join("r.toml");
    let model = format!("[models.m]\nsource = {:?}\n", model.display().to_string());
    std::fs::write(&path, format!("{text}\n{model}")).unwrap();
    let recipe = Recipe::load(&path.display().to_string(), &[]).unwrap();
    pipeline(&recipe, &Machine::new(Device::Cpu, Ranks::alone()), false).unwrap()
}

fn names(stages: &[Box<dyn Stage>]) -> Vec<String> {
    stages.iter().map(|stage| stage.name()).collect()
}

fn find<'a>(stages: &'a [Box<dyn Stage>], name: &str) -> &'a dyn Stage {
    let found = stages.iter().find(|stage| stage.name() == name);
    found
        .unwrap_or_else(|| panic!("{name}: {:?}", names(stages)))
        .as_ref()
}

/// Name and stage of each input.
fn inputs(stage: &dyn Stage) -> Vec<String> {
    let of = |input: Input| match input.source {
        Source::Output { stage, path } => {
            format!("{} = {stage}/{}", input.name, path.unwrap_or_default())
        }
        Source::File(path) => format!("{} = {}", input.name, path.display()),
    };
    stage.inputs().into_iter().map(of).collect()
}

#[test]
fn a_defence_has_stages_of_its_own_and_shares_what_it_does_not_change() {
    let all = stages(
        r#"defences = ["reminder", "none", "kl-anchor", "anchored", "realignment"]
[defence.anchored]
kl_anchor = {}
window = 1
"#,
    );
    assert_eq!(
        names(&all),
        [
            "data",
            "pairs",
            "train-dpo",
            "train-grpo",
            "evaluate-base",
            "evaluate-dpo",
            "evaluate-grpo",
            "evaluate-base-with-reminder",
            "evaluate-dpo-with-reminder",
            "evaluate-grpo-with-reminder",
            "train-dpo-with-kl-anchor",
            "train-grpo-with-kl-anchor",
            "evaluate-dpo-with-kl-anchor",
            "evaluate-grpo-with-kl-anchor",
            "evaluate-dpo-with-anchored",
            "evaluate-grpo-with-anchored",
            "evaluate-dpo-with-realignment",
            "evaluate-grpo-with-realignment",
            "report",
        ]
    );
    let of = |name| inputs(find(&all, name));
    assert_eq!(
        of("evaluate-dpo-with-reminder"),
        [
            "questions = data/test.parquet",
            "adapter = train-dpo/adapter"
        ]
    );
    assert_eq!(
        of("evaluate-grpo-with-anchored"),
        [
            "questions = data/test.parquet",
            "adapter = train-grpo-with-kl-anchor/adapter"
        ]
    );
    assert_eq!(
        of("evaluate-dpo-with-realignment"),
        [
            "questions = data/test.parquet",
            "adapter = train-dpo/adapter",
            "pairs = pairs/pairs.parquet"
        ]
    );
    assert_eq!(
        of("evaluate-grpo-with-realignment"),
        [
            "questions = data/test.parquet",
            "adapter = train-grpo/adapter",
            "training-questions = data/train.parquet"
        ]
    );
    assert!(
        of("report")
            .iter()
            .any(|input| input.contains("evaluate-dpo-with-anchored/rows.parquet"))
    );
    // The training without a defence is what it was before there were defences.
    let undefended = stages("");
    for name in ["data", "pairs", "train-dpo", "train-grpo", "evaluate-dpo"] {
        let (with, without) = (find(&all, name), find(&undefended, name));
        assert_eq!(with.config(), without.config(), "{name}");
        assert!(!with.config().to_string().contains("defence"), "{name}");
    }
    let beta = |name| find(&all, name).config()["dpo"]["beta"].clone();
    assert_eq!(
        (beta("train-dpo"), beta("train-dpo-with-kl-anchor")),
        (0.1.into(), 0.5.into())
    );
    let beta = |name| find(&all, name).config()["grpo"]["beta"].clone();
    assert_eq!(
        (beta("train-grpo"), beta("train-grpo-with-kl-anchor")),
        (0.04.into(), 0.2.into())
    );
}

#[test]
fn a_chain_begins_with_the_adapter_that_dpo_trained_under_the_same_defence() {
    let variants = r#"variants = ["base", "dpo", "grpo", "dpo-grpo"]"#;
    let found = laid_out(&format!(
        "{variants}\nstages = [\"train-grpo\"]\ndefences = [\"none\", \"kl-anchor\", \"realignment\"]"
    ));
    let all = &found.stages;
    let chain = names(all);
    let chain = chain.iter().filter(|name| name.contains("dpo-grpo"));
    assert_eq!(
        chain.collect::<Vec<_>>(),
        [
            "train-dpo-grpo",
            "evaluate-dpo-grpo",
            "train-dpo-grpo-with-kl-anchor",
            "evaluate-dpo-grpo-with-kl-anchor",
            "evaluate-dpo-grpo-with-realignment",
        ]
    );
    for (stage, reads) in [
        ("train-grpo", &["questions = data/train.parquet"] as &[&str]),
        (
            "train-dpo-grpo",
            &[
                "questions = data/train.parquet",
                "start = train-dpo/adapter",
            ],
        ),
        (
            "train-dpo-grpo-with-kl-anchor",
            &[
                "questions = data/train.parquet",
                "start = train-dpo-with-kl-anchor/adapter",
            ],
        ),
        (
            "evaluate-dpo-grpo-with-kl-anchor",
            &[
                "questions = data/test.parquet",
                "adapter = train-dpo-grpo-with-kl-anchor/adapter",
            ],
        ),
        // Between rounds it takes steps of the method that trained it last.
        (
            "evaluate-dpo-grpo-with-realignment",
            &[
                "questions = data/test.parquet",
                "adapter = train-dpo-grpo/adapter",
                "training-questions = data/train.parquet",
            ],
        ),
    ] {
        assert_eq!(inputs(find(all, stage)), reads, "{stage}");
    }
    // Who asks for a kind gets all of it; who asks for a variant gets that one.
    let grpo = ["train-grpo", "train-grpo-with-kl-anchor"];
    let chained = ["train-dpo-grpo", "train-dpo-grpo-with-kl-anchor"];
    assert_eq!(
        found.wanted,
        Some(
            [grpo[0], chained[0], grpo[1], chained[1]]
                .map(String::from)
                .into()
        )
    );
    assert_eq!(found.training(Variant::Grpo), grpo);
    assert_eq!(found.training(Variant::DpoGrpo), chained);
    // Jobs that begin at another time are no array.
    let groups = crate::stages::slurm::groups(all, &vec![true; all.len()]);
    let jobs: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
    assert!(
        jobs.contains(&"train-grpo") && jobs.contains(&"train-dpo-grpo"),
        "{jobs:?}"
    );
}

#[test]
fn a_chain_alone_trains_dpo_and_does_not_evaluate_it() {
    assert_eq!(
        names(&stages(r#"variants = ["dpo-grpo"]"#)),
        [
            "data",
            "pairs",
            "train-dpo",
            "train-dpo-grpo",
            "evaluate-dpo-grpo",
            "report"
        ]
    );
    // Who plays along needs no evaluation of its own.
    let all = stages(
        r#"variants = ["base", "dpo-grpo"]
testbeds = ["coordination"]
[coordination.evaluation]
mixtures = [{ of = "dpo", shares = [0.5] }]
"#,
    );
    assert_eq!(
        inputs(find(&all, "evaluate-base")),
        [
            "questions = data/test.parquet",
            "adapter-dpo = train-dpo/adapter"
        ]
    );
}

/// The reference is a part of the key where there are two of them, and of no other.
#[test]
fn the_reference_is_in_the_key_of_a_chain_alone() {
    let with = |reference: &str| {
        let text = r#"variants = ["grpo", "dpo-grpo"]
defences = ["none", "realignment"]"#;
        stages(&format!("{text}\n{reference}"))
    };
    let [unsaid, start, base] = [
        with(""),
        with("[grpo]\nreference = \"start\""),
        with("[grpo]\nreference = \"base\""),
    ];
    let chain = "train-dpo-grpo";
    assert_eq!(find(&start, chain).config()["grpo"]["reference"], "start");
    assert_ne!(find(&base, chain).config(), find(&start, chain).config());
    for stage in &unsaid {
        let name = stage.name();
        assert_eq!(find(&start, &name).config(), stage.config(), "{name}");
        if name != chain && name != "report" {
            assert_eq!(find(&base, &name).config(), stage.config(), "{name}");
            assert!(!stage.config().to_string().contains("reference"), "{name}");
        }
    }
    // All else is what it is without a start.
    let mut config = find(&start, chain).config();
    config["grpo"].as_object_mut().unwrap().remove("reference");
    assert_eq!(config, find(&start, "train-grpo").config());
}

#[test]
fn augmented_training_reads_the_questions_too() {
    let all = stages("defences = [\"none\", \"history-augmentation\"]");
    assert_eq!(
        inputs(find(&all, "train-dpo-with-history-augmentation")),
        [
            "pairs = pairs/pairs.parquet",
            "questions = data/train.parquet"
        ]
    );
    assert_eq!(
        inputs(find(&all, "train-dpo")),
        ["pairs = pairs/pairs.parquet"]
    );
    assert_eq!(
        inputs(find(&all, "train-grpo-with-history-augmentation")),
        ["questions = data/train.parquet"]
    );
}

/// Every field of every measure is a part of the key of a stage that it changes.
#[test]
fn every_field_of_a_defence_is_in_a_key() {
    let config = |defence: &str| -> Vec<(String, Value)> {
        let all = stages(&format!(
            "defences = [\"none\", \"x\"]\n[defence.x]\nwindow = 3\n{defence}"
        ));
        let of = all.iter().filter(|stage| {
            stage.name().contains("-dpo-with-x") || stage.name().contains("-grpo-with-x")
        });
        of.map(|stage| (stage.name(), stage.config())).collect()
    };
    let plain = config("");
    assert_eq!(plain.len(), 2);
    for (one, other, stage) in [
        (
            "reminder = { place = \"system\" }",
            "reminder = {}",
            "evaluate-dpo-with-x",
        ),
        (
            "reminder = { role_play = \"A.\" }",
            "reminder = {}",
            "evaluate-dpo-with-x",
        ),
        (
            "reminder = { coordination = \"A.\" }",
            "reminder = {}",
            "evaluate-dpo-with-x",
        ),
        (
            "reminder = { tool_use = \"A.\" }",
            "reminder = {}",
            "evaluate-dpo-with-x",
        ),
        (
            "redaction = \"omit\"",
            "redaction = \"mask\"",
            "evaluate-dpo-with-x",
        ),
        (
            "outcome_hiding = \"pay\"",
            "outcome_hiding = \"outcomes\"",
            "evaluate-dpo-with-x",
        ),
        (
            "monitor = { recall = 0.5 }",
            "monitor = {}",
            "evaluate-dpo-with-x",
        ),
        (
            "realignment = { every = 2 }",
            "realignment = {}",
            "evaluate-dpo-with-x",
        ),
        (
            "realignment = { steps = 3 }",
            "realignment = {}",
            "evaluate-dpo-with-x",
        ),
        (
            "realignment = { lr = 1e-3 }",
            "realignment = {}",
            "evaluate-grpo-with-x",
        ),
        (
            "history_augmentation = { copies = 2 }",
            "history_augmentation = {}",
            "train-dpo-with-x",
        ),
        (
            "history_augmentation = { rounds = [1, 2] }",
            "history_augmentation = {}",
            "train-grpo-with-x",
        ),
        (
            "history_augmentation = { deviant = 0.5 }",
            "history_augmentation = {}",
            "train-dpo-with-x",
        ),
        (
            "kl_anchor = { dpo_beta = 0.3 }",
            "kl_anchor = {}",
            "train-dpo-with-x",
        ),
        (
            "kl_anchor = { grpo_beta = 0.3 }",
            "kl_anchor = {}",
            "train-grpo-with-x",
        ),
    ] {
        let of = |text: &str| {
            let found = config(text).into_iter().find(|(name, _)| name == stage);
            found.unwrap_or_else(|| panic!("{stage} of {text}")).1
        };
        assert_ne!(of(one), of(other), "{one}");
        assert!(!plain.contains(&(stage.to_owned(), of(one))), "{one}");
    }
    let window = |rounds: u32| {
        let all = stages(&format!(
            "defences = [\"none\", \"x\"]\n[defence.x]\nwindow = {rounds}"
        ));
        find(&all, "evaluate-base-with-x").config()
    };
    assert_ne!(window(1), window(2));
    // Rows say the name, so it is a part of the key.
    let all = stages(
        "defences = [\"none\", \"x\", \"y\"]\n[defence.x]\nwindow = 3\n[defence.y]\nwindow = 3",
    );
    assert_ne!(
        find(&all, "evaluate-dpo-with-x").config(),
        find(&all, "evaluate-dpo-with-y").config()
    );
    // What realignment trains by and on is in the key of the evaluation.
    let lr = |text: &str| {
        let all = stages(&format!("defences = [\"none\", \"realignment\"]\n{text}"));
        find(&all, "evaluate-dpo-with-realignment").config()
    };
    assert_ne!(lr(""), lr("[dpo.optim]\nlr = 1e-3"));
}

#[test]
fn seeds_have_stages_of_their_own_and_share_questions_if_asked() {
    let own = names(&stages("seeds = [1, 2]\nvariants = [\"base\"]"));
    assert_eq!(
        own,
        [
            "data.s1",
            "evaluate-base.s1",
            "data.s2",
            "evaluate-base.s2",
            "report"
        ]
    );
    let shared = stages("seeds = [1, 2]\nvariants = [\"base\"]\ndata_seed = 7");
    assert_eq!(
        names(&shared),
        ["data", "evaluate-base.s1", "evaluate-base.s2", "report"]
    );
    assert_eq!(shared[0].seed(), 7);
    assert_eq!((shared[1].seed(), shared[2].seed()), (1, 2));
    assert_eq!(
        inputs(shared[2].as_ref()),
        ["questions = data/test.parquet"]
    );
}

#[test]
fn those_who_play_along_bring_their_adapters() {
    let text = r#"testbeds = ["coordination"]
defences = ["none", "kl-anchor"]
[coordination.evaluation]
mixtures = [{ of = "grpo", shares = [0.5] }]
"#;
    let all = stages(text);
    assert_eq!(
        inputs(find(&all, "evaluate-dpo-with-kl-anchor")),
        [
            "questions = data/test.parquet",
            "adapter = train-dpo-with-kl-anchor/adapter",
            "adapter-grpo = train-grpo/adapter"
        ]
    );
    assert_eq!(
        inputs(find(&all, "evaluate-base")),
        [
            "questions = data/test.parquet",
            "adapter-grpo = train-grpo/adapter"
        ]
    );
}

#[test]
fn a_defence_is_left_out_where_it_has_no_sense() {
    let text = "testbeds = [\"role_play\", \"tool_use\"]\nvariants = [\"base\"]\ndefences = [\"none\", \"monitor\"]";
    assert_eq!(
        names(&stages(text)),
        [
            "data.role-play",
            "evaluate-base.role-play",
            "evaluate-base-with-monitor.role-play",
            "data.tool-use",
            "evaluate-base.tool-use",
            "report"
        ]
    );
}

#[test]
fn what_there_is_to_do_is_told_beforehand() {
    let text = r#"testbeds = ["role_play", "coordination", "tool_use"]
defences = ["none", { history_augmentation = { copies = 2 } }]
[evaluation]
samples = 3
[coordination.draw]
instances_per_game = 2
[coordination.evaluation]
samples = 2
mixtures = [{ of = "always-collude", shares = [0.25, 1.0] }]
[tool_use.problems]
train_simple = 5
train_complex = 6
test_simple = 7
test_complex = 8
[tool_use.evaluation]
samples = 2
"#;
    let all = stages(text);
    let work = |name: &str| {
        let work = find(&all, name).work().unwrap();
        format!("{} {}", work.count, work.unit)
    };
    assert_eq!(find(&all, "data.role-play").work(), None);
    for (stage, said) in [
        // 160 questions, two answers, five attempts.
        ("pairs.role-play", "1600 samples"),
        ("train-dpo.role-play", "1920 passes over a pair"),
        ("train-grpo.role-play", "3840 completions"),
        (
            "train-grpo-with-history-augmentation.role-play",
            "11520 completions",
        ),
        // 64 questions, three samples, six rounds.
        ("evaluate-base.role-play", "1152 decisions"),
        ("train-dpo.coordination", "168 passes over a pair"),
        // 28 games, six agents of the one population, none of the other, two samples, three rounds.
        ("evaluate-dpo.coordination", "1008 decisions"),
        // The rejected side alone is sampled.
        ("pairs.tool-use", "55 samples"),
        // Eight agents, two samples, four rounds of two problems.
        ("evaluate-grpo.tool-use", "128 solutions"),
    ] {
        assert_eq!(work(stage), said, "{stage}");
    }
    // Numbers that are too large for any computer are cut, not wrapped.
    let huge = stages("variants = [\"base\"]\n[evaluation]\nsamples = 1000000\nrounds = 10000");
    let work = find(&huge, "evaluate-base").work().unwrap();
    assert_eq!(work.count, 64 * 10_000_000_000);
    assert_eq!(work.writing(u64::MAX).tokens, u64::MAX);
}
