//! A comparison as sentences and tables; text for a terminal.

use std::fmt::Write as _;

use super::{Comparison, Line};
use crate::evaluation::statistics::Estimate;
use crate::report::escape::{count, percent, points};
use crate::report::narrative::{Kind, Paragraph};
use crate::report::tables::{Group, NONE, Table, columns, interval, value};
use crate::scenario::Testbed;

impl Comparison {
    /// What the comparison found: first how it was made, then a sentence for each difference that its interval tells
    /// from zero.
    pub(super) fn paragraphs(&self) -> Vec<Paragraph> {
        let plain = |text| Paragraph {
            kind: Kind::Plain,
            lead: String::new(),
            text,
        };
        let mut said = vec![plain(format!(
            "A is {}, B is {}. Differences are B’s rate minus A’s, in percentage points.",
            self.a, self.b
        ))];
        let named = |same: bool| -> Vec<&str> {
            let of = |(name, is): (&&'static str, &bool)| (*is == same).then_some(*name);
            self.same_test_set.iter().filter_map(of).collect()
        };
        let (same, other) = (named(true), named(false));
        if !same.is_empty() {
            said.push(plain(format!(
                "Same test set in {}: decisions are paired by seed, question, sample and agent, or by problem.",
                same.join(", ")
            )));
        }
        if !other.is_empty() {
            said.push(Paragraph {
                kind: Kind::Caveat,
                lead: String::new(),
                text: format!(
                    "Not the same test sets in {}: what both have of one seed is paired; where nothing is, the rates are \
                     of different questions, and their difference has questions in it.",
                    other.join(", ")
                ),
            });
        }
        let clear: Vec<Paragraph> = self.lines.iter().filter_map(finding).collect();
        let found = clear.len();
        said.extend(clear);
        let compared = self.lines.iter().filter(|l| l.difference.is_some()).count();
        said.push(plain(format!(
            "{} of {} can be told from none at 95 %, each by itself: of twenty that are none, one would seem to be some.",
            found,
            count(compared, "difference"),
        )));
        for text in &self.unmatched {
            said.push(plain(format!("Not compared, {text}.")));
        }
        said
    }

    /// One table a testbed.
    pub(super) fn tables(&self) -> Vec<Table> {
        let of = |testbed: Testbed| {
            let mut groups: Vec<Group> = vec![];
            for line in self.lines.iter().filter(|line| line.testbed() == testbed) {
                let name = line.name();
                match groups.last_mut() {
                    Some(group) if group.name == name => group.rows.push(cells(line)),
                    _ => groups.push(Group {
                        name,
                        rows: vec![cells(line)],
                    }),
                }
            }
            (!groups.is_empty()).then(|| Table {
                caption: format!(
                    "{}: rates in percent, B minus A in percentage points, with 95 % intervals. Pairs: decisions that both \
                     runs have; {NONE} where the rates are of different questions. Change: last round minus first.",
                    title(testbed)
                ),
                columns: columns(&["Round", "A", "95 % interval", "B", "95 % interval", "B − A", "95 % interval", "Pairs"]),
                text_columns: 1,
                groups,
            })
        };
        Testbed::ALL.into_iter().filter_map(of).collect()
    }

    /// Everything as text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for paragraph in self.paragraphs() {
            let _ = writeln!(out, "{}", paragraph.whole());
        }
        for table in self.tables() {
            let _ = write!(out, "\n{}\n{}", table.caption, laid_out(&table));
        }
        out
    }
}

pub(super) fn title(testbed: Testbed) -> &'static str {
    match testbed {
        Testbed::RolePlay => "Role-play",
        Testbed::Coordination => "Coordination games",
        Testbed::ToolUse => "Tool usage",
    }
}

impl Line {
    pub(super) fn testbed(&self) -> Testbed {
        super::testbed(self.measure)
    }

    pub(super) fn name(&self) -> String {
        super::title(&self.model, &self.variant, self.measure, &self.part)
    }
}

fn cells(line: &Line) -> Vec<String> {
    let signed = |e: &Estimate| {
        [
            points(e.value),
            format!("{} to {}", points(e.low), points(e.high)),
        ]
    };
    let none = || [NONE.to_owned(), NONE.to_owned()];
    let own = |e: Option<&Estimate>| match line.round {
        Some(_) => [value(e), interval(e)],
        None => e.map_or_else(none, signed),
    };
    let name = line
        .round
        .map_or("Change".to_owned(), |round| round.to_string());
    let mut cells = vec![name];
    cells.extend(own(line.a.as_ref()));
    cells.extend(own(line.b.as_ref()));
    cells.extend(line.difference.as_ref().map_or_else(none, signed));
    let pairs = line.difference.filter(|_| line.paired);
    cells.push(pairs.map_or(NONE.into(), |e| e.n.to_string()));
    cells
}

/// A sentence about a difference that can be told from none.
fn finding(line: &Line) -> Option<Paragraph> {
    let d = line.difference.filter(Estimate::excludes_zero)?;
    let when = line.round.map_or("Change over the rounds".to_owned(), |r| {
        format!("Round {r}")
    });
    let shown = |e: Option<Estimate>| match line.round {
        Some(_) => e.map_or(NONE.into(), |e| format!("{} %", percent(e.value))),
        None => e.map_or(NONE.into(), |e| points(e.value)),
    };
    Some(Paragraph {
        kind: Kind::Finding,
        lead: format!("{}.", line.name()),
        text: format!(
            "{when}: {} in A, {} in B; {} points (95 % interval {} to {}).",
            shown(line.a),
            shown(line.b),
            points(d.value),
            points(d.low),
            points(d.high)
        ),
    })
}

/// A table with columns lined up, numbers to the right.
fn laid_out(table: &Table) -> String {
    let rows = || table.groups.iter().flat_map(|group| &group.rows);
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = (0..table.columns.len())
        .map(|i| {
            let cells = rows().filter_map(|row| row.get(i)).map(|cell| width(cell));
            cells.chain([width(&table.columns[i])]).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: &[String]| {
        let cells = cells
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(i, (cell, &wide))| {
                let room = " ".repeat(wide.saturating_sub(width(cell)));
                if i < table.text_columns {
                    format!("{cell}{room}")
                } else {
                    format!("{room}{cell}")
                }
            });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut out = format!("  {}\n", line(&table.columns));
    for group in &table.groups {
        let _ = writeln!(out, "{}", group.name);
        for row in &group.rows {
            let _ = writeln!(out, "  {}", line(row));
        }
    }
    out
}
