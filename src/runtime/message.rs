//! An error and its causes as one message; paths as text.

use std::path::Path;

use serde::Serializer;

/// A path in JSON, which has no bytes: what is no UTF-8 in its name is told as near as a text comes.
pub fn as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// The same of a path that may be missing.
pub fn as_text_if_there<S: Serializer>(
    path: &Option<impl AsRef<Path>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => as_text(path.as_ref(), serializer),
        None => serializer.serialize_none(),
    }
}

/// The error and its causes from the outside in, joined by colons. Many errors name their cause already: a cause that
/// the text so far contains is not said again.
pub fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read `a`: {source}")]
    struct Names {
        source: std::io::Error,
    }

    #[test]
    fn a_cause_is_said_once() {
        let source = std::io::Error::other("disk on fire");
        let error = anyhow::Error::new(Names { source }).context("stage `data` failed");
        assert_eq!(
            message(&error),
            "stage `data` failed: cannot read `a`: disk on fire"
        );
        let error = anyhow::anyhow!("inner").context("outer");
        assert_eq!(message(&error), "outer: inner");
    }
}
