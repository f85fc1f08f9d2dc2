//! Texts with slots in braces, as in `{amount} parcels for {place}`.

use std::collections::BTreeMap;

/// A text, cut into its literal parts and slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// As it stands.
    Text(&'a str),
    /// To be filled.
    Slot(&'a str),
}

/// The pieces of a text, or what is wrong with its braces.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find(['{', '}']) {
        let (before, after) = rest.split_at(open);
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        let Some(inner) = after.strip_prefix('{') else {
            return Err("a `}` without its `{`".to_owned());
        };
        let Some(close) = inner.find('}') else {
            return Err("a `{` without its `}`".to_owned());
        };
        let name = &inner[..close];
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            return Err(format!("`{{{name}}}`, where a slot has lower-case letters"));
        }
        pieces.push(Piece::Slot(name));
        rest = &inner[close + 1..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    Ok(pieces)
}

/// The names of the slots, each once, in order of appearance.
pub(super) fn names<'a>(pieces: &[Piece<'a>]) -> Vec<&'a str> {
    let mut names = Vec::new();
    for piece in pieces {
        if let Piece::Slot(name) = piece
            && !names.contains(name)
        {
            names.push(*name);
        }
    }
    names
}

/// The text with its slots filled, or the name of a slot without a value. A value at the very beginning gets a capital.
pub(super) fn fill(
    pieces: &[Piece<'_>],
    values: &BTreeMap<&str, String>,
) -> Result<String, String> {
    let mut filled = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => filled.push_str(text),
            Piece::Slot(name) => {
                filled.push_str(values.get(name).ok_or_else(|| (*name).to_owned())?)
            }
        }
    }
    let mut chars = filled.chars();
    Ok(match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => filled,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str, values: &[(&'static str, &str)]) -> Result<String, String> {
        let values = values.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        fill(&pieces(text)?, &values)
    }

    #[test]
    fn slots_are_filled() {
        let text = "{place} needs {amount} boxes, {amount} today.";
        assert_eq!(names(&pieces(text).unwrap()), ["place", "amount"]);
        let values = [("place", "the harbour"), ("amount", "3")];
        assert_eq!(
            filled(text, &values).unwrap(),
            "The harbour needs 3 boxes, 3 today."
        );
        assert_eq!(filled("", &[]).unwrap(), "");
        assert_eq!(filled("{day}", &[]), Err("day".to_owned()));
    }

    #[test]
    fn values_are_not_read_again() {
        assert_eq!(filled("x {a}", &[("a", "{b}")]).unwrap(), "X {b}");
    }

    #[test]
    fn broken_braces() {
        for text in ["{", "}", "a {b", "a b}", "{}", "{A}", "{a b}", "{{a}}"] {
            assert!(pieces(text).is_err(), "{text}");
        }
    }
}
