//! The text of a job's script.

use std::path::Path;

use super::Group;

/// What a job asks Slurm for.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    /// Partition.
    pub partition: Option<String>,
    /// Account.
    pub account: Option<String>,
    /// Machines of a job whose work is divided.
    pub nodes: u32,
    /// Ranks a machine.
    pub ranks: u32,
    /// GPUs a machine; one a rank, or none.
    pub gpus: u32,
    /// Cores a rank.
    pub cpus: u32,
    /// Memory a machine, in Slurm's words.
    pub memory: Option<String>,
    /// Longest time of an attempt, in Slurm's words.
    pub time: Option<String>,
    /// Seconds before that limit, or before preemption, at which a checkpoint is asked for.
    pub notice: u32,
    /// Attempts after one that lost a rank.
    pub retries: u32,
    /// Further options of sbatch.
    pub options: Vec<String>,
    /// A line of shell before the program: modules, variables.
    pub setup: Option<String>,
}

/// A word for the shell.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// The script of a group; logs go into `folder`.
pub fn text(group: &Group, resources: &Resources, command: &[String], folder: &Path) -> String {
    let several = group.stages.len() > 1;
    let (nodes, ranks, gpus) = match group.shared {
        true => (resources.nodes, resources.ranks, resources.gpus),
        // One GPU, where there are any: what a stage is known by has the kind of device in it, so all must see the same.
        false => (1, 1, resources.gpus.min(1)),
    };
    let log = folder.join(format!(
        "{}-{}.log",
        group.name,
        if several { "%A_%a" } else { "%j" }
    ));
    let mut head = vec![format!("--job-name=atp-{}", group.name)];
    head.extend(
        resources
            .partition
            .iter()
            .map(|p| format!("--partition={p}")),
    );
    head.extend(resources.account.iter().map(|a| format!("--account={a}")));
    head.push(format!("--nodes={nodes}"));
    head.push(format!("--ntasks-per-node={ranks}"));
    head.push(format!("--cpus-per-task={}", resources.cpus));
    if gpus > 0 {
        head.push(format!("--gpus-per-node={gpus}"));
    }
    head.extend(resources.memory.iter().map(|m| format!("--mem={m}")));
    head.extend(resources.time.iter().map(|t| format!("--time={t}")));
    if several {
        head.push(format!("--array=0-{}", group.stages.len() - 1));
    }
    head.push(format!("--signal=B:USR1@{}", resources.notice));
    head.push("--requeue".into());
    head.push("--open-mode=append".into());
    head.push(format!("--output={}", log.display()));
    head.extend(resources.options.iter().cloned());
    let head: String = head
        .iter()
        .map(|option| format!("#SBATCH {option}\n"))
        .collect();
    let stages: Vec<String> = group.stages.iter().map(|stage| quoted(stage)).collect();
    let command: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    let setup = resources
        .setup
        .as_ref()
        .map_or(String::new(), |line| format!("{line}\n"));
    let (stages, command) = (stages.join(" "), command.join(" "));
    let (retries, cpus) = (resources.retries, resources.cpus);
    let lost = quoted(&folder.join(&group.name).display().to_string());
    format!(
        r#"#!/usr/bin/env bash
{head}
# Written by `atp-pipeline submit`: one stage a task. A notice before the time limit or preemption becomes a checkpoint and
# another turn in the queue; so does, {retries} times, a rank that was lost. The run directory is all the state there is.
set -u
stages=({stages})
stage=${{stages[${{SLURM_ARRAY_TASK_ID:-0}}]}}
job=${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}}}
job=${{job:-$SLURM_JOB_ID}}
attempt=${{SLURM_RESTART_COUNT:-0}}
# Turns that ended with a rank lost; other turns in the queue are none of them.
lost={lost}-$job.lost
{setup}echo "$stage: job $job, attempt $((attempt + 1)), on $SLURM_JOB_NODELIST"
# A killed rank ends the step; the others say which one it was before that.
srun --cpus-per-task={cpus} --kill-on-bad-exit=0 --wait=60 {command} --threads {cpus} --only "$stage" &
step=$!
stopped=
trap 'stopped=1; scancel --signal=USR1 "$SLURM_JOB_ID.0" 2>/dev/null || kill -USR1 "$step"' USR1 TERM
# A trapped signal ends `wait` early.
while kill -0 "$step" 2>/dev/null; do wait "$step"; done
wait "$step"
code=$?
case $code in
0) exit 0 ;;
130) echo "$stage: stopped with its work saved; back into the queue"; again=1 ;;
# 69: the others of a rank that was lost; from 128 on: a signal's.
69 | 1[2-9][0-9])
    times=$(cat "$lost" 2>/dev/null || echo 0)
    again=$((times < {retries}))
    echo $((times + 1)) >"$lost"
    ;;
*) again=$((${{#stopped}} > 0 && code != 1)) ;;
esac
if [ "$again" = 1 ]; then
    echo "$stage: attempt $((attempt + 1)) ended with code $code; the job goes back into the queue"
    scontrol requeue "$job" && sleep 60
fi
exit "$code"
"#
    )
}
