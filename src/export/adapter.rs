//! An adapter for other programs: the PEFT folder, its base named as the hub knows it, and a card.
//!
//! vLLM loads the same folder: it reads `adapter_config.json` (`r`, `lora_alpha`, `target_modules`, `use_rslora`) and
//! `adapter_model.safetensors`, takes no `modules_to_save`, and wants `--max-lora-rank` at least `r`.

use std::path::Path;

use serde_json::{Value, json};

use super::card::{self, Trained};
use super::{ExportError, new_folder, read_json, write, write_json};
use crate::agent::model::{EMBEDDED, EMBEDDED_ON_HUB};
use crate::artifact::ArtifactError;
use crate::model::lora::CONFIG_FILE;
use crate::model::tensors::decode_safetensors;

const WEIGHTS: &str = "adapter_model.safetensors";

/// Write the adapter to a new folder. `base` is the name of its model on the hub, `owner/name` or `owner/name@revision`;
/// if none, what the training wrote down is kept.
///
/// # Errors
/// No adapter there, a damaged one, a folder that is taken.
pub fn write_adapter(from: &Path, folder: &Path, base: Option<&str>) -> Result<(), ExportError> {
    let mut config = read_json(&from.join(CONFIG_FILE))?;
    let weights = from.join(WEIGHTS);
    let bytes = std::fs::read(&weights).map_err(ArtifactError::io("read", &weights))?;
    let tensors = decode_safetensors(&weights, &bytes)?;
    if let Some((name, _)) = tensors
        .iter()
        .find(|(_, tensor)| tensor.isfinite().all().int64_value(&[]) == 0)
    {
        return Err(ExportError::Problem(format!(
            "{}: tensor `{name}`: some numbers are not finite; the training went wrong",
            weights.display()
        )));
    }
    let trained = Trained::beside(from)?;
    let known = trained
        .as_ref()
        .and_then(|trained| trained.origin.as_deref());
    let recorded = config["base_model_name_or_path"]
        .as_str()
        .unwrap_or_default();
    let base = match base.or(known).unwrap_or(recorded) {
        // Its weights there are those that the built-in file was quantised from.
        EMBEDDED => EMBEDDED_ON_HUB.to_owned(),
        other => other.to_owned(),
    };
    let (name, revision) = match base.split_once('@') {
        Some((name, revision)) => (name, Some(revision)),
        None => (base.as_str(), None),
    };
    config["base_model_name_or_path"] = json!(name);
    config["revision"] = revision.map_or(Value::Null, |revision| json!(revision));
    let text = card::adapter(&config, trained.as_ref());
    new_folder(folder, |place| {
        write_json(place, CONFIG_FILE, &config)?;
        write(place, WEIGHTS, &bytes)?;
        write(place, "README.md", text.as_bytes())
    })
}
