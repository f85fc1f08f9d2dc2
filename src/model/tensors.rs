//! Tensors to and from safetensors files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorView};
use safetensors::{SafeTensorError, SafeTensors};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use tch::{Kind, Tensor};

/// A tensor file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TensorFileError {
    /// The file is not there or cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The header or its sizes are wrong.
    #[error("{path}: not a whole safetensors file: {problem}; fetch or make it again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A tensor's number format is not served.
    #[error("{path}: tensor `{tensor}`: expected F32, F16 or BF16, got {got:?}")]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its format.
        got: Dtype,
    },
    /// A tensor could not be made from, or turned into, bytes.
    #[error("tensor `{tensor}`: {problem}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// The reason.
        problem: String,
    },
}

impl TensorFileError {
    /// A safetensors header that does not hold.
    pub fn damaged(path: &Path, error: &SafeTensorError) -> Self {
        Self::Damaged {
            path: path.into(),
            problem: error.to_string(),
        }
    }
}

/// The torch kind of a stored number format, where it is one of weights.
pub fn kind_of(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F32 => Some(Kind::Float),
        Dtype::F16 => Some(Kind::Half),
        Dtype::BF16 => Some(Kind::BFloat16),
        Dtype::I64 => Some(Kind::Int64),
        _ => None,
    }
}

/// The header of a file that is whole: names that stand once, sizes that add up to the file's.
pub fn read_header(path: &Path, bytes: &[u8]) -> Result<Metadata, TensorFileError> {
    let (length, header) = SafeTensors::read_metadata(bytes)
        .map_err(|error| TensorFileError::damaged(path, &error))?;
    let damaged = |problem: String| TensorFileError::Damaged {
        path: path.into(),
        problem,
    };
    // The library keeps the last of entries with one name.
    let text = bytes.get(8..8 + length).unwrap_or_default();
    serde_json::from_slice::<Names>(text).map_err(|error| damaged(format!("header: {error}")))?;
    let expected = (8 + length).checked_add(header.data_len());
    if expected != Some(bytes.len()) {
        return Err(damaged(format!(
            "the header describes {} bytes of tensors, the file has {}",
            header.data_len(),
            bytes.len().saturating_sub(8 + length)
        )));
    }
    Ok(header)
}

/// The names in a header, refused where one stands twice.
struct Names;

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = BTreeSet::new();
                while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                    if names.contains(&name) {
                        return Err(A::Error::custom(format!("`{name}` stands there twice")));
                    }
                    names.insert(name);
                }
                Ok(Names)
            }
        }
        deserializer.deserialize_map(Once)
    }
}

/// A tensor over a copy of one file entry's bytes.
pub fn to_tensor(path: &Path, name: &str, view: &TensorView) -> Result<Tensor, TensorFileError> {
    let Some(kind) = kind_of(view.dtype()) else {
        return Err(TensorFileError::Dtype {
            path: path.into(),
            tensor: name.into(),
            got: view.dtype(),
        });
    };
    let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
    Tensor::f_from_data_size(view.data(), &shape, kind).map_err(|error| TensorFileError::Tensor {
        tensor: name.into(),
        problem: error.to_string(),
    })
}

/// All tensors of a small file (adapters, checkpoints, fixtures), on the CPU in their stored kind.
pub fn read_safetensors(path: &Path) -> Result<BTreeMap<String, Tensor>, TensorFileError> {
    let bytes = std::fs::read(path).map_err(|source| TensorFileError::Read {
        path: path.into(),
        source,
    })?;
    decode_safetensors(path, &bytes)
}

/// [`read_safetensors`] from memory; `path` is for messages.
pub fn decode_safetensors(
    path: &Path,
    bytes: &[u8],
) -> Result<BTreeMap<String, Tensor>, TensorFileError> {
    read_header(path, bytes)?;
    let file =
        SafeTensors::deserialize(bytes).map_err(|error| TensorFileError::damaged(path, &error))?;
    file.iter()
        .map(|(name, view)| Ok((name.to_owned(), to_tensor(path, name, &view)?)))
        .collect()
}

/// The bytes of a safetensors file; the same tensors give the same bytes.
pub fn encode_safetensors<T: std::borrow::Borrow<Tensor>>(
    tensors: &[(String, T)],
) -> Result<Vec<u8>, TensorFileError> {
    let fail = |tensor: &str, problem: String| TensorFileError::Tensor {
        tensor: tensor.into(),
        problem,
    };
    let mut buffers = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let tensor = tensor.borrow();
        let tensor = tensor
            .f_to_device(tch::Device::Cpu)
            .map_err(|e| fail(name, e.to_string()))?
            .contiguous();
        let (dtype, width) = match tensor.kind() {
            Kind::Float => (Dtype::F32, 4),
            Kind::BFloat16 => (Dtype::BF16, 2),
            Kind::Half => (Dtype::F16, 2),
            Kind::Int64 => (Dtype::I64, 8),
            other => return Err(fail(name, format!("cannot store {other:?}"))),
        };
        let mut bytes = vec![0u8; tensor.numel() * width];
        tensor
            .f_copy_data_u8(&mut bytes, tensor.numel())
            .map_err(|e| fail(name, e.to_string()))?;
        let shape: Vec<usize> = tensor.size().iter().map(|&n| n as usize).collect();
        buffers.push((name, dtype, shape, bytes));
    }
    let views: Vec<_> = buffers
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            let view = TensorView::new(*dtype, shape.clone(), bytes)
                .map_err(|e| fail(name, e.to_string()))?;
            Ok((name.as_str(), view))
        })
        .collect::<Result<_, TensorFileError>>()?;
    safetensors::serialize(views, None).map_err(|e| fail("(file)", e.to_string()))
}
