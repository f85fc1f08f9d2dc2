//! Any Parquet file as columns and JSON objects, where no record type is known; and the columns of a record type.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::datatypes::{DataType, Field};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{TableError, columns, shared, whole};

/// One column of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type in plain words: `text`, `u32`, `f64`, `bool`, `list of text` and so on.
    pub kind: String,
    /// Values may be missing.
    pub optional: bool,
}

impl Column {
    fn of(field: &Field) -> Self {
        Self {
            name: field.name().clone(),
            kind: kind(field.data_type()),
            optional: field.is_nullable(),
        }
    }
}

fn kind(data: &DataType) -> String {
    match data {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".into(),
        DataType::Dictionary(_, values) => kind(values),
        DataType::Boolean => "bool".into(),
        DataType::UInt8 => "u8".into(),
        DataType::UInt16 => "u16".into(),
        DataType::UInt32 => "u32".into(),
        DataType::UInt64 => "u64".into(),
        DataType::Int8 => "i8".into(),
        DataType::Int16 => "i16".into(),
        DataType::Int32 => "i32".into(),
        DataType::Int64 => "i64".into(),
        DataType::Float32 => "f32".into(),
        DataType::Float64 => "f64".into(),
        DataType::List(inner) | DataType::LargeList(inner) => {
            format!("list of {}", kind(inner.data_type()))
        }
        DataType::Struct(fields) => {
            let names: Vec<&str> = fields.iter().map(|f| f.name().as_str()).collect();
            format!("record of {}", names.join(", "))
        }
        other => other.to_string(),
    }
}

/// The columns of a record type.
///
/// # Errors
/// [`TableError::Records`] where it is no flat table.
pub fn columns_of<T: DeserializeOwned>() -> Result<Vec<Column>, TableError> {
    Ok(columns::<T>()?
        .iter()
        .map(|field| Column::of(field))
        .collect())
}

/// A table whose record type is not known.
#[derive(Debug, Clone, PartialEq)]
pub struct AnyTable {
    /// Its columns.
    pub columns: Vec<Column>,
    /// Metadata of the file, without Arrow's own entry.
    pub metadata: BTreeMap<String, String>,
    /// Its rows, keys in the order of the columns.
    pub rows: Vec<Map<String, Value>>,
}

/// Read any Parquet file.
///
/// # Errors
/// What cannot be read, with the path; columns of types that JSON has nothing for.
pub fn read_any(path: &Path) -> Result<AnyTable, TableError> {
    if path.is_dir() {
        return Err(TableError::Folder {
            path: path.to_owned(),
            tables: tables_in(path),
        });
    }
    let bytes = std::fs::read(path).map_err(|source| TableError::Read {
        path: path.to_owned(),
        source,
    })?;
    whole(|| decode_any(bytes)).map_err(|problem| TableError::InFile {
        path: path.to_owned(),
        problem: Box::new(problem),
    })
}

/// What a folder has of tables, in words.
fn tables_in(folder: &Path) -> String {
    let names = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> = names
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| name.ends_with(".parquet"))
        .collect();
    names.sort();
    match names.is_empty() {
        true => "there is none in it".into(),
        false => format!("name one of those in it: {}", names.join(", ")),
    }
}

fn decode_any(bytes: Vec<u8>) -> Result<AnyTable, TableError> {
    let bytes = shared(ByteArray::set_data, bytes);
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let metadata = builder.metadata().file_metadata().key_value_metadata();
    let metadata = metadata
        .into_iter()
        .flatten()
        .filter(|pair| pair.key != "ARROW:schema")
        .map(|pair| (pair.key.clone(), pair.value.clone().unwrap_or_default()))
        .collect();
    let fields = builder.schema().fields().clone();
    let mut rows = Vec::new();
    for batch in builder.build()? {
        let batch = batch.map_err(|e| ParquetError::General(e.to_string()))?;
        rows.extend(
            serde_arrow::from_record_batch::<Vec<Map<String, Value>>>(&batch)
                .map_err(|e| TableError::Records(e.to_string()))?,
        );
    }
    Ok(AnyTable {
        columns: fields.iter().map(|field| Column::of(field)).collect(),
        metadata,
        rows,
    })
}

#[cfg(test)]
mod tests {
    use super::super::encode_parquet_with;
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Serialize, Deserialize)]
    struct Turn {
        role: String,
    }

    #[derive(Serialize, Deserialize)]
    struct Row {
        name: String,
        weight: Option<f64>,
        turns: Vec<Turn>,
        old: bool,
        count: u64,
    }

    #[test]
    fn any_table_is_read_as_json() {
        let rows = [
            Row {
                name: "é\n".into(),
                weight: None,
                turns: vec![],
                old: true,
                count: u64::MAX,
            },
            Row {
                name: String::new(),
                weight: Some(0.1 + 0.2),
                turns: vec![Turn {
                    role: "user".into(),
                }],
                old: false,
                count: 0,
            },
        ];
        let bytes = encode_parquet_with(&rows, &[("a", "b")]).unwrap();
        let table = decode_any(bytes).unwrap();
        let expected: Vec<Value> = rows.iter().map(|row| json!(row)).collect();
        assert_eq!(json!(table.rows), json!(expected));
        assert_eq!(table.metadata["a"], "b");
        assert_eq!(table.columns, columns_of::<Row>().unwrap());
        let kinds: Vec<&str> = table.columns.iter().map(|c| c.kind.as_str()).collect();
        assert_eq!(
            kinds,
            ["text", "f64", "list of record of role", "bool", "u64"]
        );
        assert!(table.columns[1].optional && !table.columns[0].optional);
    }

    #[test]
    fn what_is_no_table_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        assert!(
            read_any(&path)
                .unwrap_err()
                .to_string()
                .contains("cannot read")
        );
        std::fs::write(&path, "no table").unwrap();
        let error = read_any(&path).unwrap_err().to_string();
        assert!(
            error.contains("x.parquet") && error.contains("Parquet"),
            "{error}"
        );
    }
}
