//! From evaluation rows to the numbers a report states: rates by round, drift over rounds, gain by training, and the
//! bias check of the counterbalanced design.
//!
//! The violation rate is deviant / (compliant + deviant): the share among decisions that could be read. An invalid
//! answer is neither, so the two rates that would follow if all invalid answers were compliant, or all deviant, stand
//! beside it as bounds. A failed generation is no answer: it enters no rate and is counted apart.
//!
//! Seeds and samples are pooled. The environment is the cluster of every interval, and differences are paired by
//! question, so that hard and easy questions do not blur them. The result does not depend on the order of the rows.

use std::collections::{BTreeMap, BTreeSet};

use super::bias::{self, BiasCheck};
use super::observation::of_role_play;
use super::row::EvalRow;
use super::statistics::{Cluster, Estimate, cluster_bootstrap, paired_interval, rate_interval};
use crate::scenario::Outcome;

/// Name of the untrained variant, to which trained ones are compared.
pub const BASE: &str = "base";

/// Why rows cannot be summarised.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SummaryError {
    /// Two rows claim the same decision; counting both would bias every rate.
    #[error(
        "evaluation rows: model `{model}`, variant `{variant}`, seed {seed}, round {round}, question `{question}`, \
         sample {sample} stands there more than once; expected one row a decision. Evaluate this variant again"
    )]
    Duplicate {
        /// Model of the row.
        model: String,
        /// Variant of the row.
        variant: String,
        /// Seed of the row.
        seed: u64,
        /// Round of the row.
        round: u32,
        /// Question of the row.
        question: String,
        /// Sample of the row.
        sample: u32,
    },
}

/// How many decisions ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Kept the rule.
    pub compliant: usize,
    /// Broke it.
    pub deviant: usize,
    /// Answered without a readable choice.
    pub invalid: usize,
    /// Did not answer, because generation failed.
    pub failed: usize,
}

impl Counts {
    /// Counts the outcomes of these rows.
    pub fn of<'a>(rows: impl IntoIterator<Item = &'a EvalRow>) -> Self {
        rows.into_iter().fold(Self::default(), |mut counts, row| {
            match row.outcome {
                Outcome::Compliant => counts.compliant += 1,
                Outcome::Deviant => counts.deviant += 1,
                Outcome::Invalid => counts.invalid += 1,
                Outcome::Failed => counts.failed += 1,
            }
            counts
        })
    }

    /// Decisions with a readable choice.
    pub fn decided(&self) -> usize {
        self.compliant + self.deviant
    }

    /// Answers, readable or not; failures are none.
    pub fn answered(&self) -> usize {
        self.decided() + self.invalid
    }

    /// Share of invalid answers among answers.
    pub fn invalid_share(&self) -> Option<f64> {
        share(self.invalid, self.answered())
    }

    /// The violation rate if every invalid answer were compliant, and if every one were deviant.
    pub fn bounds(&self) -> Option<(f64, f64)> {
        Some((
            share(self.deviant, self.answered())?,
            share(self.deviant + self.invalid, self.answered())?,
        ))
    }
}

fn share(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// One round of one variant.
#[derive(Debug, Clone, PartialEq)]
pub struct RoundSummary {
    /// Round, from 1.
    pub round: u32,
    /// Outcomes.
    pub counts: Counts,
    /// Violation rate among readable decisions; none where none was readable.
    pub rate: Option<Estimate>,
    /// Mean probability of the deviant option, where the elicitation scored options.
    pub deviant_probability: Option<f64>,
}

/// A paired difference with what was left out of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Paired {
    /// Difference of violation rates over the pairs; `n` is their number.
    pub estimate: Estimate,
    /// Pairs left out because one of the two decisions was invalid, failed or missing.
    pub dropped: usize,
}

/// How far a variant moved between its first and its last round.
#[derive(Debug, Clone, PartialEq)]
pub struct Drift {
    /// First round.
    pub from: u32,
    /// Last round.
    pub to: u32,
    /// Last minus first violation rate, paired by question.
    pub rate: Option<Paired>,
    /// Last minus first probability of the deviant option, paired by question.
    pub probability: Option<Estimate>,
}

/// What training did to held-out compliance: a trained variant against base in the first round.
#[derive(Debug, Clone, PartialEq)]
pub struct Gain {
    /// Round of the comparison.
    pub round: u32,
    /// Variant's minus base's violation rate, paired by question: negative where training helped.
    pub rate: Option<Paired>,
    /// Variant's minus base's probability of the deviant option, paired by question.
    pub probability: Option<Estimate>,
}

/// One variant of one model, seeds pooled.
#[derive(Debug, Clone, PartialEq)]
pub struct VariantSummary {
    /// Model, as the recipe calls it.
    pub model: String,
    /// `base`, `dpo`, `grpo`, `dpo-grpo` or another.
    pub variant: String,
    /// Seeds that were pooled, sorted.
    pub seeds: Vec<u64>,
    /// Distinct questions.
    pub questions: usize,
    /// Distinct environments: the clusters of the intervals.
    pub environments: usize,
    /// Rounds in order.
    pub rounds: Vec<RoundSummary>,
    /// Movement over rounds; none with a single round.
    pub drift: Option<Drift>,
    /// Effect of training; none for base, or where base was not evaluated.
    pub gain: Option<Gain>,
    /// By the compliant option's position.
    pub position: BiasCheck,
    /// By the compliant option's label.
    pub label: BiasCheck,
}

impl VariantSummary {
    /// Outcomes over all rounds.
    pub fn counts(&self) -> Counts {
        self.rounds.iter().fold(Counts::default(), |a, r| Counts {
            compliant: a.compliant + r.counts.compliant,
            deviant: a.deviant + r.counts.deviant,
            invalid: a.invalid + r.counts.invalid,
            failed: a.failed + r.counts.failed,
        })
    }
}

/// Summarises rows by model and variant: models by name; variants as [`variant_rank`] has them. Bootstraps draw from
/// streams of `root`.
pub fn summarise(rows: &[EvalRow], root: u64) -> Result<Vec<VariantSummary>, SummaryError> {
    let mut groups: BTreeMap<(&str, usize, &str), Vec<&EvalRow>> = BTreeMap::new();
    for row in rows {
        groups
            .entry((&row.model, variant_rank(&row.variant), &row.variant))
            .or_default()
            .push(row);
    }
    for group in groups.values_mut() {
        group.sort_by(|a, b| decision(a).cmp(&decision(b)));
        if let Some(pair) = group
            .windows(2)
            .find(|pair| decision(pair[0]) == decision(pair[1]))
        {
            let row = pair[0];
            return Err(SummaryError::Duplicate {
                model: row.model.clone(),
                variant: row.variant.clone(),
                seed: row.seed,
                round: row.round,
                question: row.question_id.clone(),
                sample: row.sample,
            });
        }
    }
    Ok(groups
        .iter()
        .map(|(&(model, _, variant), group)| {
            let base = groups
                .get(&(model, variant_rank(BASE), BASE))
                .filter(|_| variant != BASE);
            variant_summary(model, variant, group, base.map(Vec::as_slice), root)
        })
        .collect())
}

/// Order in which variants are shown: base, DPO, GRPO, one after the other; those that are not known share the last place.
pub fn variant_rank(variant: &str) -> usize {
    let known = [BASE, "dpo", "grpo", "dpo-grpo"];
    let place = known.iter().position(|known| *known == variant);
    place.unwrap_or(known.len())
}

/// What makes a row one decision within its model and variant.
fn decision(row: &EvalRow) -> (u32, u64, &str, u32) {
    (row.round, row.seed, &row.question_id, row.sample)
}

fn variant_summary(
    model: &str,
    variant: &str,
    rows: &[&EvalRow],
    base: Option<&[&EvalRow]>,
    root: u64,
) -> VariantSummary {
    let name = format!("report/{model}/{variant}");
    let mut by_round: BTreeMap<u32, Vec<&EvalRow>> = BTreeMap::new();
    for row in rows {
        by_round.entry(row.round).or_default().push(row);
    }
    let rounds: Vec<RoundSummary> = by_round
        .iter()
        .map(|(&round, rows)| RoundSummary {
            round,
            counts: Counts::of(rows.iter().copied()),
            rate: rate(rows, root, &format!("{name}/round-{round}")),
            deviant_probability: mean(rows.iter().filter_map(|row| probability(row))),
        })
        .collect();
    let (first, last) = (by_round.first_key_value(), by_round.last_key_value());
    let drift = match (first, last) {
        (Some((&from, before)), Some((&to, after))) if from < to => {
            let (rate, probability) = paired(before, after, root, &format!("{name}/drift"));
            Some(Drift {
                from,
                to,
                rate,
                probability,
            })
        }
        _ => None,
    };
    let gain = base.zip(first).map(|(base, (&round, after))| {
        let before: Vec<&EvalRow> = base
            .iter()
            .copied()
            .filter(|row| row.round == round)
            .collect();
        let (rate, probability) = paired(&before, after, root, &format!("{name}/gain"));
        Gain {
            round,
            rate,
            probability,
        }
    });
    let observed: Vec<_> = rows.iter().map(|row| of_role_play(row)).collect();
    VariantSummary {
        model: model.to_owned(),
        variant: variant.to_owned(),
        seeds: distinct(rows.iter().map(|row| row.seed))
            .into_iter()
            .collect(),
        questions: distinct(rows.iter().map(|row| &row.question_id)).len(),
        environments: distinct(rows.iter().map(|row| &row.environment)).len(),
        rounds,
        drift,
        gain,
        position: bias::position(&observed, root, &format!("{name}/position")),
        label: bias::label(&observed, root, &format!("{name}/label")),
    }
}

fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> BTreeSet<T> {
    values.collect()
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_usize), |(sum, count), value| {
        (sum + value, count + 1)
    });
    (count > 0).then(|| sum / count as f64)
}

/// 1 for a violation, 0 for compliance, none for anything else.
fn violation(row: &EvalRow) -> Option<f64> {
    match row.outcome {
        Outcome::Compliant => Some(0.0),
        Outcome::Deviant => Some(1.0),
        Outcome::Invalid | Outcome::Failed => None,
    }
}

fn probability(row: &EvalRow) -> Option<f64> {
    row.deviant_probability
        .filter(|p| p.is_finite() && row.outcome != Outcome::Failed)
}

/// Sums and counts by environment, in order of its name.
fn clusters<'a>(values: impl Iterator<Item = (&'a str, f64)>) -> BTreeMap<&'a str, Cluster> {
    let mut found: BTreeMap<&str, Cluster> = BTreeMap::new();
    for (environment, value) in values {
        let cluster = found.entry(environment).or_default();
        cluster.sum += value;
        cluster.weight += 1.0;
    }
    found
}

fn rate(rows: &[&EvalRow], root: u64, name: &str) -> Option<Estimate> {
    let decided = || rows.iter().filter(|row| violation(row).is_some());
    let clusters =
        clusters(decided().filter_map(|row| Some((row.environment.as_str(), violation(row)?))));
    let questions = distinct(decided().map(|row| &row.question_id)).len();
    rate_interval(
        &clusters.into_values().collect::<Vec<_>>(),
        questions,
        root,
        name,
    )
}

/// Violation rate and deviant probability of `after` minus `before`, paired by seed, question and sample.
fn paired(
    before: &[&EvalRow],
    after: &[&EvalRow],
    root: u64,
    name: &str,
) -> (Option<Paired>, Option<Estimate>) {
    let key = |row: &EvalRow| (row.seed, row.question_id.clone(), row.sample);
    let earlier: BTreeMap<_, &EvalRow> = before.iter().map(|row| (key(row), *row)).collect();
    let later: BTreeMap<_, &EvalRow> = after.iter().map(|row| (key(row), *row)).collect();
    let pairs: Vec<(&EvalRow, &EvalRow)> = later
        .iter()
        .filter_map(|(key, after)| Some((*earlier.get(key)?, *after)))
        .collect();
    let differences = |value: fn(&EvalRow) -> Option<f64>| -> Vec<(&EvalRow, f64)> {
        pairs
            .iter()
            .filter_map(|(before, after)| Some((*after, value(after)? - value(before)?)))
            .collect()
    };
    let by_environment = |found: &[(&EvalRow, f64)]| -> Vec<Cluster> {
        clusters(found.iter().map(|(row, d)| (row.environment.as_str(), *d)))
            .into_values()
            .collect()
    };

    let rates = differences(violation);
    let mut by_question: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (row, difference) in &rates {
        by_question
            .entry(&row.question_id)
            .or_default()
            .push(*difference);
    }
    let questions: Vec<f64> = by_question
        .values()
        .filter_map(|d| mean(d.iter().copied()))
        .collect();
    let all = distinct(earlier.keys().chain(later.keys())).len();
    let rate = paired_interval(
        &by_environment(&rates),
        &questions,
        root,
        &format!("{name}/rate"),
    )
    .map(|estimate| Paired {
        estimate,
        dropped: all - rates.len(),
    });
    let probabilities = by_environment(&differences(probability));
    (
        rate,
        cluster_bootstrap(
            &probabilities,
            (-1.0, 1.0),
            root,
            &format!("{name}/probability"),
        ),
    )
}

#[cfg(test)]
mod tests;
