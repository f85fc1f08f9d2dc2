//! Two runs beside each other: what each measured by round, and how far they differ.
//!
//! Where both runs put the same test set (by its digest) to agents of the same seed, decisions are paired by seed, unit and
//! round ([`crate::evaluation::observation`] says what a unit is). Questions are then no source of the difference, and its
//! interval is that of a paired difference ([`paired_interval`]). Where nothing can be paired, the two rates are of
//! different questions, and the interval is made of theirs ([`difference_of`]). Rates of a side are over all it has; a
//! paired difference is over the pairs alone. Decisions without an outcome enter neither.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer};

use crate::artifact::Digest;
use crate::evaluation::coordination_row::GameRow;
use crate::evaluation::observation::{self, Key, Measure, Observation, Strand};
use crate::evaluation::row::EvalRow;
use crate::evaluation::statistics::{
    Cluster, Estimate, difference_of, paired_interval, rate_interval,
};
use crate::evaluation::tool_row::ToolRow;
use crate::scenario::Testbed;

mod page;
mod text;

/// Root of the bootstraps: a comparison has no seed of its own.
const ROOT: u64 = 0;

/// One run.
#[derive(Debug, Clone, Default)]
pub struct RunRows {
    /// How the run is called: its directory.
    pub name: String,
    /// Rows of role-play.
    pub rows: Vec<EvalRow>,
    /// Rows of games.
    pub games: Vec<GameRow>,
    /// Rows of tool usage.
    pub tools: Vec<ToolRow>,
    /// Digest of the test set by testbed and seed.
    pub test_sets: BTreeMap<(Testbed, u64), Digest>,
}

impl RunRows {
    fn strands(&self) -> Vec<Strand<'_>> {
        let mut all = observation::role_play(&self.rows);
        all.extend(observation::games(&self.games));
        all.extend(observation::tools(&self.tools));
        all
    }

    fn sets(&self, testbed: Testbed) -> Vec<(u64, Digest)> {
        let of = self.test_sets.iter().filter(|((t, _), _)| *t == testbed);
        of.map(|((_, seed), digest)| (*seed, *digest)).collect()
    }
}

/// The testbed in which something is counted.
fn testbed(measure: Measure) -> Testbed {
    match measure {
        Measure::Violation => Testbed::RolePlay,
        Measure::Collusion => Testbed::Coordination,
        Measure::WithoutTool | Measure::Unsolved => Testbed::ToolUse,
    }
}

/// A value with its 95 % interval, as JSON an object.
fn estimate<S: Serializer>(value: &Option<Estimate>, to: S) -> Result<S::Ok, S::Error> {
    let parts = value
        .map(|e| serde_json::json!({ "value": e.value, "low": e.low, "high": e.high, "n": e.n }));
    parts.serialize(to)
}

fn measure<S: Serializer>(measure: &Measure, to: S) -> Result<S::Ok, S::Error> {
    measure.name().serialize(to)
}

/// One line of a comparison. Rates are from 0 to 1, differences are the second run's minus the first's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Model; where the runs call theirs otherwise, both.
    pub model: String,
    /// Variant.
    pub variant: String,
    /// In games whose decisions in a mixed population, and which settings; empty for all.
    pub part: String,
    /// What is counted.
    #[serde(serialize_with = "measure")]
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

/// Compares two runs.
///
/// # Errors
/// They share no model, variant and testbed.
pub fn compare(a: &RunRows, b: &RunRows) -> Result<Comparison, NothingShared> {
    let (of_a, of_b) = (a.strands(), b.strands());
    let models = |strands: &[Strand<'_>]| -> BTreeSet<String> {
        strands.iter().map(|s| s.model.to_owned()).collect()
    };
    let (in_a, in_b) = (models(&of_a), models(&of_b));
    // One model each: they are compared, whatever they are called.
    let alone = in_a.len() == 1 && in_b.len() == 1;
    let key = |s: &Strand<'_>| {
        let model = if alone { "" } else { s.model };
        let part = part(s);
        (model.to_owned(), s.variant.to_owned(), s.measure, part)
    };
    let only = |run: &RunRows, s: &Strand<'_>| {
        format!(
            "only `{}`: {}",
            run.name,
            title(s.model, s.variant, s.measure, &part(s))
        )
    };
    let (mut lines, mut unmatched) = (vec![], vec![]);
    for left in &of_a {
        match of_b.iter().find(|right| key(right) == key(left)) {
            Some(right) => {
                let paired = shared_seeds(a, b, testbed(left.measure));
                lines.extend(of_pair(left, right, &paired));
            }
            None => unmatched.push(only(a, left)),
        }
    }
    for right in &of_b {
        if !of_a.iter().any(|left| key(left) == key(right)) {
            unmatched.push(only(b, right));
        }
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
    let shared = |t: &&Testbed| !a.sets(**t).is_empty() && !b.sets(**t).is_empty();
    Ok(Comparison {
        a: a.name.clone(),
        b: b.name.clone(),
        same_test_set: Testbed::ALL
            .iter()
            .filter(shared)
            .map(|t| (t.name(), a.sets(*t) == b.sets(*t)))
            .collect(),
        lines,
        unmatched,
    })
}

/// Which agents and settings of a strand, where not all.
fn part(strand: &Strand<'_>) -> String {
    let settings = if strand.settings == "all" {
        ""
    } else {
        &strand.settings
    };
    let parts = [strand.who.as_str(), settings]
        .into_iter()
        .filter(|p| !p.is_empty());
    parts.collect::<Vec<_>>().join(", ")
}

fn title(model: &str, variant: &str, measure: Measure, part: &str) -> String {
    let name = super::narrative::variant_name(variant);
    let part = if part.is_empty() {
        String::new()
    } else {
        format!(" ({part})")
    };
    format!("{model}, {name}{part}, {}", measure.rate_name())
}

/// Seeds of which both runs have the same test set.
fn shared_seeds(a: &RunRows, b: &RunRows, testbed: Testbed) -> BTreeSet<u64> {
    let of_b = b.sets(testbed);
    let both = a.sets(testbed).into_iter().filter(|set| of_b.contains(set));
    both.map(|(seed, _)| seed).collect()
}

fn of_pair(a: &Strand<'_>, b: &Strand<'_>, seeds: &BTreeSet<u64>) -> Vec<Line> {
    let model = if a.model == b.model {
        a.model.to_owned()
    } else {
        format!("{} | {}", a.model, b.model)
    };
    let name = format!("compare/{}/{}", a.stream(), b.stream());
    let line = |round| Line {
        model: model.clone(),
        variant: a.variant.to_owned(),
        part: part(a),
        measure: a.measure,
        round,
        a: None,
        b: None,
        difference: None,
        paired: false,
    };
    let rounds: BTreeSet<u32> = [a.rounds(), b.rounds()].concat().into_iter().collect();
    let mut lines: Vec<Line> = rounds
        .iter()
        .map(|&round| {
            let name = format!("{name}/round-{round}");
            let (of_a, of_b) = (values(a, round), values(b, round));
            // One stream for all three: equal rows have equal intervals.
            let (rate_a, rate_b) = (rate(&of_a, &name), rate(&of_b, &name));
            let pairs = pairs(&of_a, &of_b, |seed| seeds.contains(&seed));
            let apart = rate_b.zip(rate_a).map(|(b, a)| difference_of(&b, &a));
            Line {
                a: rate_a,
                b: rate_b,
                difference: paired(&pairs, &name).or(apart),
                paired: !pairs.is_empty(),
                ..line(Some(round))
            }
        })
        .collect();
    if let (Some(&first), Some(&last)) = (rounds.first(), rounds.last())
        && first < last
    {
        let name = format!("{name}/change");
        let change = |strand| pairs(&values(strand, first), &values(strand, last), |_| true);
        let (of_a, of_b) = (change(a), change(b));
        let pairs = pairs(&of_a, &of_b, |seed| seeds.contains(&seed));
        lines.push(Line {
            a: paired(&of_a, &name),
            b: paired(&of_b, &name),
            difference: doubled(&pairs, &name),
            paired: !pairs.is_empty(),
            ..line(None)
        });
    }
    lines
}

/// By seed and unit: cluster and value.
type Values<'a> = BTreeMap<(u64, Key<'a>), (&'a str, f64)>;

/// 1 for an event, 0 for none, of the decisions of a round that have an outcome.
fn values<'a>(strand: &Strand<'a>, round: u32) -> Values<'a> {
    let of =
        |o: &Observation<'a>| Some(((o.seed, o.unit), (o.cluster, f64::from(u8::from(o.event?)))));
    let there = strand.observations.iter().filter(|o| o.round == round);
    there.filter_map(of).collect()
}

/// Second minus first value of every unit that both have.
fn pairs<'a>(first: &Values<'a>, second: &Values<'a>, seed: impl Fn(u64) -> bool) -> Values<'a> {
    let of = |(key, (cluster, value)): (&(u64, Key<'a>), &(&'a str, f64))| {
        let (_, before) = first.get(key)?;
        Some((*key, (*cluster, value - before)))
    };
    second
        .iter()
        .filter(|((s, _), _)| seed(*s))
        .filter_map(of)
        .collect()
}

fn clusters(values: &Values<'_>) -> Vec<Cluster> {
    let mut found: BTreeMap<&str, Cluster> = BTreeMap::new();
    for (cluster, value) in values.values() {
        let cluster = found.entry(cluster).or_default();
        cluster.sum += value;
        cluster.weight += 1.0;
    }
    found.into_values().collect()
}

fn rate(values: &Values<'_>, name: &str) -> Option<Estimate> {
    let questions: BTreeSet<&str> = values
        .keys()
        .map(|(_, (question, _, _))| *question)
        .collect();
    rate_interval(&clusters(values), questions.len(), ROOT, name)
}

/// A mean difference with its interval; `values` are differences.
fn paired(values: &Values<'_>, name: &str) -> Option<Estimate> {
    let mut questions: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for ((_, (question, _, _)), (_, value)) in values {
        let sum = questions.entry(question).or_default();
        *sum = (sum.0 + value, sum.1 + 1.0);
    }
    let means: Vec<f64> = questions.values().map(|(sum, n)| sum / n).collect();
    paired_interval(&clusters(values), &means, ROOT, name)
}

/// The mean of differences of differences, which lie between −2 and 2: twice that of their halves.
fn doubled(values: &Values<'_>, name: &str) -> Option<Estimate> {
    let halves = values
        .iter()
        .map(|(key, (cluster, value))| (*key, (*cluster, value / 2.0)));
    let half = paired(&halves.collect(), name)?;
    Some(Estimate {
        value: 2.0 * half.value,
        low: 2.0 * half.low,
        high: 2.0 * half.high,
        n: half.n,
    })
}

#[cfg(test)]
mod tests;
