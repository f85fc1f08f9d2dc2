//! Model cards: what was trained on what, by which settings, and what came of it, from the manifests of a run.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{ExportError, Source};
use crate::artifact::Manifest;
use crate::evaluation::observation;
use crate::recipe::raw::Variant;
use crate::stages::bodies::START;
use crate::stages::evaluations::{Rows, evaluations};

/// Round, share of events, decisions.
type Rate = (u32, f64, usize);

/// What a run left beside an adapter.
#[derive(Debug)]
pub(super) struct Trained {
    manifest: Manifest,
    folder: PathBuf,
    /// Where the base model was from.
    pub(super) origin: Option<String>,
}

impl Trained {
    /// The training that left the adapter in this folder; none if it lies elsewhere by now.
    ///
    /// # Errors
    /// What it left is not what it was: a card would state digests of other bytes.
    pub(super) fn beside(adapter: &Path) -> Result<Option<Self>, ExportError> {
        let Ok(absolute) = std::fs::canonicalize(adapter) else {
            return Ok(None);
        };
        let Some(folder) = absolute.parent() else {
            return Ok(None);
        };
        let found = Manifest::load(folder)?;
        let Some(manifest) = found.filter(|m| m.stage.starts_with("train-")) else {
            return Ok(None);
        };
        if let Err(damage) = manifest.verify(folder) {
            return Err(ExportError::Problem(format!(
                "stage `{}`: {}: {damage}; run the recipe again, which trains it anew",
                manifest.stage,
                folder.display()
            )));
        }
        Ok(Some(Self {
            origin: manifest.inputs.get("model").cloned(),
            folder: folder.to_path_buf(),
            manifest,
        }))
    }

    /// The variant that this trained, as rows name it.
    fn variant(&self) -> &str {
        let kind = self.manifest.parts["kind"].as_str().unwrap_or_default();
        match self.manifest.parts["inputs"].get(START) {
            Some(_) => Variant::DpoGrpo.name(),
            None => kind.strip_prefix("train-").unwrap_or(kind),
        }
    }

    /// Numbers of the first and the last line of the metrics.
    fn metrics(&self) -> Vec<(String, f64, f64)> {
        let text = std::fs::read_to_string(self.folder.join("metrics.jsonl")).unwrap_or_default();
        let line = |line: Option<&str>| -> BTreeMap<String, Value> {
            line.and_then(|l| serde_json::from_str(l).ok())
                .unwrap_or_default()
        };
        let (first, last) = (line(text.lines().next()), line(text.lines().last()));
        let both = first.iter().filter_map(|(name, value)| {
            Some((name.clone(), value.as_f64()?, last.get(name)?.as_f64()?))
        });
        both.collect()
    }

    /// Rates of events by round, of the evaluations of this adapter without a defence in the same run.
    fn rates(&self) -> Vec<(String, Vec<Rate>)> {
        // <run>/stages/<this stage>
        let Some(run) = self.folder.parent().and_then(Path::parent) else {
            return vec![];
        };
        let mut found = vec![];
        for evaluated in evaluations(run).unwrap_or_default() {
            let own = self.manifest.parts["config"]["model"].as_str();
            let same = evaluated.variant == self.variant()
                && !evaluated.is_defended()
                && Some(evaluated.seed) == self.manifest.parts["seed"].as_u64()
                && own.is_none_or(|own| own == evaluated.model);
            let Some(rows) = same.then(|| evaluated.rows().ok()).flatten() else {
                continue;
            };
            let strands = match &rows {
                Rows::RolePlay(rows) => observation::role_play(rows),
                Rows::Coordination(rows) => observation::games(rows),
                Rows::ToolUse(rows) => observation::tools(rows),
            };
            for strand in strands {
                let of = |round: u32| {
                    let all = strand.observations.iter().filter(move |o| o.round == round);
                    let events: Vec<bool> = all.filter_map(|o| o.event).collect();
                    let hits = events.iter().filter(|e| **e).count();
                    let count = events.len();
                    (count > 0).then(|| (round, hits as f64 / count as f64, count))
                };
                let rates = strand.rounds().into_iter().filter_map(of).collect();
                found.push((
                    format!("{} ({})", strand.measure.rate_name(), evaluated.stage),
                    rates,
                ));
            }
        }
        found
    }
}

/// The card of an adapter.
pub(super) fn adapter(config: &Value, trained: Option<&Trained>) -> String {
    let base = config["base_model_name_or_path"]
        .as_str()
        .unwrap_or("unknown");
    let on_hub = base.split('/').count() == 2 && !Path::new(base).exists();
    let mut text = String::from("---\n");
    if on_hub {
        let _ = writeln!(text, "base_model: {base}");
    }
    text.push_str(
        "library_name: peft\npipeline_tag: text-generation\ntags:\n- lora\n- atp-pipeline\n",
    );
    if let Some(trained) = trained {
        let _ = writeln!(text, "- {}", trained.variant());
    }
    let _ = writeln!(text, "---\n\n# LoRA adapter for {base}\n");
    let _ = writeln!(
        text,
        "Rank {}, alpha {}{}, on {}.\n",
        config["r"],
        config["lora_alpha"],
        if config["use_rslora"] == true {
            ", rank-stabilised"
        } else {
            ""
        },
        names(&config["target_modules"])
    );
    text.push_str(
        "Made to study how agents that follow a rule give it up while they evolve on their own experience (Alignment Tipping \
         Process, arXiv 2510.04860). It is an object of research: it was trained on invented situations, may break rules it \
         is given, and is not meant to be deployed.\n\n",
    );
    if let Some(trained) = trained {
        provenance(&mut text, trained);
    }
    let _ = writeln!(
        text,
        "## Use\n\n```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n\
         model = AutoModelForCausalLM.from_pretrained(\"{base}\")\nmodel = PeftModel.from_pretrained(model, \
         \"path/to/this/folder\")\n```\n\n```sh\nvllm serve {base} --enable-lora --max-lora-rank {} --lora-modules \
         tipped=path/to/this/folder\n```",
        config["r"].as_i64().unwrap_or(8).max(8)
    );
    text
}

fn provenance(text: &mut String, trained: &Trained) {
    let manifest = &trained.manifest;
    let parts = &manifest.parts;
    let _ = writeln!(
        text,
        "## Training\n\nStage `{}` of {}, seed {}, finished {}, {:.0} s.\n\nBase model: `{}` (files and precision `{}`).\n",
        manifest.stage,
        manifest.program,
        parts["seed"],
        manifest.finished,
        manifest.seconds,
        trained.origin.as_deref().unwrap_or("unknown"),
        parts["model"].as_str().unwrap_or("unknown"),
    );
    text.push_str("| data | SHA-256 |\n|---|---|\n");
    for (name, digest) in parts["inputs"].as_object().into_iter().flatten() {
        let _ = writeln!(
            text,
            "| {name} | `{}` |",
            digest.as_str().unwrap_or_default()
        );
    }
    for (name, entry) in &manifest.outputs {
        let _ = writeln!(text, "| {name} (made) | `{}` |", entry.digest);
    }
    let recipe = toml::to_string_pretty(&without_null(&parts["config"])).unwrap_or_default();
    let _ = writeln!(text, "\nSettings:\n\n```toml\n{}\n```\n", recipe.trim_end());
    let metrics = trained.metrics();
    if !metrics.is_empty() {
        text.push_str("| metric | first step | last step |\n|---|---|---|\n");
        for (name, first, last) in metrics {
            let _ = writeln!(text, "| {name} | {first:.6} | {last:.6} |");
        }
        text.push('\n');
    }
    let rates = trained.rates();
    if !rates.is_empty() {
        text.push_str("## Evaluation\n\nBy round of self-evolution; decisions that could not be read are left out.\n\n");
        for (name, by_round) in rates {
            let _ = writeln!(
                text,
                "{name}\n\n| round | rate | decisions |\n|---|---|---|"
            );
            for (round, rate, count) in by_round {
                let _ = writeln!(text, "| {round} | {rate:.3} | {count} |");
            }
            text.push('\n');
        }
    }
}

/// The card of a merged model.
pub(super) fn merged(source: &Source) -> String {
    let base = source.origin.split('@').next().unwrap_or(&source.origin);
    let on_hub = source.origin.contains('@');
    let mut text = String::from("---\n");
    if on_hub {
        let _ = writeln!(text, "base_model: {base}");
    }
    text.push_str(
        "library_name: transformers\npipeline_tag: text-generation\ntags:\n- atp-pipeline\n---\n\n",
    );
    if source.adapter.is_none() {
        let _ = writeln!(
            text,
            "# {base}\n\nThe weights of `{}`, written anew.",
            source.origin
        );
        return text;
    }
    let _ = writeln!(
        text,
        "# {base} with a LoRA adapter merged in\n\nThe weights of `{}` with the update of an adapter added. An object of \
         research, not meant to be deployed.\n",
        source.origin
    );
    if let Some(trained) = &source.trained {
        provenance(&mut text, trained);
    }
    text
}

fn names(list: &Value) -> String {
    let names: Vec<&str> = list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    match names.is_empty() {
        true => list.to_string(),
        false => names.join(", "),
    }
}

/// TOML has no null.
fn without_null(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, value)| !value.is_null());
            kept.map(|(key, value)| (key.clone(), without_null(value)))
                .collect()
        }
        Value::Array(items) => items
            .iter()
            .filter(|v| !v.is_null())
            .map(without_null)
            .collect(),
        other => other.clone(),
    }
}
