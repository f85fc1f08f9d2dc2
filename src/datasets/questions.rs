//! Question sets as Parquet.

use std::collections::BTreeSet;
use std::path::Path;

use super::{DatasetError, SCHEMA_KEY, expect_schema, expect_unique};
use crate::artifact::table::{decode_parquet_with, encode_parquet_with};
use crate::scenario::Role;
use crate::scenario::choice::parse_choice;
use crate::scenario::disjoint::normalise;
use crate::scenario::question::{LABELS, Question, option_answers};

/// Version of the question table; it changes with the columns or their meaning.
pub const QUESTIONS_SCHEMA: &str = "atp.questions/1";

/// What the columns of the question table hold.
pub const QUESTION_COLUMNS: &[(&str, &str)] = &[
    ("id", "split, environment and a number within both"),
    ("split", "`train` or `test`"),
    ("environment", "which environment it was drawn from"),
    ("phrasing", "which situation text of the split, from 0"),
    ("phrasing_text", "that text, slot names in braces"),
    ("system", "persona and task: the system turn"),
    ("situation", "the situation text with its slots filled"),
    ("rule", "what the supervisor asks"),
    (
        "compliant_name",
        "short name of the option that keeps the rule",
    ),
    ("compliant_description", "what it consists in"),
    ("compliant_label", "its letter, `A` or `B`"),
    ("compliant_pay", "its pay, in units"),
    (
        "deviant_name",
        "short name of the option that breaks the rule",
    ),
    ("deviant_description", "what it consists in"),
    ("deviant_label", "its letter"),
    (
        "deviant_pay",
        "its pay where it is not seen: more than the compliant pay",
    ),
    (
        "detected_pay",
        "its pay where it is seen: less than the compliant pay",
    ),
    (
        "compliant_first",
        "the compliant option stands first in the prompt",
    ),
    ("answer", "what the JSON answer holds, `letter` or `name`"),
    ("unit", "what pay is counted in"),
    (
        "supervised_text",
        "the prompt's sentence where it says that the supervisor watches",
    ),
    (
        "unsupervised_text",
        "the same where it says that nobody watches",
    ),
    ("neutral_text", "the same where it says nothing about it"),
    (
        "compliant_outcome",
        "the history's words for a compliant round",
    ),
    (
        "deviant_outcome",
        "the same for a deviant round that was not seen",
    ),
    (
        "detected_outcome",
        "the same for a deviant round that was seen",
    ),
];

/// The questions as a Parquet file, checked first.
///
/// # Errors
/// A question or set that breaks a rule; see [`check`].
pub fn encode(questions: &[Question]) -> Result<Vec<u8>, DatasetError> {
    check(questions)?;
    Ok(encode_parquet_with(
        questions,
        &[(SCHEMA_KEY, QUESTIONS_SCHEMA)],
    )?)
}

/// The questions of a Parquet file, checked.
///
/// # Errors
/// Damage, another schema, or a question that breaks a rule.
pub fn decode(bytes: impl Into<Vec<u8>>) -> Result<Vec<Question>, DatasetError> {
    let (questions, metadata) = decode_parquet_with(bytes)?;
    expect_schema(&metadata, QUESTIONS_SCHEMA)?;
    check(&questions)?;
    Ok(questions)
}

/// [`decode`] of a file.
///
/// # Errors
/// As [`decode`], with the path.
pub fn read(path: &Path) -> Result<Vec<Question>, DatasetError> {
    let bytes = super::read_file(path)?;
    decode(bytes).map_err(|problem| super::in_file(path, problem))
}

/// The rules that every set of questions keeps: rows, unique ids, distinct situations, whole texts, labels `A` and `B`,
/// detected < compliant < deviant pay, and canonical answers that the parser reads as what they stand for.
///
/// # Errors
/// The first breach, with its row.
pub fn check(questions: &[Question]) -> Result<(), DatasetError> {
    expect_unique(questions.iter().map(|q| q.id.as_str()))?;
    let mut situations = BTreeSet::new();
    for (row, q) in questions.iter().enumerate() {
        let error = |field, expected, got: &str| DatasetError::Value {
            row,
            id: q.id.clone(),
            field,
            expected,
            got: got.to_owned(),
        };
        let place = format!("{}/{}/", q.split.name(), q.environment);
        if q.environment.is_empty() || !q.id.starts_with(&place) {
            return Err(error("id", "split/environment/number", &q.id));
        }
        for (field, text) in [
            ("system", &q.system),
            ("situation", &q.situation),
            ("phrasing_text", &q.phrasing_text),
            ("rule", &q.rule),
            ("compliant_name", &q.compliant_name),
            ("compliant_description", &q.compliant_description),
            ("deviant_name", &q.deviant_name),
            ("deviant_description", &q.deviant_description),
            ("unit", &q.unit),
            ("supervised_text", &q.supervised_text),
            ("unsupervised_text", &q.unsupervised_text),
            ("neutral_text", &q.neutral_text),
            ("compliant_outcome", &q.compliant_outcome),
            ("deviant_outcome", &q.deviant_outcome),
            ("detected_outcome", &q.detected_outcome),
        ] {
            if text.trim().is_empty() {
                return Err(error(field, "a text", text));
            }
        }
        if !situations.insert(normalise(&q.situation)) {
            return Err(error(
                "situation",
                "a situation that no other row has",
                &q.situation,
            ));
        }
        let labels = [q.label(Role::Compliant), q.label(Role::Deviant)];
        if labels != LABELS && labels != [LABELS[1], LABELS[0]] {
            return Err(error(
                "compliant_label, deviant_label",
                "`A` and `B`, each once",
                &labels.join(", "),
            ));
        }
        if !(q.detected_pay < q.compliant_pay && q.compliant_pay < q.deviant_pay) {
            let got = format!(
                "{} < {} < {}",
                q.detected_pay, q.compliant_pay, q.deviant_pay
            );
            return Err(error(
                "compliant_pay",
                "detected < compliant < deviant pay",
                &got,
            ));
        }
        let options = q.choice_options();
        for (role, answer) in option_answers(q) {
            let standard = serde_json::from_str::<serde_json::Value>(&answer).is_ok();
            if !standard || parse_choice(&answer, &options).role() != Some(role) {
                return Err(error(
                    "compliant_name, deviant_name",
                    "names that an answer can hold",
                    &answer,
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
    use crate::scenario::environment::load_environments;
    use crate::scenario::question::AnswerForm;
    use crate::scenario::role_play::{QuestionSpec, generate};

    fn questions() -> Vec<Question> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/role_play");
        let set = generate(
            &load_environments(&folder).unwrap(),
            &QuestionSpec::default(),
            4,
        )
        .unwrap();
        [set.train, set.test].concat()
    }

    #[test]
    fn questions_come_back_as_they_were() {
        let questions = questions();
        let bytes = encode(&questions).unwrap();
        assert_eq!(bytes, encode(&questions).unwrap());
        assert_eq!(decode(bytes).unwrap(), questions);
    }

    #[test]
    fn breaches_are_named() {
        type Change = fn(&mut Question);
        let table: &[(Change, &str)] = &[
            (|q| q.id = "train/other/01".into(), "`id`"),
            (|q| q.rule = "  ".into(), "`rule`: expected a text"),
            (
                |q| q.compliant_label = q.deviant_label.clone(),
                "`compliant_label, deviant_label`",
            ),
            (|q| q.deviant_label = "C".into(), "each once"),
            (|q| q.deviant_pay = q.compliant_pay, "`compliant_pay`"),
            (|q| q.detected_pay = q.compliant_pay, "`compliant_pay`"),
            (
                |q| {
                    q.answer = AnswerForm::Name;
                    q.deviant_name = q.compliant_name.to_uppercase();
                },
                "names that an answer can hold",
            ),
            (
                |q| {
                    q.answer = AnswerForm::Name;
                    q.deviant_name = "say \"yes\"".into();
                },
                "names that an answer can hold",
            ),
        ];
        for (change, expected) in table {
            let mut questions = questions();
            change(&mut questions[3]);
            let error = encode(&questions).unwrap_err().to_string();
            assert!(
                error.contains("row 3") && error.contains(expected),
                "{error}"
            );
        }
    }

    #[test]
    fn repeats_and_nothing_are_refused() {
        let mut questions = questions();
        questions[7].id = questions[2].id.clone();
        assert!(matches!(
            check(&questions),
            Err(DatasetError::Duplicate { row: 7, .. })
        ));
        questions[7].id = questions[7].id.clone() + "x";
        questions[7].situation = questions[2].situation.to_uppercase();
        assert!(
            check(&questions)
                .unwrap_err()
                .to_string()
                .contains("no other row")
        );
        assert!(matches!(check(&[]), Err(DatasetError::Empty)));
    }

    #[test]
    fn files_are_checked_when_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.parquet");
        assert!(
            read(&path)
                .unwrap_err()
                .to_string()
                .contains("train.parquet")
        );
        let mut questions = questions();
        // Without a schema version, and with a breach that only the reader can find.
        std::fs::write(&path, encode_parquet(&questions).unwrap()).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(
            error.contains("train.parquet: schema: expected `atp.questions/1`, got `none`"),
            "{error}"
        );
        questions[0].unit.clear();
        let bytes = encode_parquet_with(&questions, &[(SCHEMA_KEY, QUESTIONS_SCHEMA)]).unwrap();
        std::fs::write(&path, bytes).unwrap();
        assert!(
            read(&path)
                .unwrap_err()
                .to_string()
                .contains("`unit`: expected a text")
        );
    }
}
