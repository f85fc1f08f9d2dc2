//! The rules of an environment that its types do not hold.

use std::collections::BTreeSet;
use std::path::Path;

use super::{
    Environment, EnvironmentError, MIN_TEST_SITUATIONS, MIN_TRAIN_SITUATIONS, PayRanges, Situations,
};
use crate::scenario::choice::simplify;
use crate::scenario::disjoint::normalise;
use crate::scenario::slots::{names, pieces};

/// The rules that the types do not hold.
pub(in crate::scenario) struct Check<'a> {
    pub(in crate::scenario) path: &'a Path,
}

pub(in crate::scenario) type Checked = Result<(), EnvironmentError>;

impl Check<'_> {
    pub(in crate::scenario) fn error(
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

    pub(super) fn environment(&self, env: &Environment) -> Checked {
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
        self.names([
            ("compliant.name", &env.compliant.name),
            ("deviant.name", &env.deviant.name),
        ])?;
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
    pub(in crate::scenario) fn line(&self, field: &str, text: &str) -> Checked {
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
    pub(in crate::scenario) fn fixed(&self, field: &str, text: &str) -> Checked {
        self.template(field, text, &[])
    }

    /// A line whose slots are all among `known`.
    pub(in crate::scenario) fn template(&self, field: &str, text: &str, known: &[&str]) -> Checked {
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
    pub(in crate::scenario) fn names(&self, options: [(&str, &str); 2]) -> Checked {
        for (field, name) in options {
            self.line(field, name)?;
            let plain = |c: char| c.is_ascii_alphanumeric() || c == ' ' || c == '-';
            let taken =
                ["a", "b", "option", "option a", "option b"].contains(&simplify(name).as_str());
            if !name.chars().all(plain) || taken {
                let expected = "letters, digits, spaces and hyphens, and more than a label";
                return Err(self.error(field, expected, name));
            }
        }
        let [(_, first), (field, second)] = options;
        if simplify(first) == simplify(second) {
            return Err(self.error(field, "another name than the other option's", second));
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

    pub(in crate::scenario) fn descriptions(
        &self,
        option: &str,
        train: &[String],
        test: &[String],
    ) -> Checked {
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

    pub(in crate::scenario) fn distinct(&self, field: &str, texts: &[String]) -> Checked {
        let mut seen = BTreeSet::new();
        match texts.iter().find(|text| !seen.insert(normalise(text))) {
            Some(text) => Err(self.error(field, "each text once", text)),
            None => Ok(()),
        }
    }

    pub(in crate::scenario) fn disjoint(
        &self,
        field: &str,
        train: &[String],
        test: &[String],
    ) -> Checked {
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
