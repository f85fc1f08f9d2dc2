//! Why a stage is not up to date.

use std::fmt;

use serde::{Serialize, Serializer};

/// One reason for a stage to run. Shown, and put into JSON, as a sentence fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// No finished run of this stage is in the run directory.
    NeverRun,
    /// A run with this very key was begun and not finished.
    Unfinished {
        /// The newest checkpoint, if there is one.
        checkpoint: Option<u64>,
    },
    /// It was finished, but its folder is no longer what it was.
    Damaged {
        /// What is wrong, naming the file.
        damage: String,
    },
    /// It does something else under the same name.
    Kind {
        /// Kind before.
        from: String,
        /// Kind now.
        to: String,
    },
    /// The code's behaviour changed.
    Format {
        /// Version before.
        from: u32,
        /// Version now.
        to: u32,
    },
    /// A value of its own configuration changed, came or went; values as JSON text.
    Config {
        /// Path of the value.
        key: String,
        /// Value before.
        from: Option<String>,
        /// Value now.
        to: Option<String>,
    },
    /// It uses another model.
    Model {
        /// Model before.
        from: Option<String>,
        /// Model now.
        to: Option<String>,
    },
    /// Its root seed changed.
    Seed {
        /// Seed before.
        from: u64,
        /// Seed now.
        to: u64,
    },
    /// An input has another content.
    InputChanged {
        /// Input name.
        name: String,
    },
    /// It reads something more.
    InputAdded {
        /// Input name.
        name: String,
    },
    /// It reads something less.
    InputRemoved {
        /// Input name.
        name: String,
    },
    /// Dry run only: whether an input changes is known once the stage that makes it has run.
    Pending {
        /// Input name.
        name: String,
        /// The stage that makes it.
        stage: String,
    },
}

impl Reason {
    /// Whether the same model has as much to do as before, as far as this reason goes. A changed rate or weight leaves
    /// that as it is; a whole number may be one of rounds, samples or epochs, and an input may have other rows.
    pub(super) fn keeps_work(&self) -> bool {
        let is_fraction = |value: &Option<String>| {
            let number = value.as_ref().filter(|text| text.parse::<i64>().is_err());
            number.is_some_and(|text| text.parse::<f64>().is_ok())
        };
        match self {
            Self::Config { from, to, .. } => is_fraction(from) && is_fraction(to),
            Self::Unfinished { .. } | Self::Damaged { .. } | Self::Seed { .. } => true,
            Self::NeverRun
            | Self::Kind { .. }
            | Self::Format { .. }
            | Self::Model { .. }
            | Self::InputChanged { .. }
            | Self::InputAdded { .. }
            | Self::InputRemoved { .. }
            | Self::Pending { .. } => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".into());
        match self {
            Self::NeverRun => f.write_str("never run"),
            Self::Unfinished { checkpoint: None } => f.write_str("begun and not finished"),
            Self::Unfinished {
                checkpoint: Some(step),
            } => write!(f, "begun and not finished, last checkpoint at step {step}"),
            Self::Damaged { damage } => write!(f, "output {damage}"),
            Self::Kind { from, to } => write!(f, "kind changed: {from} → {to}"),
            Self::Format { from, to } => write!(f, "format version changed: {from} → {to}"),
            Self::Config { key, from, to } => match (from, to) {
                (Some(from), Some(to)) => match lines_changed(from, to) {
                    Some(lines) => write!(f, "config key `{key}` changed in {lines}"),
                    None => write!(
                        f,
                        "config key `{key}` changed: {} → {}",
                        short(from),
                        short(to)
                    ),
                },
                (None, Some(to)) => write!(f, "config key `{key}` is new: {}", short(to)),
                (Some(from), None) => {
                    write!(f, "config key `{key}` is gone, was {}", short(from))
                }
                (None, None) => write!(f, "config key `{key}` changed"),
            },
            Self::Model { from, to } => {
                write!(f, "model changed: {} → {}", or_none(from), or_none(to))
            }
            Self::Seed { from, to } => write!(f, "seed changed: {from} → {to}"),
            Self::InputChanged { name } => write!(f, "input `{name}` changed"),
            Self::InputAdded { name } => write!(f, "input `{name}` is new"),
            Self::InputRemoved { name } => write!(f, "input `{name}` is no longer read"),
            Self::Pending { name, stage } => {
                write!(f, "input `{name}` may change: `{stage}` runs first")
            }
        }
    }
}

/// A value as it is told: long ones are cut.
fn short(value: &str) -> String {
    const LONGEST: usize = 120;
    if value.chars().count() <= LONGEST {
        return value.to_owned();
    }
    let cut: String = value.chars().take(LONGEST).collect();
    format!("{cut}… ({} bytes)", value.len())
}

/// Of two texts of several lines, such as a whole recipe, what stands in one alone; both as JSON.
fn lines_changed(from: &str, to: &str) -> Option<String> {
    const TOLD: usize = 3;
    let text = |json: &str| serde_json::from_str::<String>(json).ok();
    let (from, to) = (text(from)?, text(to)?);
    if !from.contains('\n') && !to.contains('\n') {
        return None;
    }
    let alone = |one: &str, other: &str, mark: &str| -> Vec<String> {
        let other: std::collections::BTreeSet<&str> = other.lines().collect();
        let lines = one.lines().filter(|line| !other.contains(line));
        lines.map(|line| format!("{mark}{}", short(line))).collect()
    };
    let gone = alone(&from, &to, "− ");
    let new = alone(&to, &from, "+ ");
    let count = gone.len().max(new.len());
    let mut told: Vec<String> = gone
        .iter()
        .take(TOLD)
        .chain(new.iter().take(TOLD))
        .cloned()
        .collect();
    if gone.len() > TOLD || new.len() > TOLD {
        told.push("…".into());
    }
    Some(match count {
        0 => "the order of its lines".into(),
        1 => format!("1 line: {}", told.join(" ")),
        _ => format!("{count} lines: {}", told.join(" ")),
    })
}

/// Reasons a person is told at a time; a change of testbed or recipe may have dozens.
const TOLD: usize = 4;

/// The reasons as one text, the first few in full.
pub(super) fn in_words(reasons: &[Reason]) -> String {
    // What never ran needs no second reason.
    let reasons = match reasons.contains(&Reason::NeverRun) {
        true => &[Reason::NeverRun],
        false => reasons,
    };
    let mut told: Vec<String> = reasons.iter().take(TOLD).map(ToString::to_string).collect();
    if let Some(more) = reasons.len().checked_sub(TOLD).filter(|more| *more > 0) {
        told.push(format!("and {more} more"));
    }
    told.join("; ")
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(from: &str, to: &str) -> String {
        let json = |text: &str| Some(serde_json::Value::from(text).to_string());
        let key = "recipe".to_owned();
        Reason::Config {
            key,
            from: json(from),
            to: json(to),
        }
        .to_string()
    }

    #[test]
    fn of_long_texts_only_what_changed_is_told() {
        let recipe = |lr: &str| {
            format!(
                "title = \"a\"\n{}\n[dpo]\nlr = {lr}\n",
                "# text\n".repeat(500)
            )
        };
        assert_eq!(
            told(&recipe("1e-5"), &recipe("2e-5")),
            "config key `recipe` changed in 1 line: − lr = 1e-5 + lr = 2e-5"
        );
        assert_eq!(told("a", "b"), "config key `recipe` changed: \"a\" → \"b\"");
        assert!(told(&"a".repeat(5000), "b").len() < 300);
        assert!(told(&"a\n".repeat(5000), &"b\n".repeat(4000)).len() < 300);
    }
}
