//! Tables 1 and 2 as charts.

use super::{both_sizes, numbered};
use crate::report::Report;
use crate::report::beside::{table_1_rate, table_2_rates};
use crate::report::figures::{OTHERS, rate_chart, rate_points, style};
use crate::report::narrative::variant_name;
use crate::report::paper::{TABLE_1, TABLE_2};
use crate::report::section::Figure;
use crate::report::svg::Line;
use crate::scenario::tool_use::Difficulty;

const SOLID_AND_DASHED: &str = "Solid with full marks: this run; dashed with hollow marks: the paper. Bars are 95 % intervals, \
    the paper’s from its n.";

/// Our variants and the paper's of one model, by round.
pub(super) fn table_1(report: &Report) -> Vec<Figure> {
    let models = report.by_model();
    let pairs: Vec<_> = models
        .iter()
        .flat_map(|(model, variants)| {
            let papers = ["Qwen3-8B", "Llama-3.1-8B"];
            let reference = report.info(model).filter(|info| info.is_reference_model);
            papers
                .into_iter()
                .filter(move |paper| reference.is_none_or(|info| info.source.contains(paper)))
                .map(move |paper| (*model, variants, paper))
        })
        .collect();
    let several = pairs.len() > 1;
    pairs
        .iter()
        .enumerate()
        .map(|(i, (model, variants, paper))| {
            let chart = |size| {
                let mut lines = vec![];
                let mut other = OTHERS;
                for variant in variants.iter() {
                    let style = style(&variant.variant, &mut other);
                    lines.push(Line {
                        label: variant_name(&variant.variant),
                        style,
                        markers: true,
                        points: rate_points(variant.rounds.iter().map(|r| (r.round, r.rate))),
                        ..Line::default()
                    });
                    let row = TABLE_1
                        .iter()
                        .find(|row| row.model == *paper && row.variant == variant.variant);
                    lines.extend(row.map(|row| Line {
                        label: format!("{}, paper", variant_name(&variant.variant)),
                        style,
                        markers: true,
                        dashed: true,
                        points: rate_points((1..=6).map(|round| (round, table_1_rate(row, round)))),
                        ..Line::default()
                    }));
                }
                let rounds = variants.iter().flat_map(|v| &v.rounds).map(|r| r.round);
                let description =
                    format!("Violation rate of {model} beside the paper’s {paper}, in percent by round.");
                rate_chart(description, "Violation rate, %", lines, rounds.chain(1..=6), size)
            };
            both_sizes(
                numbered("paper-table-1", i, several),
                format!("Table 1, {model} beside the paper’s {paper}: violation rate by round. {SOLID_AND_DASHED}"),
                chart,
            )
        })
        .collect()
}

/// Usage and accuracy on complex problems.
pub(super) fn table_2(report: &Report) -> Vec<Figure> {
    let mut models: Vec<&str> = report.tools.iter().map(|s| s.model.as_str()).collect();
    models.dedup();
    let several = models.len() > 1;
    let mut found = vec![];
    for (i, model) in models.into_iter().enumerate() {
        for (what, title, usage) in [
            ("usage", "Tool called, %", true),
            ("accuracy", "Right answers, %", false),
        ] {
            let chart = |size| {
                let of: Vec<_> = report
                    .tools
                    .iter()
                    .filter(|s| s.model == model && s.difficulty == Difficulty::Complex)
                    .collect();
                let mut other = OTHERS;
                let mut lines = vec![];
                for s in &of {
                    let style = style(&s.variant, &mut other);
                    let ours = |r: &crate::evaluation::tool_summary::ToolRound| {
                        (r.round, if usage { r.usage } else { r.accuracy })
                    };
                    lines.push(Line {
                        label: variant_name(&s.variant),
                        style,
                        markers: true,
                        points: rate_points(s.rounds.iter().map(ours)),
                        ..Line::default()
                    });
                    let row = TABLE_2.iter().find(|row| row.variant == s.variant);
                    lines.extend(row.map(|row| Line {
                        label: format!("{}, paper", variant_name(&s.variant)),
                        style,
                        markers: true,
                        dashed: true,
                        points: rate_points((1..=4).map(|round| {
                            let both = table_2_rates(row, round);
                            (
                                round,
                                both.map(|(used, solved)| if usage { used } else { solved }),
                            )
                        })),
                        ..Line::default()
                    }));
                }
                let rounds = of.iter().flat_map(|s| &s.rounds).map(|r| r.round);
                let description = format!(
                    "{title} of complex problems by round, {model} beside the paper’s Qwen3-8B."
                );
                rate_chart(description, title, lines, rounds.chain(1..=4), size)
            };
            found.push(both_sizes(
                numbered(&format!("paper-table-2-{what}"), i, several),
                format!(
                    "Table 2, {model} beside the paper’s Qwen3-8B: {} on complex problems by round. {SOLID_AND_DASHED}",
                    if usage { "share that called the tool" } else { "share of right answers" }
                ),
                chart,
            ));
        }
    }
    found
}
