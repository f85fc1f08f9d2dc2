//! Scenario files whatever their kind: told apart by their keys, checked, shown, begun.
//!
//! A kind is a type with [`ScenarioKind`] and an entry in [`KINDS`]. A file does not say its kind: it is the one whose
//! keys it has most of, so that a misspelt key does not hide it.

mod coordination;
mod role_play;

use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use toml::de::DeTable;

use super::defence::Defence;
use super::defence::augmentation::Augmentation;
use super::question::AnswerForm;
use super::toml_error;
use crate::text::Message;

/// All kinds of scenario files.
pub static KINDS: &[&dyn ScenarioKind] =
    &[&role_play::RolePlayKind, &coordination::CoordinationKind];

/// A kind of scenario file.
pub trait ScenarioKind: Sync {
    /// Its name, for example `role-play`.
    fn name(&self) -> &'static str;

    /// What one file of it is called, for example `environment`.
    fn noun(&self) -> &'static str;

    /// The keys at the top of its files.
    fn keys(&self) -> &'static [&'static str];

    /// The files that come with the program: name and text.
    fn embedded(&self) -> &'static [(&'static str, &'static str)];

    /// Check a file's text; a word on what is in it.
    ///
    /// # Errors
    /// Everything that is wrong, each with the path, and with line and column where there are any.
    fn check(&self, path: &Path, text: &str) -> Result<String, Vec<String>>;

    /// Check files that are valid one by one as a set; a word on what can be made of them.
    ///
    /// # Errors
    /// Why no questions can be drawn from them.
    fn check_set(&self, files: &[(&Path, &str)]) -> Result<String, String>;

    /// A valid file's content and sample prompts.
    ///
    /// # Errors
    /// As [`ScenarioKind::check`].
    fn show(
        &self,
        path: &Path,
        text: &str,
        options: &ShowOptions,
    ) -> Result<ScenarioSheet, Vec<String>>;

    /// A commented file to begin with, valid as it is, for a scenario of this name.
    fn skeleton(&self, name: &str) -> String;
}

/// How sample prompts are made.
#[derive(Debug, Clone)]
pub struct ShowOptions {
    /// Root of the random streams.
    pub seed: u64,
    /// What answers hold.
    pub answer: AnswerForm,
    /// Show the test prompt after simulated rounds under this defence.
    pub defence: Option<Defence>,
}

/// Rounds before a prompt that shows a defence: half of the choices break the rule, give or take.
const SHOWN_HISTORY: Augmentation = Augmentation {
    copies: 1,
    rounds: [4, 4],
    deviant: 0.5,
};

/// What there is to see of a scenario.
#[derive(Debug, Clone, Serialize)]
pub struct ScenarioSheet {
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub id: String,
    /// Its heading.
    pub title: String,
    /// Lines to read: a label and a text.
    #[serde(skip)]
    pub lines: Vec<(&'static str, String)>,
    /// The whole file as data.
    pub scenario: Value,
    /// Prompts drawn from it.
    pub prompts: Vec<SamplePrompt>,
}

/// A prompt as a model gets it, before its chat template.
#[derive(Debug, Clone, Serialize)]
pub struct SamplePrompt {
    /// The question or instance.
    pub id: String,
    /// Its turns.
    pub messages: Vec<Message>,
    /// Answers that are read as a choice, in listed order.
    pub answers: Vec<String>,
}

/// The kind of a file.
///
/// # Errors
/// What is wrong with the TOML, or that no kind has such keys; each with the path.
pub fn recognise(path: &Path, text: &str) -> Result<&'static dyn ScenarioKind, Vec<String>> {
    let shown = path.display();
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let told = |error: &toml::de::Error| {
            let what = toml_error::describe(text, error.message(), error.span());
            format!("{shown}:{what}")
        };
        return Err(errors.iter().map(told).collect());
    }
    let table = table.get_ref();
    let shared = |kind: &&dyn ScenarioKind| {
        let keys = kind.keys().iter();
        keys.filter(|key| table.contains_key(**key)).count()
    };
    let mut best: Option<(usize, &'static dyn ScenarioKind)> = None;
    for kind in KINDS {
        let count = shared(kind);
        // One key alone, such as a title, other files may have too.
        if count > best.map_or(1, |(most, _)| most) {
            best = Some((count, *kind));
        }
    }
    best.map(|(_, kind)| kind).ok_or_else(|| {
        let known: Vec<String> = KINDS
            .iter()
            .map(|kind| format!("a {} has {}", kind.noun(), kind.keys().join(", ")))
            .collect();
        vec![format!(
            "{shown}: no scenario: fewer than two of its keys are a scenario's; {}",
            known.join("; ")
        )]
    })
}

/// The kind of this name.
pub fn named(name: &str) -> Option<&'static dyn ScenarioKind> {
    KINDS.iter().copied().find(|kind| kind.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_known_by_most_of_its_keys() {
        let kind = |text: &str| recognise(Path::new("x.toml"), text).map(|kind| kind.name());
        assert_eq!(
            kind("persona = 'a'\nrule = 'b'\nfoo = 3").unwrap(),
            "role-play"
        );
        let error = kind("title = 'a'\n[models.a]\nsource = 'b'").unwrap_err();
        assert!(error[0].starts_with("x.toml: no scenario"), "{error:?}");
        assert!(error[0].contains("persona"), "{error:?}");
        let error = kind("a = 1\nb = [1,\nc = 2").unwrap_err();
        assert!(error[0].starts_with("x.toml:"), "{error:?}");
        assert!(kind("").is_err());
    }

    #[test]
    fn every_kind_keeps_its_promises() {
        for kind in KINDS {
            assert_eq!(named(kind.name()).map(|k| k.name()), Some(kind.name()));
            let mut files: Vec<(String, String)> = kind
                .embedded()
                .iter()
                .map(|(name, text)| (format!("{name}.toml"), (*text).to_owned()))
                .collect();
            assert!(!files.is_empty());
            files.push(("mine-2.toml".into(), kind.skeleton("mine-2")));
            let options = ShowOptions {
                seed: 1,
                answer: AnswerForm::Letter,
                defence: None,
            };
            for (name, text) in &files {
                let path = Path::new(name);
                assert_eq!(recognise(path, text).unwrap().name(), kind.name());
                kind.check(path, text).unwrap();
                let sheet = kind.show(path, text, &options).unwrap();
                assert_eq!(format!("{}.toml", sheet.id), *name);
                assert!(!sheet.prompts.is_empty());
            }
            let set: Vec<(&Path, &str)> = files
                .iter()
                .map(|(name, text)| (Path::new(name), text.as_str()))
                .collect();
            kind.check_set(&set).unwrap();
        }
    }
}
