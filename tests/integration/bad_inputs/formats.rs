//! GGUF and safetensors files that cannot be read.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use atp_pipeline::formats::gguf::GgufFile;
use atp_pipeline::model::tensors::decode_safetensors;

use super::models::asked;
use super::{Row, row, spoilt, typed};
use crate::support::{fixture, smollm2_path};

/// A string as GGUF has it.
fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A metadata entry that is a text.
fn entry(key: &str, text: &str) -> Vec<u8> {
    [string(key), 8u32.to_le_bytes().to_vec(), string(text)].concat()
}

/// A tensor of f32.
fn tensor(name: &str, dims: &[u64], offset: u64) -> Vec<u8> {
    let mut bytes = string(name);
    bytes.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|d| bytes.extend(d.to_le_bytes()));
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

/// A file of these parts, with counts that say so or lie.
fn file(counts: (u64, u64), parts: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(counts.0.to_le_bytes());
    bytes.extend(counts.1.to_le_bytes());
    parts.iter().for_each(|part| bytes.extend(part));
    bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
    bytes
}

/// A GGUF file of these bytes is asked for a word.
fn gguf(folder: &Path, bytes: &[u8]) -> Vec<String> {
    fs::write(folder.join("bad.gguf"), bytes).expect("a file");
    typed(&["sample", "--model", "bad.gguf", "hello"])
}

/// The rows of GGUF files.
pub fn gguf_rows() -> Vec<Row> {
    vec![
        row(
            "empty",
            |folder| gguf(folder, b""),
            &[
                "bad.gguf",
                "as GGUF: the magic needs 4 bytes at 0, 0 are left",
            ],
        ),
        row(
            "text",
            |folder| gguf(folder, b"this is no model"),
            &["bad.gguf", "not with \"GGUF\""],
        ),
        row(
            "version of tomorrow",
            |folder| {
                gguf(
                    folder,
                    &[b"GGUF".as_slice(), &9u32.to_le_bytes(), &[0; 16]].concat(),
                )
            },
            &["bad.gguf", "version 9; versions 2 and 3 are read"],
        ),
        row(
            "cut in its header",
            |folder| {
                let whole = fs::read(smollm2_path()).expect("a model file");
                gguf(folder, &whole[..1_000_000])
            },
            &[
                "cannot read `bad.gguf` as GGUF: 48900 elements of `tokenizer.ggml.merges` are announced at 960195, more than the",
            ],
        ),
        row(
            "cut in its last tensor",
            |folder| {
                let whole = fs::read(smollm2_path()).expect("a model file");
                gguf(folder, &whole[..whole.len() - 10])
            },
            &[
                "cannot read `bad.gguf` as GGUF: tensor `",
                "but the file ends at",
            ],
        ),
        row(
            "header that announces 2^63 tensors",
            |folder| gguf(folder, &file((1 << 63, 0), &[], 64)),
            &[
                "bad.gguf",
                "9223372036854775808 tensors are announced at 24, more than the",
            ],
        ),
        row(
            "header that announces 2^40 entries",
            |folder| gguf(folder, &file((0, 1 << 40), &[], 64)),
            &["bad.gguf", "1099511627776 metadata entries are announced"],
        ),
        row(
            "text as long as 2^62 bytes",
            |folder| {
                gguf(
                    folder,
                    &file(
                        (0, 1),
                        &[(1u64 << 62).to_le_bytes().to_vec(), vec![0; 64]],
                        64,
                    ),
                )
            },
            &[
                "bad.gguf",
                "4611686018427387904 bytes of the key of metadata entry 0 are announced",
            ],
        ),
        row(
            "tensor whose size overflows",
            |folder| {
                gguf(
                    folder,
                    &file((1, 0), &[tensor("a", &[1 << 40, 1 << 40], 0)], 64),
                )
            },
            &["bad.gguf", "tensor `a`"],
        ),
        row(
            "tensor outside the file",
            |folder| gguf(folder, &file((1, 0), &[tensor("a", &[1024], 0)], 64)),
            &[
                "bad.gguf",
                "tensor `a` needs bytes 0 to 4096 of the data",
                "but the file ends at",
            ],
        ),
        row(
            "tensors that overlap",
            |folder| {
                gguf(
                    folder,
                    &file(
                        (2, 0),
                        &[tensor("a", &[16], 0), tensor("b", &[16], 32)],
                        128,
                    ),
                )
            },
            &["bad.gguf", "tensors `a` and `b` overlap"],
        ),
        row(
            "two tensors of one name",
            |folder| {
                gguf(
                    folder,
                    &file((2, 0), &[tensor("a", &[8], 0), tensor("a", &[8], 32)], 128),
                )
            },
            &["bad.gguf", "tensor `a` stands there twice"],
        ),
        row(
            "two entries of one key",
            |folder| {
                gguf(
                    folder,
                    &file(
                        (0, 2),
                        &[entry("general.name", "a"), entry("general.name", "b")],
                        0,
                    ),
                )
            },
            &["bad.gguf", "metadata key `general.name` stands there twice"],
        ),
        row(
            "key that is no text",
            |folder| {
                gguf(
                    folder,
                    &file(
                        (0, 1),
                        &[[&2u64.to_le_bytes()[..], b"\xff\xfe"].concat(), vec![0; 16]],
                        0,
                    ),
                )
            },
            &["bad.gguf", "the key of metadata entry 0 at 32 is not UTF-8"],
        ),
        row(
            "another architecture",
            |folder| {
                gguf(
                    folder,
                    &file((0, 1), &[entry("general.architecture", "gpt2")], 0),
                )
            },
            &["bad.gguf: field `general.architecture`: expected `llama` or `qwen3`, got `gpt2`"],
        ),
        row(
            "no architecture",
            |folder| gguf(folder, &file((0, 0), &[], 0)),
            &["`bad.gguf` has no metadata `general.architecture`"],
        ),
    ]
}

/// The model's weights are replaced by these bytes.
fn weights(folder: &Path, bytes: &[u8]) -> Vec<String> {
    fs::write(folder.join("model/model.safetensors"), bytes).expect("a file");
    asked(folder)
}

/// A file with this header and so many bytes after it.
fn headed(header: &str, data: usize) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), &vec![0; data]].concat()
}

/// The rows of safetensors files.
pub fn safetensors_rows() -> Vec<Row> {
    const DAMAGED: &str = "model/model.safetensors: not a whole safetensors file: ";
    vec![
        row(
            "empty",
            |folder| weights(folder, b""),
            &[DAMAGED, "fetch or make it again"],
        ),
        row(
            "text",
            |folder| weights(folder, b"this is no model at all"),
            &[DAMAGED],
        ),
        row(
            "cut",
            |folder| {
                let whole = fs::read(folder.join("model/model.safetensors")).expect("a file");
                weights(folder, &whole[..whole.len() - 1])
            },
            &[DAMAGED],
        ),
        row(
            "bytes behind its end",
            |folder| {
                let whole = fs::read(folder.join("model/model.safetensors")).expect("a file");
                weights(folder, &[&whole[..], b"more"].concat())
            },
            &[DAMAGED],
        ),
        row(
            "header as long as 2^63 bytes",
            |folder| {
                weights(
                    folder,
                    &[&(1u64 << 63).to_le_bytes()[..], &[0; 64]].concat(),
                )
            },
            &[DAMAGED],
        ),
        row(
            "header that is no JSON",
            |folder| weights(folder, &headed("{\"a\": ", 0)),
            &[DAMAGED],
        ),
        row(
            "header nested a million deep",
            |folder| weights(folder, &headed(&"[".repeat(1_000_000), 0)),
            &[DAMAGED],
        ),
        row(
            "tensor whose size overflows",
            |folder| {
                let shape = "[4294967296,4294967296,4294967296]";
                weights(
                    folder,
                    &headed(
                        &format!(
                            "{{\"a\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[0,4]}}}}"
                        ),
                        4,
                    ),
                )
            },
            &[DAMAGED],
        ),
        row(
            "shape that is not what its bytes say",
            |folder| {
                weights(
                    folder,
                    &headed(
                        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}",
                        4,
                    ),
                )
            },
            &[DAMAGED],
        ),
        row(
            "tensor outside the file",
            |folder| {
                weights(
                    folder,
                    &headed(
                        "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
                        4,
                    ),
                )
            },
            &[DAMAGED],
        ),
        row(
            "two tensors of one name",
            |folder| {
                let entry = "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}";
                weights(folder, &headed(&format!("{{{entry},{entry}}}"), 4))
            },
            &[DAMAGED, "`a` stands there twice"],
        ),
        row(
            "numbers of an unknown type",
            |folder| {
                weights(
                    folder,
                    &headed(
                        "{\"a\":{\"dtype\":\"F1\",\"shape\":[4],\"data_offsets\":[0,4]}}",
                        4,
                    ),
                )
            },
            &[DAMAGED],
        ),
    ]
}

#[test]
fn no_spoilt_file_makes_a_reader_fail_otherwise_than_by_an_error() {
    let gguf = fs::read(fixture("text/blocks.gguf")).expect("a fixture");
    let tensors = fs::read(fixture(
        "oracle/our_adapter/adapter/adapter_model.safetensors",
    ))
    .expect("a fixture");
    for bytes in spoilt(&gguf, 3000, "gguf") {
        let read = catch_unwind(|| {
            if let Ok(file) = GgufFile::from_bytes("spoilt", bytes) {
                for info in file.tensors() {
                    let _ = file.values(info);
                }
            }
        });
        assert!(read.is_ok());
    }
    for bytes in spoilt(&tensors, 3000, "safetensors") {
        assert!(catch_unwind(|| decode_safetensors(Path::new("spoilt"), &bytes).is_ok()).is_ok());
    }
}
