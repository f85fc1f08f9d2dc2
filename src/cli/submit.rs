//! `submit`: a recipe as jobs of Slurm.

use clap::Args;
use serde_json::json;
use tch::Device;

use super::run::RecipeArgs;
use crate::runtime::ranks::Ranks;
use crate::stages::bodies::{Machine, pipeline};
use crate::stages::select;
use crate::stages::slurm::{Resources, Submission, groups};

/// Options of `submit`.
#[derive(Debug, Args)]
pub struct SubmitArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Only this stage and what it needs; may be given several times.
    #[arg(long, value_name = "STAGE")]
    only: Vec<String>,
    /// Partition.
    #[arg(long)]
    partition: Option<String>,
    /// Account.
    #[arg(long)]
    account: Option<String>,
    /// GPUs a machine; each is a rank. 0 computes on CPUs.
    #[arg(long, default_value_t = 1)]
    gpus: u32,
    /// Ranks a machine, where there are no GPUs.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    ranks: u32,
    /// Machines of a job.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: u32,
    /// Cores a rank.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    cpus: u32,
    /// Memory a machine, as sbatch takes it: 64G.
    #[arg(long)]
    mem: Option<String>,
    /// Longest time of one attempt, as sbatch takes it: 12:00:00. A job goes on after it in another attempt.
    #[arg(long)]
    time: Option<String>,
    /// Seconds before that limit, or before preemption, at which a checkpoint is made.
    #[arg(long, default_value_t = 120)]
    notice: u32,
    /// Attempts after one that lost a rank.
    #[arg(long, default_value_t = 3)]
    retries: u32,
    /// A line of shell before the program in every job: modules, variables.
    #[arg(long, value_name = "LINE")]
    setup: Option<String>,
    /// A further option of sbatch, as --sbatch=--qos=high; may be given several times.
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    sbatch: Vec<String>,
    /// Print the scripts; write and submit nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON: the jobs, with --dry-run the scripts.
    #[arg(long)]
    json: bool,
}

impl SubmitArgs {
    /// Submit it.
    pub fn execute(self) -> anyhow::Result<()> {
        let (recipe, root) = self.recipe.load()?;
        // Fetched here, where there is a network: compute nodes often have none.
        let machine = Machine::new(Device::Cpu, Ranks::alone());
        let pipeline = pipeline(&recipe, &machine, !self.dry_run)?;
        let only = match self.only.is_empty() {
            true => pipeline.wanted,
            false => Some(self.only),
        };
        let wanted = select(&pipeline.stages, only.as_deref())?;
        let groups = groups(&pipeline.stages, &wanted);
        let device = if self.gpus > 0 { "cuda" } else { "cpu" };
        let mut command = vec![std::env::current_exe()?.display().to_string(), "run".into()];
        command.extend(self.recipe.words(&root));
        command.extend(["--beside", "--device", device].map(str::to_owned));
        let submission = Submission {
            root,
            resources: Resources {
                partition: self.partition,
                account: self.account,
                nodes: self.nodes,
                ranks: if self.gpus > 0 {
                    self.gpus
                } else {
                    self.ranks.max(1)
                },
                gpus: self.gpus,
                cpus: self.cpus,
                memory: self.mem,
                time: self.time,
                notice: self.notice,
                retries: self.retries,
                options: self.sbatch,
                setup: self.setup,
            },
            command,
        };
        if self.dry_run {
            let mut scripts = vec![];
            for (file, text) in submission.scripts(&groups)? {
                match self.json {
                    true => scripts.push(json!({"file": file, "text": text})),
                    false => tell!("# {file}\n{text}"),
                }
            }
            if self.json {
                tell!("{}", serde_json::to_string_pretty(&scripts)?);
            }
            return Ok(());
        }
        let jobs = submission.submit(&groups)?;
        if self.json {
            let jobs = jobs.iter().zip(&groups).map(
                |(job, group)| json!({"job": job.id, "name": group.name, "stages": group.stages}),
            );
            tell!(
                "{}",
                serde_json::to_string_pretty(&jobs.collect::<Vec<_>>())?
            );
            return Ok(());
        }
        for (job, group) in jobs.iter().zip(&groups) {
            let stages = group.stages.join(", ");
            tell!("{}  {}: {stages}", job.id, group.name);
        }
        tell!(
            "how far they are: atp-pipeline status {}",
            submission.root.display()
        );
        Ok(())
    }
}
