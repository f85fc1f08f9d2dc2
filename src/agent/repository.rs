//! Models on the hub: which files of a repository are needed, and whether the cache has them all.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hf_hub::RepoType;

use crate::hub::{Hub, HubError, Revision};

const INDEX: &str = "model.safetensors.index.json";
const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
/// What else describes a model.
const DESCRIBED: [&str; 4] = [
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// Whether a file of a model's folder is part of what the decoder reads.
pub(super) fn is_needed(file: &str) -> bool {
    let weights = file.ends_with(".safetensors") || file == INDEX;
    let described = [CONFIG, TOKENIZER].contains(&file) || DESCRIBED.contains(&file);
    !file.contains('/') && (weights || described)
}

/// A model of the hub on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Its folder in the hub's cache.
    pub folder: PathBuf,
    /// `owner/name@commit`.
    pub origin: String,
}

impl Fetched {
    fn of(hub: &Hub, revision: &Revision) -> Self {
        Self {
            folder: hub.snapshot(revision),
            origin: format!("{}@{}", revision.name, revision.commit),
        }
    }
}

/// The model, if the cache has all of it.
pub(super) fn cached(hub: &Hub, name: &str, revision: &str) -> Option<Fetched> {
    let known = hub.known(RepoType::Model, name, revision)?;
    let have = |file: &str| hub.cached(&known, file);
    let mut needed: Vec<String> = [CONFIG, TOKENIZER].map(str::to_owned).to_vec();
    let listed = |file: &&str| known.files.iter().any(|f| f == file);
    needed.extend(
        DESCRIBED
            .iter()
            .filter(|f| listed(f))
            .map(|f| (*f).to_owned()),
    );
    match listed(&INDEX) {
        true => needed.extend(shards(&have(INDEX)?).ok()?),
        false => needed.push(WEIGHTS.to_owned()),
    }
    let whole = needed.iter().all(|file| have(file).is_some());
    whole.then(|| Fetched::of(hub, &known))
}

/// Fetch what is missing of the model. Small files come first: what is wrong with them is known before the weights are
/// here.
pub(super) fn fetch(hub: &Hub, name: &str, revision: &str) -> Result<Fetched, HubError> {
    let found = hub.look_up(RepoType::Model, name, revision)?;
    tracing::info!("model {name}, commit {}", found.commit);
    let listed = |file: &str| found.files.iter().any(|f| f == file);
    for file in [CONFIG, TOKENIZER] {
        if !listed(file) {
            return Err(HubError::Failed(format!(
                "commit {} has no {file}: it is no model that is served here; its files: {}",
                found.commit,
                some(&found.files)
            )));
        }
    }
    for file in [CONFIG, TOKENIZER].iter().chain(&DESCRIBED) {
        if listed(file) {
            hub.fetch(&found, file)?;
        }
    }
    let weights = if listed(INDEX) {
        shards(&hub.fetch(&found, INDEX)?).map_err(HubError::Failed)?
    } else if listed(WEIGHTS) {
        BTreeSet::from([WEIGHTS.to_owned()])
    } else {
        return Err(HubError::Failed(format!(
            "commit {} has neither {WEIGHTS} nor {INDEX}; other weight files are not read; its files: {}",
            found.commit,
            some(&found.files)
        )));
    };
    if let Some(gone) = weights.iter().find(|shard| !listed(shard)) {
        let commit = &found.commit;
        let problem =
            format!("{INDEX} of commit {commit} names `{gone}`, which the commit has not");
        return Err(HubError::Failed(problem));
    }
    for shard in &weights {
        hub.fetch(&found, shard)?;
    }
    hub.pin(&found)?;
    Ok(Fetched::of(hub, &found))
}

/// The files an index names.
fn shards(index: &Path) -> Result<BTreeSet<String>, String> {
    let wrong = |what: String| format!("{}: {what}", index.display());
    let text = std::fs::read_to_string(index).map_err(|e| wrong(e.to_string()))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let map = json["weight_map"].as_object();
    let map = map.ok_or_else(|| wrong("expected `weight_map`, tensor names to files".into()))?;
    let file = |value: &serde_json::Value| {
        let name = value.as_str().filter(|name| !name.contains('/'));
        let name = name.ok_or_else(|| wrong(format!("expected a file name, got {value}")));
        name.map(str::to_owned)
    };
    map.values().map(file).collect()
}

fn some(files: &[String]) -> String {
    let more = if files.len() > 12 { ", …" } else { "" };
    let first: Vec<&str> = files.iter().take(12).map(String::as_str).collect();
    format!("{}{more}", first.join(", "))
}
