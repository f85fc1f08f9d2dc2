//! Recipes of the program, found by name where there is no such file.

use std::io;
use std::path::Path;

use super::document::Text;
use super::nearest;
use crate::runtime::embedded::RECIPES;

/// A file; where there is none, and the name is that of a recipe of the program, that one. What such a one extends is one,
/// too.
pub(super) fn read_file_or_embedded(path: &Path, by_built_in: bool) -> io::Result<Text> {
    if by_built_in {
        return read_embedded(path, true);
    }
    let read = std::fs::read_to_string(path);
    match read {
        Ok(text) => Ok(Text {
            text,
            is_built_in: false,
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let known: Vec<&str> = RECIPES.iter().map(|(name, _)| *name).collect();
            if known.contains(&name.as_ref()) {
                return read_embedded(path, true);
            }
            Err(match nearest(&name, &known) {
                Some(near) => io::Error::new(
                    error.kind(),
                    format!(
                        "there is no such file, and the program has none of that name; did you mean `{near}`?"
                    ),
                ),
                None => error,
            })
        }
        Err(error) => Err(error),
    }
}

/// One of the program, by its name, with or without `.toml`.
pub(super) fn read_embedded(path: &Path, _: bool) -> io::Result<Text> {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = file.strip_suffix(".toml").unwrap_or(&file);
    let found = RECIPES.iter().find(|(name, _)| *name == stem);
    let text = |(_, text): &(&str, &str)| Text {
        text: (*text).to_owned(),
        is_built_in: true,
    };
    found
        .map(text)
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}
