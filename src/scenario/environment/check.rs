//! The rules of an environment that its types do not hold.

use std::collections::BTreeSet;
use std::path::Path;

use super::{
    Environment, EnvironmentError, MIN_TEST_SITUATIONS, MIN_TRAIN_SITUATIONS, PayRanges, Situations,
};
use crate::scenario::choice::simplify;
use crate::scenario::disjoint::normalise;
use crate::scenario::slots::{names, pieces};
use crate::scenario::toml_error::locate;

/// The rules that the types do not hold, and every breach found so far.
pub(in crate::scenario) struct Check<'a> {
    path: &'a Path,
    text: &'a str,
    found: Vec<EnvironmentError>,
}

impl<'a> Check<'a> {
    /// `text` is the file's: a breach is told with its line.
    pub(in crate::scenario) fn new(path: &'a Path, text: &'a str) -> Self {
        Self {
            path,
            text,
            found: Vec::new(),
        }
    }

    /// All breaches, in the order of the rules.
    pub(in crate::scenario) fn into_found(self) -> Vec<EnvironmentError> {
        self.found
    }

    /// Note a breach at `field`, a dotted path such as `train.situations[2]`.
    pub(in crate::scenario) fn breach(
        &mut self,
        field: &str,
        expected: impl Into<String>,
        got: impl std::fmt::Display,
    ) {
        let place = locate(self.text, field);
        self.found.push(EnvironmentError::Invalid {
            path: self.path.to_owned(),
            place: place.map_or(String::new(), |(line, column)| format!("{line}:{column}:")),
            field: field.to_owned(),
            expected: expected.into(),
            got: format!("`{got}`"),
        });
    }

    pub(in crate::scenario) fn environment(&mut self, env: &Environment) {
        let id = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if env.id.is_empty() || !env.id.chars().all(id) {
            self.breach("id", "lower-case letters, digits and hyphens", &env.id);
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
            self.fixed(field, text);
        }
        self.template(
            "supervision.supervised",
            &env.supervision.supervised,
            &["detected"],
        );
        self.names([
            ("compliant.name", &env.compliant.name),
            ("deviant.name", &env.deviant.name),
        ]);
        if !env.unit.ends_with('s') {
            self.breach("unit", "a plural with s, such as `coins`", &env.unit);
        }
        self.pay(&env.pay);
        self.descriptions("compliant", &env.compliant.train, &env.compliant.test);
        self.descriptions("deviant", &env.deviant.train, &env.deviant.test);
        self.situations("train", &env.train, MIN_TRAIN_SITUATIONS, &[]);
        self.situations("test", &env.test, MIN_TEST_SITUATIONS, &[]);
        self.disjoint(
            "test.situations",
            &env.train.situations,
            &env.test.situations,
        );
        for (slot, values) in &env.test.values {
            let other = env.train.values.get(slot).map_or(&[][..], Vec::as_slice);
            self.disjoint(&format!("test.values.{slot}"), other, values);
        }
    }

    /// A text of one line without outer white space.
    pub(in crate::scenario) fn line(&mut self, field: &str, text: &str) {
        if text.is_empty() || text.trim() != text || text.chars().any(char::is_control) {
            self.breach(
                field,
                "one line of text without outer white space",
                text.escape_debug(),
            );
        }
    }

    /// A line without slots.
    pub(in crate::scenario) fn fixed(&mut self, field: &str, text: &str) {
        self.template(field, text, &[]);
    }

    /// A line whose slots are all among `known`.
    pub(in crate::scenario) fn template(&mut self, field: &str, text: &str, known: &[&str]) {
        self.line(field, text);
        let pieces = match pieces(text) {
            Ok(pieces) => pieces,
            Err(problem) => {
                let expected = format!("slots like `{{amount}}`, but there is {problem}");
                return self.breach(field, expected, text);
            }
        };
        for name in names(&pieces).into_iter().filter(|n| !known.contains(n)) {
            let expected = match known {
                [] => "a text without slots".to_owned(),
                known => format!("slots among {}", known.join(", ")),
            };
            self.breach(field, expected, format!("{{{name}}}"));
        }
    }

    /// The answer is read by these names and written into JSON, so they are plain and cannot be mixed up.
    pub(in crate::scenario) fn names(&mut self, options: [(&str, &str); 2]) {
        for (field, name) in options {
            self.line(field, name);
            let plain = |c: char| c.is_ascii_alphanumeric() || c == ' ' || c == '-';
            let taken =
                ["a", "b", "option", "option a", "option b"].contains(&simplify(name).as_str());
            if !name.chars().all(plain) || taken {
                let expected = "letters, digits, spaces and hyphens, and more than a label";
                self.breach(field, expected, name);
            }
        }
        let [(_, first), (field, second)] = options;
        if simplify(first) == simplify(second) {
            self.breach(field, "another name than the other option's", second);
        }
    }

    fn pay(&mut self, pay: &PayRanges) {
        for (field, [low, high]) in [
            ("pay.compliant", pay.compliant),
            ("pay.bonus", pay.bonus),
            ("pay.detected", pay.detected),
        ] {
            if low > high || high > 1_000_000 {
                let expected = "[low, high] with low ≤ high ≤ 1000000";
                self.breach(field, expected, format!("[{low}, {high}]"));
            }
        }
        if pay.bonus[0] == 0 {
            self.breach(
                "pay.bonus",
                "at least 1: breaking the rule unseen pays more",
                pay.bonus[0],
            );
        }
        if pay.detected[1] >= pay.compliant[0] {
            let expected = format!("less than the lowest compliant pay, {}", pay.compliant[0]);
            self.breach("pay.detected", expected, pay.detected[1]);
        }
    }

    pub(in crate::scenario) fn descriptions(
        &mut self,
        option: &str,
        train: &[String],
        test: &[String],
    ) {
        for (split, texts) in [("train", train), ("test", test)] {
            let field = format!("{option}.{split}");
            if texts.is_empty() {
                self.breach(&field, "at least one description", "[]");
            }
            for (i, text) in texts.iter().enumerate() {
                self.fixed(&format!("{field}[{i}]"), text);
            }
        }
        self.disjoint(&format!("{option}.test"), train, test);
    }

    /// Situation texts and their values; `given` are slots that are filled otherwise.
    pub(in crate::scenario) fn situations(
        &mut self,
        split: &str,
        texts: &Situations,
        fewest: usize,
        given: &[&str],
    ) {
        let field = format!("{split}.situations");
        if texts.situations.len() < fewest {
            self.breach(
                &field,
                format!("at least {fewest} texts"),
                texts.situations.len(),
            );
        }
        let own = texts.values.keys().map(String::as_str);
        let slots: Vec<&str> = given.iter().copied().chain(own).collect();
        let mut used = BTreeSet::new();
        for (i, text) in texts.situations.iter().enumerate() {
            self.template(&format!("{field}[{i}]"), text, &slots);
            used.extend(names(&pieces(text).unwrap_or_default()));
        }
        self.distinct(&field, &texts.situations);
        for (slot, values) in &texts.values {
            let field = format!("{split}.values.{slot}");
            if given.contains(&slot.as_str()) {
                let expected = format!("another slot than {}, which are drawn", given.join(", "));
                self.breach(&field, expected, slot);
            }
            if !used.contains(slot.as_str()) {
                self.breach(&field, "a slot that a situation uses", slot);
            }
            if values.is_empty() {
                self.breach(&field, "at least one value", "[]");
            }
            for (i, value) in values.iter().enumerate() {
                self.fixed(&format!("{field}[{i}]"), value);
            }
            self.distinct(&field, values);
        }
    }

    pub(in crate::scenario) fn distinct(&mut self, field: &str, texts: &[String]) {
        let mut seen = BTreeSet::new();
        for (i, text) in texts.iter().enumerate() {
            if !seen.insert(normalise(text)) {
                self.breach(&format!("{field}[{i}]"), "each text once", text);
            }
        }
    }

    /// Nothing of `test`, which stands at `field`, is in `train` too.
    pub(in crate::scenario) fn disjoint(&mut self, field: &str, train: &[String], test: &[String]) {
        let known: BTreeSet<String> = train.iter().map(|text| normalise(text)).collect();
        for (i, text) in test.iter().enumerate() {
            if known.contains(&normalise(text)) {
                let expected = "nothing that training has too";
                self.breach(&format!("{field}[{i}]"), expected, text);
            }
        }
    }
}
