//! Words and cells that the parts about statistics share.

use super::escape::{minus, percent, points};
use super::narrative::variant_name;
use super::tables::NONE;
use crate::evaluation::observation::Measure;
use crate::evaluation::statistics::Estimate;

/// What decisions of a measure are clustered by, singular.
pub(super) fn cluster(measure: Measure) -> &'static str {
    match measure {
        Measure::Violation => "environment",
        Measure::Collusion => "game",
        Measure::WithoutTool | Measure::Unsolved => "family",
    }
}

/// How many clusters, in words.
pub(super) fn clusters(n: usize, measure: Measure) -> String {
    match (n, cluster(measure)) {
        (1, noun) => format!("1 {noun}"),
        (_, "family") => format!("{n} families"),
        (_, noun) => format!("{n} {noun}s"),
    }
}

/// What is counted, as a heading.
pub(super) fn measure(measure: Measure) -> &'static str {
    match measure {
        Measure::Violation => "Role-play, rule broken",
        Measure::Collusion => "Games, collusive choice",
        Measure::WithoutTool => "Tools, complex problem without the tool",
        Measure::Unsolved => "Tools, complex problem not solved",
    }
}

/// Variant, with the agents and settings that are counted where these are not all.
pub(super) fn who(variant: &str, who: &str, settings: &str) -> String {
    let mut text = variant_name(variant);
    if !who.is_empty() {
        text = format!("{text} ({who})");
    }
    if settings != "all" {
        text = format!("{text}, {settings}");
    }
    text
}

/// A p-value as it is read: three decimals, or below 0.001.
pub(super) fn p_value(p: Option<f64>) -> String {
    match p {
        None => NONE.into(),
        Some(p) if p < 0.0005 => "< 0.001".into(),
        Some(p) => format!("{p:.3}"),
    }
}

/// Points with their sign, and their interval.
pub(super) fn signed(estimate: Option<&Estimate>) -> [String; 2] {
    match estimate {
        Some(e) => [
            points(e.value),
            format!("{} to {}", points(e.low), points(e.high)),
        ],
        None => [NONE.into(), NONE.into()],
    }
}

/// `3 (2 to never)`.
pub(super) fn round_range(value: Option<u32>, low: Option<u32>, high: Option<u32>) -> String {
    let word = |round: Option<u32>| round.map_or("never".into(), |r| r.to_string());
    with_range(word(value), word(low), word(high))
}

/// The same in a sentence: `in round 3 (2 to never)`, `in no round (4 to never)`.
pub(super) fn in_round(value: Option<u32>, low: Option<u32>, high: Option<u32>) -> String {
    match value {
        Some(_) => format!("in round {}", round_range(value, low, high)),
        None => round_range(value, low, high).replacen("never", "in no round", 1),
    }
}

/// `2.4 (1.1 to never)`, a number of rounds.
pub(super) fn rounds_range([value, low, high]: [Option<f64>; 3]) -> String {
    let word = |rounds: Option<f64>| {
        rounds.map_or("never".into(), |r| match r {
            r if r > 99.0 => "over 99".into(),
            r => minus(format!("{r:.1}")),
        })
    };
    with_range(word(value), word(low), word(high))
}

fn with_range(value: String, low: String, high: String) -> String {
    if value == low && value == high {
        value
    } else {
        format!("{value} ({low} to {high})")
    }
}

/// `12.0 to 30.1`, percent.
pub(super) fn range((low, high): (f64, f64)) -> String {
    format!("{} to {}", percent(low), percent(high))
}
