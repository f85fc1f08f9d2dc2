//! The rules of a game file that its types do not hold. Lines, names and disjoint texts are held as for environments.

use std::collections::BTreeSet;
use std::path::Path;

use super::game::Game;
use crate::scenario::choice::simplify;
use crate::scenario::disjoint::normalise;
use crate::scenario::environment::check::{Check, Checked};
use crate::scenario::environment::{MIN_TEST_SITUATIONS, MIN_TRAIN_SITUATIONS, Situations};
use crate::scenario::slots::{names, pieces};

/// Slots that the drawn parameters fill, in situations and in the history's texts.
pub(super) const PARAMETERS: [&str; 5] = ["n", "t", "high", "medium", "low"];

/// The id is the name of the file.
pub(super) fn file_name(path: &Path, id: &str) -> Checked {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    if stem != id {
        return Err(Check { path }.error("id", "the file's name without `.toml`", id));
    }
    Ok(())
}

/// All rules of one game.
pub(super) fn game(path: &Path, game: &Game) -> Checked {
    let check = Check { path };
    let id = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if game.id.is_empty() || !game.id.chars().all(id) {
        return Err(check.error("id", "lower-case letters, digits and hyphens", &game.id));
    }
    for (field, text) in [
        ("title", &game.title),
        ("persona", &game.persona),
        ("task", &game.task),
    ] {
        check.fixed(field, text)?;
    }
    for (field, word) in [
        ("agent", &game.agent),
        ("agents", &game.agents),
        ("stock", &game.stock),
    ] {
        check.line(field, word)?;
        let plain = |c: char| c.is_alphabetic() || c == ' ' || c == '-';
        if !word.chars().all(plain) {
            return Err(check.error(field, "a noun: letters, spaces and hyphens", word));
        }
    }
    if simplify(&game.agent) == simplify(&game.agents) {
        return Err(check.error("agents", "the plural of `agent`", &game.agents));
    }
    check.names([
        ("collusive.name", &game.collusive.name),
        ("independent.name", &game.independent.name),
    ])?;
    check.descriptions("collusive", &game.collusive.train, &game.collusive.test)?;
    check.descriptions(
        "independent",
        &game.independent.train,
        &game.independent.test,
    )?;
    // What others chose must not be told by the outcome: which of them an agent sees is the network's business.
    check.template("history.success", &game.history.success, &PARAMETERS)?;
    check.template("history.failure", &game.history.failure, &PARAMETERS)?;
    if normalise(&game.history.success) == normalise(&game.history.failure) {
        let expected = "another text than `history.success`";
        return Err(check.error("history.failure", expected, &game.history.failure));
    }
    check.template("history.peer", &game.history.peer, &["peer", "option"])?;
    for slot in ["peer", "option"] {
        if !game.history.peer.contains(&format!("{{{slot}}}")) {
            let expected = format!("a text with the slot {{{slot}}}");
            return Err(check.error("history.peer", expected, &game.history.peer));
        }
    }
    situations(&check, "train", &game.train, MIN_TRAIN_SITUATIONS)?;
    situations(&check, "test", &game.test, MIN_TEST_SITUATIONS)?;
    check.disjoint("situations", &game.train.situations, &game.test.situations)?;
    for (slot, values) in &game.test.values {
        let other = game.train.values.get(slot).map_or(&[][..], Vec::as_slice);
        check.disjoint(&format!("values.{slot}"), other, values)?;
    }
    Ok(())
}

fn situations(check: &Check<'_>, split: &str, texts: &Situations, fewest: usize) -> Checked {
    let field = format!("{split}.situations");
    if texts.situations.len() < fewest {
        let expected = format!("at least {fewest} texts");
        return Err(check.error(&field, expected, texts.situations.len()));
    }
    let slots: Vec<&str> = PARAMETERS
        .into_iter()
        .chain(texts.values.keys().map(String::as_str))
        .collect();
    let mut used = BTreeSet::new();
    for text in &texts.situations {
        check.template(&field, text, &slots)?;
        used.extend(names(&pieces(text).unwrap_or_default()));
    }
    check.distinct(&field, &texts.situations)?;
    for (slot, values) in &texts.values {
        let field = format!("{split}.values.{slot}");
        if PARAMETERS.contains(&slot.as_str()) {
            let expected = format!(
                "another slot than {}, which are drawn",
                PARAMETERS.join(", ")
            );
            return Err(check.error(&field, expected, slot));
        }
        if !used.contains(slot.as_str()) {
            return Err(check.error(&field, "a slot that a situation uses", slot));
        }
        if values.is_empty() {
            return Err(check.error(&field, "at least one value", "[]"));
        }
        values
            .iter()
            .try_for_each(|value| check.fixed(&field, value))?;
        check.distinct(&field, values)?;
    }
    Ok(())
}
