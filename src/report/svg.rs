//! Line charts with intervals as plain SVG text.
//!
//! Colours are Okabe and Ito's, told apart with any colour vision; each line has a marker shape of its own as well, so
//! that a grey print still reads. Lines are labelled at their end instead of in a legend. Colours come from CSS
//! variables ([`STYLE`]) and follow the reader's light or dark scheme on screen; print is always light.

mod axis;

use std::fmt::Write as _;

use super::escape::{html, minus};
use axis::Scale;

/// CSS of all charts in an HTML page.
pub const STYLE: &str = include_str!("svg/chart.css");
/// CSS of a chart in a file of its own ([`standalone`]): the same colours without variables, which many programs that
/// show SVG do not know.
const ALONE: &str = include_str!("svg/standalone.css");

/// One value of a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Position on the x axis.
    pub x: f64,
    /// Value.
    pub y: f64,
    /// Lower and upper end of the value's interval.
    pub interval: Option<(f64, f64)>,
}

/// One line of a chart.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Line {
    /// Text at the line's end; empty for none.
    pub label: String,
    /// Colour and marker: 0 ink circle, 1 blue square, 2 vermilion triangle, 3 green diamond, 4 purple circle,
    /// 5 orange square; then again from 0.
    pub style: usize,
    /// Values by rising x.
    pub points: Vec<Point>,
    /// Draw a marker at each value.
    pub markers: bool,
    /// Thin and pale: the raw values behind a mean.
    pub faint: bool,
    /// Dashed, with hollow markers: values from elsewhere, such as the paper's.
    pub dashed: bool,
}

/// A range of y over the whole width, drawn behind the lines.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Band {
    /// Lower and upper end; equal ends are one line.
    pub range: (f64, f64),
    /// Text inside, at the right.
    pub label: String,
}

/// One axis.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Axis {
    /// Quantity and unit.
    pub label: String,
    /// Fixed range; none takes the range of the data.
    pub range: Option<(f64, f64)>,
    /// Ticks stand at whole numbers only.
    pub whole: bool,
}

/// A chart with its size in user units, which are CSS pixels where it is not scaled.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chart {
    /// What the chart shows, for those who do not see it.
    pub description: String,
    /// Horizontal axis.
    pub x: Axis,
    /// Vertical axis.
    pub y: Axis,
    /// Lines, the last drawn on top.
    pub lines: Vec<Line>,
    /// Ranges behind them.
    pub bands: Vec<Band>,
    /// Width and height.
    pub size: (f64, f64),
}

const STYLES: usize = 6;
/// Average advance of a character at the charts' font size; labels get that much room.
const ADVANCE: f64 = 6.6;
/// Sideways distance between the intervals of lines that share their x positions.
const DODGE: f64 = 7.0;
/// Room around a chart in a file of its own.
const MARGIN: f64 = 16.0;
/// Least distance between the labels of two lines.
const LABEL_GAP: f64 = 15.0;

/// The chart as an `<svg>` element for an HTML page that carries [`STYLE`].
pub fn inline(chart: &Chart) -> String {
    draw(chart, 0.0, "")
}

/// The chart as a file of its own, with its style, background and margin.
pub fn standalone(chart: &Chart) -> String {
    let (width, height) = (chart.size.0 + 2.0 * MARGIN, chart.size.1 + 2.0 * MARGIN);
    let ground = format!(
        "<rect class=\"ground\" x=\"-{MARGIN}\" y=\"-{MARGIN}\" width=\"{width}\" height=\"{height}\"/>"
    );
    draw(chart, MARGIN, &format!("<style>{ALONE}</style>{ground}"))
}

/// Plot area within the chart.
struct Frame {
    x: Scale,
    y: Scale,
}

fn draw(chart: &Chart, margin: f64, head: &str) -> String {
    let (width, height) = chart.size;
    let values = |f: fn(&Point) -> [f64; 3]| -> Vec<f64> {
        chart
            .lines
            .iter()
            .flat_map(|l| &l.points)
            .flat_map(f)
            .filter(|v| v.is_finite())
            .collect()
    };
    let xs = values(|p| [p.x; 3]);
    let ys = values(|p| p.interval.map_or([p.y; 3], |(low, high)| [p.y, low, high]));
    let longest = chart
        .lines
        .iter()
        .map(|l| l.label.chars().count())
        .max()
        .unwrap_or(0) as f64;
    let right = if longest > 0.0 {
        longest * ADVANCE + 24.0
    } else {
        14.0
    };
    let spacing = if height < 250.0 { 26.0 } else { 34.0 };
    let y = Scale::new(&chart.y, &ys, (height - 42.0, 30.0), spacing);
    let left = y
        .ticks
        .iter()
        .map(|t| t.text.chars().count())
        .max()
        .unwrap_or(1) as f64
        * ADVANCE
        + 12.0;
    let dodged = dodged(chart) as f64;
    let dodge = match () {
        () if dodged > 0.0 => DODGE * dodged / 2.0 + 8.0,
        // Marks at the ends stay clear of the axis and of the labels.
        () if chart.lines.iter().any(|line| line.markers) => 8.0,
        () => 0.0,
    };
    // Rounds are short numbers and each deserves its tick; steps may be long ones.
    let short = |(low, high): (f64, f64)| high - low <= 20.0;
    let room = if chart.x.range.is_some_and(short) {
        24.0
    } else {
        56.0
    };
    let sides = (left + dodge, width - right - dodge);
    let frame = Frame {
        x: Scale::new(&chart.x, &xs, sides, room),
        y,
    };

    // The data attributes are what a script reads to show values; the chart is whole without one.
    let mut out = format!(
        "<svg class=\"chart\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"{} {} {} {}\" role=\"img\" \
         aria-label=\"{}\" data-x=\"{}\" data-y=\"{}\" data-names=\"{}|{}\">{head}",
        0.0 - margin,
        0.0 - margin,
        width + 2.0 * margin,
        height + 2.0 * margin,
        html(&chart.description),
        frame.x.ends(),
        frame.y.ends(),
        html(&chart.x.label),
        html(&chart.y.label),
    );
    axes(&mut out, chart, &frame, left, width - right);
    draw_bands(&mut out, chart, &frame, left, width - right);
    if ys.is_empty() {
        let (x, y) = ((left + width - right) / 2.0, height / 2.0);
        let _ = write!(
            out,
            "<text class=\"quiet\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">no values</text>"
        );
    }
    let offsets = offsets(chart);
    for (place, (line, offset)) in chart.lines.iter().zip(&offsets).enumerate() {
        draw_line(&mut out, line, place, &frame, *offset);
    }
    labels(&mut out, chart, &frame, &offsets, width - right);
    out.push_str("</svg>");
    out
}

fn dodged(chart: &Chart) -> usize {
    chart
        .lines
        .iter()
        .filter(|l| l.points.iter().any(|p| p.interval.is_some()))
        .count()
        .saturating_sub(1)
}

/// How far each line is moved sideways so that intervals do not hide each other.
fn offsets(chart: &Chart) -> Vec<f64> {
    let middle = dodged(chart) as f64 / 2.0;
    let mut place = 0.0;
    chart
        .lines
        .iter()
        .map(|line| {
            if line.points.iter().all(|p| p.interval.is_none()) {
                return 0.0;
            }
            place += 1.0;
            (place - 1.0 - middle) * DODGE
        })
        .collect()
}

fn axes(out: &mut String, chart: &Chart, frame: &Frame, left: f64, right: f64) {
    let (bottom, top) = frame.y.pixels;
    for tick in &frame.y.ticks {
        let y = frame.y.place(tick.value);
        let _ = write!(
            out,
            "<path class=\"grid\" d=\"M{left:.1} {y:.1}H{right:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 6.0,
            y + 4.0,
            html(&tick.text)
        );
    }
    let _ = write!(
        out,
        "<path class=\"axis\" d=\"M{left:.1} {bottom:.1}H{right:.1}\"/>"
    );
    for tick in &frame.x.ticks {
        let x = frame.x.place(tick.value);
        let _ = write!(
            out,
            "<path class=\"axis\" d=\"M{x:.1} {bottom:.1}v4\"/>\
             <text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 17.0,
            html(&tick.text)
        );
    }
    let _ = write!(
        out,
        "<text class=\"name\" x=\"0\" y=\"{:.1}\">{}</text>\
         <text class=\"name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        top - 16.0,
        html(&chart.y.label),
        (left + right) / 2.0,
        bottom + 36.0,
        html(&chart.x.label)
    );
}

fn draw_line(out: &mut String, line: &Line, place: usize, frame: &Frame, offset: f64) {
    let style = line.style % STYLES;
    let look = match (line.faint, line.dashed) {
        (true, _) => " faint",
        (false, true) => " dashed",
        (false, false) => "",
    };
    let _ = write!(
        out,
        "<g class=\"s{style}{look}\" data-line=\"{place}\" data-label=\"{}\" data-offset=\"{offset:.1}\" data-points=\"{}\">",
        html(&line.label),
        if line.faint {
            String::new()
        } else {
            values(line)
        }
    );
    let mut path = String::new();
    let mut pen = 'M';
    for point in &line.points {
        if !(point.x.is_finite() && point.y.is_finite()) {
            pen = 'M';
            continue;
        }
        let (x, y) = (frame.x.place(point.x) + offset, frame.y.place(point.y));
        let _ = write!(path, "{pen}{x:.1} {y:.1}");
        pen = 'L';
        if let Some((low, high)) = point
            .interval
            .filter(|(low, high)| low.is_finite() && high.is_finite())
        {
            let (low, high) = (frame.y.place(low), frame.y.place(high));
            let _ = write!(
                out,
                "<path class=\"whisker\" d=\"M{x:.1} {low:.1}V{high:.1}M{:.1} {low:.1}h5M{:.1} {high:.1}h5\"/>",
                x - 2.5,
                x - 2.5
            );
        }
    }
    if !path.is_empty() {
        let _ = write!(out, "<path class=\"line\" d=\"{path}\"/>");
    }
    if line.markers {
        for point in line
            .points
            .iter()
            .filter(|p| p.x.is_finite() && p.y.is_finite())
        {
            let (x, y) = (frame.x.place(point.x) + offset, frame.y.place(point.y));
            let interval = point.interval.map_or(String::new(), |(a, b)| {
                minus(format!(" ({a:.1} to {b:.1})"))
            });
            let value = minus(format!("{:.1}", point.y));
            let title = html(&format!("{}, {}: {value}{interval}", line.label, point.x));
            let _ = write!(
                out,
                "<path class=\"mark\" d=\"{}\"><title>{title}</title></path>",
                marker(style, x, y, 4.0)
            );
        }
    }
    out.push_str("</g>");
}

/// The line's values for a script: `x,y` or `x,y,low,high` each, five significant digits, parted by spaces.
fn values(line: &Line) -> String {
    let number = |value: f64| {
        let short: f64 = format!("{value:.4e}").parse().unwrap_or(value);
        short.to_string()
    };
    let point = |p: &Point| {
        let mut parts = vec![p.x, p.y];
        parts.extend(p.interval.iter().flat_map(|&(low, high)| [low, high]));
        let parts: Vec<String> = parts.into_iter().map(number).collect();
        parts.join(",")
    };
    let shown = line
        .points
        .iter()
        .filter(|p| p.x.is_finite() && p.y.is_finite());
    shown.map(point).collect::<Vec<_>>().join(" ")
}

fn draw_bands(out: &mut String, chart: &Chart, frame: &Frame, left: f64, right: f64) {
    for band in &chart.bands {
        let (low, high) = (frame.y.place(band.range.0), frame.y.place(band.range.1));
        let _ = write!(
            out,
            "<path class=\"band\" d=\"M{left:.1} {low:.1}H{right:.1}V{high:.1}H{left:.1}z\"/>\
             <text class=\"quiet\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            right - 4.0,
            high + if low - high > 16.0 { 14.0 } else { -4.0 },
            html(&band.label)
        );
    }
}

/// A closed path around (x, y): circle, square, triangle or diamond by style.
fn marker(style: usize, x: f64, y: f64, r: f64) -> String {
    match style {
        1 | 5 => format!(
            "M{:.1} {:.1}h{w:.1}v{w:.1}h-{w:.1}z",
            x - r * 0.9,
            y - r * 0.9,
            w = r * 1.8
        ),
        2 => format!(
            "M{x:.1} {:.1}l{:.1} {h:.1}h-{:.1}z",
            y - r * 1.15,
            r * 1.15,
            r * 2.3,
            h = r * 2.0
        ),
        3 => format!(
            "M{x:.1} {:.1}l{d:.1} {d:.1}l-{d:.1} {d:.1}l-{d:.1} -{d:.1}z",
            y - r * 1.25,
            d = r * 1.25
        ),
        _ => format!(
            "M{:.1} {y:.1}a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0 -{d} 0z",
            x - r,
            d = r * 2.0
        ),
    }
}

/// Labels at the lines' ends, pushed apart where they would overlap.
fn labels(out: &mut String, chart: &Chart, frame: &Frame, offsets: &[f64], right: f64) {
    let mut ends: Vec<(f64, usize, &Line)> = chart
        .lines
        .iter()
        .zip(offsets)
        .enumerate()
        .filter(|(_, (line, _))| !line.label.is_empty())
        .filter_map(|(place, (line, _))| {
            let end = line
                .points
                .iter()
                .rev()
                .find(|p| p.x.is_finite() && p.y.is_finite())?;
            Some((frame.y.place(end.y), place, line))
        })
        .collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    for i in 1..ends.len() {
        ends[i].0 = ends[i].0.max(ends[i - 1].0 + LABEL_GAP);
    }
    // What was pushed below the plot goes back up, and pushes those above it.
    let mut floor = frame.y.pixels.0;
    for end in ends.iter_mut().rev() {
        end.0 = end.0.min(floor);
        floor = end.0 - LABEL_GAP;
    }
    for (y, place, line) in ends {
        let style = line.style % STYLES;
        let _ = write!(
            out,
            "<g class=\"s{style}{}\" data-end=\"{place}\"><path class=\"mark\" d=\"{}\"/></g><text class=\"label\" data-end=\"{place}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            if line.dashed { " dashed" } else { "" },
            marker(style, right + 8.0, y, 3.5),
            right + 16.0,
            y + 4.0,
            html(&line.label)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        let line = |label: &str, style, y: f64| Line {
            label: label.into(),
            style,
            markers: true,
            points: (1..=3)
                .map(|x| Point {
                    x: x.into(),
                    y,
                    interval: Some((y - 5.0, y + 5.0)),
                })
                .collect(),
            ..Line::default()
        };
        Chart {
            description: "rates <by> \"round\"".into(),
            x: Axis {
                label: "Round".into(),
                range: Some((1.0, 3.0)),
                whole: true,
            },
            y: Axis {
                label: "Rate, %".into(),
                range: Some((0.0, 100.0)),
                whole: false,
            },
            lines: vec![line("base", 0, 50.0), line("<DPO>", 1, 50.0)],
            size: (400.0, 300.0),
            ..Chart::default()
        }
    }

    /// The vertical position of a label's text.
    fn label_y(svg: &str, label: &str) -> f64 {
        let end = svg.find(&format!("\">{label}</text>")).unwrap();
        let start = svg[..end].rfind("y=\"").unwrap() + 3;
        svg[start..end].parse().unwrap()
    }

    #[test]
    fn equal_lines_do_not_hide_each_other() {
        let svg = inline(&chart());
        assert!((label_y(&svg, "base") - label_y(&svg, "&lt;DPO&gt;")).abs() >= LABEL_GAP);
        let lines: Vec<&str> = svg
            .match_indices("<path class=\"line\" d=\"")
            .map(|(i, m)| &svg[i + m.len()..i + m.len() + 9])
            .collect();
        assert_eq!(lines.len(), 2);
        assert_ne!(
            lines[0], lines[1],
            "the second line should be moved sideways"
        );
    }

    #[test]
    fn labels_stay_inside_the_chart() {
        let mut many = chart();
        many.lines = (0..8)
            .map(|i| Line {
                label: format!("l{i}"),
                ..many.lines[0].clone()
            })
            .collect();
        for line in &mut many.lines {
            line.points.iter_mut().for_each(|p| p.y = 0.0);
        }
        let svg = inline(&many);
        for i in 0..8 {
            assert!((20.0..=280.0).contains(&label_y(&svg, &format!("l{i}"))));
        }
    }

    #[test]
    fn text_is_escaped_and_the_chart_is_named() {
        let svg = standalone(&chart());
        assert!(svg.contains("role=\"img\" aria-label=\"rates &lt;by&gt; &quot;round&quot;\""));
        assert!(!svg.contains("<DPO>"));
        assert!(svg.contains("prefers-color-scheme"));
    }

    #[test]
    fn gaps_and_absent_values_draw_nothing_false() {
        let mut gap = chart();
        gap.lines.truncate(1);
        gap.lines[0].points[1].y = f64::NAN;
        let svg = inline(&gap);
        assert!(!svg.contains("NaN"));
        assert_eq!(svg.matches("class=\"whisker\"").count(), 2);
        let path = svg
            .split("class=\"line\" d=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        assert_eq!(
            (path.matches('M').count(), path.matches('L').count()),
            (2, 0),
            "{path}"
        );
        gap.lines.clear();
        assert!(inline(&gap).contains("no values"));
    }
}
