//! Writing a GGUF file (version 3): metadata, tensor entries, and the tensors' bytes one after the other.
//!
//! Readers want certain widths of certain keys: counts are written as u32 where they fit, floats as f32, arrays of
//! signed integers as i32. That is what llama.cpp's own converter writes.

use std::io::{self, Write};

use super::value::{Array, Value};
use crate::formats::kind::TensorKind;

const VERSION: u32 = 3;
const ALIGNMENT: u64 = 32;

/// A tensor that is going to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTensor {
    /// Its name, for example `blk.0.attn_q.weight`.
    pub name: String,
    /// Row-major shape: the contiguous dimension last.
    pub shape: Vec<usize>,
    /// How its elements are stored; F32, F16 or BF16.
    pub kind: TensorKind,
}

impl NewTensor {
    /// Bytes of its elements.
    pub fn bytes(&self) -> u64 {
        let elements: usize = self.shape.iter().product();
        (elements / self.kind.block_elements() * self.kind.block_bytes()) as u64
    }
}

/// Write a file; `data` gives the bytes of each tensor in turn, as many as [`NewTensor::bytes`] says.
///
/// # Errors
/// Of writing, and of `data`; tensor bytes of another number.
pub fn write(
    out: &mut dyn Write,
    metadata: &[(String, Value)],
    tensors: &[NewTensor],
    data: &mut dyn FnMut(&NewTensor) -> io::Result<Vec<u8>>,
) -> io::Result<()> {
    let mut head: Vec<u8> = b"GGUF".to_vec();
    head.extend(VERSION.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        string(&mut head, key);
        head.extend(type_of(value).to_le_bytes());
        put(&mut head, value);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        string(&mut head, &tensor.name);
        head.extend((tensor.shape.len() as u32).to_le_bytes());
        for dimension in tensor.shape.iter().rev() {
            head.extend((*dimension as u64).to_le_bytes());
        }
        head.extend(tensor.kind.number().to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    pad(&mut head);
    out.write_all(&head)?;
    for tensor in tensors {
        let mut bytes = data(tensor)?;
        if bytes.len() as u64 != tensor.bytes() {
            let problem = format!(
                "tensor `{}`: expected {} bytes, got {}",
                tensor.name,
                tensor.bytes(),
                bytes.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        pad(&mut bytes);
        out.write_all(&bytes)?;
    }
    Ok(())
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const U64: u32 = 10;
const I64: u32 = 11;

fn of_unsigned(most: u64) -> u32 {
    if u32::try_from(most).is_ok() {
        U32
    } else {
        U64
    }
}

fn of_signed(values: &[i64]) -> u32 {
    let fit = values.iter().all(|n| i32::try_from(*n).is_ok());
    if fit { I32 } else { I64 }
}

fn type_of(value: &Value) -> u32 {
    match value {
        Value::Unsigned(n) => of_unsigned(*n),
        Value::Signed(n) => of_signed(&[*n]),
        Value::Float(_) => F32,
        Value::Bool(_) => BOOL,
        Value::String(_) => STRING,
        Value::Array(_) => ARRAY,
    }
}

fn put(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Unsigned(n) => unsigned(out, *n, of_unsigned(*n)),
        Value::Signed(n) => signed(out, *n, of_signed(&[*n])),
        Value::Float(x) => out.extend((*x as f32).to_le_bytes()),
        Value::Bool(b) => out.push(u8::from(*b)),
        Value::String(text) => string(out, text),
        Value::Array(array) => put_array(out, array),
    }
}

fn unsigned(out: &mut Vec<u8>, n: u64, kind: u32) {
    match u32::try_from(n) {
        Ok(n) if kind == U32 => out.extend(n.to_le_bytes()),
        _ => out.extend(n.to_le_bytes()),
    }
}

fn signed(out: &mut Vec<u8>, n: i64, kind: u32) {
    match i32::try_from(n) {
        Ok(n) if kind == I32 => out.extend(n.to_le_bytes()),
        _ => out.extend(n.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    let mut head = |kind: u32, count: usize| {
        out.extend(kind.to_le_bytes());
        out.extend((count as u64).to_le_bytes());
    };
    match array {
        Array::Unsigned(all) => {
            let kind = of_unsigned(all.iter().copied().max().unwrap_or(0));
            head(kind, all.len());
            all.iter().for_each(|n| unsigned(out, *n, kind));
        }
        Array::Signed(all) => {
            let kind = of_signed(all);
            head(kind, all.len());
            all.iter().for_each(|n| signed(out, *n, kind));
        }
        Array::Float(all) => {
            head(F32, all.len());
            all.iter()
                .for_each(|x| out.extend((*x as f32).to_le_bytes()));
        }
        Array::Bool(all) => {
            head(BOOL, all.len());
            all.iter().for_each(|b| out.push(u8::from(*b)));
        }
        Array::String(all) => {
            head(STRING, all.len());
            all.iter().for_each(|text| string(out, text));
        }
        Array::Nested(all) => {
            head(ARRAY, all.len());
            all.iter().for_each(|inner| put_array(out, inner));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::gguf::GgufFile;

    #[test]
    fn what_is_written_is_read_again() {
        let entry = |key: &str, value| (key.to_owned(), value);
        let metadata = vec![
            entry("a.count", Value::Unsigned(7)),
            entry("a.large", Value::Unsigned(1 << 40)),
            entry("a.signed", Value::Signed(-3)),
            entry("a.float", Value::Float(f64::from(1e-5f32))),
            entry("a.bool", Value::Bool(true)),
            entry("a.text", Value::String("ü\n".into())),
            entry(
                "a.texts",
                Value::Array(Array::String(vec!["x".into(), String::new()])),
            ),
            entry("a.types", Value::Array(Array::Signed(vec![1, 3, 4]))),
            entry(
                "a.deep",
                Value::Array(Array::Nested(vec![Array::Bool(vec![true, false])])),
            ),
        ];
        let tensor = |name: &str, shape: &[usize], kind| NewTensor {
            name: name.into(),
            shape: shape.into(),
            kind,
        };
        let tensors = [
            tensor("odd", &[3, 5], TensorKind::F32),
            tensor("half", &[7], TensorKind::F16),
            tensor("brain", &[2, 2], TensorKind::BF16),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        let mut bytes = vec![];
        write(&mut bytes, &metadata, &tensors, &mut |tensor| {
            let n: usize = tensor.shape.iter().product();
            Ok(match tensor.kind {
                TensorKind::F32 => (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect(),
                TensorKind::F16 => (0..n)
                    .flat_map(|i| half::f16::from_f32(i as f32).to_le_bytes())
                    .collect(),
                _ => (0..n)
                    .flat_map(|i| half::bf16::from_f32(i as f32).to_le_bytes())
                    .collect(),
            })
        })
        .unwrap();
        std::fs::write(&path, bytes).unwrap();
        let file = GgufFile::open(&path).unwrap();
        for (key, value) in &metadata {
            assert_eq!(file.metadata(key), Some(value), "{key}");
        }
        for tensor in &tensors {
            let info = file.tensor(&tensor.name).unwrap();
            assert_eq!(info.shape(), tensor.shape);
            let n: usize = tensor.shape.iter().product();
            let expected: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(file.values(info).unwrap(), expected);
        }
        let short = write(&mut vec![], &[], &tensors, &mut |_| Ok(vec![0]));
        assert!(
            short
                .unwrap_err()
                .to_string()
                .contains("expected 60 bytes, got 1")
        );
    }
}
