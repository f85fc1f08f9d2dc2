//! Problems from the hub: GSM8K for simple ones, OpenThoughts-114k for complex ones, by the published selection criteria.
//!
//! ```text
//! hub ──(files pinned to a commit)──▶ columns ──(rows)──▶ gsm8k, openthoughts ──(candidates)──▶ split, drawn ──▶ ProblemSet
//! ```
//!
//! GSM8K has a test split of its own. OpenThoughts has none: a problem's text decides its split, as the parameters of
//! generated problems do. Test problems that come near a training problem are left out, and the sets are proven disjoint
//! like the generated ones.

mod columns;
mod gsm8k;
mod hub;
mod openthoughts;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use self::columns::ColumnError;
use self::hub::fetch;
pub use self::hub::{DatasetError, HubDataset};
use crate::hub::Hub;
use crate::runtime::seed::stream;
use crate::scenario::disjoint::normalise;
use crate::scenario::question::Split;
use crate::scenario::tool_use::{
    Difficulty, NEAR_IMPORTED, Phrasings, Problem, ProblemOverlap, ProblemSet, ProblemSpec,
    check_disjoint, problem_id,
};

/// Where the problems come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImportSpec {
    /// Simple problems: a data set with GSM8K's schema.
    pub gsm8k: HubDataset,
    /// Complex problems: a data set with OpenThoughts-114k's schema.
    pub openthoughts: HubDataset,
    /// How many of the latter's files are read, the first by name; they are some 200 MB each.
    pub openthoughts_files: usize,
}

impl Default for ImportSpec {
    fn default() -> Self {
        let main = |repo: &str| HubDataset {
            repo: repo.into(),
            revision: "main".into(),
        };
        Self {
            gsm8k: main("openai/gsm8k"),
            openthoughts: main("open-thoughts/OpenThoughts-114k"),
            openthoughts_files: 2,
        }
    }
}

/// What was read and what became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// The commit that each data set was read at.
    pub commits: BTreeMap<String, String>,
    /// The files read.
    pub files: Vec<String>,
    /// Rows read, by data set.
    pub rows: BTreeMap<String, usize>,
    /// Rows refused, by data set and criterion: `gsm8k: at most 50 words`.
    pub refused: BTreeMap<String, usize>,
    /// Problems with a program, of those kept.
    pub programs: usize,
}

/// Why no problems could be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The hub did not give a file.
    #[error(transparent)]
    Hub(#[from] DatasetError),
    /// A file that is not what it should be.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: ColumnError,
    },
    /// Fewer problems than asked for meet the criteria.
    #[error(
        "data set `{repo}`: {wanted} {} {} problems were asked for, {found} of {rows} rows can be used (refused: {refused}); \
         ask for fewer{hint}",
        split.name(),
        difficulty.name()
    )]
    TooFew {
        /// The data set.
        repo: String,
        /// The split that is short.
        split: Split,
        /// Its kind of problem.
        difficulty: Difficulty,
        /// How many were asked for.
        wanted: u32,
        /// How many there are.
        found: usize,
        /// Of how many rows.
        rows: usize,
        /// The criteria that refused rows, and how many.
        refused: String,
        /// What else helps.
        hint: &'static str,
    },
    /// The sets overlap.
    #[error("imported problems: {0}")]
    Overlap(#[from] ProblemOverlap),
}

/// Fetches, selects and draws. The counts are those of `spec`; the environment is that of [`crate::hub::Settings`], and
/// what is in the hub's cache at the same commit is not fetched again.
///
/// # Errors
/// See [`ImportError`].
pub fn import(
    from: &ImportSpec,
    spec: &ProblemSpec,
    seed: u64,
) -> Result<(ProblemSet, ImportReport), ImportError> {
    import_by(&Hub::from_env(), from, spec, seed)
}

fn import_by(
    hub: &Hub,
    from: &ImportSpec,
    spec: &ProblemSpec,
    seed: u64,
) -> Result<(ProblemSet, ImportReport), ImportError> {
    let mut report = ImportReport::default();
    let simple = spec.train_simple + spec.test_simple > 0;
    let complex = spec.train_complex + spec.test_complex > 0;
    let mut candidates: Vec<Problem> = Vec::new();
    if simple {
        for (split, prefix) in [(Split::Train, "main/train-"), (Split::Test, "main/test-")] {
            for path in fetch(hub, &from.gsm8k, &[prefix], usize::MAX, &mut report)? {
                read(&path, "gsm8k", &mut report, &mut candidates, |take| {
                    columns::strings(&path, ["question", "answer"], |[question, answer]| {
                        take(gsm8k::problem(question, answer, split));
                    })
                })?;
            }
        }
    }
    if complex {
        // The metadata table has the reference solutions; the training table has only what a model wrote.
        let prefixes = ["metadata/train-", "data/train-"];
        for path in fetch(
            hub,
            &from.openthoughts,
            &prefixes,
            from.openthoughts_files,
            &mut report,
        )? {
            read(
                &path,
                "openthoughts",
                &mut report,
                &mut candidates,
                |take| {
                    if columns::has(&path, "ground_truth_solution")? {
                        let names = ["problem", "ground_truth_solution", "domain"];
                        columns::strings(&path, names, |[problem, solution, domain]| {
                            take(openthoughts::problem(problem, solution, domain));
                        })
                    } else {
                        columns::conversations(&path, |turns| {
                            take(openthoughts::conversation(turns))
                        })
                    }
                },
            )?;
        }
    }
    let mut kept: [Vec<Problem>; 2] = [Vec::new(), Vec::new()];
    for split in [Split::Train, Split::Test] {
        for difficulty in Difficulty::BOTH {
            let drawn = draw(
                &candidates,
                &kept[0],
                split,
                difficulty,
                from,
                spec,
                seed,
                &mut report,
            )?;
            kept[usize::from(split == Split::Test)].extend(drawn);
        }
    }
    let [train, test] = kept;
    report.programs = train
        .iter()
        .chain(&test)
        .filter(|p| p.program.is_some())
        .count();
    let disjointness = check_disjoint(&train, &test)?;
    let set = ProblemSet {
        train,
        test,
        disjointness,
    };
    Ok((set, report))
}

/// Reads one file's rows: `rows` hands each row's problem, or the criterion that it fails, to its argument.
fn read(
    path: &std::path::Path,
    name: &str,
    report: &mut ImportReport,
    candidates: &mut Vec<Problem>,
    rows: impl FnOnce(&mut dyn FnMut(Result<Problem, &'static str>)) -> Result<(), ColumnError>,
) -> Result<(), ImportError> {
    let mut take = |row: Result<Problem, &'static str>| {
        *report.rows.entry(name.to_owned()).or_default() += 1;
        match row {
            Ok(problem) => candidates.push(problem),
            Err(criterion) => {
                *report
                    .refused
                    .entry(format!("{name}: {criterion}"))
                    .or_default() += 1;
            }
        }
    };
    rows(&mut take).map_err(|problem| ImportError::File {
        path: path.to_owned(),
        problem,
    })
}

/// Draws the problems of one split and kind from the candidates, none twice, and for the test none near training's.
#[allow(clippy::too_many_arguments)]
fn draw(
    candidates: &[Problem],
    train: &[Problem],
    split: Split,
    difficulty: Difficulty,
    from: &ImportSpec,
    spec: &ProblemSpec,
    seed: u64,
    report: &mut ImportReport,
) -> Result<Vec<Problem>, ImportError> {
    let wanted = spec.count(split, difficulty);
    let (name, repo, hint) = match difficulty {
        Difficulty::Simple => ("gsm8k", &from.gsm8k.repo, ""),
        Difficulty::Complex => (
            "openthoughts",
            &from.openthoughts.repo,
            ", or raise `openthoughts_files`",
        ),
    };
    let mut of: Vec<&Problem> = candidates
        .iter()
        .filter(|p| p.split == split && p.difficulty == difficulty)
        .collect();
    let stream_name = format!("import/{}/{}", split.name(), difficulty.name());
    of.shuffle(&mut stream(seed, &stream_name));
    let known = Phrasings::of(train);
    let mut texts = BTreeSet::new();
    let mut drawn = Vec::new();
    for problem in of {
        if drawn.len() == wanted as usize {
            break;
        }
        let mut refuse =
            |why: &str| *report.refused.entry(format!("{name}: {why}")).or_default() += 1;
        if !texts.insert(normalise(&problem.text)) {
            refuse("a text of its own");
            continue;
        }
        let near = known.nearest(&problem.phrasing);
        if split == Split::Test && near.is_some_and(|(index, _)| index >= NEAR_IMPORTED) {
            refuse("a text unlike the training problems'");
            continue;
        }
        drawn.push(Problem {
            id: problem_id(split, difficulty, drawn.len()),
            ..problem.clone()
        });
    }
    if drawn.len() < wanted as usize {
        let prefix = format!("{name}: ");
        let refused: Vec<String> = report
            .refused
            .iter()
            .filter_map(|(why, count)| Some(format!("{} {count}", why.strip_prefix(&prefix)?)))
            .collect();
        return Err(ImportError::TooFew {
            repo: repo.clone(),
            split,
            difficulty,
            wanted,
            found: drawn.len(),
            rows: report.rows.get(name).copied().unwrap_or(0),
            refused: if refused.is_empty() {
                "none".into()
            } else {
                refused.join(", ")
            },
            hint,
        });
    }
    Ok(drawn)
}

#[cfg(test)]
mod tests;
