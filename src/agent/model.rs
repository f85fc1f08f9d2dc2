//! Finding and loading a model: a folder, a GGUF file, the embedded small model, or a repository on a hub.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use crate::artifact::{ArtifactError, Digest, digest_bytes};
use crate::model::footprint::Footprint;
use crate::model::weights::WeightError;
use crate::model::{Decoder, ModelConfig, Weights};
use crate::text::{Message, RenderOptions, Speaker, TextCodec, TextError};

/// Name of the small real model that the set-up script fetches.
pub const EMBEDDED: &str = "smollm2-135m-instruct";
const EMBEDDED_FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// Precision of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 on a GPU, fp32 on a CPU.
    #[default]
    Auto,
    /// 32-bit floats.
    Fp32,
    /// bfloat16.
    Bf16,
}

impl Precision {
    /// The kind on this device.
    pub fn kind(self, device: Device) -> Kind {
        match (self, device) {
            (Self::Fp32, _) | (Self::Auto, Device::Cpu) => Kind::Float,
            _ => Kind::BFloat16,
        }
    }
}

/// Which model, as a recipe or a command line names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// A folder, a `.gguf` file, `smollm2-135m-instruct`, or `owner/name` on the hub, `@revision` if need be.
    pub source: String,
    /// Precision of the weights.
    #[serde(default)]
    pub precision: Precision,
}

/// A model that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The GPU has not the memory.
    #[error("model {path}: {problem}")]
    Memory {
        /// Folder or file.
        path: PathBuf,
        /// Needed and free.
        problem: String,
    },
    /// It would have to be fetched from the hub, and nothing is to be fetched.
    #[error("model `{source_name}`: not fetched from the hub yet")]
    NotFetched {
        /// As the recipe names it.
        source_name: String,
    },
    /// Nothing of that name.
    #[error("model `{source_name}`: {problem}")]
    NotFound {
        /// As it was asked for.
        source_name: String,
        /// What was looked for, and how to mend it.
        problem: String,
    },
    /// The hub did not give it.
    #[error("model `{name}`: {problem}")]
    Hub {
        /// Repository.
        name: String,
        /// What the hub said, and how to mend it.
        problem: String,
    },
    /// The weights cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// Tokenizer or template cannot be used.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A file cannot be read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// Weights and tokenizer do not belong together.
    #[error(
        "{path}: the tokenizer has {tokens} tokens, the model's embedding only {rows} rows; they do not belong together"
    )]
    Vocabulary {
        /// The model.
        path: PathBuf,
        /// Size of the tokenizer's vocabulary.
        tokens: usize,
        /// Rows of the embedding.
        rows: i64,
    },
}

/// A model ready to be asked.
#[derive(Debug)]
pub struct LoadedModel {
    /// The frozen decoder.
    pub decoder: Decoder,
    /// Tokenizer, chat template, stop tokens.
    pub codec: TextCodec,
}

impl LoadedModel {
    /// Load from a resolved path.
    pub fn load(path: &Path, precision: Precision, device: Device) -> Result<Self, ModelError> {
        let weights = Weights::open(path)?;
        let codec = codec_of(&weights, path)?;
        let (tokens, rows) = (codec.tokenizer().vocab_size(), weights.config().vocab_size);
        if tokens as i64 > rows {
            return Err(ModelError::Vocabulary {
                path: path.into(),
                tokens,
                rows,
            });
        }
        let kind = precision.kind(device);
        Footprint::of(weights.config(), kind)
            .check(device)
            .map_err(|problem| ModelError::Memory {
                path: path.into(),
                problem,
            })?;
        let decoder = Decoder::load(&weights, kind, device)?;
        Ok(Self { decoder, codec })
    }

    /// The token that ends the model's turn, as its chat template writes it: the last token of every training
    /// completion.
    pub fn end_of_turn(&self) -> Result<u32, TextError> {
        let mark = "ANSWER";
        let messages = [
            Message::new(Speaker::User, "Question"),
            Message::new(Speaker::Assistant, mark),
        ];
        let text = self.codec.render(&messages, &RenderOptions::default())?;
        let after = text.rfind(mark).map_or("", |at| &text[at + mark.len()..]);
        let first = self.codec.tokenizer().encode(after)?.first().copied();
        let stops = self.codec.stop_ids();
        Ok(first.filter(|id| stops.contains(id)).unwrap_or(stops[0]))
    }
}

fn codec_of(weights: &Weights, path: &Path) -> Result<TextCodec, ModelError> {
    Ok(match weights.gguf() {
        Some(file) => TextCodec::from_gguf(file)?,
        None => TextCodec::from_dir(path)?,
    })
}

/// Tokenizer and chat template of a model, its weights not loaded.
pub fn text_codec(path: &Path) -> Result<TextCodec, ModelError> {
    codec_of(&Weights::open(path)?, path)
}

impl ModelSpec {
    /// By source alone.
    pub fn new(source: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            precision: Precision::Auto,
        }
    }

    /// The folder or file on this machine; a hub repository is fetched into the hub's cache first.
    ///
    /// Relative paths are taken from `base`, the recipe's folder. Without `fetch` a repository that is not in the cache is
    /// an error.
    pub fn resolve(&self, base: &Path, fetch: bool) -> Result<PathBuf, ModelError> {
        if self.source == EMBEDDED {
            return embedded();
        }
        let path = match base == Path::new(".") {
            true => PathBuf::from(&self.source),
            false => base.join(&self.source),
        };
        if path.join("config.json").is_file() || path.is_file() {
            return Ok(path);
        }
        let not_found = |problem: String| ModelError::NotFound {
            source_name: self.source.clone(),
            problem,
        };
        if path.is_dir() {
            return Err(not_found(format!(
                "{} has no config.json; name a model folder or a .gguf file",
                path.display()
            )));
        }
        let looks_like_a_path =
            self.source.starts_with(['.', '/']) || self.source.ends_with(".gguf");
        let (name, _) = split_revision(&self.source);
        if looks_like_a_path || name.split('/').count() != 2 {
            return Err(not_found(format!(
                "{} is not there, and it is neither `{EMBEDDED}` nor an `owner/name` of the hub",
                path.display()
            )));
        }
        if let Some(folder) = cached(&self.source) {
            return Ok(folder);
        }
        if !fetch {
            return Err(ModelError::NotFetched {
                source_name: self.source.clone(),
            });
        }
        from_hub(&self.source)
    }
}

/// The embedded model's file, as the set-up script leaves it.
fn embedded() -> Result<PathBuf, ModelError> {
    let beside_binary = std::env::current_exe().ok();
    let beside_binary = beside_binary
        .iter()
        .flat_map(|exe| exe.ancestors().skip(1).take(4).map(|p| p.join(".deps")));
    let places = std::env::var_os("ATP_DEPS")
        .map(PathBuf::from)
        .into_iter()
        .chain([PathBuf::from(".deps")])
        .chain(beside_binary)
        .chain([Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps")]);
    for place in places {
        let file = place.join(EMBEDDED).join(EMBEDDED_FILE);
        if file.is_file() {
            return Ok(std::path::absolute(&file).unwrap_or(file));
        }
    }
    Err(ModelError::NotFound {
        source_name: EMBEDDED.into(),
        problem: "not fetched yet; run `python3 scripts/setup.py model` or set ATP_DEPS".into(),
    })
}

/// The folder of a repository that is whole in the hub's cache.
fn cached(source: &str) -> Option<PathBuf> {
    let (name, revision) = split_revision(source);
    let repo = Repo::with_revision(name.into(), RepoType::Model, revision.into());
    let repo = Cache::from_env().repo(repo);
    let folder = repo.get("config.json")?.parent()?.to_path_buf();
    // Whole: every shard that the index names, or the one file, is there.
    let index = std::fs::read_to_string(folder.join("model.safetensors.index.json"));
    let whole = match index {
        Ok(text) => {
            let index: serde_json::Value = serde_json::from_str(&text).ok()?;
            let mut shards = index["weight_map"]
                .as_object()?
                .values()
                .filter_map(|v| v.as_str());
            shards.all(|shard| folder.join(shard).is_file())
        }
        Err(_) => folder.join("model.safetensors").is_file(),
    };
    (whole && folder.join("tokenizer.json").is_file()).then_some(folder)
}

fn split_revision(source: &str) -> (&str, &str) {
    source.split_once('@').unwrap_or((source, "main"))
}

/// Whether a repository's file belongs to what the decoder reads.
fn is_needed(file: &str) -> bool {
    let weights = file.ends_with(".safetensors") || file == "model.safetensors.index.json";
    let described = matches!(
        file,
        "config.json"
            | "generation_config.json"
            | "tokenizer.json"
            | "tokenizer_config.json"
            | "special_tokens_map.json"
            | "chat_template.jinja"
    );
    !file.contains('/') && (weights || described)
}

/// Fetch a repository into the hub's cache (`HF_HOME`, `HF_ENDPOINT` and the stored token are honoured).
fn from_hub(source: &str) -> Result<PathBuf, ModelError> {
    let (name, revision) = split_revision(source);
    let fail = |error: ApiError| ModelError::Hub {
        name: source.into(),
        problem: hub_problem(name, &error),
    };
    let api = ApiBuilder::from_env()
        .with_progress(true)
        .build()
        .map_err(fail)?;
    let repo = api.repo(Repo::with_revision(
        name.into(),
        RepoType::Model,
        revision.into(),
    ));
    let info = repo.info().map_err(fail)?;
    tracing::info!("model {name}, commit {}", info.sha);
    let pinned = api.repo(Repo::with_revision(name.into(), RepoType::Model, info.sha));
    let mut folder = None;
    for file in info
        .siblings
        .iter()
        .map(|s| s.rfilename.as_str())
        .filter(|f| is_needed(f))
    {
        let path = pinned.get(file).map_err(fail)?;
        folder = path.parent().map(Path::to_path_buf);
    }
    folder.ok_or_else(|| ModelError::Hub {
        name: source.into(),
        problem: "the repository has no model files".into(),
    })
}

fn hub_problem(name: &str, error: &ApiError) -> String {
    let text = error.to_string();
    let hint = if text.contains("401") || text.contains("403") {
        format!(
            "; if it is gated, accept its terms at https://huggingface.co/{name} and log in (`hf auth login`)"
        )
    } else if text.contains("404") {
        "; check the spelling and the revision".to_owned()
    } else {
        "; check the network or HF_ENDPOINT, or download it elsewhere and name its folder"
            .to_owned()
    };
    format!("{text}{hint}")
}

/// A text that changes with the model's files: digest of weights, configuration, tokenizer and template.
///
/// Digests of large files are remembered by path, size, inode and times of change in the user's cache folder.
pub fn identity(path: &Path) -> Result<String, ModelError> {
    let files: Vec<PathBuf> = if path.is_file() {
        vec![path.into()]
    } else {
        let read = |source| ArtifactError::io("list folder", path)(source);
        let mut files = vec![];
        for entry in std::fs::read_dir(path).map_err(read)? {
            let entry = entry.map_err(read)?.path();
            if entry
                .file_name()
                .and_then(|n| n.to_str())
                .is_some_and(is_needed)
            {
                files.push(entry);
            }
        }
        files.sort();
        files
    };
    let mut text = String::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        text.push_str(&format!("{name} {}\n", remembered_digest(&file)?));
    }
    Ok(digest_bytes(text.as_bytes()).to_string())
}

fn remembered_digest(file: &Path) -> Result<Digest, ArtifactError> {
    let absolute = std::fs::canonicalize(file).map_err(ArtifactError::io("find", file))?;
    let meta = std::fs::metadata(&absolute).map_err(ArtifactError::io("examine", file))?;
    // Nobody can set the time of the last change of an inode, and a replaced file is another inode: a file that was put
    // in place of another with its size and its time of modification is seen.
    let stamp = format!(
        "{} {} {}.{} {}.{} {}:{}",
        absolute.display(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
        meta.dev(),
        meta.ino()
    );
    let cache = cache_folder().map(|f| {
        f.join("digests")
            .join(digest_bytes(stamp.as_bytes()).to_string())
    });
    if let Some(known) = cache.as_ref().and_then(|c| std::fs::read_to_string(c).ok())
        && let Ok(digest) = known.trim().parse()
    {
        return Ok(digest);
    }
    let digest = crate::artifact::digest_file(&absolute)?;
    if let Some(cache) = cache
        && let Some(parent) = cache.parent()
    {
        // Only a memory: without it the digest is computed again.
        let _ = std::fs::create_dir_all(parent);
        let _ = crate::artifact::write_atomic(&cache, digest.to_string().as_bytes());
    }
    Ok(digest)
}

fn cache_folder() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base =
        base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    base.map(|b| b.join("atp-pipeline"))
}

/// Shape of a model without loading it.
pub fn describe(path: &Path) -> Result<ModelConfig, ModelError> {
    Ok(Weights::open(path)?.config().clone())
}
