//! A part of the report, about a testbed or a question: sentences, charts, tables, and its numbers as CSV. Made once;
//! each format lays it out.

use super::narrative::Paragraph;
use super::svg::Chart;
use super::tables::Table;

/// A chart of a section, drawn once for wide and once for narrow pages.
pub(super) struct Figure {
    /// File name of the standalone SVG.
    pub(super) file: String,
    /// What it shows.
    pub(super) caption: String,
    /// The chart in a size.
    pub(super) wide: Chart,
    /// The same for a narrow page.
    pub(super) narrow: Chart,
}

/// One part.
pub(super) struct Section {
    /// Anchor in the page.
    pub(super) id: &'static str,
    /// Heading.
    pub(super) title: &'static str,
    /// What was found, in words.
    pub(super) paragraphs: Vec<Paragraph>,
    /// Charts.
    pub(super) figures: Vec<Figure>,
    /// Tables.
    pub(super) tables: Vec<Table>,
    /// File names and texts of the numbers behind it.
    pub(super) csv: Vec<(&'static str, String)>,
    /// Its paragraphs belong to the summary that a terminal shows.
    pub(super) in_summary: bool,
}
