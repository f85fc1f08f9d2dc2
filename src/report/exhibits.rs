//! Charts of the paper's tables and figures: ours with solid lines, the paper's dashed with hollow marks.

mod games;
mod tables;

use super::Report;
use super::figures::{NARROW, WIDE};
use super::section::Figure;
use super::svg::Chart;
pub(super) use games::trace_note;

/// All of them, in the paper's order.
pub(super) fn figures(report: &Report) -> Vec<Figure> {
    let mut found = tables::table_1(report);
    found.extend(tables::table_2(report));
    found.extend(games::figure_4(report));
    found.extend(games::figure_5(report));
    found.extend(games::figure_6(report));
    found
}

fn both_sizes(file: String, caption: String, chart: impl Fn((f64, f64)) -> Chart) -> Figure {
    Figure {
        file,
        caption,
        wide: chart(WIDE),
        narrow: chart(NARROW),
    }
}

/// A number after a stem where there are several of a kind.
fn numbered(stem: &str, i: usize, several: bool) -> String {
    if several {
        format!("{stem}-{}.svg", i + 1)
    } else {
        format!("{stem}.svg")
    }
}
