//! Tables: drift, what is lost of the gain, hazards, transitions, critical mass.

use crate::evaluation::summary::BASE;
use crate::evaluation::tipping::Tipping;
use crate::evaluation::tipping::critical_mass::{CriticalMass, Fit};
use crate::report::escape::{percent, points};
use crate::report::tables::{Group, NONE, Table, columns, interval, value};
use crate::report::words::{self, round_range, rounds_range, signed};

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

pub(super) fn drift(found: &[&Tipping]) -> Table {
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

pub(super) fn half_lives(found: &[&Tipping]) -> Option<Table> {
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

pub(super) fn hazards(found: &[&Tipping]) -> Table {
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

pub(super) fn transitions(found: &[&Tipping]) -> Table {
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

pub(super) fn mass_name(mass: &CriticalMass) -> String {
    format!(
        "{}, towards {}",
        words::who(&mass.variant, "", &mass.settings),
        mass.other.name()
    )
}

pub(super) fn critical(masses: &[CriticalMass]) -> Option<Table> {
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
