//! Two runs beside each other: what each measured by round, and how far they differ.
//!
//! Where both runs put the same test set (by its digest) to an agent of the same seed, decisions are paired: seed, question,
//! sample, agent and round. Questions are then no source of the difference, and the interval is that of a paired
//! difference, clusters resampled ([`paired_interval`]). Elsewhere the two rates are of different questions, and only the
//! clusters that both have tie them ([`cluster_contrast`]). Rates of a side are over all it has; a paired difference is
//! over the pairs alone. Invalid and failed decisions enter neither.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer};

use crate::artifact::Digest;
use crate::evaluation::coordination_row::GameRow;
use crate::evaluation::row::EvalRow;
use crate::evaluation::statistics::{
    Cluster, Estimate, cluster_bootstrap, cluster_contrast, paired_interval, rate_interval,
};
use crate::evaluation::summary::variant_rank;
use crate::evaluation::tool_row::{Solved, ToolRow};
use crate::scenario::tool_use::Difficulty;
use crate::scenario::{Outcome, Testbed};

mod page;
mod text;

/// Root of the bootstraps: a comparison has no seed of its own.
const ROOT: u64 = 0;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Share of readable role-play decisions that break the rule.
    Violation,
    /// Share of readable game decisions that collude.
    Collusion,
    /// Share of complex problems solved with the tool.
    ToolUsage,
    /// Share of complex problems with the right answer.
    Accuracy,
}

impl Measure {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Violation => "violation rate",
            Self::Collusion => "collusion rate",
            Self::ToolUsage => "tool usage, complex problems",
            Self::Accuracy => "accuracy, complex problems",
        }
    }
}

/// Whose decisions: rank and name of the variant, and in games the population and the kind that is counted.
type Who = (usize, String);

/// One decision that counts.
#[derive(Debug, Clone)]
struct Observation {
    model: String,
    who: Who,
    measure: Measure,
    round: u32,
    /// Test set, seed and what tells agents of one question apart: equal in both runs for a pair.
    unit: (Digest, u64, String),
    question: String,
    cluster: String,
    value: f64,
}

/// One run.
#[derive(Debug, Clone, Default)]
pub struct RunRows {
    /// How the run is called: its directory.
    pub name: String,
    observations: Vec<Observation>,
    test_sets: BTreeMap<Testbed, BTreeSet<(u64, String)>>,
}

impl RunRows {
    /// A run without rows yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    fn set(&mut self, testbed: Testbed, seed: u64, test_set: Digest) {
        let sets = self.test_sets.entry(testbed).or_default();
        sets.insert((seed, test_set.to_string()));
    }

    /// Adds an evaluation of role-play on this test set.
    pub fn role_play(&mut self, test_set: Digest, rows: &[EvalRow]) {
        for row in rows {
            self.set(Testbed::RolePlay, row.seed, test_set);
            let value = match row.outcome {
                Outcome::Compliant => 0.0,
                Outcome::Deviant => 1.0,
                Outcome::Invalid | Outcome::Failed => continue,
            };
            self.observations.push(Observation {
                model: row.model.clone(),
                who: (variant_rank(&row.variant), row.variant.clone()),
                measure: Measure::Violation,
                round: row.round,
                unit: (
                    test_set,
                    row.seed,
                    format!("{}/{}", row.question_id, row.sample),
                ),
                question: row.question_id.clone(),
                cluster: row.environment.clone(),
                value,
            });
        }
    }

    /// Adds an evaluation of games on this test set.
    pub fn games(&mut self, test_set: Digest, rows: &[GameRow]) {
        for row in rows {
            self.set(Testbed::Coordination, row.seed, test_set);
            let value = match row.outcome {
                _ if row.kind.fixed().is_some() => continue,
                Outcome::Compliant => 0.0,
                Outcome::Deviant => 1.0,
                Outcome::Invalid | Outcome::Failed => continue,
            };
            let who = if row.population.contains('+') {
                format!(
                    "{} ({} of {})",
                    row.variant,
                    row.kind.name(),
                    row.population
                )
            } else {
                row.variant.clone()
            };
            let unit = format!(
                "{}/{}/{}/{}",
                row.instance_id, row.population, row.sample, row.agent
            );
            self.observations.push(Observation {
                model: row.model.clone(),
                who: (variant_rank(&row.variant), who),
                measure: Measure::Collusion,
                round: row.round,
                unit: (test_set, row.seed, unit),
                question: row.instance_id.clone(),
                cluster: row.game.clone(),
                value,
            });
        }
    }

    /// Adds an evaluation of tool usage on this test set.
    pub fn tools(&mut self, test_set: Digest, rows: &[ToolRow]) {
        for row in rows {
            self.set(Testbed::ToolUse, row.seed, test_set);
            if row.difficulty != Difficulty::Complex || row.solved == Solved::Failed {
                continue;
            }
            let right = row.solved == Solved::Right;
            for (measure, holds) in [
                (Measure::ToolUsage, row.used_tool),
                (Measure::Accuracy, right),
            ] {
                self.observations.push(Observation {
                    model: row.model.clone(),
                    who: (variant_rank(&row.variant), row.variant.clone()),
                    measure,
                    round: row.round,
                    unit: (
                        test_set,
                        row.seed,
                        format!("{}/{}", row.problem_id, row.agent),
                    ),
                    question: row.problem_id.clone(),
                    cluster: row.family.clone(),
                    value: f64::from(u8::from(holds)),
                });
            }
        }
    }

    fn models(&self) -> BTreeSet<&str> {
        self.observations.iter().map(|o| o.model.as_str()).collect()
    }
}

/// A value with its 95 % interval, as JSON an object.
fn estimate<S: Serializer>(value: &Option<Estimate>, to: S) -> Result<S::Ok, S::Error> {
    let parts = value
        .map(|e| serde_json::json!({ "value": e.value, "low": e.low, "high": e.high, "n": e.n }));
    parts.serialize(to)
}

/// One line of a comparison. Rates are from 0 to 1, differences are the second run's minus the first's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Model; where the runs call theirs otherwise, both.
    pub model: String,
    /// Variant, and in mixed games whose decisions.
    pub who: String,
    /// What is counted.
    pub measure: Measure,
    /// Round; none for the change from the first round to the last.
    pub round: Option<u32>,
    /// The first run's.
    #[serde(serialize_with = "estimate")]
    pub a: Option<Estimate>,
    /// The second run's.
    #[serde(serialize_with = "estimate")]
    pub b: Option<Estimate>,
    /// How far they differ.
    #[serde(serialize_with = "estimate")]
    pub difference: Option<Estimate>,
    /// The difference is over pairs.
    pub paired: bool,
}

/// Two runs compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The first run.
    pub a: String,
    /// The second run.
    pub b: String,
    /// By testbed: both have the same test sets, by seed and digest.
    pub same_test_set: BTreeMap<&'static str, bool>,
    /// By model, variant, measure, round.
    pub lines: Vec<Line>,
    /// What only one of the runs has.
    pub unmatched: Vec<String>,
}

/// Nothing that both runs measured.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{a}` and `{b}` have nothing to compare: expected a model and variant that both evaluated in the same testbed, got \
     {found}"
)]
pub struct NothingShared {
    a: String,
    b: String,
    found: String,
}

/// What is compared: model in A and in B, who, what is counted.
type Key<'a> = (&'a str, &'a str, &'a Who, Measure);

/// Compares two runs.
///
/// # Errors
/// They share no model, variant and testbed.
pub fn compare(a: &RunRows, b: &RunRows) -> Result<Comparison, NothingShared> {
    // One model each: they are compared, whatever they are called.
    let (in_a, in_b) = (a.models(), b.models());
    let alone = in_a.len() == 1 && in_b.len() == 1;
    let pair_of = |model: &str| -> Option<&str> {
        match alone {
            true => in_b.first().copied(),
            false => in_b.get(model).copied(),
        }
    };
    let side = |run: &'_ RunRows| -> BTreeMap<(String, Who, Measure), Vec<Observation>> {
        let mut parts: BTreeMap<_, Vec<Observation>> = BTreeMap::new();
        for o in &run.observations {
            let key = (o.model.clone(), o.who.clone(), o.measure);
            parts.entry(key).or_default().push(o.clone());
        }
        parts
    };
    let (of_a, of_b) = (side(a), side(b));
    let (mut lines, mut unmatched) = (vec![], vec![]);
    let mut used = BTreeSet::new();
    for (key, left) in &of_a {
        let (model, who, measure) = key;
        let other = pair_of(model).map(|m| (m.to_owned(), who.clone(), *measure));
        let Some((other, right)) = other.and_then(|key| of_b.get_key_value(&key)) else {
            unmatched.push(format!(
                "only `{}`: {model}, {}, {}",
                a.name,
                who.1,
                measure.name()
            ));
            continue;
        };
        used.insert(other.clone());
        lines.extend(of_pair((model, &other.0, who, *measure), left, right));
    }
    for (model, who, measure) in of_b.keys().filter(|key| !used.contains(*key)) {
        unmatched.push(format!(
            "only `{}`: {model}, {}, {}",
            b.name,
            who.1,
            measure.name()
        ));
    }
    if lines.is_empty() {
        return Err(NothingShared {
            a: a.name.clone(),
            b: b.name.clone(),
            found: if unmatched.is_empty() {
                "no decisions".into()
            } else {
                unmatched.join("; ")
            },
        });
    }
    let same = |testbed: &Testbed| a.test_sets.get(testbed) == b.test_sets.get(testbed);
    let shared = |t: &Testbed| a.test_sets.contains_key(t) && b.test_sets.contains_key(t);
    Ok(Comparison {
        a: a.name.clone(),
        b: b.name.clone(),
        same_test_set: Testbed::ALL
            .iter()
            .filter(|t| shared(t))
            .map(|t| (t.name(), same(t)))
            .collect(),
        lines,
        unmatched,
    })
}

fn of_pair(
    (model, other, who, measure): Key<'_>,
    a: &[Observation],
    b: &[Observation],
) -> Vec<Line> {
    let called = if model == other {
        model.to_owned()
    } else {
        format!("{model} | {other}")
    };
    let name = format!("compare/{model}/{other}/{}/{}", who.1, measure.name());
    let line = |round| Line {
        model: called.clone(),
        who: who.1.clone(),
        measure,
        round,
        a: None,
        b: None,
        difference: None,
        paired: false,
    };
    let rounds: BTreeSet<u32> = a.iter().chain(b).map(|o| o.round).collect();
    let mut lines: Vec<Line> = rounds
        .iter()
        .map(|&round| {
            let name = format!("{name}/round-{round}");
            let of = |side: &[Observation]| -> Vec<Observation> {
                side.iter().filter(|o| o.round == round).cloned().collect()
            };
            let (a, b) = (of(a), of(b));
            let (difference, paired) = difference(&a, &b, &name);
            Line {
                a: rate(&a, &format!("{name}/a")),
                b: rate(&b, &format!("{name}/b")),
                difference,
                paired,
                ..line(Some(round))
            }
        })
        .collect();
    if rounds.len() > 1 {
        let (a, b) = (changes(a, &rounds), changes(b, &rounds));
        let name = format!("{name}/change");
        let pairs = pairs(&a, &b);
        lines.push(Line {
            a: paired(&a, &format!("{name}/a")),
            b: paired(&b, &format!("{name}/b")),
            // A difference of differences lies between −2 and 2.
            difference: cluster_bootstrap(&clusters(&pairs), (-2.0, 2.0), ROOT, &name),
            paired: true,
            ..line(None)
        });
    }
    lines
}

/// Last minus first round, of the agents that were read in both.
fn changes(side: &[Observation], rounds: &BTreeSet<u32>) -> Vec<Observation> {
    let (Some(first), Some(last)) = (rounds.first(), rounds.last()) else {
        return vec![];
    };
    let before: BTreeMap<_, f64> = side
        .iter()
        .filter(|o| o.round == *first)
        .map(|o| (&o.unit, o.value))
        .collect();
    side.iter()
        .filter(|o| o.round == *last)
        .filter_map(|o| {
            let value = o.value - before.get(&o.unit)?;
            Some(Observation { value, ..o.clone() })
        })
        .collect()
}

/// B's minus A's value of every unit that both have.
fn pairs(a: &[Observation], b: &[Observation]) -> Vec<Observation> {
    let before: BTreeMap<_, f64> = a.iter().map(|o| (&o.unit, o.value)).collect();
    b.iter()
        .filter_map(|o| {
            let value = o.value - before.get(&o.unit)?;
            Some(Observation { value, ..o.clone() })
        })
        .collect()
}

/// B minus A, and whether over pairs: where there are any.
fn difference(a: &[Observation], b: &[Observation], name: &str) -> (Option<Estimate>, bool) {
    let pairs = pairs(a, b);
    if !pairs.is_empty() {
        return (paired(&pairs, name), true);
    }
    let (of_a, of_b) = (by_cluster(a), by_cluster(b));
    let all: BTreeSet<&str> = of_a.keys().chain(of_b.keys()).copied().collect();
    let aligned = |of: &BTreeMap<&str, Cluster>| -> Vec<Cluster> {
        all.iter()
            .map(|name| of.get(name).copied().unwrap_or_default())
            .collect()
    };
    (
        cluster_contrast(&aligned(&of_b), &aligned(&of_a), ROOT, name),
        false,
    )
}

fn by_cluster(side: &[Observation]) -> BTreeMap<&str, Cluster> {
    let mut found: BTreeMap<&str, Cluster> = BTreeMap::new();
    for o in side {
        let cluster = found.entry(&o.cluster).or_default();
        cluster.sum += o.value;
        cluster.weight += 1.0;
    }
    found
}

fn clusters(side: &[Observation]) -> Vec<Cluster> {
    by_cluster(side).into_values().collect()
}

fn rate(side: &[Observation], name: &str) -> Option<Estimate> {
    let questions: BTreeSet<&str> = side.iter().map(|o| o.question.as_str()).collect();
    rate_interval(&clusters(side), questions.len(), ROOT, name)
}

/// A mean difference with its interval; `side` holds differences.
fn paired(side: &[Observation], name: &str) -> Option<Estimate> {
    let mut questions: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for o in side {
        let sum = questions.entry(&o.question).or_default();
        *sum = (sum.0 + o.value, sum.1 + 1.0);
    }
    let means: Vec<f64> = questions.values().map(|(sum, n)| sum / n).collect();
    paired_interval(&clusters(side), &means, ROOT, name)
}

#[cfg(test)]
mod tests;
