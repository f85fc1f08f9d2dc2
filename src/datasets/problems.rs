//! Problem sets as Parquet.

use std::collections::BTreeSet;
use std::path::Path;

use super::{DatasetError, SCHEMA_KEY, expect_schema, expect_unique};
use crate::artifact::table::{decode_parquet_with, encode_parquet_with};
use crate::scenario::tool_use::{Difficulty, Numeric, Problem, Source, simple_criteria, split_of};

/// Version of the problem table; it changes with the columns or their meaning.
pub const PROBLEMS_SCHEMA: &str = "atp.problems/1";

/// What the columns of the problem table hold.
pub const PROBLEM_COLUMNS: &[(&str, &str)] = &[
    (
        "id",
        "`train/simple/0001`, counted from 0000 within split and difficulty",
    ),
    ("split", "training or test"),
    ("difficulty", "simple or complex"),
    (
        "family",
        "its family: the generator's name, or the topic of an imported problem",
    ),
    ("text", "the problem as it is put"),
    (
        "phrasing",
        "the text with slot names in the place of values; the text itself for imported problems",
    ),
    (
        "parameters",
        "what is computed, without names and wording: `a,b,c`. Empty for imported problems",
    ),
    (
        "answer",
        "canonical answer: an integer, a fraction `a/b`, or a decimal",
    ),
    (
        "program",
        "Python that prints the answer; only the standard library",
    ),
    (
        "steps",
        "computation steps; for complex problems a lower bound of 4",
    ),
    ("source", "where it comes from"),
];

/// The problems as a Parquet file, checked first.
///
/// # Errors
/// A problem or set that breaks a rule; see [`check`].
pub fn encode(problems: &[Problem]) -> Result<Vec<u8>, DatasetError> {
    check(problems)?;
    Ok(encode_parquet_with(
        problems,
        &[(SCHEMA_KEY, PROBLEMS_SCHEMA)],
    )?)
}

/// The problems of a Parquet file, checked.
///
/// # Errors
/// Damage, another schema, or a problem that breaks a rule.
pub fn decode(bytes: impl Into<Vec<u8>>) -> Result<Vec<Problem>, DatasetError> {
    let (problems, metadata) = decode_parquet_with(bytes)?;
    expect_schema(&metadata, PROBLEMS_SCHEMA)?;
    check(&problems)?;
    Ok(problems)
}

/// [`decode`] of a file.
///
/// # Errors
/// As [`decode`], with the path.
pub fn read(path: &Path) -> Result<Vec<Problem>, DatasetError> {
    let bytes = super::read_file(path)?;
    decode(bytes).map_err(|problem| super::in_file(path, problem))
}

/// The rules that every set of problems keeps: rows, unique ids that name split and difficulty, distinct texts, numeric
/// answers in canonical form, steps, programs where there is a text at all, and simple problems within the published
/// criteria. Generated problems have a program and stand in the split that their parameters belong to.
///
/// # Errors
/// The first breach, with its row.
pub fn check(problems: &[Problem]) -> Result<(), DatasetError> {
    expect_unique(problems.iter().map(|p| p.id.as_str()))?;
    let mut texts = BTreeSet::new();
    for (row, p) in problems.iter().enumerate() {
        let error = |field, expected, got: &str| DatasetError::Value {
            row,
            id: p.id.clone(),
            field,
            expected,
            got: got.to_owned(),
        };
        let place = format!("{}/{}/", p.split.name(), p.difficulty.name());
        let number = p.id.strip_prefix(&place);
        if !number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
            return Err(error("id", "split/difficulty/number", &p.id));
        }
        for (field, text) in [
            ("family", &p.family),
            ("text", &p.text),
            ("phrasing", &p.phrasing),
        ] {
            if text.trim().is_empty() {
                return Err(error(field, "a text", text));
            }
        }
        if !texts.insert(p.text.as_str()) {
            return Err(error("text", "a text that no other row has", &p.text));
        }
        if Numeric::parse(&p.answer).is_none_or(|n| n.to_string() != p.answer) {
            return Err(error(
                "answer",
                "an integer, a fraction `a/b` or a decimal, in canonical form",
                &p.answer,
            ));
        }
        if p.steps == 0 {
            return Err(error("steps", "at least 1", "0"));
        }
        if p.difficulty == Difficulty::Simple
            && let Err(criterion) = simple_criteria(&p.text, p.steps, &p.answer)
        {
            return Err(error("text", criterion, &p.text));
        }
        if p.program
            .as_ref()
            .is_some_and(|code| code.trim().is_empty())
        {
            return Err(error("program", "a program or none", ""));
        }
        if p.source == Source::Generated {
            if p.program.is_none() {
                return Err(error(
                    "program",
                    "a program for a generated problem",
                    "none",
                ));
            }
            if split_of(&p.family, &p.parameters) != p.split {
                return Err(error(
                    "parameters",
                    "parameters that belong to the row's split",
                    &p.parameters,
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::table::encode_parquet;
    use crate::scenario::question::Split;
    use crate::scenario::tool_use::{ProblemSpec, generate};

    fn problems() -> Vec<Problem> {
        let spec = ProblemSpec {
            train_simple: 26,
            train_complex: 20,
            test_simple: 13,
            test_complex: 20,
        };
        let set = generate(&spec, 4).unwrap();
        let mut all = [set.train, set.test].concat();
        // An imported one without a program.
        all[30].program = None;
        all[30].parameters.clear();
        all[30].source = Source::OpenThoughts;
        all
    }

    #[test]
    fn problems_come_back_as_they_were() {
        let problems = problems();
        let bytes = encode(&problems).unwrap();
        assert_eq!(bytes, encode(&problems).unwrap());
        assert_eq!(decode(bytes).unwrap(), problems);
    }

    #[test]
    fn the_default_set_fits() {
        let set = generate(&ProblemSpec::default(), 0).unwrap();
        for problems in [set.train, set.test] {
            assert_eq!(decode(encode(&problems).unwrap()).unwrap(), problems);
        }
    }

    #[test]
    fn breaches_are_named() {
        type Change = fn(&mut Problem);
        let table: &[(Change, &str)] = &[
            (|p| p.id = "train/simple/".into(), "`id`"),
            (|p| p.id = "test/simple/0099".into(), "`id`"),
            (|p| p.id = "train/simple/3x".into(), "`id`"),
            (|p| p.family = "  ".into(), "`family`: expected a text"),
            (|p| p.text.clear(), "`text`: expected a text"),
            (|p| p.answer = "042".into(), "`answer`"),
            (|p| p.answer = "many".into(), "`answer`"),
            (|p| p.answer = "6/4".into(), "`answer`"),
            (|p| p.steps = 0, "`steps`"),
            (|p| p.steps = 4, "1 to 3 computation steps"),
            (
                |p| p.text.push_str(" They weigh 1,001 grams."),
                "at most 1000",
            ),
            (|p| p.text = "word ".repeat(51), "at most 50 words"),
            (|p| p.program = Some("\n".into()), "`program`"),
            (|p| p.program = None, "`program`"),
            (
                |p| {
                    let other = (0..).map(|i| format!("{i}"));
                    let other = other
                        .into_iter()
                        .find(|i| split_of(&p.family, i) == Split::Test);
                    p.parameters = other.unwrap();
                },
                "`parameters`",
            ),
        ];
        for (change, expected) in table {
            let mut problems = problems();
            change(&mut problems[3]);
            let error = encode(&problems).unwrap_err().to_string();
            assert!(
                error.contains("row 3") && error.contains(expected),
                "{error}"
            );
        }
    }

    #[test]
    fn repeats_and_nothing_are_refused() {
        let mut problems = problems();
        problems[7].text = problems[2].text.clone();
        let error = check(&problems).unwrap_err().to_string();
        assert!(
            error.contains("row 7") && error.contains("no other row"),
            "{error}"
        );
        problems[7].id = problems[2].id.clone();
        assert!(matches!(
            check(&problems),
            Err(DatasetError::Duplicate { row: 7, .. })
        ));
        assert!(matches!(check(&[]), Err(DatasetError::Empty)));
    }

    #[test]
    fn files_are_checked_when_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.parquet");
        std::fs::write(&path, encode_parquet(&problems()).unwrap()).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(
            error.contains("test.parquet: schema: expected `atp.problems/1`, got `none`"),
            "{error}"
        );
    }
}
