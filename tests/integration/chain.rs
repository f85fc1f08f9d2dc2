//! GRPO that goes on with the adapter of DPO: what its KL penalty is measured against, whatever was killed in between, and
//! the whole chain through the program.

use std::fs;
use std::path::Path;

use atp_pipeline::agent::model::Precision;
use atp_pipeline::agent::{LoadedModel, RenderOptions};
use atp_pipeline::artifact::Checkpoints;
use atp_pipeline::model::{Adapter, LoraConfig};
use atp_pipeline::runtime::seed::stream;
use atp_pipeline::training::grpo_trainer::{
    Group, GrpoConfig, KlReference, RolloutSource, train_grpo,
};
use atp_pipeline::training::lessons::Lessons;
use atp_pipeline::training::optim::Schedule;
use atp_pipeline::training::rollout::{Rollout, plan_group};
use atp_pipeline::training::{TrainContext, TrainError};
use rand::Rng;
use serde_json::Value;
use tch::{Device, Tensor};
use tempfile::TempDir;

use crate::defences::killed_and_resumed;
use crate::faults::disk::{self, Run};
use crate::grpo::{close, floats, sampled, score};
use crate::support::{call, heavy};

/// Rollouts that are always the same.
struct Fixed;

impl Fixed {
    fn group(place: usize) -> Group {
        let rollouts = [1.0, 0.0].map(|reward| Rollout {
            reward,
            ..sampled(&[5, 6, 7 + reward as u32], vec![-1.0; 3], 1.0)
        });
        Group {
            prompt: vec![9, 10, 11 + place as u32],
            rollouts: rollouts.into(),
            ..Group::new(&place.to_string())
        }
    }
}

impl RolloutSource for Fixed {
    fn prompts(&self) -> usize {
        2
    }

    fn most_actions(&self) -> usize {
        3
    }

    fn collect(
        &self,
        _: &TrainContext,
        _: &Adapter,
        places: &[usize],
        _: usize,
        _: u64,
    ) -> Result<Vec<Group>, TrainError> {
        Ok(places.iter().map(|&place| Self::group(place)).collect())
    }
}

/// A model of two layers, and a place to train it.
struct Bench {
    folder: TempDir,
    model: LoadedModel,
}

impl Bench {
    fn new() -> Self {
        let folder = disk::workplace();
        let path = folder.path().join("model");
        let model = LoadedModel::load(&path, Precision::Fp32, Device::Cpu).expect("a model");
        Self { folder, model }
    }

    /// An adapter that does something: no matrix of it is zero.
    fn start(&self) -> Adapter {
        let model = self.model.decoder.config();
        let adapter = Adapter::new(&LoraConfig::default(), model, 1, Device::Cpu);
        let mut random = stream(1, "chain/start");
        let numbers: Vec<f32> = (0..adapter.flat().numel())
            .map(|_| random.random_range(-0.1..0.1))
            .collect();
        adapter
            .flat()
            .shallow_clone()
            .copy_(&Tensor::from_slice(&numbers));
        adapter
    }

    /// Train in a folder of this name, or go on there; the adapter, and the KL of each step.
    fn train(
        &self,
        name: &str,
        learn: impl FnOnce(&TrainContext) -> Result<Adapter, TrainError>,
    ) -> (Adapter, Vec<f64>) {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder).expect("a folder");
        let context = TrainContext {
            model: &self.model,
            render: &RenderOptions::prompt(),
            seed: 1,
            folder: &folder,
            checkpoints: &Checkpoints::new(folder.join("checkpoints"), 9),
        };
        let adapter = learn(&context).expect("a training");
        let text = fs::read_to_string(folder.join("metrics.jsonl")).expect("metrics");
        let kl = |line: &str| -> f64 {
            let line: Value = serde_json::from_str(line).expect("JSON");
            line["kl"].as_f64().expect("a number")
        };
        (adapter, text.lines().map(kl).collect())
    }

    /// Some steps of GRPO from [`Self::start`].
    fn grpo(&self, name: &str, reference: KlReference, steps: u64) -> (Adapter, Vec<f64>) {
        self.train(name, |context| {
            train_grpo(
                context,
                &Fixed,
                &config(reference, steps),
                Some(self.start()),
            )
        })
    }

    /// Mean k3 of an action of the rollouts, from the definition.
    fn kl(&self, policy: &Adapter, reference: Option<&Adapter>) -> f64 {
        let model = &self.model.decoder;
        let mut terms = vec![];
        for place in 0..2 {
            let group = Fixed::group(place);
            let plan = plan_group(&group.prompt, &group.rollouts, false);
            let policy = floats(&score(model, Some(policy), &plan));
            let reference = floats(&score(model, reference, &plan));
            for (policy, reference) in policy.iter().zip(reference) {
                let d = f64::from(reference) - f64::from(*policy);
                terms.push(d.exp() - d - 1.0);
            }
        }
        terms.iter().sum::<f64>() / terms.len() as f64
    }
}

/// Both prompts in each step, at a rate that does not fall, so that a longer training begins like a shorter one.
fn config(reference: KlReference, steps: u64) -> GrpoConfig {
    let mut config = GrpoConfig {
        reference,
        beta: 0.5,
        prompts_per_step: 2,
        epochs: steps,
        checkpoint_every: 1,
        ..GrpoConfig::default()
    };
    config.optim.lr = 1e-3;
    config.optim.schedule = Schedule::Constant;
    config
}

fn bits(adapter: &Adapter) -> Vec<u32> {
    floats(adapter.flat()).iter().map(|x| x.to_bits()).collect()
}

#[test]
fn the_reference_is_the_adapter_that_training_began_with_or_the_model_without_one() {
    let bench = Bench::new();
    let start = bench.start();
    let (_, base) = bench.grpo("base", KlReference::Base, 1);
    close(base[0], bench.kl(&start, None), 1e-6, "KL to the base");
    assert!(base[0] > 1e-3, "the adapter does something: {base:?}");
    let (once, _) = bench.grpo("once", KlReference::Start, 1);
    let (trained, kl) = bench.grpo("start", KlReference::Start, 3);
    // Nothing is learnt yet: not near zero, zero.
    assert_eq!(kl[0], 0.0);
    // What moves is the policy, not what it is measured against.
    assert!(kl[1] > 1e-5 && kl[1] < base[0], "{kl:?}");
    let moved = bench.kl(&once, Some(&start));
    assert!((kl[1] / moved - 1.0).abs() < 1e-3, "{} {moved}", kl[1]);
    // It was trained, and from there.
    let distance = |a: &Adapter, b: &Adapter| (a.flat() - b.flat()).norm().double_value(&[]);
    let (fresh, far) = (bench.start(), start.flat().norm().double_value(&[]));
    assert_ne!(bits(&trained), bits(&fresh));
    assert!(distance(&trained, &fresh) < 0.5 * far);
    assert_eq!(bits(&start), bits(&fresh));
}

/// The penalty pulls towards the reference: with all rewards equal it is the only gradient there is.
#[test]
fn the_penalty_pulls_towards_its_reference() {
    struct Equal;
    impl RolloutSource for Equal {
        fn prompts(&self) -> usize {
            2
        }
        fn most_actions(&self) -> usize {
            3
        }
        fn collect(
            &self,
            context: &TrainContext,
            adapter: &Adapter,
            places: &[usize],
            group: usize,
            step: u64,
        ) -> Result<Vec<Group>, TrainError> {
            let mut groups = Fixed.collect(context, adapter, places, group, step)?;
            for rollout in groups.iter_mut().flat_map(|g| &mut g.rollouts) {
                rollout.reward = 1.0;
            }
            Ok(groups)
        }
    }
    let bench = Bench::new();
    let trained = |name: &str, reference| {
        bench.train(name, |context| {
            train_grpo(context, &Equal, &config(reference, 4), Some(bench.start()))
        })
    };
    let (kept, _) = trained("start", KlReference::Start);
    assert_eq!(bits(&kept), bits(&bench.start()), "it is there already");
    let (drawn, kl) = trained("base", KlReference::Base);
    assert!(kl[3] < kl[0], "{kl:?}");
    assert!(bench.kl(&drawn, None) < bench.kl(&bench.start(), None));
}

/// The start comes from outside at every attempt, never from a checkpoint, which holds what became of it.
#[test]
fn a_resumed_chain_keeps_its_reference() {
    let bench = Bench::new();
    let (whole, kl) = bench.grpo("whole", KlReference::Start, 4);
    let (_, _) = bench.grpo("cut", KlReference::Start, 4);
    // As a kill after step 2 would leave it: later checkpoints were never made, the log has a step too many.
    let folder = bench.folder.path().join("cut");
    for step in [3, 4] {
        let checkpoint = folder.join(format!("checkpoints/step-{step:08}"));
        fs::remove_dir_all(checkpoint).expect("a checkpoint");
    }
    let (resumed, again) = bench.grpo("cut", KlReference::Start, 4);
    assert_eq!(again, kl);
    assert_eq!(bits(&resumed), bits(&whole));
}

/// Realignment begins with an adapter, too, many times over.
#[test]
fn realignment_is_held_to_the_untrained_model_whatever_grpo_is_held_to() {
    let bench = Bench::new();
    let expected = bench.kl(&bench.start(), None);
    for reference in [KlReference::Start, KlReference::Base] {
        let (_, kl) = bench.train(&format!("{reference:?}"), |context| {
            let lessons = Lessons::Grpo {
                source: &Fixed,
                config: &config(reference, 1),
            };
            lessons.refresh(context, bench.start(), 1, None)
        });
        close(kl[0], expected, 1e-6, "KL to the base");
    }
}

const RECIPE: &str = r#"
title = "A chain of a random model"
seeds = [3]
variants = ["base", "dpo", "grpo", "dpo-grpo"]
defences = ["none", "realignment"]

[models.random]
source = "model"

[role_play]
folder = "environments"
train_per_environment = 4
test_per_environment = 2

[generation]
elicitation = "score"

[pairs]
attempts = 2
template_fallback = true

[dpo]
epochs = 1
accumulation = 2
checkpoint_every = 1
[dpo.optim]
lr = 1e-3

[grpo]
epochs = 1
group = 8
beta = 0.5
prompts_per_step = 2
checkpoint_every = 1
[grpo.optim]
lr = 1e-2

[evaluation]
rounds = 2
"#;

fn adapter(run: &Path, stage: &str) -> Vec<u8> {
    let file = format!("latest/{stage}/adapter/adapter_model.safetensors");
    fs::read(run.join(file)).expect("an adapter")
}

/// KL by step, as a stage logged it.
fn logged_kl(run: &Path, stage: &str) -> Vec<f64> {
    let file = run.join("latest").join(stage).join("metrics.jsonl");
    let text = fs::read_to_string(file).expect("metrics");
    let lines = text
        .lines()
        .map(|line| -> Value { serde_json::from_str(line).expect("JSON") });
    lines
        .map(|line| line["kl"].as_f64().expect("a number"))
        .collect()
}

/// Names of the stages that a dry run would run, and of those that may run.
fn planned(folder: &Path, arguments: &[&str]) -> [Vec<String>; 2] {
    let plan = call(folder, &[arguments, &["--dry-run", "--json"]].concat()).json();
    ["would-run", "may-run"].map(|wanted| {
        let stages = plan["stages"].as_array().expect("stages").iter();
        let of = stages.filter(|stage| stage["state"] == wanted);
        of.map(|stage| stage["name"].as_str().expect("a name").to_owned())
            .collect()
    })
}

#[test]
fn a_chain_goes_from_data_to_report_and_resumes_to_the_same_bytes() {
    let folder = disk::workplace();
    let _turn = heavy();
    let folder = folder.path();
    fs::write(folder.join("random.toml"), RECIPE).expect("a recipe");
    let whole = Run::at(folder, folder.join("whole"));
    whole.finish();
    let run = &whole.path;
    let [dpo, grpo, chain] =
        ["train-dpo", "train-grpo", "train-dpo-grpo"].map(|stage| adapter(run, stage));
    assert!(chain != dpo, "GRPO was not trained");
    assert!(chain != grpo, "the adapter of DPO was not taken");
    // Both begin at their reference: the untrained model, and the adapter of DPO.
    for stage in ["train-grpo", "train-dpo-grpo"] {
        let kl = logged_kl(run, stage);
        assert!(
            kl.len() == 4 && kl[0] == 0.0 && kl[3] > 0.0,
            "{stage}: {kl:?}"
        );
    }
    let report = fs::read_to_string(run.join("latest/report/report.md")).expect("a report");
    assert!(report.contains("base; DPO; GRPO; and DPO, then GRPO"));

    // What the reference changes, and what DPO does: the chain follows from its input.
    let dry = |set: &str| {
        planned(
            folder,
            &["run", "random.toml", "--run-dir", "whole", "--set", set],
        )
    };
    let after = ["evaluate-dpo-grpo", "evaluate-dpo-grpo-with-realignment"];
    let [would, may] = dry("grpo.reference=base");
    assert_eq!(would, ["train-dpo-grpo", "report"]);
    assert_eq!(may, after);
    let [would, may] = dry("dpo.optim.lr=2e-2");
    assert_eq!(
        would,
        ["train-dpo", "evaluate-dpo-with-realignment", "report"]
    );
    assert_eq!(
        may,
        [
            "train-dpo-grpo",
            "evaluate-dpo",
            "evaluate-dpo-grpo",
            after[1]
        ]
    );

    // Each method's own adapter, and one shape for what both train.
    for (method, stages) in [
        ("dpo", vec!["data", "pairs", "train-dpo"]),
        ("grpo", vec!["data", "train-grpo"]),
        (
            "dpo-grpo",
            vec!["data", "pairs", "train-dpo", "train-dpo-grpo"],
        ),
    ] {
        let typed = [
            "train",
            "random.toml",
            "--method",
            method,
            "--run-dir",
            "new",
        ];
        let [would, _] = planned(folder, &[&typed[..], &["--rank", "4"]].concat());
        assert_eq!(would, stages, "{method}");
    }

    // The card tells of its own evaluation.
    let (from, to) = ("whole/latest/train-dpo-grpo/adapter", "exported");
    let exported = call(folder, &["export", "--adapter", from, "--peft", to]);
    assert_eq!(exported.code, Some(0), "{}", exported.err);
    let card = fs::read_to_string(folder.join("exported/README.md")).expect("a card");
    for said in ["- dpo-grpo\n", "| start | `", "(evaluate-dpo-grpo)"] {
        assert!(card.contains(said), "{said}: {card}");
    }
    assert!(!card.contains("(evaluate-grpo)"), "{card}");

    killed_and_resumed(
        folder,
        &whole,
        &[
            ("train-dpo-grpo", "checkpoints/step-00000002"),
            (
                "evaluate-dpo-grpo-with-realignment",
                "checkpoints/after-round-1/step-00000001",
            ),
        ],
    );
    let again = whole.finish();
    assert!(again.out.contains("nothing to do"), "{}", again.out);
}
