//! Training metrics by step, read from a run's JSONL.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Why a metrics file cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SeriesError {
    /// A line is no JSON object.
    #[error(
        "metrics `{name}`, line {line}: expected a JSON object, got {got}; cut the file back to whole lines"
    )]
    Line {
        /// Series.
        name: String,
        /// Line, from 1.
        line: usize,
        /// What stood there.
        got: String,
    },
    /// A line lacks its step.
    #[error("metrics `{name}`, line {line}: expected a whole number in field `step`, got {got}")]
    Step {
        /// Series.
        name: String,
        /// Line, from 1.
        line: usize,
        /// What stood there.
        got: String,
    },
    /// Steps do not rise, as after a resume that did not cut the file back.
    #[error(
        "metrics `{name}`, line {line}: expected a step after {before}, got {got}; \
         cut the file back to the checkpoint that was resumed"
    )]
    Order {
        /// Series.
        name: String,
        /// Line, from 1.
        line: usize,
        /// Step of the line before.
        before: u64,
        /// Step of this line.
        got: u64,
    },
}

/// The metrics of one training.
///
/// Known names get their own panel and unit; others are drawn under the name they have. DPO: `loss`, `margin`,
/// `accuracy`, `chosen_logprob`, `rejected_logprob`. GRPO: `reward_mean`, `zero_variance_share`, `kl`,
/// `completion_length`. Both: `grad_norm`, `lr`, and for GRPO `reward_std`, `entropy`, `invalid_share`,
/// `clip_share_low`, `clip_share_high`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrainingSeries {
    /// `dpo` or `grpo`.
    pub name: String,
    /// Testbed that was trained on, where a report has several.
    pub testbed: String,
    /// Model that was trained.
    pub model: String,
    /// Seed of the training.
    pub seed: u64,
    /// Values by metric: (step, value), steps rising, values finite.
    pub metrics: BTreeMap<String, Vec<(u64, f64)>>,
}

impl TrainingSeries {
    /// As trained on this testbed.
    pub fn on(self, testbed: &str) -> Self {
        Self {
            testbed: testbed.into(),
            ..self
        }
    }

    /// Reads JSONL with one object a step: `step` and one number a metric. Fields that are no numbers (text, lists,
    /// `null` for a value that was not finite) are passed over.
    pub fn from_jsonl(
        name: &str,
        model: &str,
        seed: u64,
        jsonl: &str,
    ) -> Result<Self, SeriesError> {
        let mut series = Self {
            name: name.into(),
            testbed: String::new(),
            model: model.into(),
            seed,
            metrics: BTreeMap::new(),
        };
        let mut before = None;
        for (number, line) in jsonl
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
        {
            let (name, line_number) = (name.to_owned(), number + 1);
            let fields: Map<String, Value> =
                serde_json::from_str(line).map_err(|error| SeriesError::Line {
                    name: name.clone(),
                    line: line_number,
                    got: format!("`{}` ({error})", line.chars().take(60).collect::<String>()),
                })?;
            let Some(step) = fields.get("step").and_then(Value::as_u64) else {
                let got = fields
                    .get("step")
                    .map_or("nothing".into(), |value| format!("`{value}`"));
                return Err(SeriesError::Step {
                    name,
                    line: line_number,
                    got,
                });
            };
            if let Some(before) = before.filter(|before| *before >= step) {
                return Err(SeriesError::Order {
                    name,
                    line: line_number,
                    before,
                    got: step,
                });
            }
            before = Some(step);
            for (metric, value) in fields.iter().filter(|(metric, _)| *metric != "step") {
                if let Some(value) = value.as_f64().filter(|v| v.is_finite()) {
                    series
                        .metrics
                        .entry(metric.clone())
                        .or_default()
                        .push((step, value));
                }
            }
        }
        Ok(series)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<TrainingSeries, SeriesError> {
        TrainingSeries::from_jsonl("dpo", "m", 1, text)
    }

    #[test]
    fn numbers_by_step_and_gaps_where_there_is_none() {
        let found = read(
            "{\"step\":1,\"loss\":0.7,\"note\":\"x\"}\n\n{\"step\":3,\"loss\":null,\"lr\":1}\n",
        )
        .unwrap();
        assert_eq!(found.metrics["loss"], [(1, 0.7)]);
        assert_eq!(found.metrics["lr"], [(3, 1.0)]);
        assert_eq!(found.metrics.len(), 2);
    }

    #[test]
    fn a_torn_line_a_missing_step_and_a_step_back_name_their_line() {
        let line = |text| read(text).unwrap_err().to_string();
        assert!(line("{\"step\":1}\n{\"step\":2,\"lo").contains("line 2"));
        assert!(line("{\"loss\":1}").contains("field `step`, got nothing"));
        assert!(line("{\"step\":4}\n{\"step\":4}").contains("after 4, got 4"));
    }
}
