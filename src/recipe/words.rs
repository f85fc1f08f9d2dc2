//! What serde reports, in the words of someone who writes a recipe.

use super::nearest;

/// A report, reworded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reworded {
    /// What is wrong.
    pub message: String,
    /// What could stand there.
    pub help: Option<String>,
    /// The key that is not known, if that is it: its place is better than its table's.
    pub key: Option<String>,
    /// Something is not there, so that no line shows it.
    pub missing: bool,
}

/// Reword `message`, which arose at the key path `path` (empty at the top).
pub(super) fn reword(message: &str, path: &str) -> Reworded {
    let message = message.trim_end();
    let inside = match path {
        "" => String::new(),
        path => format!(" in `{path}`"),
    };
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let unknown = |what: &str, list: &str| {
        let (name, known) = quoted.split_first()?;
        let known: Vec<&str> = known.to_vec();
        let suggestion = nearest(name, &known)
            .map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
        let help = match known.as_slice() {
            [] => None,
            known => Some(format!("{list}: {}", known.join(", "))),
        };
        Some((
            format!("unknown {what} `{name}`{inside}{suggestion}"),
            help,
            name.to_string(),
        ))
    };
    let (message, help, key, missing) = if message.starts_with("unknown field `") {
        match unknown("key", "known keys") {
            Some((message, help, key)) => (message, help, Some(key), false),
            None => (message.to_string(), None, None, false),
        }
    } else if message.starts_with("unknown variant `") {
        match unknown("value", "possible values") {
            Some((message, help, _)) => (message, help, None, false),
            None => (message.to_string(), None, None, false),
        }
    } else if message.starts_with("missing field `") {
        let name = quoted.first().copied().unwrap_or_default();
        (format!("missing key `{name}`{inside}"), None, None, true)
    } else if let Some((got, expected)) = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))
        .and_then(|rest| rest.rsplit_once(", expected "))
    {
        let name = match path {
            "" => String::new(),
            path => format!("`{path}`: "),
        };
        let (expected, got) = (type_words(expected), value_words(got));
        (
            format!("{name}expected {expected}, got {got}"),
            None,
            None,
            false,
        )
    } else {
        (format!("{message}{inside}"), None, None, false)
    };
    Reworded {
        message,
        help,
        key,
        missing,
    }
}

/// A Rust type as what is written in TOML.
fn type_words(expected: &str) -> String {
    match expected {
        "f32" | "f64" => "a number".into(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of at least 0".into(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "a list".into(),
        "a map" => "a table".into(),
        other if other.starts_with("struct ") => "a table".into(),
        other if other.starts_with("a nonzero ") => "a whole number of at least 1".into(),
        other => other.into(),
    }
}

/// What serde found, as what is written in TOML.
fn value_words(got: &str) -> String {
    let number = |text: &str| text.trim_matches('`').to_string();
    if let Some(rest) = got.strip_prefix("string ") {
        format!("the text {rest}")
    } else if let Some(rest) = got.strip_prefix("integer ") {
        number(rest)
    } else if let Some(rest) = got.strip_prefix("floating point ") {
        number(rest)
    } else if let Some(rest) = got.strip_prefix("boolean ") {
        number(rest)
    } else {
        match got {
            "map" => "a table".into(),
            "sequence" => "a list".into(),
            other => other.into(),
        }
    }
}
