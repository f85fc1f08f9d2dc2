//! Ranks that come to differ.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Child;

use atp_pipeline::agent::model::Precision;
use atp_pipeline::agent::{LoadedModel, RenderOptions};
use atp_pipeline::artifact::Checkpoints;
use atp_pipeline::datasets::pairs;
use atp_pipeline::model::Adapter;
use atp_pipeline::runtime::ranks::{Place, Ranks};
use atp_pipeline::training::dpo_trainer::{DpoConfig, train_dpo};
use atp_pipeline::training::grpo_trainer::{Group, GrpoConfig, RolloutSource, train_grpo};
use atp_pipeline::training::rollout::Rollout;
use atp_pipeline::training::{TrainContext, TrainError};
use tch::Device;

use super::{finish, left, lines, start_as};
use crate::faults::disk;
use crate::grpo::sampled;
use crate::support::{Ended, assert_same, heavy, program};

/// Rollouts that are always the same.
struct Fixed;

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
        let group = |&place: &usize| {
            let rollouts = [1.0, 0.0].map(|reward| Rollout {
                reward,
                ..sampled(&[5, 6, 7 + reward as u32], vec![-1.0; 3], 1.0)
            });
            Group {
                prompt: vec![9, 10, 11 + place as u32],
                rollouts: rollouts.into(),
                ..Group::new(&place.to_string())
            }
        };
        Ok(places.iter().map(group).collect())
    }
}

/// Not a test: one of two ranks that train, the second with another learning rate than it should have.
#[test]
#[ignore = "run by another test as one of several processes"]
fn as_a_rank_that_drifts() {
    let Ok(folder) = std::env::var("ATP_TEST_RANK") else {
        return;
    };
    let folder = Path::new(&folder);
    tch::set_num_threads(1);
    let place = Place::from_environment().expect("variables that fit");
    let ranks = Ranks::connect(place.expect("a rank")).expect("the others");
    let path = folder.join("model");
    let mut model = LoadedModel::load(&path, Precision::Fp32, Device::Cpu).expect("a model");
    model.ranks = ranks.clone();
    let pairs = pairs::read(&folder.join("whole/latest/pairs/pairs.parquet")).expect("pairs");
    let wrong = |lr: f64| if ranks.is_first() { lr } else { 1.01 * lr };
    let mut dpo = DpoConfig {
        accumulation: 2,
        checkpoint_every: 1,
        ..DpoConfig::default()
    };
    let mut grpo = GrpoConfig {
        prompts_per_step: 1,
        checkpoint_every: 1,
        ..GrpoConfig::default()
    };
    dpo.optim.lr = wrong(dpo.optim.lr);
    grpo.optim.lr = wrong(grpo.optim.lr);
    for method in ["dpo", "grpo"] {
        let own = folder.join(format!("{method}-{}", ranks.rank()));
        fs::create_dir(&own).expect("a folder");
        let context = TrainContext {
            model: &model,
            render: &RenderOptions::prompt(),
            seed: 1,
            folder: &own,
            checkpoints: &Checkpoints::new(own.join("checkpoints"), 9),
        };
        let trained = match method {
            "dpo" => train_dpo(&context, &pairs, &dpo, None),
            _ => train_grpo(&context, &Fixed, &grpo, None),
        };
        let error = trained.expect_err("the ranks differ").to_string();
        fs::write(own.join("error"), error).expect("a file");
    }
    ranks.conclude(Ok(())).expect("a good end");
}

/// Ranks that differ end before anything of it is written: one that has another recipe is told before it begins, one that
/// computes otherwise after the step in which it does.
#[test]
fn ranks_that_drift_apart_end_with_one_message() {
    let folder = disk::workplace();
    let _turn = heavy();
    let folder = folder.path();
    finish(folder, "whole", "2");
    for mut child in start_as("ranks::drift::as_a_rank_that_drifts", folder, 2) {
        assert!(child.wait().expect("an end").success());
    }
    // DPO's first step warms up at a rate of zero.
    for (method, step) in [("dpo", 2), ("grpo", 1)] {
        for rank in 0..2 {
            let own = folder.join(format!("{method}-{rank}"));
            let error = fs::read_to_string(own.join("error")).expect("an error");
            let says = format!("on the adapter after step {step}: rank 1 differs from rank 0");
            assert!(error.contains(&says), "{error}");
            assert_eq!(lines(&own.join("metrics.jsonl")).len(), step - 1);
            let saved = fs::read_dir(own.join("checkpoints")).map_or(0, Iterator::count);
            assert_eq!(saved, step - 1, "{method}");
        }
    }
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let start = |rank: usize| {
        let mut command = program(folder, &["run", "random.toml", "--run-dir", "run"]);
        if rank == 1 {
            command.args(["--set", "dpo.optim.lr=1e-3"]);
        }
        command
            .env("ATP_THREADS", "1")
            .env("TMPDIR", folder)
            .env("XDG_CACHE_HOME", folder.join("cache"))
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", "2")
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", port.to_string());
        command.spawn().expect("a process")
    };
    let ranks: Vec<Child> = (0..2).map(start).collect();
    let mut said = String::new();
    for child in ranks {
        let ended = Ended::from(child.wait_with_output().expect("an end"));
        assert_eq!(ended.code, Some(1), "{}", ended.err);
        said.push_str(&ended.err);
    }
    let told: Vec<&str> = said.lines().filter(|l| l.contains("error:")).collect();
    let says = "on the settings or the model of stage `train-dpo`: rank 1 differs from rank 0";
    assert!(told.len() == 1 && told[0].contains(says), "{said}");
    finish(folder, "run", "2");
    assert_same(&left(&folder.join("run")), &left(&folder.join("whole")));
}
