//! TOML errors in words: file, line, column, and the nearest known key for a misspelt one.

use std::ops::Range;

/// Line and column, from 1, of a byte position. Columns count characters.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |n| n + 1);
    (line, before[start..].chars().count() + 1)
}

/// The texts between backticks.
fn quoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

/// `line:column: what is wrong`, from the parser's message and place.
pub(super) fn describe(text: &str, message: &str, span: Option<Range<usize>>) -> String {
    let place = span.map_or(String::new(), |span| {
        let (line, column) = position(text, span.start);
        format!("{line}:{column}: ")
    });
    let message = message.trim().replace('\n', " ");
    if !message.starts_with("unknown field") {
        return format!("{place}{message}");
    }
    let names = quoted(&message);
    let Some((unknown, known)) = names.split_first() else {
        return format!("{place}{message}");
    };
    let nearest = known
        .iter()
        .map(|key| (strsim::damerau_levenshtein(unknown, key), *key))
        .min()
        .filter(|(distance, key)| *distance <= 1 + key.len().max(unknown.len()) / 3);
    let hint = nearest.map_or(String::new(), |(_, key)| format!(", did you mean `{key}`?"));
    format!(
        "{place}unknown key `{unknown}`{hint} (known here: {})",
        known.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_from_one() {
        assert_eq!(position("ab\nécd", 0), (1, 1));
        assert_eq!(position("ab\nécd", 5), (2, 2));
        assert_eq!(position("ab\n", 99), (2, 1));
    }

    #[test]
    fn a_near_key_is_suggested_and_a_far_one_not() {
        let near = describe(
            "x",
            "unknown field `titel`, expected one of `id`, `title`",
            Some(0..1),
        );
        assert_eq!(
            near,
            "1:1: unknown key `titel`, did you mean `title`? (known here: id, title)"
        );
        let far = describe(
            "x",
            "unknown field `weight`, expected `id` or `title`",
            None,
        );
        assert_eq!(far, "unknown key `weight` (known here: id, title)");
        assert_eq!(
            describe("x", "missing field `id`", Some(0..0)),
            "1:1: missing field `id`"
        );
    }
}
