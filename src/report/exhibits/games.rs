//! Figures 4 to 6: what follows a success, one group's course, and what deviation pays.

use std::collections::{BTreeMap, BTreeSet};

use super::{both_sizes, numbered};
use crate::evaluation::coordination_row::GameRow;
use crate::evaluation::coordination_summary::GameSummary;
use crate::evaluation::statistics::{Cluster, Estimate, rate_interval};
use crate::evaluation::summary::variant_rank;
use crate::report::Report;
use crate::report::figures::{OTHERS, rate_chart, style};
use crate::report::narrative::{Kind, Paragraph, share_of, variant_name};
use crate::report::paper::{AFTER_SUCCESS, TRACE};
use crate::report::section::Figure;
use crate::report::svg::{Axis, Band, Chart, Line, Point};

/// Summaries of populations of one kind, by model.
fn plain_by_model(summaries: &[GameSummary]) -> BTreeMap<&str, Vec<&GameSummary>> {
    let mut found: BTreeMap<&str, Vec<&GameSummary>> = BTreeMap::new();
    for s in summaries.iter().filter(|s| !s.population.contains('+')) {
        found.entry(&s.model).or_default().push(s);
    }
    found
}

fn threshold(s: &GameSummary) -> Option<f64> {
    s.settings.strip_prefix("t = ")?.parse().ok()
}

/// Points of a chart in percent.
fn point(x: f64, rate: &Estimate) -> Point {
    Point {
        x,
        y: rate.value * 100.0,
        interval: Some((rate.low * 100.0, rate.high * 100.0)),
    }
}

/// Collusion after a first success, by threshold.
pub(super) fn figure_4(report: &Report) -> Vec<Figure> {
    let models = plain_by_model(&report.games.by_threshold);
    let several = models.len() > 1;
    let with_points = models.into_iter().enumerate().filter_map(|(i, (model, of))| {
        let mut lines: Vec<Line> = vec![];
        let mut other = OTHERS;
        for s in &of {
            let after = s.after.iter().find(|a| a.round == 1 && a.success);
            let Some((t, rate)) = threshold(s).zip(after.and_then(|a| a.rate)) else {
                continue;
            };
            let label = variant_name(&s.variant);
            match lines.iter_mut().find(|line| line.label == label) {
                Some(line) => line.points.push(point(t, &rate)),
                None => lines.push(Line {
                    label,
                    style: style(&s.variant, &mut other),
                    markers: true,
                    points: vec![point(t, &rate)],
                    ..Line::default()
                }),
            }
        }
        let all: Vec<f64> = of.iter().filter_map(|s| threshold(s)).collect();
        let range = (
            all.iter().copied().fold(f64::INFINITY, f64::min),
            all.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        );
        (!lines.is_empty()).then(|| {
            let chart = |size| Chart {
                description: format!("Collusion of {model} in round 2 after a success in round 1, in percent by threshold."),
                x: Axis {
                    label: "Threshold t, agents".into(),
                    range: Some(range),
                    whole: true,
                },
                y: Axis {
                    label: "P(collude in round 2 | success in round 1), %".into(),
                    range: Some((0.0, 100.0)),
                    whole: false,
                },
                lines: lines.clone(),
                bands: vec![Band {
                    range: (AFTER_SUCCESS.0 * 100.0, AFTER_SUCCESS.1 * 100.0),
                    label: "paper, mostly".into(),
                }],
                size,
            };
            both_sizes(
                numbered("paper-figure-4", i, several),
                format!(
                    "Figure 4, {model}: collusion in round 2 among agents whose group succeeded in round 1, by threshold. \
                     Shaded: where most values of the paper lie. Bars are 95 % intervals."
                ),
                chart,
            )
        })
    });
    with_points.collect()
}

/// Agents that play together.
type Together<'a> = (&'a str, u64, &'a str, &'a str, u32);

/// The rounds of each group of one kind of agents, by variant in their order of name: game, threshold, size, colluders.
fn groups(report: &Report) -> BTreeMap<Together<'_>, Vec<&GameRow>> {
    let mut found: BTreeMap<Together<'_>, Vec<&GameRow>> = BTreeMap::new();
    for row in report
        .inputs
        .games
        .iter()
        .filter(|row| !row.population.contains('+'))
    {
        let key = (
            row.variant.as_str(),
            row.seed,
            row.instance_id.as_str(),
            row.population.as_str(),
            row.sample,
        );
        found.entry(key).or_default().push(row);
    }
    for rows in found.values_mut() {
        rows.sort_by_key(|row| (row.round, row.agent));
        rows.dedup_by_key(|row| row.round);
    }
    found
}

/// One group a variant: the first by seed and name that succeeded in round 1, chosen without a look at what follows.
pub(super) fn figure_5(report: &Report) -> Option<Figure> {
    let mut traces: BTreeMap<(usize, &str), (&GameRow, Vec<Point>)> = BTreeMap::new();
    for ((variant, ..), rows) in &groups(report) {
        let Some(first) = rows.first().filter(|row| row.round == 1 && row.success) else {
            continue;
        };
        traces
            .entry((variant_rank(variant), variant))
            .or_insert_with(|| {
                let points = rows.iter().map(|row| Point {
                    x: row.round.into(),
                    y: f64::from(row.colluders) / f64::from(row.n.max(1)) * 100.0,
                    interval: None,
                });
                (*first, points.collect())
            });
    }
    if traces.is_empty() {
        return None;
    }
    let mut other = OTHERS;
    let mut lines: Vec<Line> = vec![];
    let mut named = vec![];
    for ((_, variant), (row, points)) in &traces {
        lines.push(Line {
            label: variant_name(variant),
            style: style(variant, &mut other),
            markers: true,
            points: points.clone(),
            ..Line::default()
        });
        named.push(format!(
            "{}: {}, t = {} of {}",
            variant_name(variant),
            row.instance_id,
            row.t,
            row.n
        ));
    }
    lines.push(Line {
        label: "paper".into(),
        style: 4,
        markers: true,
        dashed: true,
        points: (1..)
            .zip(TRACE)
            .map(|(round, agents)| Point {
                x: f64::from(round),
                y: f64::from(agents) / 8.0 * 100.0,
                interval: None,
            })
            .collect(),
        ..Line::default()
    });
    let rounds: Vec<u32> = lines
        .iter()
        .flat_map(|l| &l.points)
        .map(|p| p.x as u32)
        .collect();
    let chart = |size| {
        rate_chart(
            "Share of agents of one group that collude, in percent by round, beside the paper’s trace.".into(),
            "Agents that collude, %",
            lines.clone(),
            rounds.iter().copied(),
            size,
        )
    };
    Some(both_sizes(
        "paper-figure-5.svg".into(),
        format!(
            "Figure 5: one group a variant, the first by seed and name whose round 1 succeeded ({}); dashed: the paper’s group \
             of eight with 5, 7 and 8. One group is an example: it has no interval.",
            named.join("; ")
        ),
        chart,
    ))
}

/// How often a first success ends with everybody colluding: what one trace cannot show.
pub(in crate::report) fn trace_note(report: &Report) -> Option<Paragraph> {
    let groups = groups(report);
    let last = report.inputs.games.iter().map(|row| row.round).max()?;
    let mut by_game: BTreeMap<&str, Cluster> = BTreeMap::new();
    let mut instances = BTreeSet::new();
    for rows in groups.values() {
        let (Some(first), Some(end)) = (rows.first(), rows.last()) else {
            continue;
        };
        if first.round == 1 && first.success && end.round == last && last > 1 {
            let cluster = by_game.entry(&first.game).or_default();
            cluster.sum += f64::from(u8::from(end.colluders == end.n));
            cluster.weight += 1.0;
            instances.insert(first.instance_id.as_str());
        }
    }
    let clusters: Vec<Cluster> = by_game.into_values().collect();
    let rate = rate_interval(
        &clusters,
        instances.len(),
        report.inputs.seed,
        "paper/figure-5",
    )?;
    Some(Paragraph {
        kind: Kind::Plain,
        lead: String::new(),
        text: format!(
            "Figure 5 shows one group in which a first success ends with all agents colluding. Here that happened in {} of the \
             {} groups whose first round succeeded. The paper gives no rate, so whether that agrees cannot be told.",
            share_of(Some(rate)),
            rate.n,
        ),
    })
}

/// Collusion in the last round by what deviation pays; none where all settings pay alike.
pub(super) fn figure_6(report: &Report) -> Vec<Figure> {
    let gammas: BTreeMap<&str, f64> = report
        .inputs
        .games
        .iter()
        .filter(|row| row.gamma > 0.0)
        .map(|row| (row.setting.as_str(), row.gamma))
        .collect();
    let mut distinct: Vec<u64> = gammas.values().map(|g| g.to_bits()).collect();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() < 2 {
        return vec![];
    }
    let mut by_player: BTreeMap<(&str, usize, &str), Vec<&GameSummary>> = BTreeMap::new();
    for s in report
        .games
        .by_setting
        .iter()
        .filter(|s| !s.population.contains('+'))
    {
        by_player
            .entry((&s.model, variant_rank(&s.variant), &s.variant))
            .or_default()
            .push(s);
    }
    let thresholds: BTreeMap<&str, u32> = report
        .inputs
        .games
        .iter()
        .map(|row| (row.setting.as_str(), row.t))
        .collect();
    by_player
        .into_iter()
        .enumerate()
        .map(|(i, ((model, _, variant), of))| {
            let mut lines: BTreeMap<u32, Vec<Point>> = BTreeMap::new();
            for s in of {
                let place = thresholds.get(s.settings.as_str()).zip(gammas.get(s.settings.as_str()));
                let rate = s.rounds.last().and_then(|r| r.rate);
                if let Some(((t, gamma), rate)) = place.zip(rate) {
                    lines.entry(*t).or_default().push(point(gamma.log2(), &rate));
                }
            }
            let lines: Vec<Line> = lines
                .into_iter()
                .enumerate()
                .map(|(style, (t, mut points))| {
                    points.sort_by(|a, b| a.x.total_cmp(&b.x));
                    Line {
                        label: format!("t = {t}"),
                        style,
                        markers: true,
                        points,
                        ..Line::default()
                    }
                })
                .collect();
            let chart = |size| Chart {
                description: format!("Collusion rate of {model}, {variant}, in the last round by γ, a line a threshold."),
                x: Axis {
                    label: "log₂ γ, γ = (high − medium) / (medium − low)".into(),
                    range: None,
                    whole: true,
                },
                y: Axis {
                    label: "Collusion rate in the last round, %".into(),
                    range: Some((0.0, 100.0)),
                    whole: false,
                },
                lines: lines.clone(),
                size,
                ..Chart::default()
            };
            both_sizes(
                format!("paper-figure-6-{}.svg", i + 1),
                format!(
                    "Figure 6, {model}, {}: collusion in the last round by what a success gains over what a failure costs, a \
                     line a threshold t. Bars are 95 % intervals. The paper’s text gives no values.",
                    variant_name(variant)
                ),
                chart,
            )
        })
        .collect()
}
