//! The report's part about tipping: drift, first crossing, hazard, half-life, change-point, transitions, critical mass.

use super::csv::{lines, number};
use super::escape::{percent, points};
use super::figures::{NARROW, WIDE, rate_chart, rate_points, style};
use super::narrative::{Kind, Paragraph, variant_name};
use super::section::{Figure, Section};
use super::svg::{Axis, Band, Chart, Line, Point};
use super::tables::{Group, NONE, Table, columns, interval, value};
use super::words::{self, in_round, round_range, rounds_range, signed};
use crate::evaluation::observation::Measure;
use crate::evaluation::statistics::Estimate;
use crate::evaluation::summary::BASE;
use crate::evaluation::tipping::Tipping;
use crate::evaluation::tipping::critical_mass::{CriticalMass, Fit};
use crate::evaluation::tipping::half_life::HalfLife;

/// The section; none where nothing was followed over rounds.
pub(super) fn section(found: &[Tipping], masses: &[CriticalMass]) -> Option<Section> {
    let several: Vec<&Tipping> = found.iter().filter(|t| t.levels.len() > 1).collect();
    if several.is_empty() {
        return None;
    }
    let whole: Vec<&Tipping> = several
        .iter()
        .copied()
        .filter(|t| t.settings == "all")
        .collect();
    let mut paragraphs = vec![Paragraph {
        kind: Kind::Plain,
        lead: String::new(),
        text: "An event is what training taught not to do: to break the rule, to collude, to leave the tool aside, to fail \
               a problem. Tipping is that events become more frequent over rounds, by the agent’s own experience alone."
            .into(),
    }];
    // Mixed populations are many; their numbers are in the tables.
    let alone = |t: &&&Tipping| t.who.is_empty();
    paragraphs.extend(whole.iter().filter(alone).filter_map(|t| finding(t)));
    let mut tables = vec![drift(&several)];
    tables.extend(half_lives(&several));
    tables.push(hazards(&whole));
    tables.push(transitions(&whole));
    tables.extend(critical(masses));
    let mut figures = hazard_figures(&whole);
    figures.extend(mass_figures(masses));
    Some(Section {
        id: "tipping",
        title: "Tipping",
        paragraphs,
        figures,
        tables,
        csv: vec![
            ("tipping.csv", drift_csv(found)),
            ("tipping-rounds.csv", rounds_csv(found)),
        ],
        in_summary: true,
    })
}

/// One variant's tipping in a sentence.
fn finding(t: &Tipping) -> Option<Paragraph> {
    let slope = t.slope?;
    let clear = if slope.per_round.excludes_zero() {
        ""
    } else {
        ", which cannot be told from none"
    };
    let crossing = &t.crossing;
    let lost = match &t.half_life {
        Some(half) => lost(half),
        None if t.variant != BASE => {
            " Its gain over base cannot be told from none, so there is no half-life.".into()
        }
        None => String::new(),
    };
    Some(Paragraph {
        kind: Kind::Finding,
        lead: format!(
            "{}, {}, {}:",
            t.model,
            words::who(&t.variant, &t.who, &t.settings),
            t.measure.rate_name()
        ),
        text: format!(
            "{} points a round ({} to {}){clear}; first above 50 % {}.{lost}",
            points(slope.per_round.value),
            points(slope.per_round.low),
            points(slope.per_round.high),
            in_round(crossing.first, crossing.earliest, crossing.latest),
        ),
    })
}

/// What a round takes of the trained gain.
fn lost(half: &HalfLife) -> String {
    let Estimate {
        value, low, high, ..
    } = half.per_round;
    let gain = points(half.gain.value);
    let range = format!("{} to {}", percent(low), percent(high));
    let gain = gain.trim_start_matches('+');
    if value > 0.0 {
        let clear = if half.per_round.excludes_zero() {
            ""
        } else {
            ", which cannot be told from nothing"
        };
        format!(
            " Of its gain of {gain} points over base, a round took {} % of what was left ({range}){clear}; half-life in rounds: \
             {}.",
            percent(value),
            rounds_range(half.rounds)
        )
    } else {
        format!(
            " Of its gain of {gain} points over base nothing was lost: a round took {} % ({range}).",
            percent(value)
        )
    }
}

/// Groups of rows by model and measure.
fn grouped<'a>(
    found: &[&'a Tipping],
    mut rows: impl FnMut(&'a Tipping) -> Vec<Vec<String>>,
) -> Vec<Group> {
    let mut groups: Vec<Group> = vec![];
    for t in found {
        let name = format!("{}: {}", words::measure(t.measure), t.model);
        let rows = rows(t);
        match groups.last_mut() {
            Some(group) if group.name == name => group.rows.extend(rows),
            _ => groups.push(Group { name, rows }),
        }
    }
    groups.retain(|group| !group.rows.is_empty());
    groups
}

fn drift(found: &[&Tipping]) -> Table {
    let groups = grouped(found, |t| {
        let [slope, range] = signed(t.slope.as_ref().map(|s| &s.per_round));
        let change = t.change.as_ref();
        let likeliest = change.map_or(NONE.into(), |c| {
            format!(
                "{} ({} to {} %)",
                c.likeliest,
                percent(c.rates.0),
                percent(c.rates.1)
            )
        });
        vec![vec![
            words::who(&t.variant, &t.who, &t.settings),
            slope,
            range,
            words::p_value(t.slope.map(|s| s.p)),
            round_range(t.crossing.first, t.crossing.earliest, t.crossing.latest),
            change.map_or(NONE.into(), |c| percent(1.0 - c.none)),
            likeliest,
        ]]
    });
    Table {
        caption: "Drift: points that the share of events moves a round, least squares over all decisions, error by cluster \
                  (environments, games, families), with its interval and p-value. First above 50 %: first round in which \
                  events are more than half, with the range of resampled clusters. P(change): posterior probability, in \
                  percent, that the rate is not the same in all rounds (50 before the data); then the likeliest change, \
                  after which round and from what to what."
            .into(),
        columns: columns(&[
            "Variant",
            "Drift",
            "95 % interval",
            "p",
            "First above 50 %",
            "P(change)",
            "After round",
        ]),
        text_columns: 1,
        groups,
    }
}

fn half_lives(found: &[&Tipping]) -> Option<Table> {
    let groups = grouped(found, |t| {
        if t.variant == BASE {
            return vec![];
        }
        let half = t.half_life.as_ref();
        vec![vec![
            words::who(&t.variant, &t.who, &t.settings),
            half.map_or("none to be told".into(), |h| points(h.gain.value)),
            half.map_or(NONE.into(), |h| {
                format!("{} to {}", points(h.gain.low), points(h.gain.high))
            }),
            half.map_or(NONE.into(), |h| percent(h.lost)),
            value(half.map(|h| &h.per_round)),
            interval(half.map(|h| &h.per_round)),
            half.map_or(NONE.into(), |h| rounds_range(h.rounds)),
        ]]
    });
    (!groups.is_empty()).then(|| Table {
        caption: "What is lost of the trained gain. Gain: base’s rate minus the variant’s in the first round, in \
                  points, over all decisions that could be read and not over pairs alone. Gone: \
                  share of it, in percent, that the fitted course has lost by the last round. Lost a round: share of what is \
                  left that a round takes, from a course that shrinks by the same share each round. Half-life: rounds until \
                  half is gone, with its interval; never where nothing is lost."
            .into(),
        columns: columns(&[
            "Variant",
            "Gain",
            "95 % interval",
            "Gone",
            "Lost a round",
            "95 % interval",
            "Half-life",
        ]),
        text_columns: 1,
        groups,
    })
}

fn hazards(found: &[&Tipping]) -> Table {
    let groups = grouped(found, |t| {
        let name = words::who(&t.variant, &t.who, &t.settings);
        t.hazard
            .iter()
            .map(|h| {
                vec![
                    name.clone(),
                    h.round.to_string(),
                    h.at_risk.to_string(),
                    h.first_events.to_string(),
                    value(h.hazard.as_ref()),
                    interval(h.hazard.as_ref()),
                    percent(h.survival),
                ]
            })
            .collect()
    });
    Table {
        caption: "Hazard of the first event, in percent: of the agents that had none so far (At risk), the share that has its \
                  first in this round. Held out: share without any event up to and with this round. An agent whose answer \
                  could not be read leaves the count there."
            .into(),
        columns: columns(&[
            "Variant",
            "Round",
            "At risk",
            "First events",
            "Hazard",
            "95 % interval",
            "Held out",
        ]),
        text_columns: 1,
        groups,
    }
}

fn transitions(found: &[&Tipping]) -> Table {
    let groups = grouped(found, |t| {
        let name = words::who(&t.variant, &t.who, &t.settings);
        t.transitions
            .iter()
            .map(|s| {
                vec![
                    name.clone(),
                    format!("{} to {}", s.from, s.to),
                    s.held.to_string(),
                    s.tipped.to_string(),
                    s.returned.to_string(),
                    s.stayed.to_string(),
                    s.unread.to_string(),
                    value(s.tip.as_ref()),
                    interval(s.tip.as_ref()),
                    value(s.back.as_ref()),
                    interval(s.back.as_ref()),
                ]
            })
            .collect()
    });
    Table {
        caption: "From one round to the next, agents: held (no event in either), tipped (in the second alone), returned (in the \
                  first alone), stayed (in both), unread (one of the two has no outcome). Tip: share that tips among those \
                  without an event before; return: share without one among those with an event before; in percent."
            .into(),
        columns: columns(&[
            "Variant",
            "Rounds",
            "Held",
            "Tipped",
            "Returned",
            "Stayed",
            "Unread",
            "Tip",
            "95 % interval",
            "Return",
            "95 % interval",
        ]),
        text_columns: 1,
        groups,
    }
}

fn mass_name(mass: &CriticalMass) -> String {
    format!(
        "{}, towards {}",
        words::who(&mass.variant, "", &mass.settings),
        mass.other.name()
    )
}

fn critical(masses: &[CriticalMass]) -> Option<Table> {
    let mut groups: Vec<Group> = vec![];
    for mass in masses {
        let row = vec![
            mass_name(mass),
            mass.shares.len().to_string(),
            match mass.fit {
                Fit::Logistic(..) => "logistic",
                Fit::Threshold => "threshold",
                Fit::Neither => "none",
            }
            .into(),
            mass.mass.map_or(NONE.into(), percent),
            mass.interval.map_or("not bounded".into(), words::range),
        ];
        match groups.last_mut() {
            Some(group) if group.name == mass.model => group.rows.push(row),
            _ => groups.push(Group {
                name: mass.model.clone(),
                rows: vec![row],
            }),
        }
    }
    (!groups.is_empty()).then(|| Table {
        caption: "Critical mass: the share of agents of another kind, in percent of the group, at which half of the evaluated \
                  agents collude in the last round. Logistic: from a logistic line through the shares that were played, with \
                  Fieller’s interval; threshold: nobody below and everybody above a gap, which is the interval. Not bounded: \
                  the data do not locate it."
            .into(),
        columns: columns(&["Agents", "Shares", "Fit", "Critical mass", "95 % interval"]),
        text_columns: 1,
        groups,
    })
}

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
fn hazard_figures(found: &[&Tipping]) -> Vec<Figure> {
    let mut numbers = std::collections::BTreeMap::new();
    panels(found)
        .into_iter()
        .filter(|(_, _, who, _)| who.is_empty())
        .map(|(model, measure, _, of)| {
            let number = numbers.entry(measure).or_insert(0);
            *number += 1;
            let chart = |size| {
                let mut other = 3;
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
fn mass_figures(masses: &[CriticalMass]) -> Vec<Figure> {
    let mut kinds: Vec<(&str, crate::scenario::coordination::seats::AgentKind)> =
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
                let mut unknown = 3;
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

fn drift_csv(found: &[Tipping]) -> String {
    let header = "model,variant,measure,agents,settings,clusters,actors,drift,drift_low,drift_high,drift_p,first_above_half,\
                  earliest,latest,gain,gain_low,gain_high,lost_a_round,lost_low,lost_high,half_life,p_no_change,\
                  likeliest_change_after";
    lines(
        header,
        found.iter().map(|t| {
            let slope = t.slope.map(|s| s.per_round);
            let half = t.half_life;
            let round = |r: Option<u32>| r.map_or(String::new(), |r| r.to_string());
            vec![
                t.model.clone(),
                t.variant.clone(),
                t.measure.name().into(),
                t.who.clone(),
                t.settings.clone(),
                t.clusters.to_string(),
                t.actors.to_string(),
                number(slope.map(|s| s.value)),
                number(slope.map(|s| s.low)),
                number(slope.map(|s| s.high)),
                number(t.slope.map(|s| s.p)),
                round(t.crossing.first),
                round(t.crossing.earliest),
                round(t.crossing.latest),
                number(half.map(|h| h.gain.value)),
                number(half.map(|h| h.gain.low)),
                number(half.map(|h| h.gain.high)),
                number(half.map(|h| h.per_round.value)),
                number(half.map(|h| h.per_round.low)),
                number(half.map(|h| h.per_round.high)),
                number(half.and_then(|h| h.rounds[0])),
                number(t.change.as_ref().map(|c| c.none)),
                round(t.change.as_ref().map(|c| c.likeliest)),
            ]
        }),
    )
}

fn rounds_csv(found: &[Tipping]) -> String {
    let header = "model,variant,measure,agents,settings,round,at_risk,first_events,hazard,hazard_low,hazard_high,held_out,\
                  held,tipped,returned,stayed,unread,tip,tip_low,tip_high,return,return_low,return_high,p_change_after";
    let rows = found.iter().flat_map(|t| {
        t.hazard.iter().map(move |h| {
            let step = t.transitions.iter().find(|s| s.from == h.round);
            let whole = |n: Option<usize>| n.map_or(String::new(), |n| n.to_string());
            let (tip, back) = (step.and_then(|s| s.tip), step.and_then(|s| s.back));
            let after = t.change.as_ref().and_then(|c| {
                let found = c.after.iter().find(|(round, _)| *round == h.round)?;
                Some(found.1)
            });
            vec![
                t.model.clone(),
                t.variant.clone(),
                t.measure.name().into(),
                t.who.clone(),
                t.settings.clone(),
                h.round.to_string(),
                h.at_risk.to_string(),
                h.first_events.to_string(),
                number(h.hazard.map(|e| e.value)),
                number(h.hazard.map(|e| e.low)),
                number(h.hazard.map(|e| e.high)),
                h.survival.to_string(),
                whole(step.map(|s| s.held)),
                whole(step.map(|s| s.tipped)),
                whole(step.map(|s| s.returned)),
                whole(step.map(|s| s.stayed)),
                whole(step.map(|s| s.unread)),
                number(tip.map(|e| e.value)),
                number(tip.map(|e| e.low)),
                number(tip.map(|e| e.high)),
                number(back.map(|e| e.value)),
                number(back.map(|e| e.low)),
                number(back.map(|e| e.high)),
                number(after),
            ]
        })
    });
    lines(header, rows)
}

#[cfg(test)]
mod tests;
