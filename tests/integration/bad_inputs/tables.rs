//! Tables that are not what a command needs.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use atp_pipeline::artifact::table::any::read_any;
use atp_pipeline::artifact::table::{decode_parquet, encode_parquet, encode_parquet_with};
use atp_pipeline::datasets::SCHEMA_KEY;
use atp_pipeline::datasets::pairs::{AnswerSource, PAIRS_SCHEMA, PreferencePair};
use serde::{Deserialize, Serialize};

use super::{Row, row, spoilt, typed};

fn pair(id: &str) -> PreferencePair {
    PreferencePair {
        id: id.into(),
        question_id: "q".into(),
        environment: "bakery".into(),
        system: "s".into(),
        user: "u".into(),
        chosen: "a".into(),
        rejected: "b".into(),
        tool_results: false,
        chosen_source: AnswerSource::Sampled,
        rejected_source: AnswerSource::Sampled,
        attempts_chosen: 1,
        attempts_rejected: 1,
    }
}

/// These bytes are exported as a table for TRL.
fn exported(folder: &Path, bytes: &[u8]) -> Vec<String> {
    fs::write(folder.join("bad.parquet"), bytes).expect("a file");
    typed(&[
        "data",
        "export",
        "bad.parquet",
        "--format",
        "trl",
        "--out",
        "out.jsonl",
    ])
}

/// Rows under the name of the pairs' schema.
fn as_pairs<T: Serialize + for<'a> Deserialize<'a>>(rows: &[T]) -> Vec<u8> {
    encode_parquet_with(rows, &[(SCHEMA_KEY, PAIRS_SCHEMA)]).expect("a table")
}

#[derive(Serialize, Deserialize)]
struct Short {
    id: String,
}

/// Pairs whose `chosen` may be missing.
#[derive(Serialize, Deserialize)]
struct Holed {
    id: String,
    question_id: String,
    environment: String,
    system: String,
    user: String,
    chosen: Option<String>,
    rejected: String,
    tool_results: bool,
    chosen_source: AnswerSource,
    rejected_source: AnswerSource,
    attempts_chosen: u32,
    attempts_rejected: u32,
}

/// Pairs whose `attempts_chosen` is a text.
#[derive(Serialize, Deserialize)]
struct Mistyped {
    id: String,
    question_id: String,
    environment: String,
    system: String,
    user: String,
    chosen: String,
    rejected: String,
    tool_results: bool,
    chosen_source: AnswerSource,
    rejected_source: AnswerSource,
    attempts_chosen: String,
    attempts_rejected: u32,
}

fn holed() -> Holed {
    let p = pair("a");
    Holed {
        id: p.id,
        question_id: p.question_id,
        environment: p.environment,
        system: p.system,
        user: p.user,
        chosen: None,
        rejected: p.rejected,
        tool_results: false,
        chosen_source: p.chosen_source,
        rejected_source: p.rejected_source,
        attempts_chosen: 1,
        attempts_rejected: 1,
    }
}

fn mistyped() -> Mistyped {
    let p = pair("a");
    Mistyped {
        id: p.id,
        question_id: p.question_id,
        environment: p.environment,
        system: p.system,
        user: p.user,
        chosen: p.chosen,
        rejected: p.rejected,
        tool_results: false,
        chosen_source: p.chosen_source,
        rejected_source: p.rejected_source,
        attempts_chosen: "many".into(),
        attempts_rejected: 1,
    }
}

/// The rows.
pub fn rows() -> Vec<Row> {
    vec![
        row(
            "file that is not there",
            |_| typed(&["data", "inspect", "nothing.parquet"]),
            &["table nothing.parquet: cannot read: No such file"],
        ),
        row(
            "empty file",
            |folder| exported(folder, b""),
            &[
                "table bad.parquet: not a readable Parquet file",
                "make it again",
            ],
        ),
        row(
            "text",
            |folder| exported(folder, b"id,chosen\n1,2\n"),
            &["table bad.parquet: not a readable Parquet file"],
        ),
        row(
            "cut",
            |folder| {
                let bytes = as_pairs(&[pair("a")]);
                exported(folder, &bytes[..bytes.len() - 9])
            },
            &[
                "table bad.parquet: not a readable Parquet file",
                "it may be truncated",
            ],
        ),
        row(
            "table of something else",
            |folder| {
                exported(
                    folder,
                    &encode_parquet(&[Short { id: "a".into() }]).expect("a table"),
                )
            },
            &[
                "bad.parquet: expected questions or preference pairs",
                "got another table",
                "--format jsonl writes any",
            ],
        ),
        row(
            "pairs without their columns",
            |folder| exported(folder, &as_pairs(&[Short { id: "a".into() }])),
            &[
                "bad.parquet: column `question_id` is missing (expected ",
                "; the file has: id",
            ],
        ),
        row(
            "column of another type",
            |folder| exported(folder, &as_pairs(&[mistyped()])),
            &["bad.parquet: column `attempts_chosen`: expected UInt32, got "],
        ),
        row(
            "nulls",
            |folder| exported(folder, &as_pairs(&[holed(), holed()])),
            &["bad.parquet: column `chosen`: 2 of 2 values are missing, none may be"],
        ),
        row(
            "no rows",
            |folder| exported(folder, &as_pairs::<PreferencePair>(&[])),
            &["bad.parquet: ", "no rows"],
        ),
        row(
            "two rows of one id",
            |folder| exported(folder, &as_pairs(&[pair("a"), pair("a")])),
            &["bad.parquet: row 1: id `a` is there twice"],
        ),
        row(
            "a row without an answer",
            |folder| {
                let empty = PreferencePair {
                    rejected: String::new(),
                    ..pair("a")
                };
                exported(folder, &as_pairs(&[empty]))
            },
            &["bad.parquet: row 0 (`a`): `rejected`: expected "],
        ),
    ]
}

#[test]
fn no_spoilt_table_makes_a_reader_fail_otherwise_than_by_an_error() {
    let pairs: Vec<PreferencePair> = (0..40).map(|i| pair(&format!("id-{i}"))).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("spoilt.parquet");
    for bytes in spoilt(&as_pairs(&pairs), 2000, "parquet") {
        fs::write(&path, &bytes).expect("a file");
        let read = catch_unwind(|| {
            let _ = decode_parquet::<PreferencePair>(bytes);
            let _ = read_any(&path);
        });
        assert!(read.is_ok());
    }
}
