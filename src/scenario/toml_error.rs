//! TOML errors in words: line, column, and the nearest known key for a misspelt one; as many of a text as can be told.

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

/// Most faults of one text that are told.
const MAX_FAULTS: usize = 100;
/// What is tried in the place of a value that is missing or has another type, so that reading can go on behind it.
const STAND_INS: [&str; 7] = ["''", "[]", "[0, 0]", "0", "0.5", "false", "{}"];

/// Line and column, from 1, of a byte position. Columns count characters.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |n| n + 1);
    (line, before[start..].chars().count() + 1)
}

/// The record in a text, or all that is wrong with its shape, each as `line:column: what is wrong`.
///
/// Serde stops at the first fault. It is noted and mended in a copy, and the copy is read again: a misspelt key gets its
/// nearest name or is dropped, a value that is missing or has the wrong type gets a stand-in.
pub(super) fn decode<T: DeserializeOwned>(text: &str) -> Result<T, Vec<String>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let told = |error: &toml::de::Error| describe(text, error.message(), error.span());
        let mut faults: Vec<String> = errors.iter().take(MAX_FAULTS).map(told).collect();
        faults.sort_by_key(|fault| place_of(fault));
        return Err(faults);
    }
    let mut table = table.into_inner();
    let mut faults = Vec::new();
    // Stand-ins by their path, each with the number of the one that is there now.
    let mut mended: Vec<(Vec<String>, usize)> = Vec::new();
    while faults.len() < MAX_FAULTS {
        let whole = Spanned::new(0..0, table.clone());
        let error = match T::deserialize(Deserializer::from(whole)) {
            Ok(value) if faults.is_empty() => return Ok(value),
            Ok(_) => break,
            Err(error) => error,
        };
        let path = path_of(&error);
        let message = error.message().to_owned();
        let names = quoted(&message);
        let key = match names.first() {
            Some(key) if message.starts_with("unknown field `") => key,
            Some(key) if message.starts_with("missing field `") => {
                let inside = mended
                    .iter()
                    .any(|(stand_in, _)| path.starts_with(stand_in));
                if !inside {
                    let place = span_at(&table, &path).unwrap_or(0..0);
                    faults.push(describe(text, &message, Some(place)));
                }
                let path = [&path[..], &[(*key).to_owned()]].concat();
                if !stand_in(&mut table, &path, 0) {
                    break;
                }
                mended.push((path, 0));
                continue;
            }
            _ => {
                let known = mended.iter().position(|(stand_in, _)| *stand_in == path);
                let at = match known {
                    Some(at) => {
                        mended[at].1 += 1;
                        at
                    }
                    None => {
                        faults.push(describe(text, &message, error.span()));
                        mended.push((path, 0));
                        mended.len() - 1
                    }
                };
                let (path, number) = &mended[at];
                if !stand_in(&mut table, path, *number) {
                    break;
                }
                continue;
            }
        };
        let Some(inner) = table_at(&mut table, &path) else {
            faults.push(describe(text, &message, error.span()));
            break;
        };
        let Some((name, value)) = inner.remove_entry(*key) else {
            faults.push(describe(text, &message, error.span()));
            break;
        };
        faults.push(describe(text, &message, Some(name.span())));
        if let Some(near) = nearest(key, &names[1..])
            && !inner.contains_key(near)
        {
            inner.insert(Spanned::new(name.span(), near.to_owned().into()), value);
        }
    }
    // Keys are read in alphabetical order, faults are told in the text's.
    faults.sort_by_key(|fault| place_of(fault));
    Err(faults)
}

/// Line and column that a fault opens with.
fn place_of(fault: &str) -> (usize, usize) {
    let mut numbers = fault.split(':').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// `line:column` of the value at a dotted path such as `train.situations[2]`, or of the deepest value on the way to it.
pub(super) fn locate(text: &str, path: &str) -> Option<(usize, usize)> {
    let table = DeTable::parse(text).ok()?.into_inner();
    let keys: Vec<String> = path
        .split(['.', '[', ']'])
        .filter(|key| !key.is_empty())
        .map(str::to_owned)
        .collect();
    Some(position(text, span_at(&table, &keys)?.start))
}

/// Where the value at these keys stands, or the deepest one on the way to it.
fn span_at(table: &DeTable, keys: &[String]) -> Option<Range<usize>> {
    let (first, rest) = keys.split_first()?;
    let mut value = table.get(first.as_str())?;
    for key in rest {
        let next = match value.get_ref() {
            DeValue::Table(table) => table.get(key.as_str()),
            DeValue::Array(items) => key.parse().ok().and_then(|at: usize| items.get(at)),
            _ => None,
        };
        match next {
            Some(next) => value = next,
            None => break,
        }
    }
    Some(value.span())
}

/// The table at these keys, which do not lead through lists.
fn table_at<'a, 'i>(table: &'a mut DeTable<'i>, keys: &[String]) -> Option<&'a mut DeTable<'i>> {
    keys.iter().try_fold(table, |table, key| {
        match table.get_mut(key.as_str())?.get_mut() {
            DeValue::Table(inner) => Some(inner),
            _ => None,
        }
    })
}

/// Put this stand-in in the place at the path; false where there is none left, or no such place.
fn stand_in(table: &mut DeTable, path: &[String], number: usize) -> bool {
    let (Some((key, above)), Some(value)) = (path.split_last(), STAND_INS.get(number)) else {
        return false;
    };
    let Some(table) = table_at(table, above) else {
        return false;
    };
    let Ok(value) = DeValue::parse(value) else {
        return false;
    };
    table.insert(Spanned::new(0..0, key.clone().into()), value);
    true
}

/// The path of an error's place; the library shows it in its last line only.
fn path_of(error: &toml::de::Error) -> Vec<String> {
    let text = error.to_string();
    let last = text.trim_end().rsplit('\n').next().unwrap_or_default();
    let path = last
        .strip_prefix("in `")
        .and_then(|rest| rest.strip_suffix('`'))
        .unwrap_or_default();
    path.split('.')
        .filter(|key| !key.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The known key that is nearest to one that is not, where one is near.
fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|key| (strsim::damerau_levenshtein(unknown, key), *key))
        .min()
        .filter(|(distance, key)| *distance <= 1 + key.len().max(unknown.len()) / 3)
        .map(|(_, key)| key)
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
    let hint =
        nearest(unknown, known).map_or(String::new(), |key| format!(", did you mean `{key}`?"));
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
