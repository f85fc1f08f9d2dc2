//! What is in a set: counts, balance, repeats, near-duplicates, lengths. The same figures as a text and as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::pairs::{AnswerSource, PreferencePair};
use crate::artifact::table::any::Column;
use crate::scenario::coordination::GameInstance;
use crate::scenario::decision::Decision;
use crate::scenario::disjoint::{SITUATION_WORDS, Shingles, normalise};
use crate::scenario::prompt::AnswerStyle;
use crate::scenario::question::Question;
use crate::scenario::tool_use::Problem;
use crate::scenario::tool_use::prompt::{ToolPromptOptions, ask};
use crate::text::{Message, RenderOptions, TextCodec, TextError};

/// Sets larger than this are not searched for near-duplicates: the search compares all rows with each other.
const MOST_COMPARED: usize = 3000;
/// Nearest rows that are told.
const NEAREST: usize = 3;

/// What lengths are counted in.
#[derive(Debug, Clone, Copy)]
pub enum Unit<'a> {
    /// Words between white space.
    Words,
    /// Tokens of a model; prompts with its chat template.
    Tokens(&'a TextCodec),
}

impl Unit<'_> {
    /// `words` or `tokens`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Words => "words",
            Self::Tokens(_) => "tokens",
        }
    }

    /// Length of a text.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn text(self, text: &str) -> Result<usize, TextError> {
        match self {
            Self::Words => Ok(text.split_whitespace().count()),
            Self::Tokens(codec) => Ok(codec.tokenizer().encode(text)?.len()),
        }
    }

    /// Length of a prompt.
    ///
    /// # Errors
    /// Messages that the template or the tokenizer refuses.
    pub fn prompt(self, messages: &[Message]) -> Result<usize, TextError> {
        match self {
            Self::Words => messages.iter().map(|m| self.text(&m.content)).sum(),
            Self::Tokens(codec) => {
                let text = codec.render(messages, &RenderOptions::prompt())?;
                Ok(codec.tokenizer().encode(&text)?.len())
            }
        }
    }
}

/// What was found in a table.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// `questions`, `pairs`, `evaluation rows` or `table`.
    pub kind: &'static str,
    /// Number of rows.
    pub rows: usize,
    /// The file's metadata.
    pub metadata: BTreeMap<String, String>,
    /// Its columns.
    pub columns: Vec<Column>,
    /// What was counted.
    pub sections: Vec<Section>,
}

/// A small table of figures.
#[derive(Debug, Clone)]
pub struct Section {
    /// What it is about.
    pub title: String,
    /// Its columns.
    pub header: Vec<&'static str>,
    /// Its rows; texts and numbers.
    pub rows: Vec<Vec<Value>>,
}

impl Serialize for Section {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rows: Vec<Map<String, Value>> = self
            .rows
            .iter()
            .map(|row| {
                let keys = self.header.iter().map(|key| (*key).to_owned());
                keys.zip(row.iter().cloned()).collect()
            })
            .collect();
        json!({ "title": self.title, "rows": rows }).serialize(serializer)
    }
}

impl Section {
    /// An empty table of figures.
    pub fn new(title: impl Into<String>, header: &[&'static str]) -> Self {
        Self {
            title: title.into(),
            header: header.to_vec(),
            rows: Vec::new(),
        }
    }

    /// A row for each key of `counts`, its parts and then its count.
    pub fn counts<const N: usize>(
        title: &str,
        header: &[&'static str],
        keys: impl Iterator<Item = [String; N]>,
    ) -> Self {
        let mut counts: BTreeMap<[String; N], usize> = BTreeMap::new();
        for key in keys {
            *counts.entry(key).or_default() += 1;
        }
        let mut section = Self::new(title, header);
        for (key, count) in counts {
            let mut row: Vec<Value> = key.into_iter().map(Value::from).collect();
            row.push(count.into());
            section.rows.push(row);
        }
        section
    }

    /// Smallest, median, mean, 95th percentile and largest of some lists of lengths.
    pub fn lengths(title: String, lists: &[(&str, Vec<usize>)]) -> Self {
        let header = ["of", "rows", "min", "median", "mean", "p95", "max"];
        let mut section = Self::new(title, &header);
        for (name, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
            let mut sorted = list.clone();
            sorted.sort_unstable();
            // Nearest rank.
            let rank = |p: f64| sorted[((p * sorted.len() as f64).ceil() as usize).max(1) - 1];
            section.rows.push(vec![
                (*name).into(),
                sorted.len().into(),
                rank(0.0).into(),
                rank(0.5).into(),
                mean(&sorted).into(),
                rank(0.95).into(),
                rank(1.0).into(),
            ]);
        }
        section
    }
}

/// Mean of lengths; 0 of none.
fn mean(list: &[usize]) -> f64 {
    list.iter().sum::<usize>() as f64 / list.len().max(1) as f64
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} rows", self.kind, self.rows)?;
        for (key, value) in &self.metadata {
            writeln!(f, "{key}: {value}")?;
        }
        let mut schema = Section::new("columns", &["name", "type", ""]);
        schema.rows = self
            .columns
            .iter()
            .map(|column| {
                let optional = if column.optional {
                    "may be missing"
                } else {
                    ""
                };
                vec![
                    column.name.clone().into(),
                    column.kind.clone().into(),
                    optional.into(),
                ]
            })
            .collect();
        for section in std::iter::once(&schema).chain(&self.sections) {
            write!(f, "\n{section}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Null => "–".into(),
            Value::Number(n) if n.is_f64() => format!("{:.3}", n.as_f64().unwrap_or(f64::NAN)),
            other => other.to_string(),
        };
        let numeric = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            self.rows.first().is_some_and(|row| row.len() > column)
                && cells.clone().any(Value::is_number)
                && cells.clone().all(|v| v.is_number() || v.is_null())
        };
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|value| text(value).chars().count())
                .chain([self.header[column].chars().count()])
                .max()
                .unwrap_or(0)
        };
        let columns: Vec<(usize, bool)> = (0..self.header.len())
            .map(|column| (width(column), numeric(column)))
            .collect();
        let line = |cells: Vec<String>| {
            let mut line = String::new();
            for (cell, (width, right)) in cells.iter().zip(&columns) {
                // Writing to a string cannot fail.
                let _ = match right {
                    true => write!(line, "  {cell:>width$}"),
                    false => write!(line, "  {cell:<width$}"),
                };
            }
            line.trim_end().to_owned()
        };
        writeln!(f, "{}", self.title)?;
        if self.rows.is_empty() {
            return writeln!(f, "  none");
        }
        writeln!(
            f,
            "{}",
            line(self.header.iter().map(|h| (*h).to_owned()).collect())
        )?;
        for row in &self.rows {
            writeln!(f, "{}", line(row.iter().map(text).collect()))?;
        }
        Ok(())
    }
}

/// How often texts occur again, and the rows that are nearest to each other.
fn repeats(what: &str, rows: &[(&str, &str)]) -> Vec<Section> {
    let distinct: BTreeSet<String> = rows.iter().map(|(_, text)| normalise(text)).collect();
    let mut counts = Section::new(format!("repeats: {what}"), &["rows", "distinct"]);
    counts
        .rows
        .push(vec![rows.len().into(), distinct.len().into()]);
    let title = format!("nearest {what}s, Jaccard index of {SITUATION_WORDS}-grams of words");
    if rows.len() > MOST_COMPARED {
        let title = format!("{title}: not searched above {MOST_COMPARED} rows");
        return vec![counts, Section::new(title, &["index"])];
    }
    let shingles: Vec<Shingles> = rows
        .iter()
        .map(|(_, text)| Shingles::of(text, SITUATION_WORDS))
        .collect();
    let mut found: Vec<(f64, usize, usize)> = Vec::new();
    for (b, later) in shingles.iter().enumerate() {
        for (a, earlier) in shingles[..b].iter().enumerate() {
            let index = earlier.jaccard(later);
            if index > 0.0 && (found.len() < NEAREST || index > found[NEAREST - 1].0) {
                let at = found.partition_point(|(known, ..)| *known >= index);
                found.insert(at, (index, a, b));
                found.truncate(NEAREST);
            }
        }
    }
    let mut nearest = Section::new(title, &["index", "row", "and"]);
    nearest.rows = found
        .into_iter()
        .map(|(index, a, b)| vec![index.into(), rows[a].0.into(), rows[b].0.into()])
        .collect();
    vec![counts, nearest]
}

/// What is in a set of questions.
///
/// # Errors
/// A text that the unit's tokenizer refuses.
pub fn questions(set: &[Question], unit: Unit<'_>) -> Result<Vec<Section>, TextError> {
    let mut sections = vec![Section::counts(
        "counts",
        &["split", "environment", "rows"],
        set.iter()
            .map(|q| [q.split.name().to_owned(), q.environment.clone()]),
    )];
    sections.push(Section::counts(
        "balance: which option stands first, and the compliant one's label",
        &["split", "first", "compliant label", "rows"],
        set.iter().map(|q| {
            let first = if q.compliant_first {
                "compliant"
            } else {
                "deviant"
            };
            [
                q.split.name().to_owned(),
                first.to_owned(),
                q.compliant_label.clone(),
            ]
        }),
    ));
    let situations: Vec<(&str, &str)> = set
        .iter()
        .map(|q| (q.id.as_str(), q.situation.as_str()))
        .collect();
    sections.extend(repeats("situation", &situations));
    let mut lists = vec![];
    for (name, style) in [
        ("prompt, reasoned", AnswerStyle::Reasoned),
        ("prompt, direct", AnswerStyle::Direct),
    ] {
        let lengths = set.iter().map(|q| unit.prompt(&q.messages(style, None)));
        lists.push((name, lengths.collect::<Result<Vec<_>, _>>()?));
    }
    let situations = set.iter().map(|q| unit.text(&q.situation));
    lists.push(("situation", situations.collect::<Result<_, _>>()?));
    sections.push(Section::lengths(
        format!("lengths in {}", unit.name()),
        &lists,
    ));
    Ok(sections)
}

/// What is in a set of games.
///
/// # Errors
/// A text that the unit's tokenizer refuses.
pub fn games(set: &[GameInstance], unit: Unit<'_>) -> Result<Vec<Section>, TextError> {
    let mut sections = vec![
        Section::counts(
            "counts",
            &["split", "game", "rows"],
            set.iter()
                .map(|g| [g.split.name().to_owned(), g.game.clone()]),
        ),
        Section::counts(
            "balance: which option stands first, and the independent one's label",
            &["split", "first", "independent label", "rows"],
            set.iter().map(|g| {
                let first = if g.independent_first {
                    "independent"
                } else {
                    "collusive"
                };
                [
                    g.split.name().to_owned(),
                    first.to_owned(),
                    g.independent_label.clone(),
                ]
            }),
        ),
        Section::counts(
            "agents and threshold",
            &["split", "agents", "threshold", "rows"],
            set.iter().map(|g| {
                // Padded, so that numbers sort as such.
                let padded = |n: u32| format!("{n:>2}");
                [
                    g.split.name().to_owned(),
                    padded(g.agents),
                    padded(g.threshold),
                ]
            }),
        ),
    ];
    let situations: Vec<(&str, &str)> = set
        .iter()
        .map(|g| (g.id.as_str(), g.situation.as_str()))
        .collect();
    sections.extend(repeats("situation", &situations));
    let prompts = set
        .iter()
        .map(|g| unit.prompt(&g.messages(AnswerStyle::Reasoned, None)));
    sections.push(Section::lengths(
        format!("lengths in {}", unit.name()),
        &[("prompt, reasoned", prompts.collect::<Result<_, _>>()?)],
    ));
    Ok(sections)
}

/// What is in a set of problems.
///
/// # Errors
/// A text that the unit's tokenizer refuses.
pub fn problems(set: &[Problem], unit: Unit<'_>) -> Result<Vec<Section>, TextError> {
    let of = |p: &Problem| [p.split.name().to_owned(), p.difficulty.name().to_owned()];
    let mut sections = vec![
        Section::counts(
            "counts",
            &["split", "difficulty", "rows"],
            set.iter().map(of),
        ),
        Section::counts(
            "families",
            &["split", "difficulty", "family", "rows"],
            set.iter().map(|p| {
                let [split, difficulty] = of(p);
                [split, difficulty, p.family.clone()]
            }),
        ),
        Section::counts(
            "programs",
            &["split", "difficulty", "program", "rows"],
            set.iter().map(|p| {
                let [split, difficulty] = of(p);
                let there = if p.program.is_some() { "yes" } else { "no" };
                [split, difficulty, there.to_owned()]
            }),
        ),
    ];
    let texts: Vec<(&str, &str)> = set
        .iter()
        .map(|p| (p.id.as_str(), p.text.as_str()))
        .collect();
    sections.extend(repeats("problem", &texts));
    let options = ToolPromptOptions::default();
    let prompts = set
        .iter()
        .map(|p| unit.prompt(&ask(p, &[], &options).messages));
    let texts = set.iter().map(|p| unit.text(&p.text));
    sections.push(Section::lengths(
        format!("lengths in {}", unit.name()),
        &[
            ("prompt", prompts.collect::<Result<_, _>>()?),
            ("problem", texts.collect::<Result<_, _>>()?),
        ],
    ));
    Ok(sections)
}

/// What is in a set of preference pairs.
///
/// # Errors
/// A text that the unit's tokenizer refuses.
pub fn pairs(set: &[PreferencePair], unit: Unit<'_>) -> Result<Vec<Section>, TextError> {
    let source = |source: AnswerSource| match source {
        AnswerSource::Sampled => "sampled".to_owned(),
        AnswerSource::Template => "template".to_owned(),
    };
    let mut sections = vec![
        Section::counts(
            "counts",
            &["environment", "rows"],
            set.iter().map(|pair| [pair.environment.clone()]),
        ),
        Section::counts(
            "sources",
            &["chosen", "rejected", "rows"],
            set.iter()
                .map(|pair| [source(pair.chosen_source), source(pair.rejected_source)]),
        ),
    ];
    let most = set
        .iter()
        .map(|pair| pair.attempts_chosen.max(pair.attempts_rejected));
    let mut attempts = Section::new("attempts", &["samples drawn", "chosen", "rejected"]);
    for n in 0..=most.max().unwrap_or(0) {
        let chosen = set.iter().filter(|p| p.attempts_chosen == n).count();
        let rejected = set.iter().filter(|p| p.attempts_rejected == n).count();
        if chosen + rejected > 0 {
            attempts
                .rows
                .push(vec![n.into(), chosen.into(), rejected.into()]);
        }
    }
    sections.push(attempts);
    let prompts: Vec<(&str, &str)> = set
        .iter()
        .map(|pair| (pair.id.as_str(), pair.user.as_str()))
        .collect();
    sections.extend(repeats("prompt", &prompts));
    let distinct = |text: fn(&PreferencePair) -> &str| {
        let texts: BTreeSet<&str> = set.iter().map(text).collect();
        texts.len()
    };
    let mut answers = Section::new("distinct answers", &["chosen", "rejected"]);
    answers.rows.push(vec![
        distinct(|p| &p.chosen).into(),
        distinct(|p| &p.rejected).into(),
    ]);
    sections.push(answers);
    let of = |text: fn(&PreferencePair) -> &str| {
        let lengths = set.iter().map(|pair| unit.text(text(pair)));
        lengths.collect::<Result<Vec<_>, _>>()
    };
    let (chosen, rejected) = (of(|p| &p.chosen)?, of(|p| &p.rejected)?);
    let prompts = set.iter().map(|pair| unit.prompt(&pair.messages()));
    let lists = [
        ("prompt", prompts.collect::<Result<Vec<_>, _>>()?),
        ("chosen", chosen.clone()),
        ("rejected", rejected.clone()),
    ];
    sections.push(Section::lengths(
        format!("lengths in {}", unit.name()),
        &lists,
    ));
    let share = |what: fn(&usize, &usize) -> bool| {
        let count = chosen.iter().zip(&rejected).filter(|(a, b)| what(a, b));
        count.count() as f64 / set.len().max(1) as f64
    };
    let mut bias = Section::new(
        "length bias: shares of pairs, and mean length of chosen less that of rejected",
        &["chosen longer", "equal", "rejected longer", "difference"],
    );
    bias.rows.push(vec![
        share(|a, b| a > b).into(),
        share(|a, b| a == b).into(),
        share(|a, b| a < b).into(),
        (mean(&chosen) - mean(&rejected)).into(),
    ]);
    sections.push(bias);
    Ok(sections)
}

#[cfg(test)]
mod tests;
