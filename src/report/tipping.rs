//! The report's part about tipping: drift, first crossing, hazard, half-life, change-point, transitions, critical mass.

mod csv;
mod figures;
mod tables;

use super::escape::{percent, points};
use super::narrative::{Kind, Paragraph};
use super::section::Section;
use super::words::{self, in_round, rounds_range};
use crate::evaluation::statistics::Estimate;
use crate::evaluation::summary::BASE;
use crate::evaluation::tipping::Tipping;
use crate::evaluation::tipping::critical_mass::CriticalMass;
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
    let mut tables = vec![tables::drift(&several)];
    tables.extend(tables::half_lives(&several));
    tables.push(tables::hazards(&whole));
    tables.push(tables::transitions(&whole));
    tables.extend(tables::critical(masses));
    let mut figures = figures::hazard_figures(&whole);
    figures.extend(figures::mass_figures(masses));
    Some(Section {
        id: "tipping",
        title: "Tipping",
        paragraphs,
        figures,
        tables,
        csv: vec![
            ("tipping.csv", csv::drift_csv(found)),
            ("tipping-rounds.csv", csv::rounds_csv(found)),
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

#[cfg(test)]
mod tests;
