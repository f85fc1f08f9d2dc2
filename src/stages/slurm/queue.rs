//! What Slurm says of jobs.

use std::collections::BTreeMap;
use std::process::Command;

use super::Job;

/// A stage's job.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct JobState {
    /// Number, and of an array the task: `17_2`.
    pub job: String,
    /// In Slurm's words, and why it waits; none where Slurm does not remember it or is not there.
    pub state: Option<String>,
}

/// The state of each stage's job, by stage.
pub fn states(jobs: &[Job]) -> BTreeMap<String, JobState> {
    let ids: Vec<String> = jobs.iter().map(|job| job.id.to_string()).collect();
    let asked = Command::new("squeue")
        .args([
            "--noheader",
            "--array",
            "--states=all",
            "--format=%i|%T|%r",
            "--jobs",
        ])
        .arg(ids.join(","))
        .output();
    let said = asked.map_or_else(|_| vec![], |output| output.stdout);
    read(jobs, &String::from_utf8_lossy(&said))
}

fn read(jobs: &[Job], said: &str) -> BTreeMap<String, JobState> {
    let mut known = BTreeMap::new();
    for line in said.lines() {
        let mut fields = line.trim().split('|');
        if let (Some(job), Some(state)) = (fields.next(), fields.next()) {
            let why = fields
                .next()
                .filter(|why| state == "PENDING" && *why != "None");
            let state = state.to_lowercase();
            let words = why.map_or(state.clone(), |why| format!("{state} ({why})"));
            known.insert(job.to_owned(), words);
        }
    }
    let mut states = BTreeMap::new();
    for job in jobs {
        for (task, stage) in job.stages.iter().enumerate() {
            let number = match job.stages.len() {
                1 => job.id.to_string(),
                _ => format!("{}_{task}", job.id),
            };
            let state = known.get(&number).cloned();
            states.insert(stage.clone(), JobState { job: number, state });
        }
    }
    states
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_read_by_task() {
        let job = |id, stages: &[&str]| Job {
            id,
            stages: stages.iter().map(|s| (*s).to_owned()).collect(),
        };
        let jobs = [
            job(4, &["data"]),
            job(5, &["pairs.s1", "pairs.s2"]),
            job(6, &["report"]),
        ];
        let said = "4|COMPLETED|None\n5_0|RUNNING|None\n5_1|PENDING|Dependency\n";
        let states = read(&jobs, said);
        let of = |stage: &str| (states[stage].job.clone(), states[stage].state.clone());
        assert_eq!(of("data"), ("4".into(), Some("completed".into())));
        assert_eq!(of("pairs.s1"), ("5_0".into(), Some("running".into())));
        assert_eq!(
            of("pairs.s2"),
            ("5_1".into(), Some("pending (Dependency)".into()))
        );
        assert_eq!(of("report"), ("6".into(), None));
    }
}
