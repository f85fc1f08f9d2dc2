use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::stages::{Input, StageContext};

struct Named(&'static str, &'static str, Vec<&'static str>);

impl Stage for Named {
    fn name(&self) -> String {
        self.0.into()
    }
    fn kind(&self) -> &'static str {
        self.1
    }
    fn format(&self) -> u32 {
        1
    }
    fn config(&self) -> Value {
        json!({})
    }
    fn seed(&self) -> u64 {
        0
    }
    fn is_shared(&self) -> bool {
        self.1 != "data" && self.1 != "report"
    }
    fn inputs(&self) -> Vec<Input> {
        let inputs = self.2.iter();
        inputs
            .map(|from| Input::all_outputs(*from, *from))
            .collect()
    }
    fn run(&self, _: &StageContext) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Two seeds with data of their own, of which DPO is trained and evaluated, and the base model evaluated; one report.
fn stages() -> Vec<Box<dyn Stage>> {
    let list = [
        Named("data.s1", "data", vec![]),
        Named("pairs.s1", "pairs", vec!["data.s1"]),
        Named("train-dpo.s1", "train-dpo", vec!["pairs.s1"]),
        Named("evaluate-base.s1", "evaluate", vec!["data.s1"]),
        Named(
            "evaluate-dpo.s1",
            "evaluate",
            vec!["data.s1", "train-dpo.s1"],
        ),
        Named("data.s2", "data", vec![]),
        Named("pairs.s2", "pairs", vec!["data.s2"]),
        Named("train-dpo.s2", "train-dpo", vec!["pairs.s2"]),
        Named("evaluate-base.s2", "evaluate", vec!["data.s2"]),
        Named(
            "evaluate-dpo.s2",
            "evaluate",
            vec!["data.s2", "train-dpo.s2"],
        ),
        Named(
            "report",
            "report",
            vec![
                "evaluate-base.s1",
                "evaluate-dpo.s1",
                "evaluate-base.s2",
                "evaluate-dpo.s2",
            ],
        ),
    ];
    list.into_iter()
        .map(|stage| Box::new(stage) as Box<dyn Stage>)
        .collect()
}

#[test]
fn stages_that_do_not_wait_for_each_other_are_one_array() {
    let groups = groups(&stages(), &[true; 11]);
    let all: Vec<(&str, usize)> = groups
        .iter()
        .map(|g| (g.name.as_str(), g.stages.len()))
        .collect();
    assert_eq!(
        all,
        [
            ("data", 2),
            ("pairs", 2),
            ("train-dpo", 2),
            ("evaluate-base", 2),
            ("evaluate-dpo", 2),
            ("report", 1)
        ]
    );
    assert_eq!(groups[4].stages, ["evaluate-dpo.s1", "evaluate-dpo.s2"]);
    let after = |group: usize| -> Vec<(usize, bool)> {
        groups[group]
            .after
            .iter()
            .map(|a| (a.group, a.one_by_one))
            .collect()
    };
    assert_eq!(after(0), []);
    assert_eq!(after(2), [(1, true)]);
    assert_eq!(after(4), [(0, true), (2, true)]);
    // The report waits for all of them.
    assert_eq!(after(5), [(3, false), (4, false)]);
    let jobs: Vec<Job> = groups
        .iter()
        .enumerate()
        .map(|(i, group)| Job {
            id: 40 + i as u64,
            stages: group.stages.clone(),
        })
        .collect();
    assert_eq!(
        dependency(&groups[4], &jobs).as_deref(),
        Some("aftercorr:40,aftercorr:42")
    );
    assert_eq!(
        dependency(&groups[5], &jobs).as_deref(),
        Some("afterok:43,afterok:44")
    );
    assert_eq!(dependency(&groups[0], &jobs), None);
}

#[test]
fn data_that_all_seeds_share_is_waited_for_by_all() {
    let mut stages = stages();
    stages.retain(|stage| stage.name() != "data.s2");
    stages[5] = Box::new(Named("pairs.s2", "pairs", vec!["data.s1"]));
    let groups = groups(&stages[..6], &[true; 6]);
    let pairs = groups.iter().find(|g| g.name == "pairs").unwrap();
    assert_eq!(pairs.stages, ["pairs.s1", "pairs.s2"]);
    assert_eq!(
        pairs.after,
        [After {
            group: 0,
            one_by_one: false
        }]
    );
}

#[test]
fn a_script_asks_for_what_its_stage_can_use() {
    let groups = groups(&stages(), &[true; 11]);
    let resources = Resources {
        partition: Some("gpu".into()),
        nodes: 2,
        ranks: 4,
        gpus: 4,
        cpus: 8,
        notice: 90,
        retries: 3,
        time: Some("02:00:00".into()),
        ..Resources::default()
    };
    let command = ["/opt/atp-pipeline", "run", "it's.toml"].map(str::to_owned);
    let text = |group: usize| {
        script::text(
            &groups[group],
            &resources,
            &command,
            Path::new("/runs/a/slurm"),
        )
    };
    let train = text(2);
    for part in [
        "#SBATCH --partition=gpu\n",
        "#SBATCH --nodes=2\n",
        "#SBATCH --ntasks-per-node=4\n",
        "#SBATCH --gpus-per-node=4\n",
        "#SBATCH --array=0-1\n",
        "#SBATCH --signal=B:USR1@90\n",
        "#SBATCH --requeue\n",
        "#SBATCH --output=/runs/a/slurm/train-dpo-%A_%a.log\n",
        "stages=(train-dpo.s1 train-dpo.s2)\n",
        r"/opt/atp-pipeline run 'it'\''s.toml' --threads 8 --only",
        "lost=/runs/a/slurm/train-dpo-$job.lost\n",
        "again=$((times < 3))\n",
    ] {
        assert!(train.contains(part), "{part}: {train}");
    }
    let report = text(5);
    assert!(
        report.contains("#SBATCH --nodes=1\n#SBATCH --ntasks-per-node=1\n"),
        "{report}"
    );
    // One GPU, or it would look for results of a CPU.
    assert!(
        report.contains("#SBATCH --gpus-per-node=1\n") && !report.contains("--array"),
        "{report}"
    );
}
