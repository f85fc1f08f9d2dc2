//! What a run did, for people and for scripts.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Reason;
use super::reason::in_words;

/// What became of one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It was finished before, with this very key.
    UpToDate,
    /// It ran to its end.
    Ran,
    /// Dry run: it would run.
    WouldRun,
    /// Dry run: it would run if a stage before it leaves other outputs than last time.
    MayRun,
    /// It failed.
    Failed,
    /// It was stopped on request.
    Interrupted,
    /// It was not run, since it reads from a stage that failed.
    Blocked,
    /// The run stopped before it.
    NotReached,
}

impl State {
    fn words(self) -> &'static str {
        match self {
            Self::UpToDate => "up to date",
            Self::Ran => "ran",
            Self::WouldRun => "would run",
            Self::MayRun => "may run",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Blocked => "blocked",
            Self::NotReached => "not reached",
        }
    }
}

/// One stage in a summary.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageReport {
    /// Name in the recipe.
    pub name: String,
    /// What it does.
    pub kind: String,
    /// What became of it.
    pub state: State,
    /// Why it ran, or would; as sentences in JSON.
    pub reasons: Vec<Reason>,
    /// Wall time of this run's part of it, in seconds.
    pub seconds: f64,
    /// Its folder, where its key is known.
    pub folder: Option<PathBuf>,
    /// What went wrong.
    pub error: Option<String>,
}

impl StageReport {
    /// A stage that nothing has happened to yet.
    pub(super) fn new(name: String, kind: &str) -> Self {
        Self {
            name,
            kind: kind.to_string(),
            state: State::NotReached,
            reasons: Vec::new(),
            seconds: 0.0,
            folder: None,
            error: None,
        }
    }
}

/// What a run did, stage by stage. `Display` is for people, serde for scripts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunSummary {
    /// The run directory.
    pub run_directory: PathBuf,
    /// Nothing was run.
    pub dry_run: bool,
    /// The stages that were asked for, in their order.
    pub stages: Vec<StageReport>,
}

impl RunSummary {
    pub(super) fn new(run_directory: &Path, dry_run: bool) -> Self {
        Self {
            run_directory: run_directory.to_path_buf(),
            dry_run,
            stages: Vec::new(),
        }
    }

    /// The report of a stage.
    pub fn stage(&self, name: &str) -> Option<&StageReport> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    fn count(&self, state: State) -> usize {
        self.stages.iter().filter(|s| s.state == state).count()
    }
}

/// Seconds as people write them: `0.4 s`, `73 s`, `12 min 5 s`, `3 h 2 min`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..120 => format!("{whole} s"),
        120..7200 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole / 60 % 60),
    }
}

impl fmt::Display for RunSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.stages.iter().map(|stage| stage.name.len()).max();
        let width = width.unwrap_or(0);
        for stage in &self.stages {
            write!(f, "{:width$}  {:11}", stage.name, stage.state.words())?;
            if stage.seconds > 0.0 {
                write!(f, "  {}", duration(stage.seconds))?;
            }
            if !stage.reasons.is_empty() {
                write!(f, "  ({})", in_words(&stage.reasons))?;
            }
            writeln!(f)?;
            if let Some(error) = &stage.error {
                writeln!(f, "{:width$}  {error}", "")?;
            }
        }
        let (all, hits) = (self.stages.len(), self.count(State::UpToDate));
        let place = self.run_directory.display();
        if hits == all {
            return writeln!(
                f,
                "nothing to do: all {all} stages in `{place}` are up to date"
            );
        }
        let states = [
            State::Ran,
            State::WouldRun,
            State::MayRun,
            State::UpToDate,
            State::Failed,
            State::Interrupted,
            State::Blocked,
            State::NotReached,
        ];
        let counts = states.iter().map(|&state| (self.count(state), state));
        let counts: Vec<_> = counts
            .filter(|(count, _)| *count > 0)
            .map(|(count, state)| format!("{count} {}", state.words()))
            .collect();
        writeln!(f, "{all} stages in `{place}`: {}", counts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(states: &[State]) -> RunSummary {
        let mut summary = RunSummary::new(Path::new("runs/a"), false);
        for (index, &state) in states.iter().enumerate() {
            let mut stage = StageReport::new(format!("stage-{index}"), "kind");
            stage.state = state;
            if state == State::Ran {
                stage.seconds = 75.4;
                stage.reasons = vec![Reason::Seed { from: 1, to: 2 }];
            }
            summary.stages.push(stage);
        }
        summary
    }

    #[test]
    fn people_read_a_line_a_stage_and_a_count() {
        let text = summary(&[State::UpToDate, State::Ran]).to_string();
        assert_eq!(
            text,
            "stage-0  up to date \n\
             stage-1  ran          75 s  (seed changed: 1 → 2)\n\
             2 stages in `runs/a`: 1 ran, 1 up to date\n"
        );
        let text = summary(&[State::UpToDate; 3]).to_string();
        assert!(text.ends_with("nothing to do: all 3 stages in `runs/a` are up to date\n"));
    }

    #[test]
    fn scripts_read_states_and_reasons_as_words() {
        let json = serde_json::to_value(summary(&[State::UpToDate, State::Ran])).unwrap();
        assert_eq!(json["stages"][0]["state"], "up-to-date");
        assert_eq!(json["stages"][1]["reasons"][0], "seed changed: 1 → 2");
    }

    #[test]
    fn durations() {
        for (seconds, text) in [
            (0.42, "0.4 s"),
            (73.4, "73 s"),
            (725.0, "12 min 5 s"),
            (10_920.0, "3 h 2 min"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
