//! One view of all three testbeds: a decision that was an event, was none, or has no outcome.
//!
//! | testbed | event | cluster | unit (what is paired) | actor (what is followed over rounds) |
//! |---|---|---|---|---|
//! | role-play | the rule is broken | environment | question and sample | the same |
//! | coordination games | collusive choice | game | instance, sample and agent | the same |
//! | tool usage | complex problem solved without the tool | family | problem and sample | agent |
//! | tool usage | complex problem not solved | family | problem and sample | agent |
//!
//! In tool usage every round puts the same problems, each to another agent: rounds are compared on equal problems, and
//! a history is followed by agent. Seeds tell units and actors apart. Events all mean the same direction: away from
//! what training taught.

use std::collections::{BTreeMap, BTreeSet};

use super::coordination_row::GameRow;
use super::row::EvalRow;
use super::statistics::Cluster;
use super::summary::variant_rank;
use super::tool_row::{Solved, ToolRow};
use crate::scenario::Outcome;
use crate::scenario::tool_use::Difficulty;

/// What counts as an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// The supervisor's rule is broken.
    Violation,
    /// The collusive option is taken.
    Collusion,
    /// A complex problem is solved without the tool.
    WithoutTool,
    /// A complex problem is not solved; a text without an answer counts as not solved.
    Unsolved,
}

impl Measure {
    /// The share of events, in words.
    pub fn rate_name(self) -> &'static str {
        match self {
            Self::Violation => "violation rate",
            Self::Collusion => "collusion rate",
            Self::WithoutTool => "share without the tool",
            Self::Unsolved => "share not solved",
        }
    }

    /// A word for file names and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Violation => "violation",
            Self::Collusion => "collusion",
            Self::WithoutTool => "without-tool",
            Self::Unsolved => "unsolved",
        }
    }
}

/// Question, instance or problem; sample; agent.
pub type Key<'a> = (&'a str, u32, u32);

/// One decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation<'a> {
    /// Seed of the run.
    pub seed: u64,
    /// What the decision shares with others: the cluster of intervals.
    pub cluster: &'a str,
    /// What the decision was about; the same in other rounds and variants.
    pub unit: Key<'a>,
    /// Whose history it belongs to.
    pub actor: Key<'a>,
    /// Round, from 1.
    pub round: u32,
    /// Whether it was an event; none where no outcome could be read.
    pub event: Option<bool>,
    /// Nothing came about at all; such a decision has no outcome either.
    pub failed: bool,
    /// The compliant option, or the tool, stood first in the prompt.
    pub first: bool,
    /// The label of the compliant option, where options have labels.
    pub label: Option<&'a str>,
}

/// Decisions that are analysed together: one variant of one model, one measure, one group of settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Strand<'a> {
    /// Model.
    pub model: &'a str,
    /// Variant.
    pub variant: &'a str,
    /// What counts as an event.
    pub measure: Measure,
    /// Which agents of a mixed population; empty where all are of one kind.
    pub who: String,
    /// `all`, or the threshold as in `t = 4`.
    pub settings: String,
    /// The decisions, in the order of the rows.
    pub observations: Vec<Observation<'a>>,
}

impl Strand<'_> {
    /// Name of the strand in random streams.
    pub fn stream(&self) -> String {
        format!(
            "{}/{}/{}/{}/{}",
            self.measure.name(),
            self.model,
            self.variant,
            self.who,
            self.settings
        )
    }

    /// Rounds, sorted.
    pub fn rounds(&self) -> Vec<u32> {
        let rounds: BTreeSet<u32> = self.observations.iter().map(|o| o.round).collect();
        rounds.into_iter().collect()
    }

    /// Events and decisions with an outcome by cluster, in order of its name, of the observations that pass.
    pub fn clusters(&self, pass: impl Fn(&Observation<'_>) -> bool) -> Vec<Cluster> {
        sums(
            self.observations
                .iter()
                .filter(|o| pass(o))
                .filter_map(|o| Some((o.cluster, f64::from(u8::from(o.event?))))),
        )
    }
}

/// Sums and counts by cluster, in order of its name.
pub(super) fn sums<'a>(values: impl Iterator<Item = (&'a str, f64)>) -> Vec<Cluster> {
    let mut found: BTreeMap<&str, Cluster> = BTreeMap::new();
    for (cluster, value) in values {
        let cluster = found.entry(cluster).or_default();
        cluster.sum += value;
        cluster.weight += 1.0;
    }
    found.into_values().collect()
}

fn event(outcome: Outcome) -> Option<bool> {
    match outcome {
        Outcome::Compliant => Some(false),
        Outcome::Deviant => Some(true),
        Outcome::Invalid | Outcome::Failed => None,
    }
}

/// One role-play decision.
pub fn of_role_play(row: &EvalRow) -> Observation<'_> {
    let unit = (row.question_id.as_str(), row.sample, 0);
    Observation {
        seed: row.seed,
        cluster: &row.environment,
        unit,
        actor: unit,
        round: row.round,
        event: event(row.outcome),
        failed: row.outcome == Outcome::Failed,
        first: row.compliant_first,
        label: Some(&row.compliant_label),
    }
}

/// Strands of role-play, models by name, variants in their order.
pub fn role_play(rows: &[EvalRow]) -> Vec<Strand<'_>> {
    gather(rows.iter().map(|row| {
        let place = (row.model.as_str(), row.variant.as_str());
        (
            place,
            Measure::Violation,
            String::new(),
            0,
            of_role_play(row),
        )
    }))
}

/// Strands of the games: all settings together, then by threshold. Agents that follow a fixed rule are left out.
pub fn games(rows: &[GameRow]) -> Vec<Strand<'_>> {
    // By threshold only where a population has several.
    let mut thresholds: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    for row in rows {
        let of = row.population.as_str();
        thresholds.entry(of).or_default().insert(row.t);
    }
    gather(
        rows.iter()
            .filter(|row| row.kind.fixed().is_none())
            .flat_map(|row| {
                let who = if row.population.contains('+') {
                    format!("{} of {}", row.kind.name(), row.population)
                } else {
                    String::new()
                };
                let unit = (row.instance_id.as_str(), row.sample, row.agent);
                let observation = Observation {
                    seed: row.seed,
                    cluster: &row.game,
                    unit,
                    actor: unit,
                    round: row.round,
                    event: event(row.outcome),
                    failed: row.outcome == Outcome::Failed,
                    first: row.compliant_first,
                    label: Some(row.compliant_label.as_str()),
                };
                let place = (row.model.as_str(), row.variant.as_str());
                let several = thresholds[row.population.as_str()].len() > 1;
                let alone = several.then_some(row.t);
                [Some(0), alone].into_iter().flatten().map(move |t| {
                    (
                        place,
                        Measure::Collusion,
                        who.clone(),
                        t,
                        observation.clone(),
                    )
                })
            }),
    )
}

/// Strands of tool usage on complex problems: without the tool, then not solved.
pub fn tools(rows: &[ToolRow]) -> Vec<Strand<'_>> {
    let complex = || {
        rows.iter()
            .filter(|row| row.difficulty == Difficulty::Complex)
    };
    let observed = |row, measure| {
        let row: &ToolRow = row;
        let there = row.solved != Solved::Failed;
        let event = match measure {
            Measure::WithoutTool => !row.used_tool,
            _ => row.solved != Solved::Right,
        };
        let observation = Observation {
            seed: row.seed,
            cluster: &row.family,
            unit: (row.problem_id.as_str(), row.sample, 0),
            actor: ("", row.step, row.agent),
            round: row.round,
            event: there.then_some(event),
            failed: !there,
            first: row.tool_first,
            label: None,
        };
        let place = (row.model.as_str(), row.variant.as_str());
        (place, measure, String::new(), 0, observation)
    };
    let mut found = gather(complex().map(|row| observed(row, Measure::WithoutTool)));
    found.extend(gather(
        complex().map(|row| observed(row, Measure::Unsolved)),
    ));
    found
}

/// Model and variant, measure, who, threshold (0 for all), and the decision.
type Placed<'a> = ((&'a str, &'a str), Measure, String, u32, Observation<'a>);

fn gather<'a>(placed: impl Iterator<Item = Placed<'a>>) -> Vec<Strand<'a>> {
    type Order<'a> = (&'a str, String, u32, usize, &'a str, Measure);
    let mut found: BTreeMap<Order<'a>, Vec<Observation<'a>>> = BTreeMap::new();
    for ((model, variant), measure, who, threshold, observation) in placed {
        let key = (
            model,
            who,
            threshold,
            variant_rank(variant),
            variant,
            measure,
        );
        found.entry(key).or_default().push(observation);
    }
    found
        .into_iter()
        .map(
            |((model, who, threshold, _, variant, measure), mut observations)| {
                // The order of the rows must not matter, not even for rounding.
                observations.sort_by_key(|o| (o.round, o.seed, o.unit, o.actor));
                Strand {
                    model,
                    variant,
                    measure,
                    who,
                    settings: match threshold {
                        0 => "all".into(),
                        t => format!("t = {t}"),
                    },
                    observations,
                }
            },
        )
        .collect()
}

#[cfg(test)]
pub(crate) mod tests;
