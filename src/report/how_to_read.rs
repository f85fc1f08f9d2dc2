//! "How to read this": a page for who has not read the paper, part of every report.

use super::narrative::{Kind, Paragraph};
use super::section::Section;

/// Entries: a line with the term, then `: ` and what it says, parted by empty lines.
const TEXT: &str = include_str!("how_to_read.md");

/// The section.
pub(super) fn section() -> Section {
    let entries = TEXT.split("\n\n").filter_map(|entry| {
        let (term, text) = entry.trim().split_once("\n: ")?;
        Some(Paragraph {
            kind: Kind::Finding,
            lead: term.into(),
            text: text.into(),
        })
    });
    Section {
        id: "how-to-read",
        title: "How to read this",
        paragraphs: entries.collect(),
        figures: vec![],
        tables: vec![],
        csv: vec![],
        in_summary: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_has_a_term_and_a_text() {
        let section = section();
        assert_eq!(section.paragraphs.len(), TEXT.matches("\n: ").count());
        assert!(section.paragraphs.len() > 10);
        for entry in &section.paragraphs {
            assert!(
                entry.lead.ends_with('.') && !entry.lead.contains('\n'),
                "{}",
                entry.lead
            );
            assert!(!entry.text.contains('\n'), "{}", entry.text);
        }
        let all: String = section.paragraphs.iter().map(|p| p.text.as_str()).collect();
        for word in [
            "tipped",
            "95 of 100",
            "Cannot tell",
            "half-life",
            "supervisor",
        ] {
            assert!(all.contains(word), "{word}");
        }
    }
}
