//! `defences` and `[defence.NAME]`: from what a recipe writes to measures under names.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::raw::{RawRecipe, Variant};
use super::{Document, RecipeError, nearest};
use crate::scenario::Testbed;
use crate::scenario::defence::record::{Hiding, Redaction};
use crate::scenario::defence::{BUILT_IN, Defence, NONE};

/// One entry of the list.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum DefenceEntry {
    /// A table of the recipe, or one that is built in.
    Named(String),
    /// Described on the spot.
    Inline(Box<Defence>),
}

impl<'de> Deserialize<'de> for DefenceEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl<'de> Visitor<'de> for Written {
            type Value = DefenceEntry;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the name of a defence, or its measures as in `{ window = 1 }`")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<DefenceEntry, E> {
                Ok(DefenceEntry::Named(name.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<DefenceEntry, A::Error> {
                let measures = Defence::deserialize(MapAccessDeserializer::new(map))?;
                Ok(DefenceEntry::Inline(Box::new(measures)))
            }
        }

        deserializer.deserialize_any(Written)
    }
}

/// A defence under its name.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedDefence {
    /// As tables and stages call it; [`NONE`] for none.
    pub name: String,
    /// Its measures.
    pub defence: Defence,
}

impl NamedDefence {
    /// No defence.
    pub fn none() -> Self {
        Self {
            name: NONE.to_owned(),
            defence: Defence::default(),
        }
    }

    /// Whether an agent of this variant can be tried under it.
    pub fn is_for(&self, variant: Variant) -> bool {
        variant != Variant::Base || !self.defence.needs_training()
    }
}

/// The defences of a recipe in their order, checked.
pub(super) fn resolve(
    document: &Document,
    settings: &RawRecipe,
) -> Result<Vec<NamedDefence>, RecipeError> {
    let fail = |path: &str, message: String| Err(document.error_at(path, message));
    for (name, defence) in &settings.defence {
        let place = format!("defence.{name}");
        check_name(document, &place, name)?;
        check_measures(document, &place, defence)?;
    }
    let mut found: Vec<NamedDefence> = vec![];
    for (i, entry) in settings.defences.iter().enumerate() {
        let place = format!("defences.{i}");
        let named = match entry {
            DefenceEntry::Named(name) => match lookup(name, &settings.defence) {
                Ok(defence) => NamedDefence {
                    name: name.clone(),
                    defence,
                },
                Err(message) => return fail(&place, message),
            },
            DefenceEntry::Inline(defence) => {
                check_measures(document, &place, defence)?;
                NamedDefence {
                    name: short_name(defence),
                    defence: (**defence).clone(),
                }
            }
        };
        if found.iter().any(|other| other.name == named.name) {
            let message = format!(
                "two defences are called `{}`; give one a name of its own with a table `[defence.NAME]`",
                named.name
            );
            return fail(&place, message);
        }
        check_use(document, &place, &named, settings)?;
        found.push(named);
    }
    if !found.iter().any(|named| named.name == NONE) {
        let message =
            "expected `none` among them: every defence is compared with it, decision by decision";
        return fail("defences", message.to_owned());
    }
    Ok(found)
}

/// A defence as a command line gives it: the name of a built-in one, or its measures as an inline table.
///
/// # Errors
/// What is wrong with it.
pub fn defence_of(text: &str) -> Result<Defence, RecipeError> {
    /// A recipe of one key.
    #[derive(Deserialize)]
    struct Given {
        defence: DefenceEntry,
    }
    let mut document = Document::from_text(std::path::Path::new("--defence"), "")?;
    document.set(&format!("defence={text}"))?;
    let defence = match document.decode::<Given>()?.defence {
        DefenceEntry::Named(name) => lookup(&name, &BTreeMap::new())
            .map_err(|message| document.error_at("defence", message))?,
        DefenceEntry::Inline(measures) => *measures,
    };
    match defence.is_none() {
        true => Ok(defence),
        false => check_measures(&document, "defence", &defence).map(|()| defence),
    }
}

/// The defence of a name, or what is wrong with the name.
fn lookup(name: &str, tables: &BTreeMap<String, Defence>) -> Result<Defence, String> {
    if let Some(defence) = tables.get(name) {
        return Ok(defence.clone());
    }
    if let Some(defence) = Defence::built_in(name) {
        return Ok(defence);
    }
    let own = tables.keys().map(String::as_str);
    let known: Vec<&str> = [NONE].into_iter().chain(BUILT_IN).chain(own).collect();
    let help = match nearest(name, &known) {
        Some(near) => format!(", did you mean `{near}`?"),
        None => format!(
            "; built in are {}; describe others in a table `[defence.{name}]`",
            BUILT_IN.join(", ")
        ),
    };
    Err(format!("unknown defence `{name}`{help}"))
}

fn check_name(document: &Document, place: &str, name: &str) -> Result<(), RecipeError> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let message = if name == NONE {
        format!("`{NONE}` stands for no defence; give the table another name")
    } else if name.is_empty() || !name.chars().all(fine) {
        format!("expected a name of letters, digits, `-`, `_`, got `{name}`")
    } else {
        return Ok(());
    };
    Err(document.error_at(place, message))
}

fn check_measures(document: &Document, place: &str, defence: &Defence) -> Result<(), RecipeError> {
    if defence.is_none() {
        let message = format!(
            "expected at least one measure of {}",
            BUILT_IN.join(", ").replace('-', "_")
        );
        return Err(document.error_at(place, message));
    }
    defence
        .check()
        .map_err(|(field, problem)| document.error_at(&format!("{place}.{field}"), problem))
}

/// A defence must be of use to some variant in some testbed.
fn check_use(
    document: &Document,
    place: &str,
    named: &NamedDefence,
    settings: &RawRecipe,
) -> Result<(), RecipeError> {
    if !settings
        .variants
        .iter()
        .any(|&variant| named.is_for(variant))
    {
        let message = format!(
            "`{}` trains, and no variant is trained; add `dpo` or `grpo` to `variants`",
            named.name
        );
        return Err(document.error_at(place, message));
    }
    let misfits: Option<Vec<&str>> = settings
        .testbeds
        .iter()
        .map(|&testbed: &Testbed| named.defence.misfit(testbed))
        .collect();
    match misfits.as_deref() {
        Some([reason, ..]) => {
            let message = format!(
                "`{}` fits none of the recipe's testbeds: {reason}",
                named.name
            );
            Err(document.error_at(place, message))
        }
        _ => Ok(()),
    }
}

/// A name made of the measures, for a defence that was described on the spot.
fn short_name(defence: &Defence) -> String {
    let Defence {
        reminder,
        redaction,
        outcome_hiding,
        window,
        monitor,
        history_augmentation,
        kl_anchor,
        realignment,
    } = defence;
    let parts = [
        reminder.as_ref().map(|_| "reminder".to_owned()),
        redaction.map(|how| match how {
            Redaction::Omit => "redaction".to_owned(),
            Redaction::Mask => "redaction-mask".to_owned(),
        }),
        outcome_hiding.map(|what| match what {
            Hiding::Outcomes => "outcome-hiding".to_owned(),
            Hiding::Pay => "outcome-hiding-pay".to_owned(),
        }),
        window.map(|rounds| format!("window-{rounds}")),
        monitor.map(|monitor| match monitor.recall {
            1.0 => "monitor".to_owned(),
            recall => format!("monitor-{recall}"),
        }),
        history_augmentation.map(|_| "history-augmentation".to_owned()),
        kl_anchor.map(|_| "kl-anchor".to_owned()),
        realignment.map(|_| "realignment".to_owned()),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    parts.join("-")
}

#[cfg(test)]
mod tests;
