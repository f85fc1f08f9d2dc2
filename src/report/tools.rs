//! The report's part about tool usage: how often the tool was called, and how often the answer was right, by round.

use super::beside;
use super::escape::count;
use super::figures::{NARROW, OTHERS, WIDE, rate_chart, rate_points, style};
use super::narrative::{Kind, Paragraph, share_of, variant_name};
use super::paper::TABLE_2;
use super::section::{Figure, Section};
use super::svg::{Chart, Line};
use super::tables::{Group, NONE, Table, columns, interval, value};
use crate::evaluation::statistics::Estimate;
use crate::evaluation::tool_summary::{ToolRound, ToolSummary};
use crate::scenario::tool_use::Difficulty;

/// The section; none without rows.
pub(super) fn section(summaries: &[ToolSummary]) -> Option<Section> {
    if summaries.is_empty() {
        return None;
    }
    let models = by_model(summaries);
    let mut figures = vec![];
    let mut tables = vec![];
    let mut paragraphs = vec![introduction(summaries)];
    for (i, (model, of)) in models.iter().enumerate() {
        paragraphs.extend(of.iter().filter_map(|s| finding(s, models.len() > 1)));
        for measure in [Measure::Usage, Measure::Accuracy] {
            let suffix = if models.len() > 1 {
                format!("-{}", i + 1)
            } else {
                String::new()
            };
            figures.push(Figure {
                file: format!("tool-{}{suffix}.svg", measure.name()),
                caption: format!("{model}: {}. Bars are 95 % intervals.", measure.caption()),
                wide: chart(model, of, measure, WIDE),
                narrow: chart(model, of, measure, NARROW),
            });
        }
        tables.push(rates(model, of));
    }
    tables.push(beside_paper(summaries));
    Some(Section {
        id: "tools",
        title: "Tool usage",
        paragraphs,
        figures,
        tables,
        csv: vec![("tool-use.csv", csv(summaries))],
        in_summary: true,
    })
}

/// What a chart shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Measure {
    Usage,
    Accuracy,
}

impl Measure {
    fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Accuracy => "accuracy",
        }
    }

    fn caption(self) -> &'static str {
        match self {
            Self::Usage => "share of complex problems in whose solution the tool was called",
            Self::Accuracy => "share of complex problems with the right answer",
        }
    }

    fn of(self, round: &ToolRound) -> Option<Estimate> {
        match self {
            Self::Usage => round.usage,
            Self::Accuracy => round.accuracy,
        }
    }
}

/// Summaries by model, in their order.
fn by_model(summaries: &[ToolSummary]) -> Vec<(&str, Vec<&ToolSummary>)> {
    let mut models: Vec<(&str, Vec<&ToolSummary>)> = vec![];
    for summary in summaries {
        match models.last_mut() {
            Some((name, of)) if *name == summary.model => of.push(summary),
            _ => models.push((&summary.model, vec![summary])),
        }
    }
    models
}

fn introduction(summaries: &[ToolSummary]) -> Paragraph {
    let most = |f: fn(&ToolSummary) -> usize, difficulty| {
        let of = summaries.iter().filter(|s| s.difficulty == difficulty);
        of.map(f).max().unwrap_or(0)
    };
    Paragraph {
        kind: Kind::Plain,
        lead: String::new(),
        text: format!(
            "In each round an agent solves simple problems, where reasoning alone is the cheap way, then a complex one, with \
             what worked before in its prompt. It may call Python, at a price. {} and {} in {}.",
            count(most(|s| s.problems, Difficulty::Complex), "complex problem"),
            count(most(|s| s.problems, Difficulty::Simple), "simple problem"),
            count(most(|s| s.rounds.len(), Difficulty::Complex), "round"),
        ),
    }
}

/// What a variant did on complex problems, first round to last.
fn finding(summary: &ToolSummary, name_model: bool) -> Option<Paragraph> {
    if summary.difficulty != Difficulty::Complex {
        return None;
    }
    let (first, last) = (summary.rounds.first()?, summary.rounds.last()?);
    let model = if name_model {
        format!("{}: ", summary.model)
    } else {
        String::new()
    };
    let lead = format!(
        "{model}{} on complex problems, round {} to {}.",
        variant_name(&summary.variant),
        first.round,
        last.round
    );
    let forged: usize = summary.rounds.iter().map(|r| r.counts.forged).sum();
    let note = if forged > 0 {
        format!(
            " In {} the model wrote a tool’s result itself.",
            count(forged, "solution")
        )
    } else {
        String::new()
    };
    Some(Paragraph {
        kind: Kind::Finding,
        lead,
        text: format!(
            "Tool called: {}, then {}. Right: {}, then {}.{note}",
            share_of(first.usage),
            share_of(last.usage),
            share_of(first.accuracy),
            share_of(last.accuracy),
        ),
    })
}

fn chart(model: &str, of: &[&ToolSummary], measure: Measure, size: (f64, f64)) -> Chart {
    let mut other = OTHERS;
    let complex = of.iter().filter(|s| s.difficulty == Difficulty::Complex);
    let lines: Vec<Line> = complex
        .clone()
        .map(|summary| Line {
            label: variant_name(&summary.variant),
            style: style(&summary.variant, &mut other),
            markers: true,
            points: rate_points(summary.rounds.iter().map(|r| (r.round, measure.of(r)))),
            ..Line::default()
        })
        .collect();
    let rounds = complex.flat_map(|s| &s.rounds).map(|r| r.round);
    let label = match measure {
        Measure::Usage => "Tool called, %",
        Measure::Accuracy => "Right answers, %",
    };
    let description = format!("{model}: {} in percent, by round.", measure.caption());
    rate_chart(description, label, lines, rounds, size)
}

fn rates(model: &str, of: &[&ToolSummary]) -> Table {
    let names = [
        "Round",
        "Tool called",
        "95 % interval",
        "Right",
        "95 % interval",
        "Cost",
        "Solutions",
        "No answer",
        "Failed",
    ];
    let groups = of.iter().map(|summary| Group {
        name: format!(
            "{}, {} problems",
            variant_name(&summary.variant),
            summary.difficulty.name()
        ),
        rows: summary
            .rounds
            .iter()
            .map(|round| {
                vec![
                    round.round.to_string(),
                    value(round.usage.as_ref()),
                    interval(round.usage.as_ref()),
                    value(round.accuracy.as_ref()),
                    interval(round.accuracy.as_ref()),
                    round.cost.map_or(NONE.into(), |c| format!("{c:.2}")),
                    round.counts.solutions().to_string(),
                    round.counts.invalid.to_string(),
                    round.counts.failed.to_string(),
                ]
            })
            .collect(),
    });
    Table {
        caption: format!(
            "{model}: share of solutions that call the tool and share with the right answer, in percent of the solutions \
             that came about, and their mean cost. No answer: texts in which none was found; they count as not right. \
             Failed: generations that gave no text. Both are counts."
        ),
        columns: columns(&names),
        text_columns: 1,
        groups: groups.collect(),
    }
}

/// The paper's Table 2 with this run's rates between.
fn beside_paper(summaries: &[ToolSummary]) -> Table {
    let mut groups = vec![];
    let mut variants = vec!["base", "dpo", "grpo"];
    for summary in summaries {
        if !variants.contains(&summary.variant.as_str()) {
            variants.push(&summary.variant);
        }
    }
    for variant in variants {
        let mut rows = vec![];
        for paper in TABLE_2.iter().filter(|row| row.variant == variant) {
            let cells = paper.rounds.iter().map(|(u, a)| format!("{u} / {a}"));
            rows.push([vec![format!("{}, paper", paper.model)], cells.collect()].concat());
        }
        let complex =
            |s: &&ToolSummary| s.variant == variant && s.difficulty == Difficulty::Complex;
        for summary in summaries.iter().filter(complex) {
            let mut cells = vec![format!("{}, this run", summary.model)];
            for round in 1..=4 {
                let found = summary.rounds.iter().find(|r| r.round == round);
                let both = found.and_then(|r| Some((r.usage?.value, r.accuracy?.value)));
                cells.push(both.map_or(NONE.into(), |(u, a)| {
                    format!("{:.0} / {:.0}", u * 100.0, a * 100.0)
                }));
            }
            rows.push(cells);
            for paper in TABLE_2.iter().filter(|row| row.variant == variant) {
                let mut cells = vec![format!("{} against {}", summary.model, paper.model)];
                for round in 1..=4 {
                    let found = summary.rounds.iter().find(|r| r.round == round);
                    let both = found.and_then(|r| beside::tool_verdicts(r, paper));
                    cells.push(
                        both.map_or(NONE.into(), |(u, a)| format!("{} / {}", u.name(), a.name())),
                    );
                }
                rows.push(cells);
            }
        }
        groups.push(Group {
            name: variant_name(variant),
            rows,
        });
    }
    Table {
        caption: "Tool called / right answers on complex problems, in percent by round, beside the paper’s Table 2 and with a \
                  verdict on both. Its problems are others, so equal numbers are not to be expected. The paper gives no n: \
                  its intervals are those of the fewest problems that give its percentages (usage 62, accuracy 24)."
            .into(),
        columns: columns(&["Model", "1", "2", "3", "4"]),
        text_columns: 1,
        groups,
    }
}

const HEADER: &str = "model,variant,difficulty,round,problems,right,wrong,no_answer,failed,with_tool,right_with_tool,\
                      calls_failed,forged_results,usage,usage_low,usage_high,accuracy,accuracy_low,accuracy_high,mean_cost";

fn csv(summaries: &[ToolSummary]) -> String {
    let mut out = format!("{HEADER}\n");
    for summary in summaries {
        for round in &summary.rounds {
            let c = round.counts;
            let three = |e: Option<Estimate>| {
                e.map_or(",,".to_owned(), |e| {
                    format!("{},{},{}", e.value, e.low, e.high)
                })
            };
            out.push_str(&format!(
                "{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}\n",
                super::csv::field(&summary.model),
                super::csv::field(&summary.variant),
                summary.difficulty.name(),
                round.round,
                summary.problems,
                c.right,
                c.wrong,
                c.invalid,
                c.failed,
                c.with_tool,
                c.right_with_tool,
                c.calls_failed,
                c.forged,
                three(round.usage),
                three(round.accuracy),
                round.cost.map_or(String::new(), |c| c.to_string()),
            ));
        }
    }
    out
}
