//! What a run did, for people and for scripts.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::reason::in_words;
use super::{Reason, Work};
use crate::runtime::message::{as_text, as_text_if_there};

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
    /// How much it has to do, where that can be told.
    pub work: Option<Work>,
    /// Dry run: about how many seconds that will take, by the pace of finished stages of its kind and model.
    pub estimated_seconds: Option<f64>,
    /// Which model it uses.
    #[serde(skip)]
    pub(super) model: Option<String>,
    /// Seconds that it took when it was finished before.
    #[serde(skip)]
    pub(super) took: Option<f64>,
    /// Dry run: seconds that it took when it was last finished, with whatever key.
    #[serde(skip)]
    pub(super) took_before: Option<f64>,
    /// Its folder, where its key is known.
    #[serde(serialize_with = "as_text_if_there")]
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
            work: None,
            estimated_seconds: None,
            model: None,
            took: None,
            took_before: None,
            folder: None,
            error: None,
        }
    }
}

impl StageReport {
    /// Dry run: it would or may run.
    fn is_ahead(&self) -> bool {
        matches!(self.state, State::WouldRun | State::MayRun)
    }

    /// What a dry run says about its work.
    fn effort(&self) -> Option<String> {
        let work = self.work.filter(|_| self.is_ahead())?;
        let time = self.estimated_seconds.map(duration);
        let time = time.map_or(String::new(), |time| format!(", about {time}"));
        Some(format!("{} {}{time}", work.count, work.unit))
    }
}

/// What a run did, stage by stage. `Display` is for people, serde for scripts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunSummary {
    /// The run directory.
    #[serde(serialize_with = "as_text")]
    pub run_directory: PathBuf,
    /// Nothing was run.
    pub dry_run: bool,
    /// The stages that were asked for, in their order.
    pub stages: Vec<StageReport>,
    /// Dry run: what it takes of this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs: Option<Needs>,
    /// The adapter that `train` was asked for, where it is one.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "as_text_if_there"
    )]
    pub adapter: Option<PathBuf>,
}

/// What a run takes of the machine, known before anything is loaded.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Needs {
    /// A line a model.
    pub memory: Vec<String>,
    /// New tokens, at most.
    pub new_tokens: u64,
    /// Bytes that the stages that would run leave on disk, about.
    pub disk_bytes: u64,
    /// Bytes free where the run directory is, or would be.
    pub disk_free_bytes: Option<u64>,
}

impl Needs {
    /// Of the stages that would or may run.
    fn of(summary: &RunSummary, memory: Vec<String>, free: Option<u64>) -> Self {
        let ahead = summary.stages.iter().filter(|stage| stage.is_ahead());
        let work: Vec<Work> = ahead.filter_map(|stage| stage.work).collect();
        let sum = |of: fn(&Work) -> u64| work.iter().map(of).fold(0, u64::saturating_add);
        Self {
            memory,
            new_tokens: sum(|work| work.tokens),
            disk_bytes: sum(|work| work.bytes),
            disk_free_bytes: free,
        }
    }
}

/// What is needed of the disk and what is free, in words; and whether that is enough, as far as it is known.
pub(super) fn disk(needed: u64, free: Option<u64>) -> (String, bool) {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let mut text = format!("about {:.0} MB", megabytes(needed).ceil());
    let Some(free) = free else {
        return (text, true);
    };
    text.push_str(&format!(" of {:.0} MB free", megabytes(free)));
    if free < needed {
        text.push_str("; that is too little: make room, or name another --run-dir");
    }
    (text, free >= needed)
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.new_tokens > 0 {
            writeln!(f, "tokens: at most {} new ones", self.new_tokens)?;
        }
        for line in &self.memory {
            writeln!(f, "memory: {line}")?;
        }
        writeln!(
            f,
            "disk:   {}",
            disk(self.disk_bytes, self.disk_free_bytes).0
        )
    }
}

impl RunSummary {
    pub(super) fn new(run_directory: &Path, dry_run: bool) -> Self {
        Self {
            run_directory: run_directory.to_path_buf(),
            dry_run,
            stages: Vec::new(),
            needs: None,
            adapter: None,
        }
    }

    /// Tell what a dry run found out about the machine: a line a model, and the bytes free on disk.
    pub fn tell_needs(&mut self, memory: Vec<String>, disk_free: Option<u64>) {
        if self.stages.iter().any(StageReport::is_ahead) {
            self.needs = Some(Needs::of(self, memory, disk_free));
        }
    }

    /// The report of a stage.
    pub fn stage(&self, name: &str) -> Option<&StageReport> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// Work out how long stages that would run will take: as long a unit of work as those of their kind and model that
    /// are finished; where none is, as those did that were finished with another key.
    pub(super) fn estimate(&mut self) {
        self.forget_other_work();
        let of = |stage: &StageReport| {
            let now = self.pace(stage, |other| other.took);
            now.or_else(|| self.pace(stage, |other| other.took_before))
        };
        let paces: Vec<Option<f64>> = self.stages.iter().map(of).collect();
        for (stage, pace) in self.stages.iter_mut().zip(paces) {
            if stage.is_ahead() {
                let work = stage.work.map(|work| work.count as f64);
                stage.estimated_seconds = pace.zip(work).map(|(pace, work)| pace * work);
            }
        }
    }

    /// Seconds a unit of work of the stages of this one's kind and model.
    fn pace(&self, stage: &StageReport, took: fn(&StageReport) -> Option<f64>) -> Option<f64> {
        let alike =
            |other: &&StageReport| (&other.kind, &other.model) == (&stage.kind, &stage.model);
        let done = self.stages.iter().filter(alike);
        let done = done.filter_map(|other| Some((took(other)?, other.work?.count)));
        let (seconds, count) = done.fold((0.0, 0), |(a, b), (c, d)| (a + c, b + d));
        (count > 0).then(|| seconds / count as f64)
    }

    /// How long a stage took before tells nothing where it did another amount of work then, or may have.
    fn forget_other_work(&mut self) {
        let mut same: Vec<String> = vec![];
        for stage in &mut self.stages {
            let is_same = |reason: &Reason| match reason {
                Reason::Pending { stage, .. } => same.contains(stage),
                reason => reason.keeps_work(),
            };
            if stage.reasons.iter().all(is_same) {
                same.push(stage.name.clone());
            } else {
                stage.took_before = None;
            }
        }
    }

    /// What a dry run says about all there is to do; nothing where there is nothing.
    fn ahead(&self) -> Option<String> {
        let mut units: Vec<(&str, u64)> = vec![];
        let (mut seconds, mut all_known) = (0.0, true);
        for stage in self.stages.iter().filter(|stage| stage.is_ahead()) {
            let Some(work) = stage.work else { continue };
            match units.iter_mut().find(|(unit, _)| *unit == work.unit) {
                Some((_, count)) => *count += work.count,
                None => units.push((work.unit, work.count)),
            }
            seconds += stage.estimated_seconds.unwrap_or(0.0);
            all_known &= stage.estimated_seconds.is_some();
        }
        if units.is_empty() {
            return None;
        }
        let units: Vec<String> = units
            .iter()
            .map(|(unit, n)| format!("{n} {unit}"))
            .collect();
        let time = match (all_known, seconds > 0.0) {
            (true, true) => format!(
                "; about {} at the pace of finished stages",
                duration(seconds)
            ),
            (false, true) => format!(
                "; about {} at the pace of finished stages for those of their kinds, the others not counted",
                duration(seconds)
            ),
            (_, false) => {
                "; how long it takes can be told once a stage of each kind is finished".to_owned()
            }
        };
        Some(format!("at most {}{time}", units.join(", ")))
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
            if let Some(effort) = stage.effort() {
                write!(f, "; {effort}")?;
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
                "nothing to do: {}",
                match all {
                    1 => format!("the one stage in `{place}` is up to date"),
                    _ => format!("all {all} stages in `{place}` are up to date"),
                }
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
        let stages = if all == 1 { "stage" } else { "stages" };
        writeln!(f, "{all} {stages} in `{place}`: {}", counts.join(", "))?;
        if let Some(ahead) = self.ahead() {
            writeln!(f, "{ahead}")?;
        }
        match &self.needs {
            Some(needs) => needs.fmt(f),
            None => Ok(()),
        }
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
    fn a_dry_run_tells_what_there_is_to_do_and_how_long_it_takes() {
        let mut plan = summary(&[State::UpToDate, State::WouldRun, State::MayRun]);
        for (stage, count) in plan.stages.iter_mut().zip([40, 100, 60]) {
            let unit = "decisions";
            stage.work = Some(Work::new(&[count], unit));
        }
        let told = |plan: &RunSummary| {
            let mut plan = plan.clone();
            plan.estimate();
            plan.to_string()
        };
        assert!(
            told(&plan).ends_with("at most 160 decisions; how long it takes can be told once a stage of each kind is finished\n"),
            "{}",
            told(&plan)
        );
        plan.stages[0].took = Some(80.0);
        let text = told(&plan);
        assert!(
            text.contains("stage-1  would run  ; 100 decisions, about 3 min 20 s\n"),
            "{text}"
        );
        assert!(
            text.contains(
                "at most 160 decisions; about 5 min 20 s at the pace of finished stages\n"
            ),
            "{text}"
        );
        // Another model has another pace.
        plan.stages[2].model = Some("other".into());
        let text = told(&plan);
        assert!(
            text.contains("stage-2  may run    ; 60 decisions\n"),
            "{text}"
        );
        assert!(text.contains("about 3 min 20 s at the pace of finished stages for those of their kinds, the others"), "{text}");
    }

    #[test]
    fn a_stage_with_another_key_takes_as_long_as_before_where_its_work_is_the_same() {
        let change = |from: &str, to: &str| Reason::Config {
            key: "a".into(),
            from: Some(from.into()),
            to: Some(to.into()),
        };
        let told = |reason: Reason| {
            let mut plan = summary(&[State::WouldRun, State::MayRun]);
            plan.stages[0].reasons = vec![reason];
            plan.stages[1].kind = "another".into();
            plan.stages[1].reasons = vec![Reason::Pending {
                name: "in".into(),
                stage: "stage-0".into(),
            }];
            for (stage, took) in plan.stages.iter_mut().zip([80.0, 20.0]) {
                stage.work = Some(Work::new(&[40], "decisions"));
                stage.took_before = Some(took);
            }
            plan.estimate();
            plan.stages.iter().map(|s| s.estimated_seconds).collect()
        };
        let known: Vec<Option<f64>> = told(change("0.0004", "1e-5"));
        assert_eq!(known, [Some(80.0), Some(20.0)]);
        assert_eq!(told(Reason::Seed { from: 1, to: 2 }), known);
        // More rounds, other texts, another model: nothing is known.
        let model = Reason::Model {
            from: None,
            to: None,
        };
        for reason in [change("2", "3"), change("\"a\"", "\"b\""), model] {
            assert_eq!(told(reason), [None::<f64>; 2]);
        }
    }

    #[test]
    fn one_stage_is_no_stages() {
        let text = summary(&[State::WouldRun]).to_string();
        assert!(
            text.ends_with("1 stage in `runs/a`: 1 would run\n"),
            "{text}"
        );
        let text = summary(&[State::UpToDate]).to_string();
        let all = "nothing to do: the one stage in `runs/a` is up to date\n";
        assert!(text.ends_with(all), "{text}");
    }

    #[test]
    fn a_dry_run_tells_what_it_takes() {
        let mut plan = summary(&[State::UpToDate, State::WouldRun]);
        for stage in &mut plan.stages {
            stage.work = Some(
                Work::new(&[1000], "decisions")
                    .writing(100)
                    .storing(1_000_000),
            );
        }
        plan.tell_needs(vec!["`m` in Float: weights 1 GiB".into()], Some(1_500_000));
        let text = plan.to_string();
        // 1000 · (256 + 500) + a million bytes, of the one stage that would run.
        let told = "tokens: at most 100000 new ones\nmemory: `m` in Float: weights 1 GiB\ndisk:   about 2 MB of 2 MB free; \
                    that is too little: make room, or name another --run-dir\n";
        assert!(text.ends_with(told), "{text}");
        let mut done = summary(&[State::UpToDate]);
        done.tell_needs(vec![], None);
        assert_eq!(done.needs, None);
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
