//! Whether a list of stages can be run in its order, and which of them a request needs.

use std::collections::BTreeSet;

use super::{Source, Stage};

/// A list of stages that cannot be run as it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Two stages of one name.
    #[error("two stages are called `{name}`; give each its own name")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A name that cannot be a folder's.
    #[error(
        "`{name}` cannot name a stage: expected ASCII letters, digits, `-`, `_` and `.`, beginning with a letter or digit"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// Two inputs of one name.
    #[error("stage `{stage}` declares its input `{input}` twice")]
    DuplicateInput {
        /// The reading stage.
        stage: String,
        /// The input's name.
        input: String,
    },
    /// An input of a stage that does not come before.
    #[error(
        "stage `{stage}` reads its input `{input}` from `{from}`, which is no stage before it{}",
        suggestion(nearest)
    )]
    Unknown {
        /// The reading stage.
        stage: String,
        /// The input's name.
        input: String,
        /// The stage it wants.
        from: String,
        /// A similar name among those before it.
        nearest: Option<String>,
    },
    /// A request for a stage that is not planned.
    #[error("there is no stage `{name}`{}; stages: {}", suggestion(nearest), known.join(", "))]
    Target {
        /// What was asked for.
        name: String,
        /// A similar name.
        nearest: Option<String>,
        /// All names.
        known: Vec<String>,
    },
}

fn suggestion(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// Check names, inputs and order.
pub(super) fn check(stages: &[Box<dyn Stage>]) -> Result<(), PlanError> {
    let mut before: Vec<String> = Vec::new();
    for stage in stages {
        let name = stage.name();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(allowed) {
            return Err(PlanError::Name { name });
        }
        if before.contains(&name) {
            return Err(PlanError::Duplicate { name });
        }
        let mut inputs = BTreeSet::new();
        for input in stage.inputs() {
            if let Source::Output { stage: from, .. } = &input.source
                && !before.contains(from)
            {
                return Err(PlanError::Unknown {
                    nearest: crate::recipe::nearest(from, &before),
                    from: from.clone(),
                    stage: name,
                    input: input.name,
                });
            }
            if !inputs.insert(input.name.clone()) {
                return Err(PlanError::DuplicateInput {
                    stage: name,
                    input: input.name,
                });
            }
        }
        before.push(name);
    }
    Ok(())
}

/// For each stage, whether it is among `targets` or one of them reads from it, directly or not; all without targets.
/// The list must have passed `check`.
pub fn select(
    stages: &[Box<dyn Stage>],
    targets: Option<&[String]>,
) -> Result<Vec<bool>, PlanError> {
    let Some(targets) = targets else {
        return Ok(vec![true; stages.len()]);
    };
    let known: Vec<String> = stages.iter().map(|stage| stage.name()).collect();
    if let Some(name) = targets.iter().find(|target| !known.contains(target)) {
        return Err(PlanError::Target {
            nearest: crate::recipe::nearest(name, &known),
            name: name.clone(),
            known,
        });
    }
    let mut needed: BTreeSet<String> = targets.iter().cloned().collect();
    for (stage, name) in stages.iter().zip(&known).rev() {
        if needed.contains(name) {
            for input in stage.inputs() {
                if let Source::Output { stage, .. } = input.source {
                    needed.insert(stage);
                }
            }
        }
    }
    Ok(known.iter().map(|name| needed.contains(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::super::{Input, StageContext};
    use super::*;

    struct Named(&'static str, Vec<Input>);

    impl Stage for Named {
        fn name(&self) -> String {
            self.0.into()
        }
        fn kind(&self) -> &'static str {
            "named"
        }
        fn format(&self) -> u32 {
            1
        }
        fn config(&self) -> serde_json::Value {
            serde_json::Value::Null
        }
        fn seed(&self) -> u64 {
            0
        }
        fn inputs(&self) -> Vec<Input> {
            self.1.clone()
        }
        fn run(&self, _: &StageContext) -> anyhow::Result<()> {
            anyhow::bail!("a plan runs nothing")
        }
    }

    fn plan(stages: &[(&'static str, &[&str])]) -> Vec<Box<dyn Stage>> {
        let stage = |(name, from): &(&'static str, &[&str])| -> Box<dyn Stage> {
            let inputs = from.iter().map(|from| Input::all_outputs(*from, *from));
            Box::new(Named(name, inputs.collect()))
        };
        stages.iter().map(stage).collect()
    }

    #[test]
    fn the_order_is_checked_and_a_slip_is_named() {
        assert_eq!(check(&plan(&[("a", &[]), ("b", &["a"])])), Ok(()));
        let error = check(&plan(&[("pairs", &[]), ("train", &["pair"])])).unwrap_err();
        assert!(
            error.to_string().contains("did you mean `pairs`?"),
            "{error}"
        );
        assert!(check(&plan(&[("b", &["a"]), ("a", &[])])).is_err());
        assert!(check(&plan(&[("a", &["a"])])).is_err());
        assert!(check(&plan(&[("a", &[]), ("a", &[])])).is_err());
        assert!(check(&plan(&[("a", &[]), ("b", &["a", "a"])])).is_err());
        for name in ["", "a/b", "..", ".a", "ä", "a b"] {
            assert!(check(&plan(&[(name, &[])])).is_err(), "{name}");
        }
    }

    #[test]
    fn a_target_brings_what_it_needs_and_nothing_else() {
        let plan = plan(&[
            ("a", &[]),
            ("b", &["a"]),
            ("c", &["a"]),
            ("d", &["b"]),
            ("e", &[]),
        ]);
        let selected = |targets: &[String]| select(&plan, Some(targets));
        assert_eq!(
            selected(&["d".into()]).unwrap(),
            [true, true, false, true, false]
        );
        assert_eq!(select(&plan, None).unwrap(), [true; 5]);
        let error = selected(&["f".into()]).unwrap_err();
        assert!(error.to_string().contains("a, b, c, d, e"), "{error}");
    }
}
