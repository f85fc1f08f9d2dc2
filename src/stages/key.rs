//! What a stage's result depends on, as a value with a digest.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Reason;
use crate::artifact::{Digest, digest_bytes};

/// Everything that a stage's outputs depend on. Two stages with equal keys leave equal outputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageKey {
    /// What the stage does, for example `train-dpo`.
    pub kind: String,
    /// Version of the code's behaviour: raised when the same configuration gives another result.
    pub format: u32,
    /// The stage's own configuration.
    pub config: Value,
    /// Digests of what it reads, by input name.
    pub inputs: BTreeMap<String, Digest>,
    /// Which model it uses, if any: something that changes with the model's weights or tokenizer.
    pub model: Option<String>,
    /// Root seed of its random streams.
    pub seed: u64,
}

impl StageKey {
    /// The digest that names the stage's folder.
    pub fn digest(&self) -> Digest {
        let Self {
            kind,
            format,
            config,
            inputs,
            model,
            seed,
        } = self;
        let whole = serde_json::json!({
            "kind": kind,
            "format": format,
            "config": config,
            "inputs": inputs.iter().map(|(name, digest)| (name.clone(), digest.to_string().into())).collect::<serde_json::Map<_, _>>(),
            "model": model,
            "seed": seed,
        });
        digest_bytes(format!("atp-stage-key\0{}", canonical_json(&whole)).as_bytes())
    }

    /// What changed since `old`, each part named; empty if nothing did.
    pub fn changes_since(&self, old: &Self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        if self.kind != old.kind {
            reasons.push(Reason::Kind {
                from: old.kind.clone(),
                to: self.kind.clone(),
            });
        }
        if self.format != old.format {
            reasons.push(Reason::Format {
                from: old.format,
                to: self.format,
            });
        }
        let (before, after) = (flatten(&old.config), flatten(&self.config));
        for (key, from, to) in differences(&before, &after) {
            reasons.push(Reason::Config {
                key: key.clone(),
                from: from.cloned(),
                to: to.cloned(),
            });
        }
        if self.model != old.model {
            reasons.push(Reason::Model {
                from: old.model.clone(),
                to: self.model.clone(),
            });
        }
        if self.seed != old.seed {
            reasons.push(Reason::Seed {
                from: old.seed,
                to: self.seed,
            });
        }
        for (name, from, to) in differences(&old.inputs, &self.inputs) {
            let name = name.clone();
            reasons.push(match (from, to) {
                (None, _) => Reason::InputAdded { name },
                (_, None) => Reason::InputRemoved { name },
                _ => Reason::InputChanged { name },
            });
        }
        reasons
    }
}

/// The keys at which two maps differ, in order, with both values.
fn differences<'a, V: PartialEq>(
    before: &'a BTreeMap<String, V>,
    after: &'a BTreeMap<String, V>,
) -> Vec<(&'a String, Option<&'a V>, Option<&'a V>)> {
    let mut keys: Vec<_> = before.keys().chain(after.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter()
        .map(|key| (key, before.get(key), after.get(key)))
        .filter(|(_, from, to)| from != to)
        .collect()
}

/// The leaves of a value by their path, for example `optimizer.betas[1]`, as JSON text.
fn flatten(value: &Value) -> BTreeMap<String, String> {
    fn walk(path: String, value: &Value, leaves: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (key, value) in map {
                    let path = if path.is_empty() {
                        key.clone()
                    } else {
                        format!("{path}.{key}")
                    };
                    walk(path, value, leaves);
                }
            }
            Value::Array(items) if !items.is_empty() => {
                for (index, value) in items.iter().enumerate() {
                    walk(format!("{path}[{index}]"), value, leaves);
                }
            }
            leaf => {
                leaves.insert(path, leaf_text(leaf));
            }
        }
    }
    let mut leaves = BTreeMap::new();
    walk(String::new(), value, &mut leaves);
    leaves
}

/// A value without parts as JSON. Floats as the shortest text that is read back as the same float, small and large ones
/// with an exponent: not left to the JSON library, since keys are made of it.
fn leaf_text(leaf: &Value) -> String {
    match leaf {
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            format!("{number:?}")
        }
        leaf => leaf.to_string(),
    }
}

/// JSON with sorted keys and no spaces, so that equal values have equal text.
pub fn canonical_json(value: &Value) -> String {
    fn write(value: &Value, text: &mut String) {
        match value {
            Value::Object(map) => {
                let sorted: BTreeMap<_, _> = map.iter().collect();
                text.push('{');
                for (index, (key, value)) in sorted.into_iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    // Writing to a string cannot fail.
                    let _ = write!(text, "{}:", Value::from(key.as_str()));
                    write(value, text);
                }
                text.push('}');
            }
            Value::Array(items) => {
                text.push('[');
                for (index, value) in items.iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    write(value, text);
                }
                text.push(']');
            }
            leaf => text.push_str(&leaf_text(leaf)),
        }
    }
    let mut text = String::new();
    write(value, &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key() -> StageKey {
        StageKey {
            kind: "train-dpo".into(),
            format: 1,
            config: json!({"lr": 1e-5, "lora": {"rank": 8, "targets": ["q", "k"]}}),
            inputs: BTreeMap::from([("pairs".into(), digest_bytes(b"pairs"))]),
            model: Some("smollm2 b179".into()),
            seed: 7,
        }
    }

    /// The changed key has another digest and says so in these words.
    fn changed(change: impl FnOnce(&mut StageKey)) -> Vec<String> {
        let mut new = key();
        change(&mut new);
        assert_ne!(new.digest(), key().digest());
        let reasons = new.changes_since(&key());
        reasons.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_equal_key_has_the_same_digest_and_no_changes() {
        let mut same = key();
        same.config = json!({"lora": {"targets": ["q", "k"], "rank": 8}, "lr": 1e-5});
        assert_eq!(same.digest(), key().digest());
        assert_eq!(same.changes_since(&key()), []);
        // A stored key is the key: floats survive the text.
        let text = serde_json::to_string(&key()).unwrap();
        let back: StageKey = serde_json::from_str(&text).unwrap();
        assert_eq!(back.digest(), key().digest());
    }

    #[test]
    fn kind() {
        let reasons = changed(|key| key.kind = "train-grpo".into());
        assert_eq!(reasons, ["kind changed: train-dpo → train-grpo"]);
    }

    #[test]
    fn format() {
        let reasons = changed(|key| key.format = 2);
        assert_eq!(reasons, ["format version changed: 1 → 2"]);
    }

    #[test]
    fn config() {
        let reasons = changed(|key| key.config["lr"] = json!(5e-6));
        assert_eq!(reasons, ["config key `lr` changed: 1e-5 → 5e-6"]);
        let reasons = changed(|key| key.config["lora"]["targets"] = json!(["q", "v", "o"]));
        assert_eq!(
            reasons,
            [
                "config key `lora.targets[1]` changed: \"k\" → \"v\"",
                "config key `lora.targets[2]` is new: \"o\""
            ]
        );
        let reasons = changed(|key| key.config = json!({"lr": 1e-5, "lora": {}}));
        assert_eq!(reasons[0], "config key `lora` is new: {}");
        assert_eq!(reasons[1], "config key `lora.rank` is gone, was 8");
    }

    #[test]
    fn inputs() {
        let other = digest_bytes(b"other");
        let reasons = changed(|key| key.inputs = BTreeMap::from([("pairs".into(), other)]));
        assert_eq!(reasons, ["input `pairs` changed"]);
        let reasons = changed(|key| key.inputs = BTreeMap::from([("rows".into(), other)]));
        assert_eq!(
            reasons,
            ["input `pairs` is no longer read", "input `rows` is new"]
        );
    }

    #[test]
    fn model() {
        let reasons = changed(|key| key.model = None);
        assert_eq!(reasons, ["model changed: smollm2 b179 → none"]);
    }

    #[test]
    fn seed() {
        assert_eq!(changed(|key| key.seed = 8), ["seed changed: 7 → 8"]);
    }
}
