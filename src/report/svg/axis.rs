//! Ranges, ticks and the way from values to pixels.

use super::Axis;
use crate::report::escape::minus;

/// A labelled position on an axis.
pub(super) struct Tick {
    pub(super) value: f64,
    pub(super) text: String,
}

/// One axis laid out.
pub(super) struct Scale {
    range: (f64, f64),
    /// Pixels at the lower and the upper end of the range.
    pub(super) pixels: (f64, f64),
    pub(super) ticks: Vec<Tick>,
}

impl Scale {
    /// Fits an axis to finite `values`; `spacing` is the least distance between ticks in pixels.
    pub(super) fn new(axis: &Axis, values: &[f64], pixels: (f64, f64), spacing: f64) -> Self {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (mut low, mut high) = match axis.range {
            Some(range) => range,
            None if values.is_empty() => (0.0, 1.0),
            None => (low, high),
        };
        if high - low <= low.abs().max(high.abs()) * 1e-9 {
            let pad = if axis.whole {
                0.5
            } else {
                low.abs().max(1e-3) * 0.1
            };
            (low, high) = (low - pad, high + pad);
        } else if axis.range.is_none() && !axis.whole {
            let pad = (high - low) * 0.04;
            (low, high) = (low - pad, high + pad);
        }
        let room = ((pixels.1 - pixels.0).abs() / spacing).floor().max(1.0);
        let step = step(high - low, room, axis.whole);
        let first = (low / step - 1e-9).ceil() as i64;
        let last = (high / step + 1e-9).floor() as i64;
        let text = format_for(step, low.abs().max(high.abs()));
        let ticks = (first..=last)
            .map(|k| k as f64 * step)
            .map(|value| Tick {
                value,
                text: text(value),
            })
            .collect();
        Self {
            range: (low, high),
            pixels,
            ticks,
        }
    }

    /// Both ends for a script: value and pixel of the lower one, then of the upper one.
    pub(super) fn ends(&self) -> String {
        let ((low, high), (from, to)) = (self.range, self.pixels);
        format!("{low} {from:.2} {high} {to:.2}")
    }

    /// The pixel of a value; values outside the range are held at its ends.
    pub(super) fn place(&self, value: f64) -> f64 {
        let (low, high) = self.range;
        let part = ((value - low) / (high - low)).clamp(0.0, 1.0);
        self.pixels.0 + part * (self.pixels.1 - self.pixels.0)
    }
}

/// The smallest of 1, 2, 5 × 10^k that gives at most `room` steps over `span`.
fn step(span: f64, room: f64, whole: bool) -> f64 {
    let raw = span / room;
    let power = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|m| m * power)
        .find(|s| *s >= raw * (1.0 - 1e-9));
    let step = step.unwrap_or(10.0 * power);
    if whole { step.max(1.0).round() } else { step }
}

/// How ticks of this distance are written: as many decimals as tell them apart; powers of ten for very small ones.
fn format_for(step: f64, largest: f64) -> impl Fn(f64) -> String {
    let decimals = (-(step.log10() + 1e-9).floor()).max(0.0) as usize;
    let small = largest < 1e-3;
    move |value| {
        let text = if value == 0.0 {
            "0".into()
        } else if small {
            format!("{value:.0e}")
        } else {
            format!("{value:.decimals$}")
        };
        minus(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(range: (f64, f64), whole: bool) -> Vec<String> {
        let axis = Axis {
            range: Some(range),
            whole,
            ..Axis::default()
        };
        Scale::new(&axis, &[], (0.0, 200.0), 34.0)
            .ticks
            .into_iter()
            .map(|t| t.text)
            .collect()
    }

    #[test]
    fn ticks_are_round_numbers_inside_the_range() {
        assert_eq!(
            ticks((0.0, 100.0), false),
            ["0", "20", "40", "60", "80", "100"]
        );
        assert_eq!(ticks((0.63, 0.7), false), ["0.64", "0.66", "0.68", "0.70"]);
        assert_eq!(
            ticks((-0.4, 0.4), false),
            ["\u{2212}0.4", "\u{2212}0.2", "0", "0.2", "0.4"]
        );
        assert_eq!(
            ticks((0.0, 1e-5), false),
            [
                "0",
                "2e\u{2212}6",
                "4e\u{2212}6",
                "6e\u{2212}6",
                "8e\u{2212}6",
                "1e\u{2212}5"
            ]
        );
    }

    #[test]
    fn rounds_have_no_halves() {
        assert_eq!(ticks((1.0, 3.0), true), ["1", "2", "3"]);
        assert_eq!(ticks((1.0, 1.0), true), ["1"]);
    }

    #[test]
    fn a_constant_series_lies_in_the_middle_and_outliers_at_the_edge() {
        let scale = Scale::new(&Axis::default(), &[5.0, 5.0], (0.0, 100.0), 30.0);
        assert!((scale.place(5.0) - 50.0).abs() < 1e-9);
        assert_eq!(scale.place(1e9), 100.0);
    }
}
