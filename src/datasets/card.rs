//! Dataset cards: the `README.md` beside Parquet files, as the Hugging Face hub reads it.
//!
//! A card holds nothing but what its set was made from and what is in it, so equal sets have equal cards: no clock, no
//! path, no host.

use std::fmt::Write as _;

use serde_json::Value;

use crate::artifact::digest_bytes;
use crate::artifact::table::any::Column;

/// One Parquet file of a set.
#[derive(Debug, Clone)]
pub struct CardFile<'a> {
    /// Its name.
    pub name: &'a str,
    /// The split it is: `train` or `test`.
    pub split: &'a str,
    /// Its rows.
    pub rows: usize,
}

/// What a card says.
#[derive(Debug, Clone)]
pub struct Card<'a> {
    /// Heading.
    pub title: &'a str,
    /// An SPDX identifier in lower case, as the hub writes it; none where it depends on texts of the user's own.
    pub licence: Option<&'a str>,
    /// What licence the texts have, in a sentence.
    pub licence_words: &'a str,
    /// What the set is and how it was made: paragraphs.
    pub made: &'a [String],
    /// Its files.
    pub files: &'a [CardFile<'a>],
    /// Version of the table's schema.
    pub schema: &'a str,
    /// Its columns.
    pub columns: &'a [Column],
    /// What each column holds.
    pub meanings: &'a [(&'a str, &'a str)],
    /// Further counts: what, how many.
    pub counts: &'a [(String, usize)],
    /// Seed of the recipe.
    pub seed: u64,
    /// All settings that the set depends on.
    pub settings: &'a Value,
}

/// The hub's size category.
fn size(rows: usize) -> &'static str {
    match rows {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        _ => "100K<n<1M",
    }
}

impl Card<'_> {
    /// The card as Markdown with YAML front matter.
    pub fn to_markdown(&self) -> String {
        let mut text = String::from("---\n");
        // Writing to a string cannot fail. Titles are the program's own, but JSON strings are YAML strings anyway.
        let _ = writeln!(text, "pretty_name: {}", Value::from(self.title));
        if let Some(licence) = self.licence {
            let _ = writeln!(text, "license: {licence}");
        }
        let rows: usize = self.files.iter().map(|file| file.rows).sum();
        let _ = writeln!(text, "language:\n- en\nsize_categories:\n- {}", size(rows));
        text.push_str("configs:\n- config_name: default\n  data_files:\n");
        for file in self.files {
            let _ = writeln!(text, "  - split: {}\n    path: {}", file.split, file.name);
        }
        let _ = writeln!(text, "---\n\n# {}\n", self.title);
        for paragraph in self.made {
            let _ = writeln!(text, "{paragraph}\n");
        }
        text.push_str("| file | split | rows |\n|---|---|---|\n");
        for file in self.files {
            let _ = writeln!(text, "| `{}` | {} | {} |", file.name, file.split, file.rows);
        }
        if !self.counts.is_empty() {
            text.push_str("\n| count | |\n|---|---|\n");
            for (what, count) in self.counts {
                let _ = writeln!(text, "| {what} | {count} |");
            }
        }
        let _ = writeln!(
            text,
            "\n## Columns\n\nSchema `{}`, also in the metadata of each file.\n\n| column | type | meaning |\n|---|---|---|",
            self.schema
        );
        for column in self.columns {
            let meaning = self.meanings.iter().find(|(name, _)| *name == column.name);
            let meaning = meaning.map_or("", |(_, meaning)| meaning);
            let optional = if column.optional {
                ", may be missing"
            } else {
                ""
            };
            let _ = writeln!(
                text,
                "| `{}` | {}{optional} | {meaning} |",
                column.name, column.kind
            );
        }
        let settings = format!("{:#}", self.settings);
        let digest = digest_bytes(settings.as_bytes());
        let _ = writeln!(
            text,
            "\n## How to make it again\n\natp-pipeline {}, seed {}, and these settings of the recipe, all that the set \
             depends on (SHA-256 of this text: `{digest}`):\n\n```json\n{settings}\n```\n\n## Licence\n\n{}",
            env!("CARGO_PKG_VERSION"),
            self.seed,
            self.licence_words
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::artifact::table::any::columns_of;
    use crate::datasets::pairs::{PAIR_COLUMNS, PreferencePair};
    use crate::datasets::questions::QUESTION_COLUMNS;
    use crate::scenario::question::Question;

    #[test]
    fn every_column_has_a_meaning_and_every_meaning_a_column() {
        let names = |columns: Vec<Column>| columns.into_iter().map(|c| c.name).collect::<Vec<_>>();
        let meant = |meanings: &[(&str, &str)]| {
            assert!(meanings.iter().all(|(_, meaning)| !meaning.is_empty()));
            meanings
                .iter()
                .map(|(name, _)| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names(columns_of::<Question>().unwrap()),
            meant(QUESTION_COLUMNS)
        );
        assert_eq!(
            names(columns_of::<PreferencePair>().unwrap()),
            meant(PAIR_COLUMNS)
        );
    }

    #[test]
    fn a_card_holds_what_it_was_given() {
        let settings = json!({"n": 3});
        let columns = columns_of::<PreferencePair>().unwrap();
        let card = Card {
            title: "Pairs: \"mine\"",
            licence: Some("apache-2.0"),
            licence_words: "Apache-2.0.",
            made: &["One.".into(), "Two.".into()],
            files: &[CardFile {
                name: "pairs.parquet",
                split: "train",
                rows: 1000,
            }],
            schema: "atp.pairs/1",
            columns: &columns,
            meanings: PAIR_COLUMNS,
            counts: &[("environments".into(), 16)],
            seed: 7,
            settings: &settings,
        };
        let text = card.to_markdown();
        for part in [
            "---\npretty_name: \"Pairs: \\\"mine\\\"\"\nlicense: apache-2.0\nlanguage:\n- en\nsize_categories:\n- 1K<n<10K\n",
            "  - split: train\n    path: pairs.parquet\n---\n\n# Pairs",
            "One.\n\nTwo.\n\n",
            "| `pairs.parquet` | train | 1000 |",
            "| environments | 16 |",
            "| `attempts_chosen` | u32 | samples drawn",
            "seed 7",
            "```json\n{\n  \"n\": 3\n}\n```",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert_eq!(text, card.to_markdown());
        let none = Card {
            licence: None,
            ..card
        };
        assert!(!none.to_markdown().contains("\nlicense:"));
    }
}
