//! All rows of a report as columns for the trace viewer: one decision a row, sorted so that the rows of one trajectory
//! follow each other, texts and prompts by number.
//!
//! A trajectory is what a reader follows over rounds: a question's agent, a group that plays one game, an agent that
//! solves problems. The three testbeds differ only in the columns they have, so the viewer knows none of them by name.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Serialize;

use super::escape::visible;
use super::narrative::variant_name;
use super::{Report, ReportInputs};
use crate::evaluation::coordination_row::GameRow;
use crate::evaluation::row::EvalRow;
use crate::evaluation::summary::variant_rank;
use crate::evaluation::tool_row::{Solved, ToolRow};
use crate::scenario::tool_use::Difficulty;
use crate::scenario::{Outcome, Testbed};

mod columns;

use columns::{GAMES, LETTER, ROLE_PLAY, TOOLS};

/// Most bytes of distinct texts a page carries; beyond that all texts are cut at the same length.
const BUDGET: usize = 192 << 20;
/// Lengths in bytes at which texts are cut, the longest that keeps the budget.
const CUTS: [usize; 8] = [65536, 32768, 16384, 8192, 4096, 2048, 1024, 256];

/// What a cell holds.
enum Cell<'a> {
    Text(Cow<'a, str>),
    Number(f64),
    Yes(bool),
    None,
}

/// What a column is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Use {
    /// Rows are chosen by it.
    Facet,
    /// It is shown with a decision.
    Fact,
    /// It is neither: the viewer reads it.
    Inner,
}

/// What a column's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// Places in the column's dictionary; −1 for none.
    Text,
    /// Numbers, or null.
    Number,
    /// Shares from 0 to 1, shown as percent, or null.
    Share,
    /// 1 or 0.
    Yes,
}

/// A column as a testbed describes it.
struct Spec<T: 'static> {
    key: &'static str,
    label: &'static str,
    kind: Kind,
    used: Use,
    of: for<'a> fn(&'a T) -> Cell<'a>,
}

/// One column.
#[derive(Debug, Serialize)]
struct Column {
    key: &'static str,
    label: &'static str,
    kind: Kind,
    #[serde(rename = "use")]
    used: Use,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dict: Vec<String>,
    values: Vec<serde_json::Value>,
}

/// How an outcome is shown: class, words, one-character mark.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Shown {
    class: &'static str,
    label: &'static str,
    mark: &'static str,
}

/// One testbed.
#[derive(Debug, Serialize)]
pub(super) struct Bed {
    id: &'static str,
    title: &'static str,
    /// What the first row with `tip` is called.
    tip: &'static str,
    /// Columns that name a trajectory.
    names: &'static [&'static str],
    /// Several agents decide in one round.
    groups: bool,
    outcomes: &'static [Shown],
    columns: Vec<Column>,
    /// First row of each trajectory.
    starts: Vec<usize>,
    pub(super) rows: usize,
}

/// Everything the viewer shows.
#[derive(Debug, Default)]
pub(super) struct Traces {
    /// Testbeds that have rows.
    pub(super) beds: Vec<Bed>,
    /// Distinct texts.
    pub(super) texts: Vec<String>,
    /// Lines of prompts; one that begins with U+0001 names who speaks.
    pub(super) lines: Vec<String>,
    /// Distinct prompts, as places in `lines`.
    pub(super) prompts: Vec<Vec<u32>>,
    /// Length in bytes at which texts were cut, if they were.
    pub(super) cut: Option<usize>,
}

/// Numbers texts and prompts in the order in which they are first needed.
#[derive(Default)]
struct Numbers<'a> {
    texts: HashMap<&'a str, usize>,
    in_order: Vec<&'a str>,
    prompts: HashMap<usize, usize>,
    lines: HashMap<u32, u32>,
    traces: Traces,
}

/// All rows of a report.
pub(super) fn traces(report: &Report) -> Traces {
    let inputs = &report.inputs;
    let mut numbers = Numbers::default();
    let model = |name: &str| {
        let known = inputs.models.iter().position(|m| m.name == name);
        (known.unwrap_or(usize::MAX), name.to_owned())
    };
    let who = |m: &str, variant: &str, seed: u64| {
        (model(m), variant_rank(variant), variant.to_owned(), seed)
    };
    numbers.bed(
        inputs,
        Testbed::RolePlay,
        &inputs.rows,
        |row: &EvalRow| {
            let of = (row.question_id.clone(), row.sample, String::new());
            (who(&row.model, &row.variant, row.seed), of)
        },
        |row| (row.round, row.sample, 0),
        ROLE_PLAY,
    );
    numbers.bed(
        inputs,
        Testbed::Coordination,
        &inputs.games,
        |row: &GameRow| {
            let of = (row.instance_id.clone(), row.sample, row.population.clone());
            (who(&row.model, &row.variant, row.seed), of)
        },
        |row| (row.round, row.agent, 0),
        GAMES,
    );
    numbers.bed(
        inputs,
        Testbed::ToolUse,
        &inputs.tools,
        |row: &ToolRow| {
            let of = (String::new(), row.agent, String::new());
            (who(&row.model, &row.variant, row.seed), of)
        },
        |row| (row.round, row.step, row.agent),
        TOOLS,
    );
    numbers.finish()
}

/// What the rows of a testbed tell the viewer beside their columns.
trait Decision {
    fn text(&self) -> &str;
    /// Place in the testbed's outcomes.
    fn outcome(&self) -> usize;
}

impl Decision for EvalRow {
    fn text(&self) -> &str {
        &self.text
    }
    fn outcome(&self) -> usize {
        place(self.outcome)
    }
}

impl Decision for GameRow {
    fn text(&self) -> &str {
        &self.text
    }
    fn outcome(&self) -> usize {
        place(self.outcome)
    }
}

impl Decision for ToolRow {
    fn text(&self) -> &str {
        &self.text
    }
    fn outcome(&self) -> usize {
        match self.solved {
            Solved::Right => 0,
            Solved::Wrong => 1,
            Solved::Invalid => 2,
            Solved::Failed => 3,
        }
    }
}

fn place(outcome: Outcome) -> usize {
    match outcome {
        Outcome::Compliant => 0,
        Outcome::Deviant => 1,
        Outcome::Invalid => 2,
        Outcome::Failed => 3,
    }
}

/// A testbed's columns, and how it is called.
struct BedSpec<T: 'static> {
    id: &'static str,
    title: &'static str,
    tip: &'static str,
    names: &'static [&'static str],
    groups: bool,
    outcomes: &'static [Shown],
    columns: &'static [Spec<T>],
}

impl<'a> Numbers<'a> {
    fn bed<T: Decision, K: Ord>(
        &mut self,
        inputs: &ReportInputs,
        testbed: Testbed,
        rows: &'a [T],
        trajectory: impl Fn(&T) -> K,
        within: impl Fn(&T) -> (u32, u32, u32),
        spec: BedSpec<T>,
    ) {
        if rows.is_empty() {
            return;
        }
        let mut sorted: Vec<(K, usize)> = rows.iter().map(&trajectory).zip(0..).collect();
        sorted.sort_by(|a, b| {
            a.0.cmp(&b.0)
                .then_with(|| within(&rows[a.1]).cmp(&within(&rows[b.1])))
        });
        let begins = |at: &usize| *at == 0 || sorted[*at - 1].0 != sorted[*at].0;
        let starts = (0..sorted.len()).filter(begins).collect();
        let lettered = !inputs.without_letters.contains(&testbed);
        let mut columns: Vec<Column> = spec
            .columns
            .iter()
            .filter(|spec| lettered || spec.key != LETTER)
            .map(|spec| column(spec, sorted.iter().map(|&(_, at)| &rows[at])))
            .collect();
        let inner = |key, values: Vec<i64>| Column {
            key,
            label: "",
            kind: Kind::Number,
            used: Use::Inner,
            dict: vec![],
            values: values.into_iter().map(Into::into).collect(),
        };
        let each = |f: &mut dyn FnMut(usize) -> i64| sorted.iter().map(|&(_, at)| f(at)).collect();
        columns.push(inner("outcome", each(&mut |at| rows[at].outcome() as i64)));
        columns.push(inner("text", each(&mut |at| self.text(rows[at].text()))));
        columns.push(inner(
            "prompt",
            each(&mut |at| self.prompt(inputs, testbed, at)),
        ));
        self.traces.beds.push(Bed {
            id: spec.id,
            title: spec.title,
            tip: spec.tip,
            names: spec.names,
            groups: spec.groups,
            outcomes: spec.outcomes,
            columns,
            starts,
            rows: rows.len(),
        });
    }

    fn text(&mut self, text: &'a str) -> i64 {
        let next = self.texts.len();
        let order = &mut self.in_order;
        *self.texts.entry(text).or_insert_with(|| {
            order.push(text);
            next
        }) as i64
    }

    /// −1 for none.
    fn prompt(&mut self, inputs: &ReportInputs, testbed: Testbed, row: usize) -> i64 {
        let Some(prompt) = inputs.prompts.of(testbed, row) else {
            return -1;
        };
        if let Some(&known) = self.prompts.get(&prompt) {
            return known as i64;
        }
        let lines = inputs.prompts.lines_of(prompt).iter().map(|&line| {
            let next = self.traces.lines.len() as u32;
            *self.lines.entry(line).or_insert_with(|| {
                self.traces.lines.push(inputs.prompts.text_of(line).into());
                next
            })
        });
        let lines = lines.collect();
        self.traces.prompts.push(lines);
        let place = self.traces.prompts.len() - 1;
        self.prompts.insert(prompt, place);
        place as i64
    }

    fn finish(self) -> Traces {
        let mut traces = self.traces;
        let within = |cut: usize| {
            self.in_order
                .iter()
                .map(|t| t.len().min(cut))
                .sum::<usize>()
        };
        if within(usize::MAX) > BUDGET {
            let fits = |cut: &&usize| within(**cut) <= BUDGET;
            traces.cut = Some(*CUTS.iter().find(fits).unwrap_or(&CUTS[CUTS.len() - 1]));
        }
        let shown = |text: &&str| visible(cut(text, traces.cut));
        traces.texts = self.in_order.iter().map(shown).collect();
        traces
    }
}

/// The beginning of a text, at most so many bytes.
fn cut(text: &str, most: Option<usize>) -> &str {
    match most {
        Some(most) if text.len() > most => &text[..text.floor_char_boundary(most)],
        _ => text,
    }
}

fn column<'a, T: 'a>(spec: &Spec<T>, rows: impl Iterator<Item = &'a T>) -> Column {
    let mut dict: Vec<String> = vec![];
    let mut places: HashMap<String, usize> = HashMap::new();
    let values = rows.map(|row| match (spec.of)(row) {
        Cell::Text(text) => {
            let next = dict.len();
            let place = places.entry(visible(&text)).or_insert_with_key(|text| {
                dict.push(text.clone());
                next
            });
            (*place).into()
        }
        Cell::Number(value) if value.fract() == 0.0 && value.abs() < 1e9 => (value as i64).into(),
        Cell::Number(value) if spec.kind == Kind::Share => ((value * 1e4).round() / 1e4).into(),
        Cell::Number(value) => value.into(),
        Cell::Yes(yes) => i64::from(yes).into(),
        Cell::None if spec.kind == Kind::Text => (-1).into(),
        Cell::None => serde_json::Value::Null,
    });
    let values = values.collect();
    Column {
        key: spec.key,
        label: spec.label,
        kind: spec.kind,
        used: spec.used,
        dict,
        values,
    }
}

#[cfg(test)]
mod tests;
