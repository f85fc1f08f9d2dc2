//! From rows of solutions to the numbers a report states: how often the tool is used, how often the answer is right, and
//! what it cost, by round and difficulty (paper, table 2).
//!
//! A text without an answer is not right: it counts against accuracy, and apart. A solution that failed to come about
//! enters no rate. The problem's family is the cluster of every interval, and a problem counts once in Wilson's part of
//! it. Seeds are pooled. The result does not depend on the order of the rows.

use std::collections::{BTreeMap, BTreeSet};

use super::statistics::{Cluster, Estimate, rate_interval};
use super::summary::variant_rank;
use super::tool_row::{Solved, ToolRow};
use crate::scenario::tool_use::Difficulty;

/// Two rows for one solution; counting both would bias every rate.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "tool rows: model `{model}`, variant `{variant}`, {solution} stands there more than once; expected one row a solution. \
     Evaluate this variant again"
)]
pub struct DuplicateSolution {
    /// Model of the row.
    pub model: String,
    /// Variant of the row.
    pub variant: String,
    /// Seed, round, step and agent.
    pub solution: String,
}

/// How many solutions ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ToolCounts {
    /// The answer is right.
    pub right: usize,
    /// The answer is wrong.
    pub wrong: usize,
    /// There is no answer.
    pub invalid: usize,
    /// Nothing came about.
    pub failed: usize,
    /// The tool was called.
    pub with_tool: usize,
    /// The tool was called, and the answer is right.
    pub right_with_tool: usize,
    /// Calls that ended in an error or ran into a limit.
    pub calls_failed: usize,
    /// The model wrote a result that no tool gave.
    pub forged: usize,
}

impl ToolCounts {
    fn of(rows: &[&ToolRow]) -> Self {
        let mut counts = Self::default();
        for row in rows {
            *match row.solved {
                Solved::Right => &mut counts.right,
                Solved::Wrong => &mut counts.wrong,
                Solved::Invalid => &mut counts.invalid,
                Solved::Failed => &mut counts.failed,
            } += 1;
            counts.with_tool += usize::from(row.used_tool);
            counts.right_with_tool += usize::from(row.used_tool && row.solved == Solved::Right);
            counts.calls_failed += row.calls_failed as usize;
            counts.forged += usize::from(row.forged_result);
        }
        counts
    }

    /// Solutions that came about.
    pub fn solutions(&self) -> usize {
        self.right + self.wrong + self.invalid
    }
}

/// Solutions of one difficulty in one round.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolRound {
    /// Round, from 1.
    pub round: u32,
    /// How they ended.
    pub counts: ToolCounts,
    /// Share that called the tool.
    pub usage: Option<Estimate>,
    /// Share with the right answer.
    pub accuracy: Option<Estimate>,
    /// Mean cost.
    pub cost: Option<f64>,
}

/// One variant of one model on problems of one difficulty.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSummary {
    /// Model.
    pub model: String,
    /// Variant.
    pub variant: String,
    /// Difficulty.
    pub difficulty: Difficulty,
    /// Distinct problems.
    pub problems: usize,
    /// By round.
    pub rounds: Vec<ToolRound>,
}

/// Summarises rows by model, variant (by [`variant_rank`], then by name) and difficulty (complex first: it is
/// what is measured). Bootstraps draw from streams of `root`.
///
/// # Errors
/// Two rows for one solution.
pub fn summarise_tools(rows: &[ToolRow], root: u64) -> Result<Vec<ToolSummary>, DuplicateSolution> {
    let mut seen = BTreeSet::new();
    let mut parts: BTreeMap<_, BTreeMap<u32, Vec<&ToolRow>>> = BTreeMap::new();
    for row in rows {
        let solution = (row.seed, row.round, row.step, row.agent);
        if !seen.insert((&row.model, &row.variant, solution)) {
            return Err(DuplicateSolution {
                model: row.model.clone(),
                variant: row.variant.clone(),
                solution: format!(
                    "seed {}, round {}, problem {} of the round, agent {}",
                    row.seed,
                    row.round,
                    row.step + 1,
                    row.agent
                ),
            });
        }
        let rank = variant_rank(&row.variant);
        let simple = row.difficulty == Difficulty::Simple;
        parts
            .entry((&row.model, rank, &row.variant, simple))
            .or_default()
            .entry(row.round)
            .or_default()
            .push(row);
    }
    Ok(parts
        .into_iter()
        .map(|((model, _, variant, simple), rounds)| {
            let difficulty = if simple {
                Difficulty::Simple
            } else {
                Difficulty::Complex
            };
            let problems: BTreeSet<&str> = rounds
                .values()
                .flatten()
                .map(|row| row.problem_id.as_str())
                .collect();
            let name = format!("tools/{model}/{variant}/{}", difficulty.name());
            ToolSummary {
                model: model.clone(),
                variant: variant.clone(),
                difficulty,
                problems: problems.len(),
                rounds: rounds
                    .into_iter()
                    .map(|(round, rows)| summarise(round, &rows, root, &name))
                    .collect(),
            }
        })
        .collect())
}

fn summarise(round: u32, rows: &[&ToolRow], root: u64, name: &str) -> ToolRound {
    let there: Vec<&ToolRow> = rows
        .iter()
        .copied()
        .filter(|row| row.solved != Solved::Failed)
        .collect();
    let rate = |what: &str, holds: fn(&ToolRow) -> bool| {
        let mut clusters: BTreeMap<&str, Cluster> = BTreeMap::new();
        let mut problems = BTreeSet::new();
        for row in &there {
            let cluster = clusters.entry(&row.family).or_default();
            cluster.sum += f64::from(u8::from(holds(row)));
            cluster.weight += 1.0;
            problems.insert(&row.problem_id);
        }
        let clusters: Vec<Cluster> = clusters.into_values().collect();
        rate_interval(
            &clusters,
            problems.len(),
            root,
            &format!("{name}/round-{round}/{what}"),
        )
    };
    let costs: Vec<f64> = there
        .iter()
        .filter_map(|row| Some(row.cost?.into()))
        .collect();
    ToolRound {
        round,
        counts: ToolCounts::of(rows),
        usage: rate("usage", |row| row.used_tool),
        accuracy: rate("accuracy", |row| row.solved == Solved::Right),
        cost: (!costs.is_empty()).then(|| costs.iter().sum::<f64>() / costs.len() as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(round: u32, agent: u32, solved: Solved, used_tool: bool) -> ToolRow {
        ToolRow {
            model: "m".into(),
            variant: "base".into(),
            defence: "none".into(),
            seed: 1,
            round,
            step: 1,
            agent,
            sample: 0,
            difficulty: Difficulty::Complex,
            problem_id: format!("test/complex/{agent:04}"),
            family: format!("family-{}", agent % 3),
            solved,
            used_tool,
            calls: u32::from(used_tool),
            calls_failed: 0,
            forged_result: false,
            cost: (solved != Solved::Failed).then_some(if used_tool { 3 } else { 1 }),
            answer: None,
            expected: "12".into(),
            tool_first: agent.is_multiple_of(2),
            text: String::new(),
            finish: "stop".into(),
            prompt_tokens: 1,
            completion_tokens: 1,
            error: None,
        }
    }

    #[test]
    fn shares_are_of_what_came_about() {
        let rows = [
            row(1, 0, Solved::Right, true),
            row(1, 1, Solved::Wrong, false),
            row(1, 2, Solved::Invalid, false),
            row(1, 3, Solved::Failed, false),
            row(1, 4, Solved::Right, false),
        ];
        let found = summarise_tools(&rows, 7).unwrap();
        assert_eq!(found.len(), 1);
        let round = &found[0].rounds[0];
        assert_eq!(round.counts.solutions(), 4);
        assert_eq!(round.counts.failed, 1);
        assert_eq!(round.counts.right_with_tool, 1);
        // A text without an answer counts against accuracy.
        assert_eq!(round.accuracy.unwrap().value, 0.5);
        assert_eq!(round.usage.unwrap().value, 0.25);
        assert_eq!(round.cost, Some(1.5));
        let mut turned = rows.to_vec();
        turned.reverse();
        assert_eq!(summarise_tools(&turned, 7).unwrap(), found);
    }

    #[test]
    fn all_samples_of_a_problem_are_compared() {
        let of = |round: u32, sample: u32, used_tool: bool| ToolRow {
            sample,
            problem_id: "test/complex/0001".into(),
            ..row(round, sample, Solved::Right, used_tool)
        };
        let rows = [
            of(1, 0, true),
            of(1, 1, true),
            of(2, 0, false),
            of(2, 1, true),
        ];
        let strands = crate::evaluation::observation::tools(&rows);
        let found = crate::evaluation::comparisons::compare(&strands, 3);
        let pairs = found[0].pairs;
        assert_eq!((pairs.gained, pairs.lost, pairs.same), (1, 0, 1));
    }

    #[test]
    fn a_solution_twice_is_refused() {
        let rows = [
            row(2, 1, Solved::Right, true),
            row(2, 1, Solved::Wrong, true),
        ];
        let error = summarise_tools(&rows, 7).unwrap_err().to_string();
        assert!(
            error.contains("round 2") && error.contains("agent 1"),
            "{error}"
        );
    }

    #[test]
    fn nothing_that_came_about_has_no_rate() {
        let found = summarise_tools(&[row(1, 0, Solved::Failed, false)], 7).unwrap();
        let round = &found[0].rounds[0];
        assert_eq!(
            (round.usage, round.accuracy, round.cost),
            (None, None, None)
        );
    }
}
