//! Text columns of large Parquet files: only the columns needed are read, a batch of rows at a time.

use std::fs::File;
use std::path::Path;

use arrow::array::{Array, ArrayRef, LargeStringArray, RecordBatch, StructArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

/// Rows read at once.
const BATCH: usize = 512;

/// What can be wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum ColumnError {
    /// It cannot be opened.
    #[error("cannot open: {0}")]
    Open(#[from] std::io::Error),
    /// It is no Parquet, or damaged.
    #[error("not a readable Parquet file: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// A batch cannot be read.
    #[error("damaged rows: {0}")]
    Rows(#[from] arrow::error::ArrowError),
    /// A column is missing.
    #[error("no column `{column}`; the file has: {found}")]
    Missing {
        /// The column.
        column: String,
        /// Those there are.
        found: String,
    },
    /// A column is of another type.
    #[error("column `{column}`: expected {expected}, got {got}")]
    Type {
        /// The column.
        column: String,
        /// What it should hold.
        expected: &'static str,
        /// What it holds.
        got: String,
    },
}

fn open(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>, ColumnError> {
    Ok(ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?)
}

/// Whether the file has this column.
pub(super) fn has(path: &Path, column: &str) -> Result<bool, ColumnError> {
    Ok(open(path)?.schema().column_with_name(column).is_some())
}

/// A reader of these columns alone, row group by row group.
fn reader(path: &Path, columns: &[&str]) -> Result<ParquetRecordBatchReader, ColumnError> {
    let builder = open(path)?;
    let schema = builder.schema();
    let mut roots = Vec::new();
    for column in columns {
        let (root, _) = schema.column_with_name(column).ok_or_else(|| {
            let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            ColumnError::Missing {
                column: (*column).to_owned(),
                found: names.join(", "),
            }
        })?;
        roots.push(root);
    }
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    Ok(builder
        .with_projection(mask)
        .with_batch_size(BATCH)
        .build()?)
}

/// A column of a batch as text, whichever of Arrow's text types it has.
fn texts(column: &str, array: &ArrayRef) -> Result<LargeStringArray, ColumnError> {
    let wrong = || ColumnError::Type {
        column: column.to_owned(),
        expected: "text",
        got: array.data_type().to_string(),
    };
    let text = matches!(
        array.data_type(),
        DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Dictionary(..)
            | DataType::Null
    );
    if !text {
        return Err(wrong());
    }
    let array = cast(array, &DataType::LargeUtf8)?;
    array
        .as_any()
        .downcast_ref::<LargeStringArray>()
        .cloned()
        .ok_or_else(wrong)
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, ColumnError> {
    batch
        .column_by_name(name)
        .ok_or_else(|| ColumnError::Missing {
            column: name.to_owned(),
            found: String::new(),
        })
}

/// A row's text; a missing one is empty.
fn at(array: &LargeStringArray, row: usize) -> &str {
    if array.is_null(row) {
        ""
    } else {
        array.value(row)
    }
}

/// Hands each row's texts of these columns on, in order.
pub(super) fn strings<const N: usize>(
    path: &Path,
    columns: [&str; N],
    mut row: impl FnMut([&str; N]),
) -> Result<(), ColumnError> {
    for batch in reader(path, &columns)? {
        let batch = batch?;
        let mut arrays = Vec::with_capacity(N);
        for name in columns {
            arrays.push(texts(name, column(&batch, name)?)?);
        }
        for i in 0..batch.num_rows() {
            row(std::array::from_fn(|n| at(&arrays[n], i)));
        }
    }
    Ok(())
}

/// Hands each row's turns of the column `conversations` on: who speaks, and what is said.
pub(super) fn conversations(
    path: &Path,
    mut row: impl FnMut(&[(&str, &str)]),
) -> Result<(), ColumnError> {
    let name = "conversations";
    for batch in reader(path, &[name])? {
        let batch = batch?;
        let lists = column(&batch, name)?;
        let wrong = || ColumnError::Type {
            column: name.to_owned(),
            expected: "a list of structs with `from` and `value`",
            got: lists.data_type().to_string(),
        };
        let (DataType::List(item) | DataType::LargeList(item)) = lists.data_type() else {
            return Err(wrong());
        };
        let lists = cast(lists, &DataType::LargeList(item.clone()))?;
        let lists = lists
            .as_any()
            .downcast_ref::<arrow::array::LargeListArray>()
            .ok_or_else(wrong)?;
        for i in 0..lists.len() {
            if lists.is_null(i) {
                row(&[]);
                continue;
            }
            let turns = lists.value(i);
            let turns = turns
                .as_any()
                .downcast_ref::<StructArray>()
                .ok_or_else(wrong)?;
            let field = |field: &str| {
                let array = turns.column_by_name(field).ok_or_else(wrong)?;
                texts(name, array)
            };
            let (from, value) = (field("from")?, field("value")?);
            let turns: Vec<(&str, &str)> = (0..turns.len())
                .map(|t| (at(&from, t), at(&value, t)))
                .collect();
            row(&turns);
        }
    }
    Ok(())
}
