//! The recipe file: TOML with inheritance and command-line overrides, checked to the last key.
//!
//! A [`Document`] gathers the sources of a recipe: the files it `extends`, itself, and `--set` assignments. It decodes
//! into any serde type; whatever is wrong is said with the place it came from, the line, and the nearest known key.

mod built_in;
pub mod defences;
mod document;
mod error;
pub mod explain;
mod merge;
pub mod plan;
pub mod raw;
mod served;
mod trained;
mod words;

pub use document::{Document, EXTENDS, parse_toml};
pub use error::{Invalid, RecipeError};
pub use plan::Recipe;

/// The candidate that `name` is most likely a slip of, if one is near enough.
pub fn nearest<S: AsRef<str>>(name: &str, candidates: &[S]) -> Option<String> {
    let fold = |text: &str| text.to_lowercase().replace('-', "_");
    let name = fold(name);
    candidates
        .iter()
        .map(AsRef::as_ref)
        .map(|known| (strsim::damerau_levenshtein(&name, &fold(known)), known))
        .filter(|(distance, known)| *distance <= (name.len().max(known.len()) / 3).max(1))
        .min()
        .map(|(_, known)| known.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_key_and_a_stranger_does_not() {
        let known = ["learning_rate", "lr", "epochs", "beta"];
        let near = |name| nearest(name, &known);
        assert_eq!(near("learnign_rate").as_deref(), Some("learning_rate"));
        assert_eq!(near("Learning-Rate").as_deref(), Some("learning_rate"));
        assert_eq!(near("epoch").as_deref(), Some("epochs"));
        assert_eq!(near("temperature"), None);
        assert_eq!(nearest("x", &[] as &[&str]), None);
    }
}
