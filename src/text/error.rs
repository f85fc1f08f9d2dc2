//! What can go wrong between text and ids.

use std::path::{Path, PathBuf};

use crate::formats::gguf::GgufError;

/// Why text could not be turned into ids or back.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file of the model cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file of the model does not say what it should.
    #[error("`{}`: {reason}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// The field, what was expected and what is there.
        reason: String,
    },
    /// The GGUF file cannot be used.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The chat template does not compile, refuses these messages or runs away.
    #[error("chat template: {0}")]
    Template(String),
    /// The tokenizer refuses this text.
    #[error("cannot encode: {0}")]
    Encode(String),
    /// The ids are not of this tokenizer.
    #[error("cannot decode: {0}")]
    Decode(String),
}

impl TextError {
    /// An error of this file.
    pub(super) fn file(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        TextError::File {
            path: path.as_ref().to_path_buf(),
            reason: reason.into(),
        }
    }
}
