//! The header of a GGUF file, read from untrusted bytes: every length is compared with what is left of the file before
//! anything is allocated for it. Messages say what was being read and where; the caller adds the file's name.

use std::collections::{BTreeMap, BTreeSet};

use super::TensorInfo;
use super::value::{Array, Value};
use crate::formats::kind::TensorKind;

/// Arrays of arrays deeper than this are refused; real files have none.
const MAX_NESTING: usize = 4;
/// Dimensions of a tensor; the format's own limit.
const MAX_DIMS: u32 = 4;
const DEFAULT_ALIGNMENT: usize = 32;

/// Everything before the tensor data, checked.
pub(super) struct Header {
    pub version: u32,
    pub metadata: BTreeMap<String, Value>,
    pub tensors: Vec<TensorInfo>,
}

pub(super) fn header(bytes: &[u8]) -> Result<Header, String> {
    let mut cursor = Cursor { bytes, at: 0 };
    let magic = cursor.take(4, "the magic")?;
    if magic != b"GGUF" {
        return Err(format!("it begins with {magic:?}, not with \"GGUF\""));
    }
    let version = cursor.u32("the version")?;
    match version {
        2 | 3 => {}
        _ if matches!(version.swap_bytes(), 1..=3) => {
            return Err("it is big-endian; only little-endian files are read".into());
        }
        _ => return Err(format!("version {version}; versions 2 and 3 are read")),
    }
    let tensor_count = cursor.u64("the number of tensors")?;
    let metadata_count = cursor.u64("the number of metadata entries")?;

    let mut metadata = BTreeMap::new();
    // A key's length, a type and a value of one byte.
    cursor.justify(metadata_count, 13, "metadata entries")?;
    for index in 0..metadata_count {
        let key = cursor.string(&format!("the key of metadata entry {index}"))?;
        let kind = cursor.u32(&format!("the type of `{key}`"))?;
        let value = cursor.value(kind, &key)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(format!("metadata key `{key}` stands there twice"));
        }
    }
    let alignment = alignment(&metadata)?;

    // A name's length, the number of dimensions, one dimension, a type and an offset.
    let tensor_count = cursor.justify(tensor_count, 8 + 4 + 8 + 4 + 8, "tensors")?;
    let mut tensors = Vec::with_capacity(tensor_count);
    let mut names = BTreeSet::new();
    for index in 0..tensor_count {
        let info = cursor.tensor_info(index, alignment)?;
        if !names.insert(info.name.clone()) {
            return Err(format!("tensor `{}` stands there twice", info.name));
        }
        tensors.push(info);
    }
    let data_start = cursor
        .at
        .checked_next_multiple_of(alignment)
        .ok_or("the start of the data overflows")?;
    place(&mut tensors, data_start, bytes.len())?;
    Ok(Header {
        version,
        metadata,
        tensors,
    })
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<usize, String> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::Unsigned(n)) if n.is_power_of_two() && *n <= 1 << 20 => Ok(*n as usize),
        Some(other) => Err(format!(
            "`general.alignment` is {other:?}; expected a power of two up to 2^20"
        )),
    }
}

/// Turns offsets into the data into ranges of the file, and checks that they lie in it and do not overlap.
fn place(tensors: &mut [TensorInfo], data_start: usize, file_len: usize) -> Result<(), String> {
    for info in tensors.iter_mut() {
        let start = data_start.checked_add(info.range.start);
        let end = data_start.checked_add(info.range.end);
        match (start, end) {
            (Some(start), Some(end)) if end <= file_len => info.range = start..end,
            _ => {
                return Err(format!(
                    "tensor `{}` needs bytes {} to {} of the data, which starts at {data_start}, but the file ends at \
                     {file_len}",
                    info.name, info.range.start, info.range.end
                ));
            }
        }
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|info| info.range.start);
    for pair in order.windows(2) {
        if pair[0].range.end > pair[1].range.start {
            return Err(format!(
                "tensors `{}` and `{}` overlap",
                pair[0].name, pair[1].name
            ));
        }
    }
    Ok(())
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

macro_rules! numbers {
    ($($name:ident),*) => {$(
        #[allow(dead_code)]
        fn $name(&mut self, what: &str) -> Result<$name, String> {
            let mut raw = [0; size_of::<$name>()];
            raw.copy_from_slice(self.take(size_of::<$name>(), what)?);
            Ok($name::from_le_bytes(raw))
        }
    )*};
}

impl<'a> Cursor<'a> {
    numbers!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8], String> {
        if len > self.left() {
            return Err(format!(
                "{what} needs {len} bytes at {}, {} are left",
                self.at,
                self.left()
            ));
        }
        let taken = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(taken)
    }

    /// `count` as a size, if that many items of at least `each` bytes can be in the rest of the file.
    fn justify(&self, count: u64, each: usize, what: &str) -> Result<usize, String> {
        match usize::try_from(count) {
            Ok(count) if count <= self.left() / each => Ok(count),
            _ => Err(format!(
                "{count} {what} are announced at {}, more than the {} bytes left can hold",
                self.at,
                self.left()
            )),
        }
    }

    fn string(&mut self, what: &str) -> Result<String, String> {
        let len = self.u64(&format!("the length of {what}"))?;
        let len = self.justify(len, 1, &format!("bytes of {what}"))?;
        let start = self.at;
        let raw = self.take(len, what)?;
        match std::str::from_utf8(raw) {
            Ok(text) => Ok(text.to_string()),
            Err(_) => Err(format!("{what} at {start} is not UTF-8")),
        }
    }

    fn bool(&mut self, what: &str) -> Result<bool, String> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(format!("{what} is a bool of value {other}")),
        }
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value, String> {
        let what = &format!("`{key}`");
        Ok(match kind {
            0 => Value::Unsigned(self.u8(what)?.into()),
            1 => Value::Signed(self.i8(what)?.into()),
            2 => Value::Unsigned(self.u16(what)?.into()),
            3 => Value::Signed(self.i16(what)?.into()),
            4 => Value::Unsigned(self.u32(what)?.into()),
            5 => Value::Signed(self.i32(what)?.into()),
            6 => Value::Float(self.f32(what)?.into()),
            7 => Value::Bool(self.bool(what)?),
            8 => Value::String(self.string(what)?),
            9 => Value::Array(self.array(what, 0)?),
            10 => Value::Unsigned(self.u64(what)?),
            11 => Value::Signed(self.i64(what)?),
            12 => Value::Float(self.f64(what)?),
            other => return Err(format!("{what} has the unknown type {other}")),
        })
    }

    fn array(&mut self, what: &str, depth: usize) -> Result<Array, String> {
        let kind = self.u32(&format!("the element type of {what}"))?;
        let count = self.u64(&format!("the length of {what}"))?;
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 12,
            other => return Err(format!("{what} is an array of the unknown type {other}")),
        };
        let count = self.justify(count, least, &format!("elements of {what}"))?;
        macro_rules! list {
            ($variant:ident, $read:ident) => {{
                let mut list = Vec::with_capacity(count);
                for _ in 0..count {
                    list.push(self.$read(what)?.into());
                }
                Array::$variant(list)
            }};
        }
        Ok(match kind {
            0 => list!(Unsigned, u8),
            1 => list!(Signed, i8),
            2 => list!(Unsigned, u16),
            3 => list!(Signed, i16),
            4 => list!(Unsigned, u32),
            5 => list!(Signed, i32),
            6 => list!(Float, f32),
            7 => list!(Bool, bool),
            8 => list!(String, string),
            10 => list!(Unsigned, u64),
            11 => list!(Signed, i64),
            12 => list!(Float, f64),
            _ if depth >= MAX_NESTING => {
                return Err(format!("{what} nests arrays deeper than {MAX_NESTING}"));
            }
            _ => {
                let mut list = Vec::with_capacity(count);
                for _ in 0..count {
                    list.push(self.array(what, depth + 1)?);
                }
                Array::Nested(list)
            }
        })
    }

    /// A tensor's entry; its range is still relative to the start of the data.
    fn tensor_info(&mut self, index: usize, alignment: usize) -> Result<TensorInfo, String> {
        let name = self.string(&format!("the name of tensor {index}"))?;
        let what = &format!("tensor `{name}`");
        let count = self.u32(&format!("the number of dimensions of {what}"))?;
        if count == 0 || count > MAX_DIMS {
            return Err(format!(
                "{what} has {count} dimensions; expected 1 to {MAX_DIMS}"
            ));
        }
        let mut dims = Vec::with_capacity(count as usize);
        let mut elements = 1usize;
        for _ in 0..count {
            let dim = self.u64(&format!("a dimension of {what}"))?;
            let dim = usize::try_from(dim).ok().filter(|dim| *dim > 0);
            let product = dim.and_then(|dim| elements.checked_mul(dim));
            let (Some(dim), Some(product)) = (dim, product) else {
                return Err(format!("{what} has a zero or overflowing dimension"));
            };
            dims.push(dim);
            elements = product;
        }
        let number = self.u32(&format!("the type of {what}"))?;
        let kind = TensorKind::from_number(number).map_err(|kind| {
            let known: Vec<_> = TensorKind::all().map(TensorKind::name).collect();
            format!(
                "{what} is of type {kind}, which is not read; take a file with {}",
                known.join(", ")
            )
        })?;
        // Blocks run along the first dimension, so it alone must be a multiple of the block.
        let size = match kind.bytes_for(dims[0]) {
            Some(_) => kind.bytes_for(elements),
            None => None,
        };
        let Some(size) = size else {
            return Err(format!(
                "{what} of {dims:?} does not fill whole blocks of {} {kind} elements",
                kind.block_elements()
            ));
        };
        let offset = self.u64(&format!("the offset of {what}"))?;
        let range = usize::try_from(offset)
            .ok()
            .filter(|offset| offset.is_multiple_of(alignment))
            .and_then(|start| Some(start..start.checked_add(size)?));
        let Some(range) = range else {
            return Err(format!(
                "{what} has the offset {offset}; expected a multiple of {alignment} in the file"
            ));
        };
        Ok(TensorInfo {
            name,
            dims,
            kind,
            range,
        })
    }
}
