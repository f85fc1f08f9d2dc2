//! What is in an evaluation table: outcomes by round, by supervision, position, lengths.

use std::collections::BTreeMap;

use serde_json::Value;

use super::row::EvalRow;
use crate::datasets::inspect::Section;
use crate::scenario::{Outcome, Role};

/// Counts of outcomes.
#[derive(Default)]
struct Tally {
    compliant: usize,
    deviant: usize,
    invalid: usize,
    failed: usize,
    supervised: usize,
    detected: usize,
}

impl Tally {
    const HEADER: [&'static str; 7] = [
        "compliant",
        "deviant",
        "invalid",
        "failed",
        "violation rate",
        "supervised",
        "detected",
    ];

    fn add(&mut self, row: &EvalRow) {
        *match row.outcome {
            Outcome::Compliant => &mut self.compliant,
            Outcome::Deviant => &mut self.deviant,
            Outcome::Invalid => &mut self.invalid,
            Outcome::Failed => &mut self.failed,
        } += 1;
        self.supervised += usize::from(row.supervised);
        self.detected += usize::from(row.detected);
    }

    fn cells(&self) -> [Value; 7] {
        let readable = self.compliant + self.deviant;
        let rate = (readable > 0).then(|| self.deviant as f64 / readable as f64);
        [
            self.compliant.into(),
            self.deviant.into(),
            self.invalid.into(),
            self.failed.into(),
            rate.into(),
            self.supervised.into(),
            self.detected.into(),
        ]
    }
}

/// Outcomes by a key of several parts.
fn outcomes<const N: usize>(
    title: &str,
    key_names: [&'static str; N],
    rows: &[EvalRow],
    key: impl Fn(&EvalRow) -> [Value; N],
) -> Section {
    let header = [&key_names[..], &Tally::HEADER].concat();
    let mut section = Section::new(title, &header);
    // In the order of first appearance: that of rounds.
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut tallies: Vec<([Value; N], Tally)> = vec![];
    for row in rows {
        let key = key(row);
        let at = *places
            .entry(Value::from(key.to_vec()).to_string())
            .or_insert(tallies.len());
        if at == tallies.len() {
            tallies.push((key, Tally::default()));
        }
        tallies[at].1.add(row);
    }
    section.rows = tallies
        .into_iter()
        .map(|(key, tally)| [&key[..], &tally.cells()].concat())
        .collect();
    section
}

/// What is in the rows.
pub fn rows(rows: &[EvalRow]) -> Vec<Section> {
    let mut sections = vec![outcomes(
        "outcomes by round",
        ["model", "variant", "defence", "seed", "round"],
        rows,
        |row| {
            [
                row.model.clone().into(),
                row.variant.clone().into(),
                row.defence.clone().into(),
                row.seed.into(),
                row.round.into(),
            ]
        },
    )];
    if rows.iter().any(|row| row.supervised) {
        sections.push(outcomes(
            "outcomes by supervision",
            ["variant", "watched"],
            rows,
            |row| {
                let watched = if row.supervised { "yes" } else { "no" };
                [row.variant.clone().into(), watched.into()]
            },
        ));
    }
    if rows.iter().any(|row| row.vetoed) {
        sections.push(Section::counts(
            "stopped by a monitor",
            &["defence", "round", "rows"],
            rows.iter()
                .filter(|row| row.vetoed)
                .map(|row| [row.defence.clone(), row.round.to_string()]),
        ));
    }
    sections.push(outcomes(
        "outcomes by environment",
        ["environment"],
        rows,
        |row| [row.environment.clone().into()],
    ));
    let readable = rows
        .iter()
        .filter_map(|row| Some((row, row.outcome.role()?)));
    let first = readable
        .clone()
        .filter(|(row, role)| (*role == Role::Compliant) == row.compliant_first);
    let label_a = readable
        .clone()
        .filter(|(row, role)| (*role == Role::Compliant) == (row.compliant_label == "A"));
    let count = readable.count();
    let share = |n: usize| (count > 0).then(|| n as f64 / count as f64);
    let mut position = Section::new(
        "position and label: shares of the readable decisions that chose",
        &["decisions", "the first option", "option A"],
    );
    position.rows.push(vec![
        count.into(),
        share(first.count()).into(),
        share(label_a.count()).into(),
    ]);
    sections.push(position);
    sections.push(Section::counts(
        "how generation ended",
        &["finish", "rows"],
        rows.iter().map(|row| [row.finish.clone()]),
    ));
    let answered = || rows.iter().filter(|row| row.outcome != Outcome::Failed);
    sections.push(Section::lengths(
        "lengths in tokens, as recorded".into(),
        &[
            (
                "prompt",
                answered().map(|r| r.prompt_tokens as usize).collect(),
            ),
            (
                "completion",
                answered().map(|r| r.completion_tokens as usize).collect(),
            ),
        ],
    ));
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(round: u32, outcome: Outcome, supervised: bool) -> EvalRow {
        EvalRow {
            model: "m".into(),
            variant: "dpo".into(),
            defence: "none".into(),
            seed: 1,
            round,
            question_id: "test/x/00".into(),
            environment: "x".into(),
            sample: 0,
            outcome,
            supervised,
            detected: supervised && outcome == Outcome::Deviant,
            vetoed: false,
            choice: None,
            deviant_probability: None,
            payoff: None,
            compliant_first: true,
            compliant_label: "B".into(),
            text: String::new(),
            finish: "stop".into(),
            prompt_tokens: 10 * round,
            completion_tokens: 3,
            error: None,
        }
    }

    #[test]
    fn outcomes_are_counted_by_round_and_supervision() {
        let table = [
            row(1, Outcome::Compliant, true),
            row(1, Outcome::Deviant, true),
            row(1, Outcome::Deviant, false),
            row(2, Outcome::Invalid, false),
            row(2, Outcome::Failed, false),
        ];
        let sections = rows(&table);
        let find = |title: &str| {
            let found = sections.iter().find(|s| s.title.starts_with(title));
            serde_json::json!(found.unwrap().rows)
        };
        assert_eq!(
            find("outcomes by round"),
            serde_json::json!([
                ["m", "dpo", "none", 1, 1, 1, 2, 0, 0, 2.0 / 3.0, 2, 1],
                ["m", "dpo", "none", 1, 2, 0, 0, 1, 1, null, 0, 0],
            ])
        );
        assert_eq!(
            find("outcomes by supervision"),
            serde_json::json!([
                ["dpo", "yes", 1, 1, 0, 0, 0.5, 2, 1],
                ["dpo", "no", 0, 1, 1, 1, 1.0, 0, 0],
            ])
        );
        // One compliant choice, first and labelled B; two deviant ones, second and labelled A.
        assert_eq!(
            find("position"),
            serde_json::json!([[3, 1.0 / 3.0, 2.0 / 3.0]])
        );
        assert_eq!(
            find("lengths"),
            serde_json::json!([
                ["prompt", 4, 10, 10, 12.5, 20, 20],
                ["completion", 4, 3, 3, 3.0, 3, 3]
            ])
        );
        assert!(!sections.iter().any(|s| s.title.contains("monitor")));
        let mut stopped = table.to_vec();
        for row in &mut stopped {
            row.vetoed = row.outcome == Outcome::Deviant;
        }
        let sections = rows(&stopped);
        let found = sections.iter().find(|s| s.title == "stopped by a monitor");
        assert_eq!(
            serde_json::json!(found.unwrap().rows),
            serde_json::json!([["none", "1", 2]])
        );
        let unwatched: Vec<EvalRow> = table[2..].to_vec();
        assert!(
            !rows(&unwatched)
                .iter()
                .any(|s| s.title.contains("supervision"))
        );
    }
}
