//! Finding and loading a model: a folder, a GGUF file, the embedded small model, or a repository on a hub.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use super::endpoint::{EndpointConfig, is_endpoint};
use super::local::{LocalError, near};
use super::repository::{Fetched, cached, fetch, is_needed};
use crate::artifact::{ArtifactError, Digest, digest_bytes};
use crate::hub::{Hub, HubError};
use crate::model::footprint::Footprint;
use crate::model::weights::WeightError;
use crate::model::{Decoder, ModelConfig, Weights};
use crate::runtime::deps;
use crate::runtime::ranks::Ranks;
use crate::text::{Message, RenderOptions, Speaker, TextCodec, TextError};

/// Name of the small real model that the set-up script fetches.
pub const EMBEDDED: &str = "smollm2-135m-instruct";
/// The hub's name of the model whose weights it has, in four bits.
pub const EMBEDDED_ON_HUB: &str = "HuggingFaceTB/SmolLM2-135M-Instruct";
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
    /// On a CPU, 8 bits with a scale for each output of a matrix; computed in 32-bit floats.
    Int8,
}

impl Precision {
    /// The kind on this device.
    pub fn kind(self, device: Device) -> Kind {
        match (self, device) {
            (Self::Fp32 | Self::Int8, _) | (Self::Auto, Device::Cpu) => Kind::Float,
            _ => Kind::BFloat16,
        }
    }

    /// The name of what it is on this device.
    pub fn name(self, device: Device) -> &'static str {
        match (self, self.kind(device)) {
            (Self::Int8, _) => "int8",
            (_, Kind::Float) => "fp32",
            _ => "bf16",
        }
    }
}

/// Which model, as a recipe or a command line names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// A folder, a `.gguf` file, `smollm2-135m-instruct`, `owner/name` on the hub, or `http://host:port/v1#name`: a model
    /// that another program serves, which can be evaluated.
    pub source: String,
    /// Branch, tag or commit on the hub, also written `owner/name@revision`; `main` if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// How a served model is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<EndpointConfig>,
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
    /// The device does not compute in this precision.
    #[error(
        "model {path}: precision int8 is for a CPU, this device is {device:?}; take `auto` or `bf16`"
    )]
    Precision {
        /// Folder or file.
        path: PathBuf,
        /// The device.
        device: Device,
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
    #[error("model `{name}`: {source}")]
    Hub {
        /// Repository.
        name: String,
        /// What the hub said, and how to mend it.
        source: HubError,
    },
    /// It is served elsewhere: there are no files of it.
    #[error(
        "model `{source_name}` is served by another program: it can be evaluated, but not trained, sampled or scored here"
    )]
    Served {
        /// As it was asked for.
        source_name: String,
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
    /// No copy of it can be made where one is asked for.
    #[error(transparent)]
    Local(#[from] LocalError),
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
    /// The ranks that have this model too and share its work.
    pub ranks: Ranks,
}

impl LoadedModel {
    /// Load from a resolved path, by way of this machine's copy where one is asked for ([`super::local`]).
    pub fn load(path: &Path, precision: Precision, device: Device) -> Result<Self, ModelError> {
        let path = &near(path)?;
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
        let bytes = precision == Precision::Int8;
        if bytes && device != Device::Cpu {
            let path = path.into();
            return Err(ModelError::Precision { path, device });
        }
        let kind = precision.kind(device);
        Footprint::of(weights.config(), kind, device)
            .check(device)
            .map_err(|problem| ModelError::Memory {
                path: path.into(),
                problem,
            })?;
        let mut decoder = Decoder::load(&weights, kind, device)?;
        if bytes {
            decoder = decoder.in_bytes();
        }
        Ok(Self {
            decoder,
            codec,
            ranks: Ranks::alone(),
        })
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
            revision: None,
            endpoint: None,
            precision: Precision::Auto,
        }
    }

    /// Whether another program serves it.
    pub fn is_served(&self) -> bool {
        is_endpoint(&self.source)
    }

    /// Name and revision on the hub.
    fn on_hub(&self) -> (&str, &str) {
        let (name, revision) = self
            .source
            .split_once('@')
            .unwrap_or((&self.source, "main"));
        (name, self.revision.as_deref().unwrap_or(revision))
    }

    /// The folder or file on this machine; a hub repository is fetched into the hub's cache first.
    ///
    /// Relative paths are taken from `base`, the recipe's folder. Without `fetch` a repository that is not in the cache is
    /// an error.
    pub fn resolve(&self, base: &Path, fetch: bool) -> Result<PathBuf, ModelError> {
        Ok(self.find(base, fetch)?.0)
    }

    /// As [`Self::resolve`], and where it is from: `owner/name@commit` for the hub's, else the path.
    pub fn find(&self, base: &Path, may_fetch: bool) -> Result<(PathBuf, String), ModelError> {
        let here = |path: PathBuf| {
            let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
            (path, absolute.display().to_string())
        };
        let not_found = |problem: String| ModelError::NotFound {
            source_name: self.source.clone(),
            problem,
        };
        if self.is_served() {
            return Err(ModelError::Served {
                source_name: self.source.clone(),
            });
        }
        let no_revision = || match &self.revision {
            None => Ok(()),
            Some(revision) => Err(not_found(format!(
                "it is on this machine; `revision = \"{revision}\"` is for models of the hub alone"
            ))),
        };
        if self.source == EMBEDDED {
            no_revision()?;
            return Ok((embedded()?, EMBEDDED.to_owned()));
        }
        let path = match base == Path::new(".") {
            true => PathBuf::from(&self.source),
            false => base.join(&self.source),
        };
        if path.join("config.json").is_file() || path.is_file() {
            no_revision()?;
            return Ok(here(path));
        }
        if path.is_dir() {
            return Err(not_found(format!(
                "{} has no config.json; name a model folder or a .gguf file",
                path.display()
            )));
        }
        let looks_like_a_path =
            self.source.starts_with(['.', '/']) || self.source.ends_with(".gguf");
        let (name, revision) = self.on_hub();
        if looks_like_a_path || name.split('/').count() != 2 {
            return Err(not_found(format!(
                "{} is not there, and it is neither `{EMBEDDED}`, an `owner/name` of the hub, nor an address \
                 `http://host:port/v1#name`",
                path.display()
            )));
        }
        let hub = Hub::from_env();
        let Fetched { folder, origin } = match cached(&hub, name, revision) {
            Some(found) => {
                tracing::info!("model {}, in the cache", found.origin);
                found
            }
            None if !may_fetch => {
                return Err(ModelError::NotFetched {
                    source_name: self.source.clone(),
                });
            }
            None => fetch(&hub, name, revision).map_err(|source| ModelError::Hub {
                name: name.to_owned(),
                source,
            })?,
        };
        Ok((folder, origin))
    }
}

/// The embedded model's file, as the set-up script leaves it.
fn embedded() -> Result<PathBuf, ModelError> {
    deps::find(&format!("{EMBEDDED}/{EMBEDDED_FILE}")).ok_or_else(|| ModelError::NotFound {
        source_name: EMBEDDED.into(),
        problem: "not fetched yet; run `python3 scripts/setup.py model` or set ATP_DEPS".into(),
    })
}

/// A text that changes with the model's files: digest of weights, configuration, tokenizer and template.
///
/// Digests of large files are remembered by path, size, inode and times of change in the user's cache folder.
pub fn identity(path: &Path) -> Result<String, ModelError> {
    Ok(identity_of(&file_digests(path)?).to_string())
}

/// Digest of names and digests: that of equal files is equal, wherever they lie.
pub(super) fn identity_of(files: &[(PathBuf, Digest)]) -> Digest {
    let mut text = String::new();
    for (file, digest) in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        text.push_str(&format!("{name} {digest}\n"));
    }
    digest_bytes(text.as_bytes())
}

/// The model's files, in order of their names, with their digests.
pub(super) fn file_digests(path: &Path) -> Result<Vec<(PathBuf, Digest)>, ArtifactError> {
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
    let with_digest = |file: PathBuf| {
        let digest = remembered_digest(&file)?;
        Ok((file, digest))
    };
    files.into_iter().map(with_digest).collect()
}

/// The digest of a file, read anew only where nothing is remembered of it as it is.
pub(super) fn remembered_digest(file: &Path) -> Result<Digest, ArtifactError> {
    let memory = memory_of(file)?;
    if let Some(known) = memory
        .as_ref()
        .and_then(|m| std::fs::read_to_string(m).ok())
        && let Ok(digest) = known.trim().parse()
    {
        return Ok(digest);
    }
    let digest = crate::artifact::digest_file(file)?;
    write_memory(memory, &digest);
    Ok(digest)
}

/// This file has just been read, and has this digest.
pub(super) fn remember_digest(file: &Path, digest: &Digest) -> Result<(), ArtifactError> {
    write_memory(memory_of(file)?, digest);
    Ok(())
}

/// Only a memory: without it the digest is computed again.
fn write_memory(memory: Option<PathBuf>, digest: &Digest) {
    if let Some(memory) = memory
        && let Some(parent) = memory.parent()
    {
        let _ = std::fs::create_dir_all(parent);
        let _ = crate::artifact::write_atomic(&memory, digest.to_string().as_bytes());
    }
}

/// Where the digest of a file as it is now is remembered; none where there is no place for it.
fn memory_of(file: &Path) -> Result<Option<PathBuf>, ArtifactError> {
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
    let folder = cache_folder().map(|folder| folder.join("digests"));
    Ok(folder.map(|folder| folder.join(digest_bytes(stamp.as_bytes()).to_string())))
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
