//! The report's part about defences: what each changed against none, in pairs of decisions that met the same question
//! and the same random numbers.

use super::escape::{count, points};
use super::figures::{NARROW, WIDE, rate_chart, rate_points};
use super::narrative::{Kind, Paragraph, share_of, variant_name};
use super::section::{Figure, Section};
use super::svg::{Chart, Line};
use super::tables::{Group, NONE, Table, columns, interval, value};
use crate::evaluation::defence_summary::{DefendedSummary, Quantity};
use crate::evaluation::statistics::Estimate;

/// Defences in one chart, beside none: as many as there are line styles.
const LINES: usize = 5;

/// The section; none where no defence was tried.
pub(super) fn section(all: &[DefendedSummary]) -> Option<Section> {
    if all.is_empty() {
        return None;
    }
    let groups = agents(all);
    let charts = groups.iter().flat_map(|(name, of)| {
        let (none, tried): (Vec<_>, Vec<_>) = of.iter().partition(|s| s.defence == "none");
        let charts: Vec<_> = tried
            .chunks(LINES)
            .map(|some| (name, [none.as_slice(), some].concat()))
            .collect();
        charts
    });
    let figures = charts.enumerate().map(|(i, (name, of))| Figure {
        file: format!("defences-{}.svg", i + 1),
        caption: format!(
            "{name}: share of readable decisions by round, a line a defence. Bars are 95 % intervals."
        ),
        wide: chart(name, &of, WIDE),
        narrow: chart(name, &of, NARROW),
    });
    let mut paragraphs = vec![introduction(all)];
    paragraphs.extend(all.iter().filter_map(finding));
    Some(Section {
        id: "defences",
        title: "Defences",
        paragraphs,
        figures: figures.collect(),
        tables: vec![table(&groups)],
        csv: vec![("defences.csv", csv(all))],
        in_summary: true,
    })
}

/// Who is counted, and what: `m, DPO: rule broken`.
fn name(summary: &DefendedSummary) -> String {
    format!(
        "{}, {}: {}",
        summary.model,
        variant_name(&summary.variant),
        summary.quantity.words()
    )
}

/// The defence as a row calls it.
fn label(summary: &DefendedSummary) -> String {
    match summary.as_chosen {
        true => format!("{}, as chosen", summary.defence),
        false => summary.defence.clone(),
    }
}

/// Summaries by who is counted, in their order.
fn agents(all: &[DefendedSummary]) -> Vec<(String, Vec<&DefendedSummary>)> {
    let mut found: Vec<(String, Vec<&DefendedSummary>)> = vec![];
    for summary in all {
        let name = name(summary);
        match found.last_mut() {
            Some((known, of)) if *known == name => of.push(summary),
            _ => found.push((name, vec![summary])),
        }
    }
    found
}

fn introduction(all: &[DefendedSummary]) -> Paragraph {
    let compared = all.iter().filter(|s| s.defence != "none").count();
    let seeds = all.iter().map(|s| s.seeds.len()).max().unwrap_or(0);
    Paragraph {
        kind: Kind::Plain,
        lead: String::new(),
        text: format!(
            "Every defence was tried beside none on the same questions with the same random numbers, over {}, so that \
             each decision is compared with its twin. {} of a defence with none follow; their intervals hold one by one \
             and are not widened for their number.",
            count(seeds, "seed"),
            count(compared, "comparison"),
        ),
    }
}

/// A sentence where the last round or the drift differs.
fn finding(summary: &DefendedSummary) -> Option<Paragraph> {
    let last = summary.rounds.last()?;
    let clear = |e: &Option<Estimate>| e.filter(Estimate::excludes_zero);
    let moved = clear(&last.difference)?;
    let less = if moved.value < 0.0 { "less" } else { "more" };
    Some(Paragraph {
        kind: Kind::Finding,
        lead: format!("{}, {}:", name(summary), label(summary)),
        text: format!(
            "{} of decisions in round {}, {} points {less} than without defence (95 % interval {} to {}).",
            share_of(last.rate),
            last.round,
            points(moved.value.abs()).trim_start_matches('+'),
            points(moved.low),
            points(moved.high),
        ),
    })
}

fn chart(name: &str, of: &[&DefendedSummary], size: (f64, f64)) -> Chart {
    let lines: Vec<Line> = of
        .iter()
        .enumerate()
        .map(|(i, summary)| Line {
            label: label(summary),
            style: i,
            markers: true,
            points: rate_points(summary.rounds.iter().map(|r| (r.round, r.rate))),
            ..Line::default()
        })
        .collect();
    let rounds = of.iter().flat_map(|s| &s.rounds).map(|r| r.round);
    let what = of.first().map_or("", |s| match s.quantity {
        Quantity::RuleBroken => "Violation rate, %",
        Quantity::Colluded => "Collusion rate, %",
        Quantity::ToolUsed => "Tool used, %",
        Quantity::Solved => "Solved, %",
    });
    let description = format!("{name}, in percent by round, a line a defence.");
    rate_chart(description, what, lines, rounds, size)
}

fn signed(estimate: Option<&Estimate>) -> [String; 2] {
    match estimate {
        Some(e) => [
            points(e.value),
            format!("{} to {}", points(e.low), points(e.high)),
        ],
        None => [NONE.into(), NONE.into()],
    }
}

fn table(groups: &[(String, Vec<&DefendedSummary>)]) -> Table {
    let row = |summary: &&DefendedSummary| {
        let (first, last) = (summary.rounds.first()?, summary.rounds.last()?);
        let [difference, within] = signed(last.difference.as_ref());
        let [drift, drift_within] = signed(summary.drift.as_ref());
        Some(vec![
            label(summary),
            value(first.rate.as_ref()),
            value(last.rate.as_ref()),
            interval(last.rate.as_ref()),
            difference,
            within,
            drift,
            drift_within,
            last.difference.map_or(NONE.into(), |e| e.n.to_string()),
            last.dropped.to_string(),
            summary.vetoed.to_string(),
        ])
    };
    let groups = groups.iter().map(|(name, of)| Group {
        name: name.clone(),
        rows: of.iter().filter_map(row).collect(),
    });
    Table {
        caption: "Defences against none. First, Last: share of readable decisions in the first and the last round, in \
                  percent. Against none: the last round's share minus that of the same decisions without defence, in \
                  points. Drift: how much more the share rose from the first to the last round than without defence, in \
                  points. Pairs: twins behind the difference; Left out: twins of which one could not be read. Stopped: \
                  decisions that a monitor stopped, over all rounds; what was chosen before stands in a row of its own."
            .into(),
        columns: columns(&[
            "Defence",
            "First",
            "Last",
            "95 % interval",
            "Against none",
            "95 % interval",
            "Drift",
            "95 % interval",
            "Pairs",
            "Left out",
            "Stopped",
        ]),
        text_columns: 1,
        groups: groups.collect(),
    }
}

const HEADER: &str = "testbed,quantity,model,variant,defence,as_chosen,seeds,round,n,rate,low,high,difference,\
                      difference_low,difference_high,pairs,left_out";

fn csv(all: &[DefendedSummary]) -> String {
    let mut out = format!("{HEADER}\n");
    for summary in all {
        for round in &summary.rounds {
            let three = |e: Option<Estimate>| {
                e.map_or(",,".to_owned(), |e| {
                    format!("{},{},{}", e.value, e.low, e.high)
                })
            };
            out.push_str(&format!(
                "{},{},{},{},{},{},{},{},{},{},{},{},{}\n",
                summary.quantity.testbed().key(),
                summary.quantity.words(),
                super::csv::field(&summary.model),
                super::csv::field(&summary.variant),
                super::csv::field(&summary.defence),
                summary.as_chosen,
                summary.seeds.len(),
                round.round,
                round.rate.map_or(0, |e| e.n),
                three(round.rate),
                three(round.difference),
                round.difference.map_or(0, |e| e.n),
                round.dropped,
            ));
        }
    }
    out
}
