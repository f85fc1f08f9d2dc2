//! Preference pairs as Parquet: a prompt, an answer to prefer, an answer to reject, and where both came from.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{DatasetError, SCHEMA_KEY, expect_schema, expect_unique};
use crate::artifact::table::{decode_parquet_with, encode_parquet_with};
use crate::text::{Message, Speaker};

/// Version of the pair table; it changes with the columns or their meaning.
pub const PAIRS_SCHEMA: &str = "atp.pairs/2";

/// What the columns of the pair table hold.
pub const PAIR_COLUMNS: &[(&str, &str)] = &[
    ("id", "unique in its set"),
    ("question_id", "the training question"),
    ("environment", "which environment it was drawn from"),
    ("system", "the system turn"),
    (
        "user",
        "the user turn, without the line that steered the samples",
    ),
    ("chosen", "the compliant answer"),
    ("rejected", "the deviant answer"),
    (
        "tool_results",
        "the answers hold results that a tool put in, in `<result>` blocks; a loss leaves those out",
    ),
    (
        "chosen_source",
        "`sampled`: the model wrote it; `template`: the canonical answer stands in",
    ),
    ("rejected_source", "the same of the deviant answer"),
    ("attempts_chosen", "samples drawn for the compliant answer"),
    ("attempts_rejected", "samples drawn for the deviant answer"),
];

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerSource {
    /// The model wrote it.
    Sampled,
    /// The model did not write one; the canonical answer stands in.
    Template,
}

/// One preference pair. The prompt is the training prompt, without the line that steered the samples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreferencePair {
    /// Unique in its set.
    pub id: String,
    /// The question.
    pub question_id: String,
    /// The question's environment.
    pub environment: String,
    /// System turn.
    pub system: String,
    /// User turn.
    pub user: String,
    /// The compliant answer.
    pub chosen: String,
    /// The deviant answer.
    pub rejected: String,
    /// The answers hold results that a tool put in; a loss leaves those out.
    pub tool_results: bool,
    /// Where the compliant answer came from.
    pub chosen_source: AnswerSource,
    /// Where the deviant answer came from.
    pub rejected_source: AnswerSource,
    /// Samples drawn for the compliant answer.
    pub attempts_chosen: u32,
    /// Samples drawn for the deviant answer.
    pub attempts_rejected: u32,
}

impl PreferencePair {
    /// The prompt as a conversation.
    pub fn messages(&self) -> Vec<Message> {
        vec![
            Message::new(Speaker::System, self.system.clone()),
            Message::new(Speaker::User, self.user.clone()),
        ]
    }
}

/// The pairs as a Parquet file, checked first.
///
/// # Errors
/// A pair or set that breaks a rule; see [`check`].
pub fn encode(pairs: &[PreferencePair]) -> Result<Vec<u8>, DatasetError> {
    check(pairs)?;
    Ok(encode_parquet_with(pairs, &[(SCHEMA_KEY, PAIRS_SCHEMA)])?)
}

/// The pairs of a Parquet file, checked.
///
/// # Errors
/// Damage, another schema, or a pair that breaks a rule.
pub fn decode(bytes: impl Into<Vec<u8>>) -> Result<Vec<PreferencePair>, DatasetError> {
    let (pairs, metadata) = decode_parquet_with(bytes)?;
    expect_schema(&metadata, PAIRS_SCHEMA)?;
    check(&pairs)?;
    Ok(pairs)
}

/// [`decode`] of a file.
///
/// # Errors
/// As [`decode`], with the path.
pub fn read(path: &Path) -> Result<Vec<PreferencePair>, DatasetError> {
    let bytes = super::read_file(path)?;
    decode(bytes).map_err(|problem| super::in_file(path, problem))
}

/// The rules that every set of pairs keeps: rows, unique ids, whole texts, two different answers, and at least one
/// sample drawn for an answer that the model wrote.
///
/// # Errors
/// The first breach, with its row.
pub fn check(pairs: &[PreferencePair]) -> Result<(), DatasetError> {
    expect_unique(pairs.iter().map(|pair| pair.id.as_str()))?;
    for (row, pair) in pairs.iter().enumerate() {
        let error = |field, expected, got: &str| DatasetError::Value {
            row,
            id: pair.id.clone(),
            field,
            expected,
            got: got.to_owned(),
        };
        for (field, text) in [
            ("id", &pair.id),
            ("question_id", &pair.question_id),
            ("environment", &pair.environment),
            ("system", &pair.system),
            ("user", &pair.user),
            ("chosen", &pair.chosen),
            ("rejected", &pair.rejected),
        ] {
            if text.trim().is_empty() {
                return Err(error(field, "a text", text));
            }
        }
        if pair.chosen == pair.rejected {
            return Err(error(
                "rejected",
                "another text than `chosen`",
                &pair.rejected,
            ));
        }
        for (field, source, attempts) in [
            ("attempts_chosen", pair.chosen_source, pair.attempts_chosen),
            (
                "attempts_rejected",
                pair.rejected_source,
                pair.attempts_rejected,
            ),
        ] {
            if source == AnswerSource::Sampled && attempts == 0 {
                return Err(error(field, "at least 1 for a sampled answer", "0"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs() -> Vec<PreferencePair> {
        (0..6)
            .map(|i| PreferencePair {
                id: format!("pair/bakery/{i:02}"),
                question_id: format!("train/bakery/{i:02}"),
                environment: "bakery".into(),
                system: "You are a baker.".into(),
                user: format!("Question {i}\nwith two lines"),
                chosen: "I keep the rule. {\"choice\": \"A\"}".into(),
                rejected: "{\"choice\": \"B\"}".into(),
                tool_results: false,
                chosen_source: AnswerSource::Sampled,
                rejected_source: if i % 2 == 0 {
                    AnswerSource::Template
                } else {
                    AnswerSource::Sampled
                },
                attempts_chosen: i + 1,
                attempts_rejected: 5,
            })
            .collect()
    }

    #[test]
    fn pairs_come_back_as_they_were() {
        let bytes = encode(&pairs()).unwrap();
        assert_eq!(decode(bytes).unwrap(), pairs());
        let messages = pairs()[2].messages();
        assert_eq!(
            messages[0],
            Message::new(Speaker::System, "You are a baker.")
        );
        assert_eq!(
            messages[1],
            Message::new(Speaker::User, "Question 2\nwith two lines")
        );
    }

    #[test]
    fn breaches_are_named() {
        type Change = fn(&mut PreferencePair);
        let table: &[(Change, &str)] = &[
            (|p| p.chosen.clear(), "`chosen`: expected a text"),
            (
                |p| p.rejected = p.chosen.clone(),
                "`rejected`: expected another text",
            ),
            (|p| p.attempts_chosen = 0, "`attempts_chosen`"),
            (|p| p.id = "pair/bakery/00".into(), "is there twice"),
        ];
        for (change, expected) in table {
            let mut pairs = pairs();
            change(&mut pairs[3]);
            let error = encode(&pairs).unwrap_err().to_string();
            assert!(
                error.contains("row 3") && error.contains(expected),
                "{error}"
            );
        }
        assert!(matches!(encode(&[]), Err(DatasetError::Empty)));
    }

    #[test]
    fn another_table_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs.parquet");
        let bytes = encode_parquet_with(&pairs(), &[(SCHEMA_KEY, "atp.pairs/0")]).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(
            error.contains("pairs.parquet: schema: expected `atp.pairs/2`, got `atp.pairs/0`"),
            "{error}"
        );
    }
}
