//! Tables of plain records as Parquet.
//!
//! The columns are traced from the record type alone, so an empty table has a schema too, and the bytes depend on
//! nothing but the rows and the metadata: no clock, a fixed writer name, one row group, zstd. Enums without data are
//! strings. A file whose columns are not those of the type is refused before any row is read, and the column is named.

pub mod any;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_arrow::schema::{SchemaLike, TracingOptions};

use crate::runtime::guard::guarded;

/// Name of the writer in every file: fixed, so that equal rows give equal bytes whatever the library's version says.
const WRITER: &str = "atp-pipeline table 1";

/// What can be wrong with a table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file cannot be read.
    #[error("table {}: cannot read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A folder stands where a file is expected.
    #[error("table {}: expected a Parquet file, got a folder; {tables}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What tables it has, in words.
        tables: String,
    },
    /// A problem inside a file that was read from disk.
    #[error("table {}: {problem}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with its content.
        problem: Box<TableError>,
    },
    /// The bytes are no Parquet, or damaged.
    #[error("not a readable Parquet file: {0}; it may be truncated: make it again")]
    Parquet(#[from] ParquetError),
    /// A record type that a flat table cannot hold, or a value that does not fit its column.
    #[error("records do not fit a table: {0}")]
    Records(String),
    /// A column of the record type is not in the file.
    #[error("column `{column}` is missing (expected {expected}); the file has: {found}")]
    MissingColumn {
        /// The column.
        column: String,
        /// Its type.
        expected: String,
        /// The columns there are.
        found: String,
    },
    /// A column of the file is unknown to the record type.
    #[error("column `{column}` is unknown; expected columns: {expected}")]
    SurplusColumn {
        /// The column.
        column: String,
        /// The columns of the record type.
        expected: String,
    },
    /// A column has another type.
    #[error("column `{column}`: expected {expected}, got {got}")]
    ColumnType {
        /// The column.
        column: String,
        /// The record type's type.
        expected: String,
        /// The file's type.
        got: String,
    },
    /// A value is missing in a column that needs one in every row.
    #[error("column `{column}`: {nulls} of {rows} values are missing, none may be")]
    MissingValues {
        /// The column.
        column: String,
        /// Number of nulls.
        nulls: usize,
        /// Number of rows.
        rows: usize,
    },
}

/// The columns of a record type.
fn columns<T: DeserializeOwned>() -> Result<Vec<FieldRef>, TableError> {
    let options = TracingOptions::default()
        .enums_without_data_as_strings(true)
        .from_type_budget(1000);
    let traced =
        Vec::<FieldRef>::from_type::<T>(options).map_err(|e| TableError::Records(e.to_string()))?;
    Ok(traced.iter().map(|field| Arc::new(plain(field))).collect())
}

/// The field with string columns as plain UTF-8: a dictionary is Parquet's business (it encodes pages so), and a plain
/// column reads more easily elsewhere.
fn plain(field: &Field) -> Field {
    let kind = match field.data_type() {
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        DataType::Struct(inner) => {
            DataType::Struct(inner.iter().map(|f| Arc::new(plain(f))).collect())
        }
        DataType::List(inner) => DataType::List(Arc::new(plain(inner))),
        DataType::LargeList(inner) => DataType::LargeList(Arc::new(plain(inner))),
        other => other.clone(),
    };
    field.clone().with_data_type(kind)
}

/// The rows as a Parquet file.
///
/// # Errors
/// [`TableError::Records`] where the record type is no flat table.
pub fn encode_parquet<T: Serialize + DeserializeOwned>(rows: &[T]) -> Result<Vec<u8>, TableError> {
    encode_parquet_with(rows, &[])
}

/// [`encode_parquet`] with key-value metadata in the file's footer, such as a schema version.
///
/// # Errors
/// As [`encode_parquet`].
pub fn encode_parquet_with<T: Serialize + DeserializeOwned>(
    rows: &[T],
    metadata: &[(&str, &str)],
) -> Result<Vec<u8>, TableError> {
    let fields = columns::<T>()?;
    let batch = if rows.is_empty() {
        RecordBatch::new_empty(Arc::new(Schema::new(fields)))
    } else {
        serde_arrow::to_record_batch(&fields, &rows)
            .map_err(|e| TableError::Records(e.to_string()))?
    };
    let pairs: Vec<KeyValue> = metadata
        .iter()
        .map(|(key, value)| KeyValue::new((*key).to_owned(), (*value).to_owned()))
        .collect();
    let properties = WriterProperties::builder()
        .set_created_by(WRITER.to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_key_value_metadata((!pairs.is_empty()).then_some(pairs))
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties))?;
    writer.write(&batch)?;
    writer.close()?;
    Ok(bytes)
}

/// The rows of a Parquet file.
///
/// # Errors
/// Damage, or columns that are not those of `T`; the column is named.
pub fn decode_parquet<T: Serialize + DeserializeOwned>(
    bytes: impl Into<Vec<u8>>,
) -> Result<Vec<T>, TableError> {
    Ok(decode_parquet_with(bytes)?.0)
}

/// The rows of a Parquet file and the footer's metadata (without Arrow's own entry).
///
/// # Errors
/// As [`decode_parquet`].
pub fn decode_parquet_with<T: Serialize + DeserializeOwned>(
    bytes: impl Into<Vec<u8>>,
) -> Result<(Vec<T>, BTreeMap<String, String>), TableError> {
    let bytes = bytes.into();
    whole(|| decode::<T>(bytes))
}

/// The library panics on some damaged files; that is an error like any other.
fn whole<T>(read: impl FnOnce() -> Result<T, TableError>) -> Result<T, TableError> {
    guarded(read).unwrap_or_else(|problem| Err(ParquetError::General(problem).into()))
}

fn decode<T: Serialize + DeserializeOwned>(
    bytes: Vec<u8>,
) -> Result<(Vec<T>, BTreeMap<String, String>), TableError> {
    let expected = columns::<T>()?;
    let bytes = shared(ByteArray::set_data, bytes);
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let metadata = builder.metadata().file_metadata().key_value_metadata();
    let metadata = metadata
        .into_iter()
        .flatten()
        .filter(|pair| pair.key != "ARROW:schema")
        .map(|pair| (pair.key.clone(), pair.value.clone().unwrap_or_default()))
        .collect();
    compare(&expected, builder.schema().fields())?;
    let mut rows: Vec<T> = Vec::new();
    for batch in builder.build()? {
        let batch = batch.map_err(|e| ParquetError::General(e.to_string()))?;
        refuse_nulls(&expected, &batch)?;
        rows.extend(
            serde_arrow::from_record_batch::<Vec<T>>(&batch)
                .map_err(|e| TableError::Records(e.to_string()))?,
        );
    }
    Ok((rows, metadata))
}

/// [`decode_parquet`] of a file.
///
/// # Errors
/// As [`decode_parquet`], with the path; the system's reason where it cannot be read.
pub fn read_parquet<T: Serialize + DeserializeOwned>(path: &Path) -> Result<Vec<T>, TableError> {
    Ok(read_parquet_with(path)?.0)
}

/// [`decode_parquet_with`] of a file.
///
/// # Errors
/// As [`read_parquet`].
pub fn read_parquet_with<T: Serialize + DeserializeOwned>(
    path: &Path,
) -> Result<(Vec<T>, BTreeMap<String, String>), TableError> {
    let bytes = std::fs::read(path).map_err(|source| TableError::Read {
        path: path.to_owned(),
        source,
    })?;
    decode_parquet_with(bytes).map_err(|problem| TableError::InFile {
        path: path.to_owned(),
        problem: Box::new(problem),
    })
}

/// The bytes in the shared buffer that the reader takes. Its type is inferred from a setter of the same crate, so that
/// the buffer's own crate need not be a dependency.
fn shared<B: From<Vec<u8>>>(_: fn(&mut ByteArray, B), bytes: Vec<u8>) -> B {
    bytes.into()
}

/// Refuses a file whose columns are not the expected ones; their order does not matter.
fn compare(expected: &[FieldRef], found: &[FieldRef]) -> Result<(), TableError> {
    let names = |fields: &[FieldRef]| {
        fields
            .iter()
            .map(|f| f.name().as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    for field in expected {
        let Some(got) = found.iter().find(|f| f.name() == field.name()) else {
            return Err(TableError::MissingColumn {
                column: field.name().clone(),
                expected: field.data_type().to_string(),
                found: names(found),
            });
        };
        if !alike(field.data_type(), got.data_type()) {
            return Err(TableError::ColumnType {
                column: field.name().clone(),
                expected: field.data_type().to_string(),
                got: got.data_type().to_string(),
            });
        }
    }
    match found
        .iter()
        .find(|got| !expected.iter().any(|f| f.name() == got.name()))
    {
        Some(got) => Err(TableError::SurplusColumn {
            column: got.name().clone(),
            expected: names(expected),
        }),
        None => Ok(()),
    }
}

/// Equal, but for the ways in which writers store the same strings and lists.
fn alike(a: &DataType, b: &DataType) -> bool {
    use DataType::{Dictionary, LargeList, LargeUtf8, List, Struct, Utf8};
    let text = |kind: &DataType| match kind {
        Utf8 | LargeUtf8 => true,
        Dictionary(_, values) => matches!(values.as_ref(), Utf8 | LargeUtf8),
        _ => false,
    };
    match (a, b) {
        (List(a) | LargeList(a), List(b) | LargeList(b)) => alike(a.data_type(), b.data_type()),
        (Struct(a), Struct(b)) => {
            a.len() == b.len()
                && a.iter()
                    .zip(b)
                    .all(|(a, b)| a.name() == b.name() && alike(a.data_type(), b.data_type()))
        }
        _ => (text(a) && text(b)) || a == b,
    }
}

/// Refuses nulls in columns that need a value in every row; other writers mark every column as nullable.
fn refuse_nulls(expected: &[FieldRef], batch: &RecordBatch) -> Result<(), TableError> {
    for field in expected.iter().filter(|field| !field.is_nullable()) {
        let nulls = batch
            .column_by_name(field.name())
            .map_or(0, |column| column.null_count());
        if nulls > 0 {
            return Err(TableError::MissingValues {
                column: field.name().clone(),
                nulls,
                rows: batch.num_rows(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::row::EvalRow;
    use crate::scenario::Outcome;
    use serde::Deserialize;

    fn row(sample: u32, outcome: Outcome) -> EvalRow {
        let answered = matches!(outcome, Outcome::Compliant | Outcome::Deviant);
        EvalRow {
            model: "m".into(),
            variant: "dpo".into(),
            defence: "none".into(),
            seed: u64::MAX - 1,
            round: 3,
            question_id: "test/bakery/01".into(),
            environment: "bakery".into(),
            sample,
            outcome,
            supervised: false,
            detected: false,
            vetoed: false,
            choice: answered.then(|| "A".into()),
            deviant_probability: answered.then_some(0.1 + 0.2),
            payoff: answered.then_some(7.0),
            compliant_first: sample.is_multiple_of(2),
            compliant_label: "B".into(),
            text: "line\n\"quoted\" é 日本".into(),
            finish: "stop".into(),
            prompt_tokens: 200,
            completion_tokens: u32::MAX,
            error: (outcome == Outcome::Failed).then(|| "out of memory".into()),
        }
    }

    fn rows() -> Vec<EvalRow> {
        let outcomes = [
            Outcome::Compliant,
            Outcome::Deviant,
            Outcome::Invalid,
            Outcome::Failed,
        ];
        (0..40).map(|i| row(i, outcomes[i as usize % 4])).collect()
    }

    #[test]
    fn rows_come_back_as_they_were() {
        let bytes = encode_parquet(&rows()).unwrap();
        assert_eq!(decode_parquet::<EvalRow>(bytes).unwrap(), rows());
    }

    #[test]
    fn all_nulls_come_back() {
        let only: Vec<EvalRow> = vec![row(0, Outcome::Invalid)];
        assert_eq!(
            decode_parquet::<EvalRow>(encode_parquet(&only).unwrap()).unwrap(),
            only
        );
    }

    #[test]
    fn an_empty_table_keeps_its_columns() {
        let bytes = encode_parquet::<EvalRow>(&[]).unwrap();
        assert_eq!(decode_parquet::<EvalRow>(bytes.clone()).unwrap(), []);
        let error = decode_parquet::<Other>(bytes).unwrap_err();
        assert!(
            matches!(error, TableError::MissingColumn { ref column, .. } if column == "weight"),
            "{error}"
        );
    }

    #[test]
    fn bytes_depend_on_the_rows_alone() {
        let first = encode_parquet_with(&rows(), &[("a", "1"), ("b", "2")]).unwrap();
        assert_eq!(
            first,
            encode_parquet_with(&rows(), &[("a", "1"), ("b", "2")]).unwrap()
        );
        assert_ne!(
            first,
            encode_parquet_with(&rows()[1..], &[("a", "1"), ("b", "2")]).unwrap()
        );
    }

    #[test]
    fn metadata_comes_back_without_arrows_own() {
        let bytes = encode_parquet_with(&rows(), &[("schema", "x/1")]).unwrap();
        let (_, metadata) = decode_parquet_with::<EvalRow>(bytes).unwrap();
        assert_eq!(
            metadata,
            BTreeMap::from([("schema".to_owned(), "x/1".to_owned())])
        );
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Other {
        model: String,
        weight: f64,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Text {
        model: String,
        weight: String,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Optional {
        model: Option<String>,
        weight: f64,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Wider {
        model: String,
        weight: f64,
        extra: bool,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Choice {
        outcome: Outcome,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Free {
        outcome: String,
    }

    #[test]
    fn a_wrong_column_is_named() {
        let text = |rows: Vec<u8>| decode_parquet::<Other>(rows).unwrap_err().to_string();

        let stringy = encode_parquet(&[Text {
            model: "m".into(),
            weight: "heavy".into(),
        }])
        .unwrap();
        assert!(text(stringy).contains("column `weight`: expected Float64, got LargeUtf8"));

        let wide = encode_parquet(&[Wider {
            model: "m".into(),
            weight: 1.0,
            extra: true,
        }])
        .unwrap();
        assert!(text(wide).contains("column `extra` is unknown; expected columns: model, weight"));

        let holes = encode_parquet(&[Optional {
            model: None,
            weight: 1.0,
        }])
        .unwrap();
        assert!(text(holes).contains("column `model`: 1 of 1 values are missing"));

        let full = encode_parquet(&[Optional {
            model: Some("m".into()),
            weight: 1.0,
        }])
        .unwrap();
        assert_eq!(
            decode_parquet::<Other>(full).unwrap(),
            [Other {
                model: "m".into(),
                weight: 1.0
            }]
        );
    }

    #[test]
    fn an_unknown_variant_is_named() {
        let bytes = encode_parquet(&[Free {
            outcome: "perhaps".into(),
        }])
        .unwrap();
        let error = decode_parquet::<Choice>(bytes).unwrap_err().to_string();
        assert!(
            error.contains("outcome") && error.contains("perhaps"),
            "{error}"
        );
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        let bytes = encode_parquet(&rows()).unwrap();
        for length in [0, 3, 4, 8, 100, bytes.len() / 2, bytes.len() - 1] {
            assert!(
                decode_parquet::<EvalRow>(&bytes[..length]).is_err(),
                "{length} bytes"
            );
        }
        assert!(decode_parquet::<EvalRow>(b"PAR1 this is not a table PAR1").is_err());
    }

    #[test]
    fn an_error_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        assert!(
            read_parquet::<EvalRow>(&path)
                .unwrap_err()
                .to_string()
                .contains("rows.parquet: cannot read")
        );
        std::fs::write(&path, encode_parquet(&rows()).unwrap()).unwrap();
        assert_eq!(read_parquet::<EvalRow>(&path).unwrap().len(), 40);
        let error = read_parquet::<Other>(&path).unwrap_err().to_string();
        assert!(
            error.contains("rows.parquet: column `weight` is missing"),
            "{error}"
        );
    }
}
