//! A part of the report about one testbed: sentences, charts, tables, and its numbers as CSV. Made once; each format
//! lays it out.

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

/// One testbed's part.
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
    /// File name and text of the numbers behind it.
    pub(super) csv: (&'static str, String),
}
