//! Which decisions a reader can browse: the same questions followed over all rounds, and answers that went wrong.
//!
//! The choice looks at names only, never at outcomes, so the browsable decisions are no hand-picked ones.

use std::collections::BTreeSet;

use super::Report;
use crate::evaluation::row::EvalRow;
use crate::scenario::Outcome;

/// Questions followed a variant.
const QUESTIONS: usize = 6;
/// Invalid and failed decisions shown a variant, each.
const WRONG: usize = 5;
/// Characters shown of one text.
const CHARACTERS: usize = 700;

/// The browsable decisions of one variant.
pub(super) struct Samples<'a> {
    /// Model.
    pub(super) model: &'a str,
    /// Variant.
    pub(super) variant: &'a str,
    /// Question by question, each over its rounds.
    pub(super) followed: Vec<(&'a str, Vec<&'a EvalRow>)>,
    /// The first invalid decisions.
    pub(super) invalid: Vec<&'a EvalRow>,
    /// The first failed ones.
    pub(super) failed: Vec<&'a EvalRow>,
}

/// Browsable decisions of every variant, in the report's order.
pub(super) fn samples(report: &Report) -> Vec<Samples<'_>> {
    report
        .variants
        .iter()
        .map(|variant| {
            let mut rows: Vec<&EvalRow> = report
                .inputs
                .rows
                .iter()
                .filter(|row| row.model == variant.model && row.variant == variant.variant)
                .collect();
            rows.sort_by_key(|row| (row.seed, row.sample, row.round, &row.question_id));
            let of = |outcome| {
                rows.iter()
                    .copied()
                    .filter(|r| r.outcome == outcome)
                    .take(WRONG)
                    .collect()
            };
            Samples {
                model: &variant.model,
                variant: &variant.variant,
                followed: spread(&rows)
                    .into_iter()
                    .map(|question| {
                        let same = |row: &&EvalRow| {
                            (row.seed, row.sample) == (rows[0].seed, rows[0].sample)
                        };
                        (
                            question,
                            rows.iter()
                                .copied()
                                .filter(|r| r.question_id == question)
                                .filter(same)
                                .collect(),
                        )
                    })
                    .collect(),
                invalid: of(Outcome::Invalid),
                failed: of(Outcome::Failed),
            }
        })
        .collect()
}

/// Up to [`QUESTIONS`] questions of the first seed and sample, evenly spread over the sorted names.
fn spread<'a>(rows: &[&'a EvalRow]) -> Vec<&'a str> {
    let Some(first) = rows.first() else {
        return Vec::new();
    };
    let names: BTreeSet<&str> = rows
        .iter()
        .filter(|row| (row.seed, row.sample) == (first.seed, first.sample))
        .map(|row| row.question_id.as_str())
        .collect();
    let names: Vec<&str> = names.into_iter().collect();
    let shown = names.len().min(QUESTIONS);
    (0..shown).map(|i| names[i * names.len() / shown]).collect()
}

/// The text of a decision, cut to a readable length; says how much was cut.
pub(super) fn shown_text(row: &EvalRow) -> String {
    let text = match (&row.error, row.text.trim()) {
        (Some(error), "") => return format!("error: {error}"),
        (None, "") => return "(no text)".into(),
        (_, text) => text,
    };
    let length = text.chars().count();
    if length <= CHARACTERS {
        return text.into();
    }
    let head: String = text.chars().take(CHARACTERS).collect();
    format!("{head} … ({} more characters)", length - CHARACTERS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::simulation::{report, simulated};

    #[test]
    fn the_same_questions_are_followed_through_every_round() {
        let report = report();
        let found = samples(&report);
        assert_eq!(found.len(), 3);
        for variant in &found {
            assert_eq!(variant.followed.len(), QUESTIONS);
            assert!(
                variant
                    .followed
                    .iter()
                    .all(|(_, rows)| rows.iter().map(|r| r.round).eq(1..=6))
            );
        }
        let questions = |i: usize| found[i].followed.iter().map(|f| f.0).collect::<Vec<_>>();
        assert_eq!(questions(0), questions(2));
        assert_eq!(found[0].failed.len(), 1);
        assert!(shown_text(found[0].failed[0]).contains("longer than the context"));
    }

    #[test]
    fn long_texts_are_cut_between_characters_and_say_so() {
        let mut row = simulated().rows.remove(0);
        row.text = "é".repeat(1000);
        assert!(shown_text(&row).ends_with("é … (300 more characters)"));
        row.text = " \n".into();
        assert_eq!(shown_text(&row), "(no text)");
    }
}
