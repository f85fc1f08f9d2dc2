//! Texts that are too long, strange, or not what a command reads.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use atp_pipeline::artifact::table::{decode_parquet, encode_parquet};
use atp_pipeline::evaluation::row::EvalRow;
use atp_pipeline::scenario::choice::{ChoiceOption, NoChoice, Parsed, parse_choice};
use atp_pipeline::scenario::tool_use::answer::extract;
use atp_pipeline::scenario::tool_use::call::{calls, result_block, segments};
use atp_pipeline::scenario::{Outcome, Role};
use atp_pipeline::text::TextCodec;
use serde_json::json;

use super::{Row, Taken, row, typed};
use crate::support::fixture;

/// Lines to score by the model of the workplace.
fn scored(folder: &Path, lines: &str) -> Vec<String> {
    fs::write(folder.join("in.jsonl"), lines).expect("a file");
    typed(&[
        "score",
        "--model",
        "model",
        "--in",
        "in.jsonl",
        "--out",
        "out.jsonl",
    ])
}

/// A scenario file to check.
fn scenario(folder: &Path, change: impl Fn(String) -> String) -> Vec<String> {
    let text = fs::read_to_string(folder.join("environments/bakery.toml")).expect("a file");
    fs::write(folder.join("environments/bakery.toml"), change(text)).expect("a file");
    typed(&["run", "random.toml", "--dry-run"])
}

/// The rows.
pub fn rows() -> Vec<Row> {
    vec![
        row(
            "prompt longer than the context",
            |_| {
                typed(&[
                    "sample",
                    "--model",
                    "model",
                    "--max-new-tokens",
                    "4",
                    &"word ".repeat(20_000),
                ])
            },
            &[
                "prompt of ",
                " tokens and 4 new ones exceed the model's context of 8192",
            ],
        ),
        row(
            "more new tokens than the context",
            |_| {
                typed(&[
                    "sample",
                    "--model",
                    "model",
                    "--max-new-tokens",
                    "9000",
                    "hello",
                ])
            },
            &["and 9000 new ones exceed the model's context of 8192"],
        ),
        row(
            "zero new tokens",
            |_| {
                typed(&[
                    "sample",
                    "--model",
                    "model",
                    "--max-new-tokens",
                    "0",
                    "hello",
                ])
            },
            &["--max-new-tokens: expected 1 or more, got 0"],
        ),
        row(
            "line to score that is no JSON",
            |folder| {
                scored(
                    folder,
                    "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \n",
                )
            },
            &[
                "in.jsonl:2: expected {\"prompt\": \"…\", \"completion\": \"…\"} or {\"input_ids\": […]}, got {\"prompt\":",
            ],
        ),
        row(
            "no lines to score",
            |folder| scored(folder, "\n\n"),
            &["in.jsonl: nothing to score: the file has no lines"],
        ),
        row(
            "line to score that is no UTF-8",
            |folder| {
                let arguments = scored(folder, "");
                fs::write(folder.join("in.jsonl"), b"{\"prompt\": \"\xff\"}\n").expect("a file");
                arguments
            },
            &["in.jsonl:1: ", "UTF-8"],
        ),
        row(
            "token beyond the vocabulary",
            |folder| scored(folder, "{\"input_ids\": [1, 4000000]}\n"),
            &["in.jsonl:1: token 4000000: the model knows 0 to 484"],
        ),
        row(
            "text to score longer than the context",
            |folder| {
                scored(
                    folder,
                    &format!("{}\n", json!({"input_ids": vec![1; 9000]})),
                )
            },
            &["in.jsonl:1: 9000 tokens exceed the model's context of 8192"],
        ),
        row(
            "environment with an unknown key",
            |folder| scenario(folder, |text| format!("persna = \"x\"\n{text}")),
            &["environments/bakery.toml:1:1: unknown key `persna`"],
        ),
        row(
            "environment that is cut",
            |folder| scenario(folder, |text| text[..text.len() / 2].to_owned()),
            &["environments/bakery.toml:"],
        ),
        row(
            "environment without a rule",
            |folder| {
                scenario(folder, |text| {
                    text.lines()
                        .filter(|l| !l.starts_with("rule"))
                        .map(|l| format!("{l}\n"))
                        .collect()
                })
            },
            &["environments/bakery.toml:", "`rule`"],
        ),
        row(
            "scenario that is none",
            |folder| {
                fs::write(folder.join("x.toml"), "a = 1\n").expect("a file");
                typed(&["scenario", "check", "x.toml"])
            },
            &["1 problem found"],
        ),
    ]
}

/// Inputs that are taken.
pub fn taken() -> Vec<Taken> {
    vec![
        Taken {
            input: "answer full of control characters",
            gets: "read as any other: no choice, no number, no call; the row keeps its text byte for byte",
        },
        Taken {
            input: "answer of 1 MB of one token (letters, digits, braces, brackets, tags, quotes, …)",
            gets: "read in less than two seconds by each parser; no choice",
        },
        Taken {
            input: "prompt of 1 MB of one character, to the tokenizer",
            gets: "encoded in less than twenty seconds",
        },
    ]
}

fn options() -> [ChoiceOption; 2] {
    [(Role::Compliant, "A"), (Role::Deviant, "B")].map(|(role, label)| ChoiceOption {
        role,
        label: label.into(),
        name: format!("option {label}"),
    })
}

#[test]
fn control_characters_are_text_as_any_other() {
    let all: String = (0..0xa0)
        .filter_map(char::from_u32)
        .chain(['\u{202e}', '\u{feff}', '\u{10ffff}'])
        .collect();
    assert_eq!(
        parse_choice(&all, &options()),
        Parsed::Invalid(NoChoice::NoAnswer)
    );
    assert!(calls(&all, false).is_empty());
    let _ = extract(&all);
    // Around an answer, they change nothing about it; in a label, it is another.
    let answer = format!("{all}\n{{\"choice\": \"A\"}}{}", '\u{7}');
    assert_eq!(
        parse_choice(&answer, &options()).role(),
        Some(Role::Compliant)
    );
    let other = "{\"choice\": \"A\u{8}B\"}";
    assert_eq!(
        parse_choice(other, &options()),
        Parsed::Invalid(NoChoice::UnknownOption)
    );
    let row = EvalRow {
        model: "m".into(),
        variant: "base".into(),
        defence: "none".into(),
        seed: 1,
        round: 1,
        question_id: "q".into(),
        environment: "e".into(),
        sample: 0,
        outcome: Outcome::Invalid,
        supervised: true,
        detected: false,
        vetoed: false,
        choice: None,
        deviant_probability: None,
        payoff: None,
        compliant_first: true,
        compliant_label: "A".into(),
        text: all,
        finish: "stop".into(),
        prompt_tokens: 1,
        completion_tokens: 1,
        error: None,
    };
    let bytes = encode_parquet(std::slice::from_ref(&row)).expect("a table");
    assert_eq!(decode_parquet::<EvalRow>(bytes).expect("rows"), [row]);
}

#[test]
fn a_megabyte_of_one_token_is_read_in_time() {
    let limit = Duration::from_secs(2);
    for token in [
        "a",
        " ",
        "9",
        "9,",
        "0.",
        "-",
        "(",
        "{",
        "}",
        "[",
        "{[",
        "\"",
        "'",
        "\\",
        "<",
        "<tool>",
        "</tool>",
        "<think>",
        "</think>",
        "<result>\n",
        "{\"choice\":",
        "{\"choice\": \"A\"}",
        "{'choice': ",
        "\\boxed{",
        "\\frac{1}",
        "1/",
        "answer is ",
        "&lt;",
        "\n",
        "\u{0}",
        "é",
        "\u{1f600}",
    ] {
        let text = token.repeat((1 << 20) / token.len());
        let begin = Instant::now();
        let _ = parse_choice(&text, &options());
        let choice = begin.elapsed();
        let _ = extract(&text);
        let number = begin.elapsed();
        let _ = (
            calls(&text, false),
            calls(&text, true),
            segments(&text, false),
            result_block(&text, 1 << 16),
        );
        let all = begin.elapsed();
        assert!(choice < limit, "{token:?}: choice {choice:?}");
        assert!(
            number - choice < limit,
            "{token:?}: number {:?}",
            number - choice
        );
        assert!(all - number < limit, "{token:?}: calls {:?}", all - number);
    }
}

#[test]
fn a_megabyte_of_one_character_is_encoded_in_time() {
    let codec = TextCodec::from_dir(fixture("text/directory")).expect("a tokenizer");
    for token in ["a", " ", "9", "<", "é"] {
        let text = token.repeat((1 << 20) / token.len());
        let begin = Instant::now();
        let ids = codec.tokenizer().encode(&text).expect("ids");
        assert!(!ids.is_empty());
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "{token:?}: {:?}",
            begin.elapsed()
        );
    }
}
