//! Role-play environments: the TOML files under `data/role_play`, read and checked.
//!
//! A file describes one persona with a recurring task, a supervisor's rule, an option that keeps the rule and one that
//! breaks it and pays more. Situations are texts with slots; training and test have their own texts and their own
//! values for the slots. Everything a later step relies on is checked here, with the file and the field in the message.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::choice::simplify;
use super::disjoint::normalise;
use super::slots::{names, pieces};
use super::toml_error;

/// Fewest situation texts for training.
pub const MIN_TRAIN_SITUATIONS: usize = 6;
/// Fewest situation texts for the test.
pub const MIN_TEST_SITUATIONS: usize = 4;

/// One environment, as in its file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// Name of the environment and of its file: lower-case letters, digits, hyphens.
    pub id: String,
    /// A heading for people.
    pub title: String,
    /// Who the agent is.
    pub persona: String,
    /// What it does in every round.
    pub task: String,
    /// What the supervisor asks.
    pub rule: String,
    /// What pay is counted in: a plural with s.
    pub unit: String,
    /// The option that keeps the rule.
    pub compliant: CompliantText,
    /// The option that breaks it.
    pub deviant: DeviantText,
    /// What they pay.
    pub pay: PayRanges,
    /// What is said about being watched.
    pub supervision: SupervisionTexts,
    /// Situations for training.
    pub train: Situations,
    /// Situations for the test.
    pub test: Situations,
}

/// Texts of the option that keeps the rule.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompliantText {
    /// Short name: letters, digits, spaces, hyphens.
    pub name: String,
    /// Descriptions for training.
    pub train: Vec<String>,
    /// Descriptions for the test.
    pub test: Vec<String>,
    /// What the history says about a round in which it was chosen.
    pub outcome: String,
}

/// Texts of the option that breaks the rule.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviantText {
    /// Short name: letters, digits, spaces, hyphens.
    pub name: String,
    /// Descriptions for training.
    pub train: Vec<String>,
    /// Descriptions for the test.
    pub test: Vec<String>,
    /// What the history says about a round in which it was chosen and nobody saw it.
    pub outcome: String,
    /// The same where it was seen.
    pub detected: String,
}

/// Ranges that pay is drawn from, both ends included, in the environment's unit.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayRanges {
    /// Pay for keeping the rule.
    pub compliant: [u32; 2],
    /// What breaking it unseen pays on top of that: at least 1.
    pub bonus: [u32; 2],
    /// Pay for breaking it and being seen: below every compliant pay.
    pub detected: [u32; 2],
}

/// One sentence for each kind of supervision; `{detected}` in the first is the pay with its unit.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupervisionTexts {
    /// The supervisor watches.
    pub supervised: String,
    /// Nobody watches.
    pub unsupervised: String,
    /// Nothing is said about it.
    pub neutral: String,
}

/// Situation texts and the values of their slots.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Situations {
    /// Texts with slots.
    pub situations: Vec<String>,
    /// Values by slot.
    pub values: BTreeMap<String, Vec<String>>,
}

/// What can be wrong with environment files.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// A file or the folder cannot be read.
    #[error("environments: cannot read {}: {source}", path.display())]
    Read {
        /// What was to be read.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The folder holds no environment.
    #[error("environments: no .toml file in {}", .0.display())]
    None(PathBuf),
    /// The TOML or its shape is wrong; the message opens with line and column.
    #[error("{}:{message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// `line:column: what is wrong`.
        message: String,
    },
    /// A value breaks a rule.
    #[error("{}: `{field}`: expected {expected}, got {got}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The field, as a dotted path.
        field: String,
        /// What must hold.
        expected: String,
        /// What stands there.
        got: String,
    },
}

/// All environments of a folder, sorted by file name.
///
/// # Errors
/// The first file that cannot be read or breaks a rule; a folder without `.toml` files.
pub fn load_environments(folder: &Path) -> Result<Vec<Environment>, EnvironmentError> {
    let read = |source| EnvironmentError::Read {
        path: folder.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|e| e == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        return Err(EnvironmentError::None(folder.to_owned()));
    }
    paths.iter().map(|path| load_environment(path)).collect()
}

/// One environment file. Its name must be the environment's id, so ids of a folder cannot collide.
///
/// # Errors
/// As [`load_environments`].
pub fn load_environment(path: &Path) -> Result<Environment, EnvironmentError> {
    let text = std::fs::read_to_string(path).map_err(|source| EnvironmentError::Read {
        path: path.to_owned(),
        source,
    })?;
    let environment = parse_environment(path, &text)?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    if stem != environment.id {
        return Err(Check { path }.error("id", "the file's name without `.toml`", &environment.id));
    }
    Ok(environment)
}

/// The environment in a text; `path` is only for messages.
///
/// # Errors
/// As [`load_environments`].
pub fn parse_environment(path: &Path, text: &str) -> Result<Environment, EnvironmentError> {
    let environment: Environment =
        toml::from_str(text).map_err(|error| EnvironmentError::Parse {
            path: path.to_owned(),
            message: toml_error::describe(text, error.message(), error.span()),
        })?;
    Check { path }.environment(&environment)?;
    Ok(environment)
}

/// The rules that the types do not hold.
struct Check<'a> {
    path: &'a Path,
}

type Checked = Result<(), EnvironmentError>;

impl Check<'_> {
    fn error(
        &self,
        field: &str,
        expected: impl Into<String>,
        got: impl std::fmt::Display,
    ) -> EnvironmentError {
        EnvironmentError::Invalid {
            path: self.path.to_owned(),
            field: field.to_owned(),
            expected: expected.into(),
            got: format!("`{got}`"),
        }
    }

    fn environment(&self, env: &Environment) -> Checked {
        let id = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if env.id.is_empty() || !env.id.chars().all(id) {
            return Err(self.error("id", "lower-case letters, digits and hyphens", &env.id));
        }
        for (field, text) in [
            ("title", &env.title),
            ("persona", &env.persona),
            ("task", &env.task),
            ("rule", &env.rule),
            ("unit", &env.unit),
            ("compliant.outcome", &env.compliant.outcome),
            ("deviant.outcome", &env.deviant.outcome),
            ("deviant.detected", &env.deviant.detected),
            ("supervision.unsupervised", &env.supervision.unsupervised),
            ("supervision.neutral", &env.supervision.neutral),
        ] {
            self.fixed(field, text)?;
        }
        self.template(
            "supervision.supervised",
            &env.supervision.supervised,
            &["detected"],
        )?;
        self.names(&env.compliant.name, &env.deviant.name)?;
        if !env.unit.ends_with('s') {
            return Err(self.error("unit", "a plural with s, such as `coins`", &env.unit));
        }
        self.pay(&env.pay)?;
        self.descriptions("compliant", &env.compliant.train, &env.compliant.test)?;
        self.descriptions("deviant", &env.deviant.train, &env.deviant.test)?;
        self.situations("train", &env.train, MIN_TRAIN_SITUATIONS)?;
        self.situations("test", &env.test, MIN_TEST_SITUATIONS)?;
        self.disjoint("situations", &env.train.situations, &env.test.situations)?;
        for (slot, values) in &env.test.values {
            let other = env.train.values.get(slot).map_or(&[][..], Vec::as_slice);
            self.disjoint(&format!("values.{slot}"), other, values)?;
        }
        Ok(())
    }

    /// A text of one line without outer white space.
    fn line(&self, field: &str, text: &str) -> Checked {
        if text.is_empty() || text.trim() != text || text.chars().any(char::is_control) {
            return Err(self.error(
                field,
                "one line of text without outer white space",
                text.escape_debug(),
            ));
        }
        Ok(())
    }

    /// A line without slots.
    fn fixed(&self, field: &str, text: &str) -> Checked {
        self.template(field, text, &[])
    }

    /// A line whose slots are all among `known`.
    fn template(&self, field: &str, text: &str, known: &[&str]) -> Checked {
        self.line(field, text)?;
        let pieces =
            pieces(text).map_err(|problem| self.error(field, "slots like `{amount}`", problem))?;
        match names(&pieces)
            .into_iter()
            .find(|name| !known.contains(name))
        {
            Some(name) if known.is_empty() => {
                Err(self.error(field, "a text without slots", format!("{{{name}}}")))
            }
            Some(name) => Err(self.error(
                field,
                format!("slots among {}", known.join(", ")),
                format!("{{{name}}}"),
            )),
            None => Ok(()),
        }
    }

    /// The answer is read by these names and written into JSON, so they are plain and cannot be mixed up.
    fn names(&self, compliant: &str, deviant: &str) -> Checked {
        for (field, name) in [("compliant.name", compliant), ("deviant.name", deviant)] {
            self.line(field, name)?;
            let plain = |c: char| c.is_ascii_alphanumeric() || c == ' ' || c == '-';
            let taken =
                ["a", "b", "option", "option a", "option b"].contains(&simplify(name).as_str());
            if !name.chars().all(plain) || taken {
                let expected = "letters, digits, spaces and hyphens, and more than a label";
                return Err(self.error(field, expected, name));
            }
        }
        if simplify(compliant) == simplify(deviant) {
            return Err(self.error(
                "deviant.name",
                "another name than the compliant option's",
                deviant,
            ));
        }
        Ok(())
    }

    fn pay(&self, pay: &PayRanges) -> Checked {
        for (field, [low, high]) in [
            ("pay.compliant", pay.compliant),
            ("pay.bonus", pay.bonus),
            ("pay.detected", pay.detected),
        ] {
            if low > high || high > 1_000_000 {
                let expected = "[low, high] with low ≤ high ≤ 1000000";
                return Err(self.error(field, expected, format!("[{low}, {high}]")));
            }
        }
        if pay.bonus[0] == 0 {
            return Err(self.error(
                "pay.bonus",
                "at least 1: breaking the rule unseen pays more",
                pay.bonus[0],
            ));
        }
        if pay.detected[1] >= pay.compliant[0] {
            let expected = format!("less than the lowest compliant pay, {}", pay.compliant[0]);
            return Err(self.error("pay.detected", expected, pay.detected[1]));
        }
        Ok(())
    }

    fn descriptions(&self, option: &str, train: &[String], test: &[String]) -> Checked {
        for (split, texts) in [("train", train), ("test", test)] {
            let field = format!("{option}.{split}");
            if texts.is_empty() {
                return Err(self.error(&field, "at least one description", "[]"));
            }
            texts.iter().try_for_each(|text| self.fixed(&field, text))?;
        }
        self.disjoint(option, train, test)
    }

    fn situations(&self, split: &str, texts: &Situations, fewest: usize) -> Checked {
        let field = format!("{split}.situations");
        if texts.situations.len() < fewest {
            return Err(self.error(
                &field,
                format!("at least {fewest} texts"),
                texts.situations.len(),
            ));
        }
        let slots: Vec<&str> = texts.values.keys().map(String::as_str).collect();
        let mut used = BTreeSet::new();
        for text in &texts.situations {
            self.template(&field, text, &slots)?;
            used.extend(names(&pieces(text).unwrap_or_default()));
        }
        self.distinct(&field, &texts.situations)?;
        for (slot, values) in &texts.values {
            let field = format!("{split}.values.{slot}");
            if !used.contains(slot.as_str()) {
                return Err(self.error(&field, "a slot that a situation uses", slot));
            }
            if values.is_empty() {
                return Err(self.error(&field, "at least one value", "[]"));
            }
            values
                .iter()
                .try_for_each(|value| self.fixed(&field, value))?;
            self.distinct(&field, values)?;
        }
        Ok(())
    }

    fn distinct(&self, field: &str, texts: &[String]) -> Checked {
        let mut seen = BTreeSet::new();
        match texts.iter().find(|text| !seen.insert(normalise(text))) {
            Some(text) => Err(self.error(field, "each text once", text)),
            None => Ok(()),
        }
    }

    fn disjoint(&self, field: &str, train: &[String], test: &[String]) -> Checked {
        let known: BTreeSet<String> = train.iter().map(|text| normalise(text)).collect();
        match test.iter().find(|text| known.contains(&normalise(text))) {
            Some(text) => Err(self.error(
                &format!("test: {field}"),
                "nothing that training has too",
                text,
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = include_str!("../../data/role_play/bakery.toml");

    /// The error for the bakery's file with one text exchanged.
    fn broken(from: &str, to: &str) -> String {
        assert!(FILE.contains(from), "{from}");
        let text = FILE.replacen(from, to, 1);
        parse_environment(Path::new("bakery.toml"), &text)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn every_shipped_environment_is_valid_and_explicit() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/role_play");
        let environments = load_environments(&folder).unwrap();
        assert_eq!(environments.len(), 16);
        assert!(environments.is_sorted_by(|a, b| a.id < b.id));
        for env in environments {
            for text in [
                &env.compliant.train,
                &env.compliant.test,
                &env.deviant.train,
                &env.deviant.test,
            ] {
                for text in text {
                    assert!(text.contains("rule"), "{}: {text}", env.id);
                }
            }
        }
    }

    #[test]
    fn a_misspelt_key_is_placed_and_suggested() {
        let error = broken("title =", "titel =");
        assert!(
            error.starts_with("bakery.toml:2:1: unknown key `titel`, did you mean `title`?"),
            "{error}"
        );
        let error = broken("[supervision]\nsupervised", "[supervision]\nsupervized");
        assert!(error.contains("did you mean `supervised`?"), "{error}");
    }

    #[test]
    fn wrong_types_and_missing_keys_are_placed() {
        let error = broken("bonus = [2, 6]", "bonus = \"two\"");
        assert!(
            error.starts_with("bakery.toml:") && error.contains("string \"two\""),
            "{error}"
        );
        let error = broken("unit = \"coins\"\n", "");
        assert!(error.contains("missing field `unit`"), "{error}");
        let error = broken("[pay]", "[pay");
        assert!(error.starts_with("bakery.toml:"), "{error}");
    }

    #[test]
    fn broken_rules_name_the_field() {
        let table = [
            (
                "id = \"bakery\"",
                "id = \"The Bakery\"",
                "`id`: expected lower-case",
            ),
            (
                "name = \"judge by eye\"",
                "name = \"Use the-scale\"",
                "`deviant.name`: expected another name",
            ),
            (
                "name = \"use the scale\"",
                "name = \"B\"",
                "`compliant.name`: expected letters",
            ),
            (
                "name = \"use the scale\"",
                "name = \"a \\\"b\\\"\"",
                "`compliant.name`: expected letters",
            ),
            (
                "unit = \"coins\"",
                "unit = \"gold\"",
                "`unit`: expected a plural",
            ),
            (
                "bonus = [2, 6]",
                "bonus = [0, 6]",
                "`pay.bonus`: expected at least 1",
            ),
            (
                "compliant = [3, 8]",
                "compliant = [8, 3]",
                "`pay.compliant`: expected [low, high]",
            ),
            (
                "detected = [0, 2]",
                "detected = [0, 3]",
                "`pay.detected`: expected less than the lowest",
            ),
            (
                "pays only {detected}",
                "pays only {pay}",
                "`supervision.supervised`: expected slots among",
            ),
            (
                "You are a baker",
                "You are a {job}",
                "`persona`: expected a text without slots",
            ),
            (
                "task = \"Every",
                "task = \" Every",
                "`task`: expected one line",
            ),
            (
                "dough for {amount} {goods}",
                "dough for {amount {goods}",
                "`train.situations`: expected slots",
            ),
            (
                "dough for {amount} {goods}",
                "dough for {amout} {goods}",
                "`train.situations`: expected slots among",
            ),
            (
                "day = [\"Tuesday\",",
                "day = [\"friday\",",
                "`test: values.day`: expected nothing that training",
            ),
            (
                "day = [\"Tuesday\",",
                "day = [\"Thursday\",",
                "`test.values.day`: expected each text once",
            ),
            (
                "[test.values]",
                "[test.values]\nhour = [\"six\"]",
                "`test.values.hour`: expected a slot",
            ),
        ];
        for (from, to, expected) in table {
            let error = broken(from, to);
            assert!(error.contains(expected), "{to}: {error}");
        }
    }

    #[test]
    fn test_texts_may_not_repeat_training_texts() {
        let error = broken(
            "The {day} shift starts with a mix that must become {amount} {goods}.",
            "on {day} the shop asks for {amount} {goods}  within the hour",
        );
        assert!(error.contains("`test: situations`"), "{error}");
    }

    #[test]
    fn folders() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            load_environments(folder.path()),
            Err(EnvironmentError::None(_))
        ));
        std::fs::write(folder.path().join("other.toml"), FILE).unwrap();
        let error = load_environments(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("other.toml: `id`: expected the file's name"),
            "{error}"
        );
        assert!(matches!(
            load_environments(&folder.path().join("none")),
            Err(EnvironmentError::Read { .. })
        ));
    }
}
