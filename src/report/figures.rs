//! Which charts a report has: the violation rate by round, and training metrics as small multiples.

use std::collections::BTreeMap;

use super::narrative::variant_name;
use super::picture::{PictureError, picture};
use super::svg::{self, Axis, Chart, Line, Point};
use super::{Report, TrainingSeries};
use crate::evaluation::statistics::Estimate;
use crate::evaluation::summary::{VariantSummary, variant_rank};

/// Values at least this many are drawn pale, under their moving average.
const SMOOTHED: usize = 50;
/// Values a line keeps; longer series are drawn as means of consecutive steps.
const KEPT: usize = 400;

/// Size of the main chart, for wide and for narrow pages.
pub(super) const WIDE: (f64, f64) = (720.0, 380.0);
pub(super) const NARROW: (f64, f64) = (380.0, 340.0);
const SMALL: (f64, f64) = (300.0, 190.0);

/// The charts that the Markdown report links: file name and standalone SVG, one a model.
pub fn render_figures(report: &Report) -> Vec<(String, String)> {
    let models = report.by_model();
    let violations = models.iter().enumerate().map(|(i, (model, variants))| {
        (
            file_name(i, models.len()),
            svg::standalone(&violation_chart(model, variants, WIDE)),
        )
    });
    let others = report
        .sections()
        .into_iter()
        .flat_map(|section| section.figures)
        .map(|figure| (figure.file, svg::standalone(&figure.wide)));
    violations.chain(others).collect()
}

/// The same charts as PNG: file name and bytes, twice the size in pixels.
///
/// # Errors
/// A chart that cannot be drawn; none that [`render_figures`] makes.
pub fn render_pictures(report: &Report) -> Result<Vec<(String, Vec<u8>)>, PictureError> {
    render_figures(report)
        .into_iter()
        .map(|(name, svg)| {
            let stem = name.strip_suffix(".svg").unwrap_or(&name);
            Ok((format!("{stem}.png"), picture(&svg)?))
        })
        .collect()
}

/// File name of a model's chart.
pub(super) fn file_name(model: usize, models: usize) -> String {
    if models == 1 {
        "violation-rate.svg".into()
    } else {
        format!("violation-rate-{}.svg", model + 1)
    }
}

/// Violation rate by round with its intervals, one line a variant.
pub(super) fn violation_chart(
    model: &str,
    variants: &[&VariantSummary],
    size: (f64, f64),
) -> Chart {
    let mut other = OTHERS;
    let lines: Vec<Line> = variants
        .iter()
        .map(|variant| Line {
            label: variant_name(&variant.variant),
            style: style(&variant.variant, &mut other),
            markers: true,
            points: rate_points(variant.rounds.iter().map(|r| (r.round, r.rate))),
            ..Line::default()
        })
        .collect();
    let rounds = variants.iter().flat_map(|v| &v.rounds).map(|r| r.round);
    let spoken: Vec<String> = lines
        .iter()
        .filter_map(|l| {
            let (first, last) = (l.points.first()?, l.points.last()?);
            Some(format!(
                "{} from {:.1} in round {} to {:.1} in round {}",
                l.label, first.y, first.x, last.y, last.x
            ))
        })
        .collect();
    let description = format!(
        "Violation rate of {model} in percent by round. {}.",
        spoken.join("; ")
    );
    rate_chart(description, "Violation rate, %", lines, rounds, size)
}

/// The points of a line of rates by round, in percent; a round without a rate has none.
pub(super) fn rate_points(rounds: impl Iterator<Item = (u32, Option<Estimate>)>) -> Vec<Point> {
    rounds
        .filter_map(|(round, rate)| {
            let rate = rate?;
            Some(Point {
                x: round.into(),
                y: rate.value * 100.0,
                interval: Some((rate.low * 100.0, rate.high * 100.0)),
            })
        })
        .collect()
}

/// A chart of rates in percent by round; `rounds` are all that were run, with a rate or not.
pub(super) fn rate_chart(
    description: String,
    label: &str,
    lines: Vec<Line>,
    rounds: impl Iterator<Item = u32>,
    size: (f64, f64),
) -> Chart {
    let (first, last) = rounds
        .map(f64::from)
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), r| {
            (a.min(r), b.max(r))
        });
    Chart {
        description,
        x: Axis {
            label: "Round".into(),
            range: (first <= last).then_some((first, last)),
            whole: true,
        },
        y: Axis {
            label: label.into(),
            range: Some((0.0, 100.0)),
            whole: false,
        },
        lines,
        size,
        ..Chart::default()
    }
}

/// The first line style that no known variant has.
pub(super) const OTHERS: usize = 4;

/// Line style of a variant; unknown ones follow the known.
pub(super) fn style(variant: &str, other: &mut usize) -> usize {
    match variant {
        "base" => 0,
        "dpo" => 1,
        "grpo" => 2,
        "dpo-grpo" => 3,
        _ => {
            *other += 1;
            *other - 1
        }
    }
}

/// One small chart of training metrics.
pub(super) struct Panel {
    /// Heading of the panel.
    pub(super) title: String,
    /// The chart.
    pub(super) chart: Chart,
}

/// The training charts of one method on one model.
pub(super) struct TrainingFigure<'a> {
    /// `dpo`, `grpo` or `dpo-grpo`.
    pub(super) method: &'a str,
    /// Testbed that was trained on; empty where there is one alone.
    pub(super) testbed: &'a str,
    /// Model that was trained.
    pub(super) model: &'a str,
    /// Number of seeds drawn.
    pub(super) seeds: usize,
    /// The metrics one reads first.
    pub(super) main: Vec<Panel>,
    /// All others.
    pub(super) more: Vec<Panel>,
    /// Some line is a moving average over the pale raw values.
    pub(super) smoothed: bool,
    /// Some series was longer than a chart can show and is drawn as means of this many values.
    pub(super) bucket: usize,
}

/// Title, unit, fixed range and metrics (with their labels) of a known panel.
type Known = (
    &'static str,
    &'static str,
    Option<(f64, f64)>,
    &'static [(&'static str, &'static str)],
);

const SHARE: Option<(f64, f64)> = Some((0.0, 1.0));

const DPO: &[Known] = &[
    ("Loss", "nats", None, &[("loss", "")]),
    (
        "Reward margin",
        "chosen − rejected, β·nats",
        None,
        &[("margin", "")],
    ),
    (
        "Accuracy",
        "share of pairs with chosen above rejected",
        SHARE,
        &[("accuracy", "")],
    ),
    (
        "Log-probabilities",
        "nats a completion",
        None,
        &[
            ("rejected_logprob", "rejected"),
            ("chosen_logprob", "chosen"),
        ],
    ),
];

const GRPO: &[Known] = &[
    ("Reward", "mean of the batch", SHARE, &[("reward_mean", "")]),
    (
        "Groups without variance",
        "share; they give no gradient",
        SHARE,
        &[("zero_variance_share", "")],
    ),
    ("KL to reference", "nats a token", None, &[("kl", "")]),
    (
        "Completion length",
        "tokens, mean",
        None,
        &[("completion_length", "")],
    ),
];

const BOTH: &[Known] = &[
    (
        "Gradient norm",
        "before clipping",
        None,
        &[("grad_norm", "")],
    ),
    ("Learning rate", "", None, &[("lr", "")]),
    (
        "Reward spread",
        "standard deviation",
        None,
        &[("reward_std", "")],
    ),
    ("Entropy", "nats a token", None, &[("entropy", "")]),
    (
        "Invalid answers",
        "share of rollouts",
        SHARE,
        &[("invalid_share", "")],
    ),
    (
        "Clipped tokens",
        "share",
        None,
        &[("clip_share_low", "low"), ("clip_share_high", "high")],
    ),
];

/// Of a training: testbed, model, rank of the variant, name.
type Trained<'a> = (&'a str, &'a str, usize, &'a str);

/// One figure a model and method; models by name, methods in the order of variants, then with their defences by name.
pub(super) fn training_figures(report: &Report) -> Vec<TrainingFigure<'_>> {
    let mut groups: BTreeMap<Trained, Vec<&TrainingSeries>> = BTreeMap::new();
    for series in &report.inputs.training {
        let variant = series.name.split(' ').next().unwrap_or_default();
        let rank = variant_rank(variant);
        groups
            .entry((&series.testbed, &series.model, rank, &series.name))
            .or_default()
            .push(series);
    }
    groups
        .into_iter()
        .map(|((testbed, model, _, method), mut series)| {
            series.sort_by_key(|s| s.seed);
            let first = match method {
                "dpo" => DPO,
                "grpo" | "dpo-grpo" => GRPO,
                _ => &[],
            };
            let draw = |known: &[Known]| -> Vec<Panel> {
                known
                    .iter()
                    .filter_map(|known| panel(*known, method, &series))
                    .collect()
            };
            let named = |metric: &str| {
                first
                    .iter()
                    .chain(BOTH)
                    .any(|(_, _, _, metrics)| metrics.iter().any(|(name, _)| *name == metric))
            };
            let mut more = draw(BOTH);
            let mut unknown: Vec<&str> = series
                .iter()
                .flat_map(|s| s.metrics.keys())
                .map(String::as_str)
                .filter(|m| !named(m))
                .collect();
            unknown.sort_unstable();
            unknown.dedup();
            more.extend(
                unknown.iter().filter_map(|metric| {
                    panel_of(metric, "", None, &[(metric, "")], method, &series)
                }),
            );
            let longest = series
                .iter()
                .flat_map(|s| s.metrics.values())
                .map(Vec::len)
                .max()
                .unwrap_or(0);
            TrainingFigure {
                method,
                testbed,
                model,
                seeds: series.len(),
                main: draw(first),
                more,
                smoothed: longest >= SMOOTHED,
                bucket: longest.div_ceil(KEPT).max(1),
            }
        })
        .collect()
}

fn panel(
    (title, unit, range, metrics): Known,
    method: &str,
    series: &[&TrainingSeries],
) -> Option<Panel> {
    panel_of(title, unit, range, metrics, method, series)
}

/// A panel of these metrics over all seeds; none where no series has any of them.
fn panel_of(
    title: &str,
    unit: &str,
    range: Option<(f64, f64)>,
    metrics: &[(&str, &str)],
    method: &str,
    series: &[&TrainingSeries],
) -> Option<Panel> {
    let (mut faint, mut strong) = (Vec::new(), Vec::new());
    let mut spoken = Vec::new();
    for (place, (metric, label)) in metrics.iter().enumerate() {
        // The last metric has the method's colour; one before it is drawn in ink.
        let style = if place + 1 < metrics.len() {
            0
        } else {
            style(method, &mut { OTHERS })
        };
        for (i, one) in series.iter().enumerate() {
            let Some(values) = one.metrics.get(*metric).filter(|values| !values.is_empty()) else {
                continue;
            };
            let values = bucketed(values);
            spoken.push(format!(
                "{metric}, seed {}: from {:.3} to {:.3}",
                one.seed,
                values[0].1,
                values[values.len() - 1].1
            ));
            let line = |values: &[(f64, f64)], faint: bool| Line {
                label: if i == 0 && !faint {
                    (*label).into()
                } else {
                    String::new()
                },
                style,
                points: values
                    .iter()
                    .map(|&(x, y)| Point {
                        x,
                        y,
                        interval: None,
                    })
                    .collect(),
                markers: values.len() == 1,
                faint,
                ..Line::default()
            };
            if values.len() >= SMOOTHED {
                faint.push(line(&values, true));
                strong.push(line(&moving_average(&values), false));
            } else {
                strong.push(line(&values, false));
            }
        }
    }
    if strong.is_empty() {
        return None;
    }
    faint.extend(strong);
    Some(Panel {
        title: title.into(),
        chart: Chart {
            description: format!("{title} by training step. {}.", spoken.join("; ")),
            x: Axis {
                label: "Step".into(),
                range: None,
                whole: true,
            },
            y: Axis {
                label: unit.into(),
                range,
                whole: false,
            },
            lines: faint,
            size: SMALL,
            ..Chart::default()
        },
    })
}

/// At most [`KEPT`] values: means over runs of consecutive steps.
fn bucketed(values: &[(u64, f64)]) -> Vec<(f64, f64)> {
    let values: Vec<(f64, f64)> = values
        .iter()
        .map(|&(step, value)| (step as f64, value))
        .collect();
    values
        .chunks(values.len().div_ceil(KEPT).max(1))
        .map(mean)
        .collect()
}

/// Mean over about a tenth of the values around each; at the ends over fewer, placed at their mean step.
fn moving_average(values: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let reach = values.len() / 20;
    (0..values.len())
        .map(|i| mean(&values[i.saturating_sub(reach)..(i + reach + 1).min(values.len())]))
        .collect()
}

/// Mean step and mean value; `values` is not empty.
fn mean(values: &[(f64, f64)]) -> (f64, f64) {
    let n = values.len() as f64;
    (
        values.iter().map(|v| v.0).sum::<f64>() / n,
        values.iter().map(|v| v.1).sum::<f64>() / n,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::simulation::{report, simulated};

    #[test]
    fn each_variant_is_a_line_with_an_interval_a_round() {
        let report = report();
        let figures = render_figures(&report);
        assert_eq!(figures[0].0, "violation-rate.svg");
        assert_eq!(figures[0].1.matches("class=\"whisker\"").count(), 18);
        assert!(figures[0].1.contains(">GRPO</text>"));
    }

    #[test]
    fn a_chain_has_a_colour_and_the_curves_of_grpo() {
        let mut other = OTHERS;
        let styles = ["base", "dpo", "grpo", "dpo-grpo", "else"].map(|v| style(v, &mut other));
        assert_eq!(styles, [0, 1, 2, 3, 4]);
        let mut inputs = simulated();
        for name in ["dpo-grpo", "dpo with window-1"] {
            let series = inputs.training[1].clone();
            inputs.training.push(TrainingSeries {
                name: name.into(),
                ..series
            });
        }
        let report = Report::new(inputs).unwrap();
        let figures = training_figures(&report);
        let methods: Vec<&str> = figures.iter().map(|f| f.method).collect();
        assert_eq!(methods, ["dpo", "dpo with window-1", "grpo", "dpo-grpo"]);
        let of = |figure: &TrainingFigure| -> Vec<(String, usize)> {
            let main = figure.main.iter();
            main.map(|p| (p.title.clone(), p.chart.lines[0].style))
                .collect()
        };
        let (grpo, chain) = (of(&figures[2]), of(&figures[3]));
        assert_eq!((grpo.len(), chain.len()), (4, 4));
        for ((title, style), (other, other_style)) in grpo.iter().zip(&chain) {
            assert_eq!((title, style, other_style), (other, &2, &3));
        }
    }

    #[test]
    fn a_metric_nobody_foresaw_is_still_drawn() {
        let mut inputs = simulated();
        for series in &mut inputs.training {
            series.metrics.insert("surprise".into(), vec![(1, 2.0)]);
        }
        let report = Report::new(inputs).unwrap();
        let figures = training_figures(&report);
        let titles = |panels: &[Panel]| panels.iter().map(|p| p.title.clone()).collect::<Vec<_>>();
        assert_eq!(
            titles(&figures[0].main),
            ["Loss", "Reward margin", "Accuracy", "Log-probabilities"]
        );
        assert_eq!(titles(&figures[1].main).len(), 4);
        assert!(
            figures
                .iter()
                .all(|f| titles(&f.more).contains(&"surprise".to_owned()))
        );
    }

    #[test]
    fn means_keep_a_constant_and_a_straight_line() {
        let line: Vec<(u64, f64)> = (0..1000).map(|i| (i, i as f64)).collect();
        let short = bucketed(&line);
        assert!(short.len() <= KEPT);
        assert!(short.iter().all(|(x, y)| (x - y).abs() < 1e-9));
        assert!(
            moving_average(&short)
                .iter()
                .all(|(x, y)| (x - y).abs() < 1e-9)
        );
    }
}
