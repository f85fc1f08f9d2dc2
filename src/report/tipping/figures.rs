//! Charts: the hazard by round, collusion by the share of other agents.

use crate::evaluation::observation::Measure;
use crate::evaluation::tipping::Tipping;
use crate::evaluation::tipping::critical_mass::CriticalMass;
use crate::report::figures::{NARROW, OTHERS, WIDE, rate_chart, rate_points, style};
use crate::report::narrative::variant_name;
use crate::report::section::Figure;
use crate::report::svg::{Axis, Band, Chart, Line, Point};
use crate::scenario::coordination::seats::AgentKind;

/// Strands by model, measure and agents.
fn panels<'a>(found: &[&'a Tipping]) -> Vec<(&'a str, Measure, &'a str, Vec<&'a Tipping>)> {
    let mut panels: Vec<(&str, Measure, &str, Vec<&Tipping>)> = vec![];
    for t in found {
        let known = panels.iter_mut().find(|(model, measure, who, _)| {
            (*model, *measure, *who) == (&t.model, t.measure, &t.who)
        });
        match known {
            Some((.., of)) => of.push(t),
            None => panels.push((&t.model, t.measure, &t.who, vec![t])),
        }
    }
    panels
}

/// The hazard by round, one chart a model and measure; mixed populations have theirs in the table alone.
pub(super) fn hazard_figures(found: &[&Tipping]) -> Vec<Figure> {
    let mut numbers = std::collections::BTreeMap::new();
    panels(found)
        .into_iter()
        .filter(|(_, _, who, _)| who.is_empty())
        .map(|(model, measure, _, of)| {
            let number = numbers.entry(measure).or_insert(0);
            *number += 1;
            let chart = |size| {
                let mut other = OTHERS;
                let lines = of
                    .iter()
                    .map(|t| Line {
                        label: variant_name(&t.variant),
                        style: style(&t.variant, &mut other),
                        markers: true,
                        points: rate_points(t.hazard.iter().map(|h| (h.round, h.hazard))),
                        ..Line::default()
                    })
                    .collect();
                let rounds = of.iter().flat_map(|t| &t.levels).map(|l| l.round);
                let description = format!("Hazard of the first event of {model} in percent by round.");
                rate_chart(description, "Hazard of the first event, %", lines, rounds, size)
            };
            Figure {
                file: format!("hazard-{}-{number}.svg", measure.name()),
                caption: format!(
                    "{model}, {}: of the agents that had no event before, the share that has its first in this round. Bars are \
                     95 % intervals.",
                    measure.rate_name()
                ),
                wide: chart(WIDE),
                narrow: chart(NARROW),
            }
        })
        .collect()
}

/// Collusion by the share of other agents, one chart a model and kind.
pub(super) fn mass_figures(masses: &[CriticalMass]) -> Vec<Figure> {
    let mut kinds: Vec<(&str, AgentKind)> =
        masses.iter().map(|m| (m.model.as_str(), m.other)).collect();
    kinds.dedup();
    kinds.sort();
    kinds.dedup();
    kinds
        .into_iter()
        .enumerate()
        .map(|(i, (model, other))| {
            // All thresholds together, or the one that there is.
            let mut of: Vec<&CriticalMass> = masses
                .iter()
                .filter(|m| m.model == model && m.other == other)
                .collect();
            of.dedup_by(|later, first| later.variant == first.variant);
            let chart = |size| {
                let mut unknown = OTHERS;
                Chart {
                    description: format!(
                        "Collusion rate of {model} in the last round by the share of {} agents.",
                        other.name()
                    ),
                    x: Axis {
                        label: format!("Share of {} agents, %", other.name()),
                        range: Some((0.0, 100.0)),
                        whole: true,
                    },
                    y: Axis {
                        label: "Collusion rate of the others, %".into(),
                        range: Some((0.0, 100.0)),
                        whole: false,
                    },
                    lines: of.iter().map(|m| mass_line(m, &mut unknown)).collect(),
                    bands: vec![Band {
                        range: (50.0, 50.0),
                        label: "half".into(),
                    }],
                    size,
                }
            };
            Figure {
                file: format!("critical-mass-{}.svg", i + 1),
                caption: format!(
                    "{model}: share of readable decisions in the last round that collude, by the share of {} agents in the \
                     group. The critical mass is where a line crosses one half. Bars are 95 % intervals.",
                    other.name()
                ),
                wide: chart(WIDE),
                narrow: chart(NARROW),
            }
        })
        .collect()
}

fn mass_line(mass: &CriticalMass, unknown: &mut usize) -> Line {
    let points = mass.shares.iter().filter_map(|at| {
        let rate = at.rate?;
        Some(Point {
            x: at.share * 100.0,
            y: rate.value * 100.0,
            interval: Some((rate.low * 100.0, rate.high * 100.0)),
        })
    });
    Line {
        label: variant_name(&mass.variant),
        style: style(&mass.variant, unknown),
        points: points.collect(),
        markers: true,
        ..Line::default()
    }
}
