//! Every value of a recipe with the place it comes from.

use std::fmt;

use serde::Serialize;

use super::raw::TESTBED_TABLES;
use super::{Document, Recipe, RecipeError};
use crate::scenario::Testbed;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum Origin {
    /// Nowhere: the program's own value.
    Default,
    /// In a file, or on the command line.
    Written {
        /// The file, or `--set`.
        source: String,
        /// Its line, from 1.
        line: usize,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Written { source, line: _ } if source == "--set" => f.write_str(source),
            Self::Written { source, line } => write!(f, "{source}:{line}"),
        }
    }
}

/// One value of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// Its key, dotted, as `--set` takes it.
    pub key: String,
    /// What it is, as TOML.
    pub value: toml::Value,
    /// Where it comes from.
    #[serde(flatten)]
    pub origin: Origin,
}

/// All values of a recipe in the order of its resolved text.
///
/// # Errors
/// As [`Recipe::load`].
pub fn explain(which: &str, assignments: &[String]) -> Result<Vec<Setting>, RecipeError> {
    let (document, ..) = Recipe::document(which, assignments)?;
    let recipe = Recipe::load(which, assignments)?;
    let table: toml::Table = toml::from_str(&recipe.text).unwrap_or_default();
    let mut settings = vec![];
    flatten(
        &toml::Value::Table(table),
        String::new(),
        &mut |key, value| {
            let origin = origin(&document, &key);
            settings.push(Setting { key, value, origin });
        },
    );
    Ok(settings)
}

/// The leaves of a value with their dotted keys; lists are leaves.
fn flatten(value: &toml::Value, key: String, visit: &mut impl FnMut(String, toml::Value)) {
    match value {
        toml::Value::Table(table) if !table.is_empty() => {
            for (name, inner) in table {
                let key = match key.as_str() {
                    "" => name.clone(),
                    key => format!("{key}.{name}"),
                };
                flatten(inner, key, visit);
            }
        }
        leaf => visit(key, leaf.clone()),
    }
}

/// Where the value of a key was written. A testbed's own table lies over the one of that name at the top.
fn origin(document: &Document, key: &str) -> Origin {
    let at_top = key.split_once('.').and_then(|(section, rest)| {
        let table = rest.split('.').next()?;
        let is_section = Testbed::ALL.iter().any(|t| t.key() == section);
        (is_section && TESTBED_TABLES.contains(&table)).then_some(rest)
    });
    [Some(key), at_top]
        .into_iter()
        .flatten()
        .find_map(|key| document.written_at(key))
        .map_or(Origin::Default, |(source, line)| Origin::Written {
            source,
            line,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        let text =
            "extends = \"laptop\"\n[grpo]\ngroup = 6\n[coordination.grpo.optim]\nlr = 3e-6\n";
        std::fs::write(&path, text).unwrap();
        let which = path.to_str().unwrap();
        let set = [
            "evaluation.rounds=2".to_owned(),
            "testbeds=[\"coordination\"]".to_owned(),
        ];
        let all = explain(which, &set).unwrap();
        let of = |key: &str| {
            let found = all.iter().find(|setting| setting.key == key);
            let found = found.unwrap_or_else(|| panic!("{key}: {all:?}"));
            (found.value.to_string(), found.origin.to_string())
        };
        assert_eq!(of("grpo.group"), ("6".into(), format!("{which}:3")));
        assert_eq!(of("coordination.grpo.optim.lr").1, format!("{which}:5"));
        // What the testbed has from the top is said to come from there.
        assert_eq!(of("coordination.grpo.group").1, format!("{which}:3"));
        assert_eq!(of("evaluation.rounds"), ("2".into(), "--set".into()));
        assert_eq!(of("dpo.beta").1, "default");
        assert!(
            of("dpo.optim.lr").1.ends_with("laptop:24"),
            "{:?}",
            of("dpo.optim.lr")
        );
        assert!(all.len() > 50, "{}", all.len());
    }
}
