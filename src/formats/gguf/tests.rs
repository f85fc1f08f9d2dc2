use rand::Rng;

use super::*;
use crate::runtime::seed::stream;

/// Written by scripts/oracle/gguf_fixtures.py with the `gguf` package.
fn fixture() -> GgufFile {
    GgufFile::open(FIXTURE).unwrap()
}

const FIXTURE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/fixtures/text/blocks.gguf"
);

/// A file built by hand: metadata and tensors as raw bytes.
fn file(metadata: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    metadata.iter().chain(tensors).for_each(|b| bytes.extend(b));
    bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&string(key)[..], &kind.to_le_bytes(), value].concat()
}

fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let dims_bytes: Vec<u8> = dims.iter().flat_map(|d| d.to_le_bytes()).collect();
    let count = dims.len() as u32;
    [
        &string(name)[..],
        &count.to_le_bytes(),
        &dims_bytes,
        &kind.to_le_bytes(),
        &offset.to_le_bytes(),
    ]
    .concat()
}

#[track_caller]
fn refused(bytes: &[u8], words: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    let message = GgufFile::open(&path).unwrap_err().to_string();
    assert!(message.contains("model.gguf"), "{message}");
    assert!(message.contains(words), "{message}");
}

#[test]
fn metadata_of_every_type_comes_back() {
    let file = fixture();
    assert_eq!(file.version(), 3);
    assert_eq!(file.get::<u32>("u8").unwrap(), 200);
    assert_eq!(file.get::<i32>("i8").unwrap(), -100);
    assert_eq!(file.get::<u64>("u16").unwrap(), 60_000);
    assert_eq!(file.get::<i64>("i16").unwrap(), -30_000);
    assert_eq!(file.get::<u32>("u32").unwrap(), 4_000_000_000);
    assert_eq!(file.get::<i32>("i32").unwrap(), -2_000_000_000);
    assert_eq!(file.get::<u64>("u64").unwrap(), (1 << 63) + 1);
    assert_eq!(file.get::<i64>("i64").unwrap(), -(1 << 62));
    assert_eq!(file.get::<f32>("f32").unwrap(), 0.1);
    assert_eq!(file.get::<f64>("f64").unwrap(), 0.1);
    assert!(file.get::<bool>("bool").unwrap());
    assert_eq!(file.get::<&str>("string").unwrap(), "naïve → 日本");
    assert_eq!(file.get::<&[String]>("strings").unwrap(), ["a", "", "ç"]);
    assert_eq!(file.get::<Vec<i64>>("ints").unwrap(), [-1, 0, 1]);
    assert_eq!(file.get::<Vec<f32>>("floats").unwrap(), [0.5, -2.0]);
    let nested = vec![Array::Signed(vec![1, 2]), Array::Signed(vec![3])];
    let value = Value::Array(Array::Nested(nested));
    assert_eq!(file.metadata("nested"), Some(&value));
}

#[test]
fn a_missing_or_mistyped_key_is_named() {
    let file = fixture();
    let message = |e: GgufError| e.to_string();
    assert!(
        message(file.get::<u32>("llama.block_count").unwrap_err()).contains("llama.block_count")
    );
    let wrong = message(file.get::<&str>("u32").unwrap_err());
    assert!(
        wrong.contains("`u32`") && wrong.contains("expected a string"),
        "{wrong}"
    );
    let narrow = message(file.get::<u32>("i8").unwrap_err());
    assert!(
        narrow.contains("fits u32") && narrow.contains("-100"),
        "{narrow}"
    );
    assert_eq!(file.get_opt::<u32>("llama.block_count").unwrap(), None);
    assert!(message(file.tensor("blk.0").unwrap_err()).contains("blk.0"));
}

#[test]
fn tensors_lie_where_the_file_says() {
    let file = fixture();
    let info = file.tensor("Q4_1").unwrap();
    assert_eq!(
        (info.dims.as_slice(), info.shape()),
        (&[96, 2][..], vec![2, 96])
    );
    assert_eq!(file.bytes(info).len(), 6 * 20);
    assert_eq!(file.values(info).unwrap().len(), info.elements());
    assert_eq!(file.tensors().len(), 24);
}

#[test]
fn an_entry_of_another_file_is_an_error_not_a_panic() {
    let mut info = fixture().tensor("Q4_1").unwrap().clone();
    info.range = 1 << 40..(1 << 40) + 120;
    assert!(fixture().bytes(&info).is_empty());
    assert!(fixture().values(&info).is_err());
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = std::fs::read(FIXTURE).unwrap();
    let end = parse::header(&bytes)
        .unwrap()
        .tensors
        .iter()
        .map(|t| t.range.end)
        .max()
        .unwrap();
    for len in 0..end {
        assert!(parse::header(&bytes[..len]).is_err(), "cut at {len}");
    }
    refused(&bytes[..1000], "left");
    refused(&[], "magic");
}

/// Whatever stands in the header, reading ends with a result, and what it yields lies in the file.
#[test]
fn corrupt_headers_do_not_panic() {
    let bytes = std::fs::read(FIXTURE).unwrap();
    let header_len = parse::header(&bytes)
        .unwrap()
        .tensors
        .iter()
        .map(|t| t.range.start)
        .min()
        .unwrap();
    let mut rng = stream(1, "gguf/corrupt");
    for _ in 0..5000 {
        let mut bytes = bytes.clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(4..header_len);
            bytes[at] = if rng.random() { rng.random() } else { 0xFF };
        }
        if let Ok(header) = parse::header(&bytes) {
            assert!(
                header
                    .tensors
                    .iter()
                    .all(|info| info.range.end <= bytes.len())
            );
        }
    }
}

#[test]
fn lying_headers_are_refused_by_name() {
    let good = |name: &str, offset| tensor(name, &[32], 0, offset);
    assert!(parse::header(&file(&[], &[good("a", 0), good("b", 128)], 256)).is_ok());

    refused(b"GGML1234", "not with \"GGUF\"");
    refused(&[b"GGUF", &9u32.to_le_bytes()[..]].concat(), "version 9");
    refused(&[b"GGUF", &3u32.to_be_bytes()[..]].concat(), "big-endian");
    let counts = |tensors: u64, entries: u64| {
        [
            b"GGUF",
            &3u32.to_le_bytes()[..],
            &tensors.to_le_bytes(),
            &entries.to_le_bytes(),
        ]
        .concat()
    };
    refused(&counts(0, u64::MAX), "metadata entries");
    refused(&counts(u64::MAX, 0), "tensors");

    let long = [&u64::MAX.to_le_bytes()[..], b"abc"].concat();
    refused(&file(&[entry("text", 8, &long)], &[], 0), "`text`");
    let array = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    refused(
        &file(&[entry("list", 9, &array(4, 1 << 60))], &[], 0),
        "`list`",
    );
    refused(&file(&[entry("list", 9, &array(99, 1))], &[], 0), "type 99");
    let deep: Vec<u8> = (0..9).flat_map(|_| array(9, 1)).collect();
    refused(&file(&[entry("deep", 9, &deep)], &[], 0), "deeper");
    refused(&file(&[entry("k", 13, &[0; 8])], &[], 0), "type 13");
    refused(&file(&[entry("b", 7, &[2])], &[], 8), "bool");
    refused(
        &file(&[entry("s", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xFF])], &[], 0),
        "UTF-8",
    );
    let twice = entry("k", 0, &[1]);
    refused(
        &file(&[twice.clone(), twice], &[], 0),
        "`k` stands there twice",
    );
    let aligned = |n: u32| entry("general.alignment", 4, &n.to_le_bytes());
    refused(&file(&[aligned(0)], &[], 0), "general.alignment");
    refused(&file(&[aligned(24)], &[], 0), "general.alignment");
    refused(
        &file(&[entry("split.count", 2, &[3, 0])], &[], 0),
        "3 parts",
    );

    refused(
        &file(&[], &[good("a", 0), good("a", 128)], 256),
        "`a` stands there twice",
    );
    refused(&file(&[], &[good("a", 0), good("b", 96)], 256), "overlap");
    refused(&file(&[], &[good("a", 128)], 128), "`a` needs bytes");
    refused(&file(&[], &[good("a", 8)], 256), "offset 8");
    refused(&file(&[], &[good("a", u64::MAX - 31)], 256), "offset");
    refused(&file(&[], &[tensor("a", &[], 0, 0)], 0), "0 dimensions");
    refused(
        &file(&[], &[tensor("a", &[1; 5], 0, 0)], 32),
        "5 dimensions",
    );
    refused(
        &file(&[], &[tensor("a", &[4, 0], 0, 0)], 32),
        "zero or overflowing",
    );
    refused(
        &file(&[], &[tensor("a", &[1 << 40, 1 << 40], 0, 0)], 32),
        "overflowing",
    );
    refused(
        &file(&[], &[tensor("a", &[1 << 62], 0, 0)], 32),
        "whole blocks",
    );
    refused(
        &file(&[], &[tensor("a", &[16, 2], 3, 0)], 64),
        "whole blocks",
    );
    refused(&file(&[], &[tensor("a", &[256], 23, 0)], 256), "IQ4_XS");
}

#[test]
fn a_missing_file_is_named() {
    let message = GgufFile::open("no/such/model.gguf")
        .unwrap_err()
        .to_string();
    assert!(message.contains("no/such/model.gguf"), "{message}");
}
