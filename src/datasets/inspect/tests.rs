//! Figures that can be counted by hand, and how they are printed.

use std::path::Path;

use super::*;
use crate::scenario::environment::load_environments;
use crate::scenario::role_play::{QuestionSpec, generate};

fn set() -> Vec<Question> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/role_play");
    let environments = load_environments(&folder).unwrap();
    generate(&environments, &QuestionSpec::default(), 5)
        .unwrap()
        .test
}

fn find<'a>(sections: &'a [Section], title: &str) -> &'a Section {
    let found = sections.iter().find(|s| s.title.starts_with(title));
    found.unwrap_or_else(|| panic!("no {title}"))
}

#[test]
fn questions_are_counted() {
    let mut set = set();
    let sections = questions(&set, Unit::Words).unwrap();
    let counts = find(&sections, "counts");
    assert_eq!(counts.rows.len(), 16);
    assert!(
        counts
            .rows
            .iter()
            .all(|row| row[0] == "test" && row[2] == 4)
    );
    let balance = find(&sections, "balance");
    assert_eq!(balance.rows.len(), 4);
    assert!(balance.rows.iter().all(|row| row[3] == 16), "{balance}");
    assert_eq!(json!(find(&sections, "repeats").rows), json!([[64, 64]]));
    // A copy, and a copy with one word exchanged.
    let original = set[7].clone();
    set[20].situation = original.situation.to_uppercase();
    let words: Vec<&str> = original.situation.split(' ').collect();
    set[30].situation = [&words[..words.len() - 1], &["else"]].concat().join(" ");
    let sections = questions(&set, Unit::Words).unwrap();
    assert_eq!(json!(find(&sections, "repeats").rows), json!([[64, 63]]));
    let nearest = find(&sections, "nearest");
    assert_eq!(nearest.rows[0][0], 1.0);
    assert_eq!(nearest.rows[0][1], set[7].id.as_str());
    assert_eq!(nearest.rows[0][2], set[20].id.as_str());
    let near: Vec<bool> = nearest.rows[1..]
        .iter()
        .map(|row| row[2] == set[30].id.as_str())
        .collect();
    assert_eq!(near, [true, true], "{nearest}");
    let lengths = find(&sections, "lengths in words");
    assert_eq!(lengths.rows.len(), 3);
    let situations: Vec<usize> = set
        .iter()
        .map(|q| q.situation.split_whitespace().count())
        .collect();
    assert_eq!(lengths.rows[2][2], *situations.iter().min().unwrap());
    assert_eq!(lengths.rows[2][6], *situations.iter().max().unwrap());
}

#[test]
fn pairs_are_counted() {
    let pair = |i: u32, chosen: &str, rejected: &str| PreferencePair {
        id: format!("p{i}"),
        question_id: format!("p{i}"),
        environment: "x".into(),
        system: "one two".into(),
        user: format!("Number {i} of these prompts that are all alike"),
        chosen: chosen.into(),
        rejected: rejected.into(),
        tool_results: false,
        chosen_source: AnswerSource::Sampled,
        rejected_source: if i == 0 {
            AnswerSource::Template
        } else {
            AnswerSource::Sampled
        },
        attempts_chosen: 1,
        attempts_rejected: 1 + i,
    };
    let set = [
        pair(0, "a b c", "a"),
        pair(1, "a b", "c d"),
        pair(2, "a b", "a b c"),
        pair(3, "a b", "d"),
    ];
    let sections = pairs(&set, Unit::Words).unwrap();
    let rows = |title: &str| json!(find(&sections, title).rows);
    assert_eq!(rows("counts"), json!([["x", 4]]));
    assert_eq!(
        rows("sources"),
        json!([["sampled", "sampled", 3], ["sampled", "template", 1]])
    );
    assert_eq!(
        rows("attempts"),
        json!([[1, 4, 1], [2, 0, 1], [3, 0, 1], [4, 0, 1]])
    );
    assert_eq!(rows("distinct answers"), json!([[2, 4]]));
    assert_eq!(rows("length bias"), json!([[0.5, 0.25, 0.25, 0.5]]));
    assert_eq!(
        rows("lengths in words"),
        json!([
            ["prompt", 4, 11, 11, 11.0, 11, 11],
            ["chosen", 4, 2, 2, 2.25, 3, 3],
            ["rejected", 4, 1, 1, 1.75, 3, 3]
        ])
    );
}

#[test]
fn tables_are_aligned() {
    let mut section = Section::new("title", &["name", "count", "share"]);
    assert_eq!(section.to_string(), "title\n  none\n");
    section.rows = vec![
        vec!["é".into(), 5.into(), Value::Null],
        vec!["longer".into(), 1000.into(), 0.5.into()],
    ];
    let expected =
        "title\n  name    count  share\n  é           5      –\n  longer   1000  0.500\n";
    assert_eq!(section.to_string(), expected);
    assert_eq!(
        json!(section),
        json!({"title": "title", "rows": [
            {"name": "é", "count": 5, "share": null},
            {"name": "longer", "count": 1000, "share": 0.5}
        ]})
    );
}
