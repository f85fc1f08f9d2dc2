//! What other programs load: adapters with a card, merged models as Hugging Face folders, GGUF files, TensorBoard logs.
//!
//! | for | what |
//! |---|---|
//! | peft, vLLM | `adapter`: the PEFT folder that training leaves, its base named, with a card |
//! | transformers, vLLM, SGLang | `merged`: configuration, tokenizer, template, safetensors in shards with an index |
//! | llama.cpp and what is built on it | `gguf`: one file, F32, F16 or BF16 |
//! | TensorBoard | `tensorboard`: training metrics by step, evaluation rates by round |
//!
//! Folders are written beside their place and renamed: they are whole or not there.

use std::path::{Path, PathBuf};

use crate::agent::ModelError;
use crate::artifact::ArtifactError;
use crate::artifact::file::{create_folder, is_taken, remove_folder, temporary_beside};
use crate::artifact::table::TableError;
use crate::model::lora::LoraError;
use crate::model::tensors::TensorFileError;
use crate::model::weights::WeightError;
use crate::text::TextError;

pub mod adapter;
mod card;
pub mod gguf;
pub mod merged;
mod source;
pub mod tensorboard;

pub use source::{Precision, Source};

/// Something that cannot be exported.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each says what it is about
pub enum ExportError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Weights(#[from] WeightError),
    #[error(transparent)]
    Adapter(#[from] LoraError),
    #[error(transparent)]
    Text(#[from] TextError),
    #[error(transparent)]
    Tensors(#[from] TensorFileError),
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("{0}")]
    Interrupted(#[from] crate::runtime::interrupt::Interrupted),
    /// What is wrong, and how to mend it.
    #[error("{0}")]
    Problem(String),
}

/// Fill a new folder: it is there with all that `fill` writes, or not at all.
fn new_folder(
    folder: &Path,
    fill: impl FnOnce(&Path) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    if is_taken(folder) {
        return Err(ExportError::Problem(format!(
            "{}: expected nothing there or an empty folder; remove it, or name another one",
            folder.display()
        )));
    }
    let absolute = std::path::absolute(folder).map_err(ArtifactError::io("find", folder))?;
    let place = temporary_beside(&absolute);
    create_folder(&place)?;
    let filled = fill(&place).and_then(|()| {
        // An empty folder may stand in the way.
        let _ = std::fs::remove_dir(&absolute);
        std::fs::rename(&place, &absolute)
            .map_err(ArtifactError::io("rename", &place))
            .map_err(Into::into)
    });
    if filled.is_err() {
        // Best effort: the error matters more.
        let _ = remove_folder(&place);
    }
    filled
}

/// The file of a folder that is written.
fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), ExportError> {
    Ok(crate::artifact::write_atomic(&folder.join(name), bytes)?)
}

fn write_json(folder: &Path, name: &str, value: &serde_json::Value) -> Result<(), ExportError> {
    write(folder, name, format!("{value:#}\n").as_bytes())
}

fn read_json(path: &PathBuf) -> Result<serde_json::Value, ExportError> {
    let text = std::fs::read_to_string(path).map_err(ArtifactError::io("read", path))?;
    serde_json::from_str(&text)
        .map_err(|e| ExportError::Problem(format!("{}: expected JSON: {e}", path.display())))
}
