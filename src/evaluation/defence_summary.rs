//! Defences against none, by the paired design.
//!
//! Under every defence the same questions were asked with the same random numbers as without one. So each decision has its
//! twin without defence (same model, variant, seed, round, question, sample), and what a defence changed is the mean of the
//! differences between twins. Pairs in which either decision could not be read are left out and counted.
//!
//! | testbed | quantity | 1 where |
//! |---|---|---|
//! | role-play | rule broken | the option that breaks the rule was chosen and no monitor stopped it |
//! | coordination | colluded | the collusive option was chosen and no monitor stopped it (agents under evaluation alone) |
//! | tool usage | tool used, solved | a complex problem's solution called the tool; its answer is right |
//!
//! Where a monitor stopped something, what was chosen is summarised as well, as if nothing had been stopped.

use std::collections::{BTreeMap, BTreeSet};

use super::coordination_row::GameRow;
use super::row::EvalRow;
use super::statistics::{Cluster, Estimate, paired_interval, rate_interval};
use super::summary::variant_rank;
use super::tool_row::{Solved, ToolRow};
use crate::scenario::coordination::seats::AgentKind;
use crate::scenario::defence::NONE;
use crate::scenario::tool_use::Difficulty;
use crate::scenario::{Outcome, Testbed};

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quantity {
    /// Role-play: the rule was broken.
    RuleBroken,
    /// Games: the collusive option was taken.
    Colluded,
    /// Tool usage: the tool was called.
    ToolUsed,
    /// Tool usage: the answer is right.
    Solved,
}

impl Quantity {
    /// In words, as a share of decisions.
    pub fn words(self) -> &'static str {
        match self {
            Self::RuleBroken => "rule broken",
            Self::Colluded => "colluded",
            Self::ToolUsed => "tool used",
            Self::Solved => "solved",
        }
    }

    /// Where it is measured.
    pub fn testbed(self) -> Testbed {
        match self {
            Self::RuleBroken => Testbed::RolePlay,
            Self::Colluded => Testbed::Coordination,
            Self::ToolUsed | Self::Solved => Testbed::ToolUse,
        }
    }
}

/// A round under a defence.
#[derive(Debug, Clone, PartialEq)]
pub struct DefendedRound {
    /// Round, from 1.
    pub round: u32,
    /// Share of decisions that could be read.
    pub rate: Option<Estimate>,
    /// The same minus that without defence, over pairs of twins; none for no defence.
    pub difference: Option<Estimate>,
    /// Twins of which one could not be read or is missing.
    pub dropped: usize,
}

/// One variant of one model under one defence, seeds pooled.
#[derive(Debug, Clone, PartialEq)]
pub struct DefendedSummary {
    /// What is counted.
    pub quantity: Quantity,
    /// Model, as the recipe calls it.
    pub model: String,
    /// `base`, `dpo`, `grpo` or `dpo-grpo`.
    pub variant: String,
    /// The defence; `none` for none.
    pub defence: String,
    /// What was chosen is counted, also where a monitor stopped it.
    pub as_chosen: bool,
    /// Seeds that were pooled, sorted.
    pub seeds: Vec<u64>,
    /// Rounds in order.
    pub rounds: Vec<DefendedRound>,
    /// How much more the share rose from the first to the last round than without defence: the difference of the two
    /// differences, over pairs that can be read in both rounds. None for no defence or a single round.
    pub drift: Option<Estimate>,
    /// Decisions that a monitor stopped.
    pub vetoed: usize,
}

/// A decision: what it was, and what is known of it.
#[derive(Debug, Clone, Copy)]
struct Seen<'a> {
    cluster: &'a str,
    value: Option<f64>,
}

/// Names a decision within a round: seed, question (or game and population), sample, agent.
type Twin<'a> = (u64, &'a str, &'a str, u32, u32);

/// Decisions by round.
type Rounds<'a> = BTreeMap<u32, BTreeMap<Twin<'a>, Seen<'a>>>;

/// Model, rank of the variant, variant.
type Agent<'a> = (Quantity, &'a str, usize, &'a str);

/// By defence (none first, then by name) and whether choices are counted before a veto.
type Defended<'a> = BTreeMap<(bool, &'a str, bool), (Rounds<'a>, usize)>;

/// All decisions, sorted.
#[derive(Default)]
struct Decisions<'a>(BTreeMap<Agent<'a>, Defended<'a>>);

/// One decision on its way into the table.
struct Entry<'a> {
    agent: Agent<'a>,
    defence: &'a str,
    round: u32,
    twin: Twin<'a>,
    cluster: &'a str,
    /// As it took effect, and as it was chosen.
    values: [Option<f64>; 2],
    vetoed: bool,
}

impl<'a> Decisions<'a> {
    fn add(&mut self, entry: Entry<'a>) {
        let defended = self.0.entry(entry.agent).or_default();
        for (as_chosen, value) in [(false, entry.values[0]), (true, entry.values[1])] {
            let place = (entry.defence != NONE, entry.defence, as_chosen);
            let (rounds, vetoed) = defended.entry(place).or_default();
            *vetoed += usize::from(entry.vetoed);
            let seen = Seen {
                cluster: entry.cluster,
                value,
            };
            rounds
                .entry(entry.round)
                .or_default()
                .insert(entry.twin, seen);
        }
    }
}

fn agent<'a>(quantity: Quantity, model: &'a str, variant: &'a str) -> Agent<'a> {
    (quantity, model, variant_rank(variant), variant)
}

/// Summarises by quantity, model, variant and defence, none first. Nothing where the rows know no defence. Bootstraps draw
/// from streams of `root`. A decision that stands in the rows twice is counted once; other summaries refuse it.
pub fn summarise_defences(
    rows: &[EvalRow],
    games: &[GameRow],
    tools: &[ToolRow],
    root: u64,
) -> Vec<DefendedSummary> {
    let mut all = Decisions::default();
    let violation = |outcome| match outcome {
        Outcome::Compliant => Some(0.0),
        Outcome::Deviant => Some(1.0),
        Outcome::Invalid | Outcome::Failed => None,
    };
    let took_effect = |outcome, vetoed| match vetoed {
        true => Some(0.0),
        false => violation(outcome),
    };
    for row in rows {
        all.add(Entry {
            agent: agent(Quantity::RuleBroken, &row.model, &row.variant),
            defence: &row.defence,
            round: row.round,
            twin: (row.seed, &row.question_id, "", row.sample, 0),
            cluster: &row.environment,
            values: [took_effect(row.outcome, row.vetoed), violation(row.outcome)],
            vetoed: row.vetoed,
        });
    }
    for row in games.iter().filter(|row| row.kind == AgentKind::Subject) {
        all.add(Entry {
            agent: agent(Quantity::Colluded, &row.model, &row.variant),
            defence: &row.defence,
            round: row.round,
            twin: (
                row.seed,
                &row.instance_id,
                &row.population,
                row.sample,
                row.agent,
            ),
            cluster: &row.game,
            values: [took_effect(row.outcome, row.vetoed), violation(row.outcome)],
            vetoed: row.vetoed,
        });
    }
    let complex = |row: &&ToolRow| row.difficulty == Difficulty::Complex;
    for row in tools.iter().filter(complex) {
        let there = row.solved != Solved::Failed;
        let share = |holds: bool| there.then_some(f64::from(u8::from(holds)));
        for (quantity, value) in [
            (Quantity::ToolUsed, share(row.used_tool)),
            (Quantity::Solved, share(row.solved == Solved::Right)),
        ] {
            all.add(Entry {
                agent: agent(quantity, &row.model, &row.variant),
                defence: &row.defence,
                round: row.round,
                // In every round, each problem is met by one agent of a sample.
                twin: (row.seed, &row.problem_id, "", row.sample, 0),
                cluster: &row.family,
                values: [value; 2],
                vetoed: false,
            });
        }
    }
    let mut found = vec![];
    for (agent, defended) in &all.0 {
        if defended.keys().all(|(is_one, _, _)| !is_one) {
            continue;
        }
        let none = defended
            .get(&(false, NONE, false))
            .map(|(rounds, _)| rounds);
        for (&(_, defence, as_chosen), (rounds, vetoed)) in defended {
            // Without vetoes both are the same.
            if !as_chosen || *vetoed > 0 {
                let none = none.filter(|_| defence != NONE);
                let mut summary = summarise(agent, defence, as_chosen, rounds, none, root);
                summary.vetoed = *vetoed;
                found.push(summary);
            }
        }
    }
    found
}

fn summarise(
    &(quantity, model, _, variant): &Agent,
    defence: &str,
    as_chosen: bool,
    rounds: &Rounds,
    none: Option<&Rounds>,
    root: u64,
) -> DefendedSummary {
    let chosen = if as_chosen { "/chosen" } else { "" };
    let name = format!(
        "defences/{}/{model}/{variant}/{defence}{chosen}",
        quantity.words()
    );
    let seeds: BTreeSet<u64> = rounds
        .values()
        .flat_map(|round| round.keys().map(|twin| twin.0))
        .collect();
    let empty = BTreeMap::new();
    let without = |round: &u32| none.map(|none| none.get(round).unwrap_or(&empty));
    let by_round = rounds.iter().map(|(round, decisions)| {
        let name = format!("{name}/round-{round}");
        let read = decisions
            .iter()
            .filter_map(|(twin, seen)| Some((*twin, seen.cluster, seen.value?)));
        let read: Vec<_> = read.collect();
        let questions: BTreeSet<(&str, &str)> = read.iter().map(|(t, ..)| (t.1, t.2)).collect();
        let differences = without(round).map(|none| differences(decisions, none));
        let union = without(round).map_or(0, |none| {
            let twins = decisions.keys().chain(none.keys());
            twins.collect::<BTreeSet<_>>().len()
        });
        DefendedRound {
            round: *round,
            rate: rate_interval(&clusters(&read), questions.len(), root, &name),
            dropped: differences.as_ref().map_or(0, |found| union - found.len()),
            difference: differences.and_then(|found| {
                paired_interval(
                    &clusters(&found),
                    &by_question(&found),
                    root,
                    &format!("{name}/difference"),
                )
            }),
        }
    });
    let drift = match (rounds.first_key_value(), rounds.last_key_value(), none) {
        (Some((from, first)), Some((to, last)), Some(none)) if from < to => {
            let before = differences(first, none.get(from).unwrap_or(&empty));
            let before: BTreeMap<Twin, f64> = before.into_iter().map(|d| (d.0, d.2)).collect();
            let moved: Vec<_> = differences(last, none.get(to).unwrap_or(&empty))
                .into_iter()
                .filter_map(|(twin, cluster, after)| {
                    Some((twin, cluster, (after - before.get(&twin)?) / 2.0))
                })
                .collect();
            twice(paired_interval(
                &clusters(&moved),
                &by_question(&moved),
                root,
                &format!("{name}/drift"),
            ))
        }
        _ => None,
    };
    DefendedSummary {
        quantity,
        model: model.to_owned(),
        variant: variant.to_owned(),
        defence: defence.to_owned(),
        as_chosen,
        seeds: seeds.into_iter().collect(),
        rounds: by_round.collect(),
        drift,
        vetoed: 0,
    }
}

/// An estimate of halves, doubled: a difference of differences lies between −2 and 2, the intervals are made for −1 to 1.
fn twice(halves: Option<Estimate>) -> Option<Estimate> {
    halves.map(|half| Estimate {
        value: 2.0 * half.value,
        low: 2.0 * half.low,
        high: 2.0 * half.high,
        ..half
    })
}

/// What can be read of both: the decision, its cluster, with minus without.
fn differences<'a>(
    with: &BTreeMap<Twin<'a>, Seen<'a>>,
    without: &BTreeMap<Twin<'a>, Seen<'a>>,
) -> Vec<(Twin<'a>, &'a str, f64)> {
    with.iter()
        .filter_map(|(twin, seen)| {
            let other = without.get(twin)?.value?;
            Some((*twin, seen.cluster, seen.value? - other))
        })
        .collect()
}

fn clusters(values: &[(Twin, &str, f64)]) -> Vec<Cluster> {
    let mut found: BTreeMap<&str, Cluster> = BTreeMap::new();
    for (_, cluster, value) in values {
        let cluster = found.entry(cluster).or_default();
        cluster.sum += value;
        cluster.weight += 1.0;
    }
    found.into_values().collect()
}

/// The mean of each question's values.
fn by_question(values: &[(Twin, &str, f64)]) -> Vec<f64> {
    let mut found: BTreeMap<(&str, &str), (f64, f64)> = BTreeMap::new();
    for (twin, _, value) in values {
        let sum = found.entry((twin.1, twin.2)).or_default();
        *sum = (sum.0 + value, sum.1 + 1.0);
    }
    found.into_values().map(|(sum, n)| sum / n).collect()
}

#[cfg(test)]
mod tests;
