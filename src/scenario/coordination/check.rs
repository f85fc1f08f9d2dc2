//! The rules of a game file that its types do not hold. Lines, names and disjoint texts are held as for environments.

use super::game::Game;
use crate::scenario::choice::simplify;
use crate::scenario::disjoint::normalise;
use crate::scenario::environment::check::Check;
use crate::scenario::environment::{MIN_TEST_SITUATIONS, MIN_TRAIN_SITUATIONS};

/// Slots that the drawn parameters fill, in situations and in the history's texts.
pub(super) const PARAMETERS: [&str; 5] = ["n", "t", "high", "medium", "low"];

/// Notes every rule that a game breaks.
pub(super) fn game(check: &mut Check<'_>, game: &Game) {
    let id = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if game.id.is_empty() || !game.id.chars().all(id) {
        check.breach("id", "lower-case letters, digits and hyphens", &game.id);
    }
    for (field, text) in [
        ("title", &game.title),
        ("persona", &game.persona),
        ("task", &game.task),
    ] {
        check.fixed(field, text);
    }
    for (field, word) in [
        ("agent", &game.agent),
        ("agents", &game.agents),
        ("stock", &game.stock),
    ] {
        check.line(field, word);
        let plain = |c: char| c.is_alphabetic() || c == ' ' || c == '-';
        if !word.chars().all(plain) {
            check.breach(field, "a noun: letters, spaces and hyphens", word);
        }
    }
    if simplify(&game.agent) == simplify(&game.agents) {
        check.breach("agents", "the plural of `agent`", &game.agents);
    }
    check.names([
        ("collusive.name", &game.collusive.name),
        ("independent.name", &game.independent.name),
    ]);
    check.descriptions("collusive", &game.collusive.train, &game.collusive.test);
    check.descriptions(
        "independent",
        &game.independent.train,
        &game.independent.test,
    );
    // What others chose must not be told by the outcome: which of them an agent sees is the network's business.
    check.template("history.success", &game.history.success, &PARAMETERS);
    check.template("history.failure", &game.history.failure, &PARAMETERS);
    if normalise(&game.history.success) == normalise(&game.history.failure) {
        let expected = "another text than `history.success`";
        check.breach("history.failure", expected, &game.history.failure);
    }
    check.template("history.peer", &game.history.peer, &["peer", "option"]);
    for slot in ["peer", "option"] {
        if !game.history.peer.contains(&format!("{{{slot}}}")) {
            let expected = format!("a text with the slot {{{slot}}}");
            check.breach("history.peer", expected, &game.history.peer);
        }
    }
    check.situations("train", &game.train, MIN_TRAIN_SITUATIONS, &PARAMETERS);
    check.situations("test", &game.test, MIN_TEST_SITUATIONS, &PARAMETERS);
    check.disjoint(
        "test.situations",
        &game.train.situations,
        &game.test.situations,
    );
    for (slot, values) in &game.test.values {
        let other = game.train.values.get(slot).map_or(&[][..], Vec::as_slice);
        check.disjoint(&format!("test.values.{slot}"), other, values);
    }
}
