//! GGUF files (versions 2 and 3) by memory map: metadata, tensor entries, tensor bytes.
//!
//! The file is not trusted: a truncated file, a length that lies, a name that stands twice or a tensor outside the file
//! is an error that names the file and the entry, and nothing is allocated that the file's own size does not justify.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::dequant::dequantise;
use super::kind::TensorKind;

mod parse;
mod value;
pub mod write;

pub use value::{Array, FromValue, Value};

/// Why a GGUF file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file cannot be opened or mapped.
    #[error("cannot open `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The bytes are not a GGUF file that is read here.
    #[error("cannot read `{}` as GGUF: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was being read and what was wrong with it.
        reason: String,
    },
    /// A metadata entry that is needed is not there.
    #[error("`{}` has no metadata `{key}`; the file does not describe this kind of model", path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The entry.
        key: String,
    },
    /// A metadata entry is of another type.
    #[error("metadata `{key}` of `{}`: expected {expected}, got {got}", path.display())]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The entry.
        key: String,
        /// The type asked for.
        expected: &'static str,
        /// The type in the file.
        got: String,
    },
    /// A tensor that is needed is not there.
    #[error("`{}` has no tensor `{name}`", path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
}

/// A tensor's entry in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, for example `blk.0.attn_q.weight`.
    pub name: String,
    /// Dimensions as the file lists them: the contiguous one first, so the reverse of a row-major shape.
    pub dims: Vec<usize>,
    /// How the elements are stored.
    pub kind: TensorKind,
    /// Where its bytes lie in the file.
    range: Range<usize>,
}

impl TensorInfo {
    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// The row-major shape: dimensions with the contiguous one last.
    pub fn shape(&self) -> Vec<usize> {
        self.dims.iter().rev().copied().collect()
    }
}

/// Where the bytes of a file are.
#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// An open GGUF file.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    map: Bytes,
    version: u32,
    metadata: BTreeMap<String, Value>,
    tensors: Vec<TensorInfo>,
    by_name: BTreeMap<String, usize>,
}

impl GgufFile {
    /// Opens the file and reads everything but the tensor data.
    ///
    /// # Errors
    /// If it cannot be opened, is malformed, has a tensor of a type that is not read, or is one part of several.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, GgufError> {
        let path = path.as_ref().to_path_buf();
        let io = |source| GgufError::Io {
            path: path.clone(),
            source,
        };
        let file = File::open(&path).map_err(io)?;
        // SAFETY: the map is read-only. Model files are not written to while they are read; another process that
        // truncates one ends this process with SIGBUS, which no reader of mapped files can prevent.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Self::read(path, Bytes::Mapped(map))
    }

    /// As [`open`](Self::open), of a file in memory; `path` is for messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(path: impl AsRef<Path>, bytes: Vec<u8>) -> Result<Self, GgufError> {
        Self::read(path.as_ref().to_path_buf(), Bytes::Owned(bytes))
    }

    fn read(path: PathBuf, map: Bytes) -> Result<Self, GgufError> {
        let malformed = |reason| GgufError::Malformed {
            path: path.clone(),
            reason,
        };
        let header = parse::header(&map).map_err(malformed)?;
        let by_name = header.tensors.iter().enumerate();
        let by_name = by_name.map(|(i, info)| (info.name.clone(), i)).collect();
        let file = Self {
            path: path.clone(),
            map,
            version: header.version,
            metadata: header.metadata,
            tensors: header.tensors,
            by_name,
        };
        match file.get_opt::<u64>("split.count")? {
            Some(parts) if parts > 1 => Err(malformed(format!(
                "it is one of {parts} parts; merge them into one file first (`gguf-split --merge`)"
            ))),
            _ => Ok(file),
        }
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// A metadata entry, if there.
    pub fn metadata(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// All metadata keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.metadata.keys().map(String::as_str)
    }

    /// A metadata entry as `T`: an integer (any that fits), `f32`, `f64`, `bool`, `&str`, `&[String]`, `Vec<i64>`,
    /// `Vec<f32>`.
    ///
    /// # Errors
    /// If it is not there or of another type.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, GgufError> {
        self.get_opt(key)?.ok_or_else(|| GgufError::MissingKey {
            path: self.path.clone(),
            key: key.to_string(),
        })
    }

    /// As [`get`](Self::get), `None` if it is not there.
    ///
    /// # Errors
    /// If it is of another type.
    pub fn get_opt<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, GgufError> {
        let Some(value) = self.metadata.get(key) else {
            return Ok(None);
        };
        match T::from_value(value) {
            Some(taken) => Ok(Some(taken)),
            None => Err(GgufError::WrongType {
                path: self.path.clone(),
                key: key.to_string(),
                expected: T::EXPECTED,
                got: match value {
                    Value::Unsigned(n) => format!("{n}"),
                    Value::Signed(n) => format!("{n}"),
                    other => other.type_name().to_string(),
                },
            }),
        }
    }

    /// The entries of all tensors, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The entry of one tensor.
    ///
    /// # Errors
    /// If there is no tensor of that name.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        let index = self.by_name.get(name);
        index
            .map(|index| &self.tensors[*index])
            .ok_or_else(|| GgufError::MissingTensor {
                path: self.path.clone(),
                name: name.to_string(),
            })
    }

    /// The bytes of a tensor of this file; empty for an entry that comes from a longer file.
    pub fn bytes(&self, info: &TensorInfo) -> &[u8] {
        self.map.get(info.range.clone()).unwrap_or_default()
    }

    /// The values of a tensor of this file, `info.elements()` in row-major order of `info.shape()`.
    ///
    /// # Errors
    /// If the entry is not of this file.
    pub fn values(&self, info: &TensorInfo) -> Result<Vec<f32>, GgufError> {
        dequantise(info.kind, self.bytes(info), info.elements()).map_err(|e| GgufError::Malformed {
            path: self.path.clone(),
            reason: format!("tensor `{}`: {e}", info.name),
        })
    }
}

#[cfg(test)]
mod tests;
