use std::path::PathBuf;

use rand::Rng;
use serde::Deserialize;

use super::*;
use crate::runtime::seed::stream;

fn path(relative: &str) -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn smollm2() -> Tokenizer {
    let file = path(".deps/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    Tokenizer::from_gguf(&GgufFile::open(file).unwrap()).unwrap()
}

fn small(pre: &str) -> Tokenizer {
    let file = GgufFile::open(path(&format!("tests/fixtures/text/{pre}.gguf"))).unwrap();
    Tokenizer::from_gguf(&file).unwrap()
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    kept: String,
    skipped: String,
}

/// Against the `tokenizers` package: scripts/oracle/text_fixtures.py.
#[track_caller]
fn agrees(tokenizer: &Tokenizer, fixture: &str) {
    let json =
        std::fs::read_to_string(path(&format!("tests/fixtures/text/{fixture}.json"))).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&json).unwrap();
    assert!(cases.len() > 40);
    for case in cases {
        assert_eq!(
            tokenizer.encode(&case.text).unwrap(),
            case.ids,
            "{:?}",
            case.text
        );
        let decode = |specials| tokenizer.decode(&case.ids, specials).unwrap();
        assert_eq!(decode(Specials::Keep), case.kept, "{:?}", case.text);
        assert_eq!(decode(Specials::Skip), case.skipped, "{:?}", case.text);
    }
}

#[test]
fn smollm2_from_gguf_agrees_with_its_own_tokenizer() {
    agrees(&smollm2(), "smollm2_tokens");
}

#[test]
fn qwen2_and_llama_3_rules_agree() {
    agrees(&small("qwen2"), "qwen2_tokens");
    agrees(&small("llama-bpe"), "llama-bpe_tokens");
}

/// The file asks for truncation to 16 tokens, which must not happen.
#[test]
fn tokenizer_json_agrees() {
    let file = path("tests/fixtures/text/directory/tokenizer.json");
    assert!(
        std::fs::read_to_string(&file)
            .unwrap()
            .contains("max_length")
    );
    agrees(&Tokenizer::from_file(file).unwrap(), "qwen2_tokens");
}

#[test]
fn names_and_ids() {
    let tokenizer = smollm2();
    assert_eq!(tokenizer.vocab_size(), 49_152);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
    assert_eq!(tokenizer.token_to_id("<|im_end|>"), Some(2));
    assert_eq!(tokenizer.id_to_token(49_151).as_deref(), Some("ectable"));
    assert_eq!(
        (
            tokenizer.token_to_id("no such"),
            tokenizer.id_to_token(49_152)
        ),
        (None, None)
    );
    assert!(tokenizer.is_special("<|im_end|>") && !tokenizer.is_special("ectable"));
    let small = small("qwen2");
    assert!(small.token_to_id("<think>").is_some() && !small.is_special("<think>"));
}

#[test]
fn a_cut_character_and_a_foreign_id() {
    let tokenizer = smollm2();
    let ids = tokenizer.encode("\u{1F9FF}").unwrap();
    assert!(ids.len() > 1);
    assert!(
        tokenizer
            .decode(&ids[..1], Specials::Keep)
            .unwrap()
            .contains('\u{FFFD}')
    );
    let message = tokenizer
        .decode(&[5, 49_152], Specials::Keep)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("49152") && message.contains("49151"),
        "{message}"
    );
}

#[test]
fn text_survives_the_round_trip() {
    let tokenizer = small("llama-bpe");
    let mut rng = stream(1, "tokenizer/round-trip");
    for _ in 0..500 {
        let len = rng.random_range(0..40);
        let text: String = (0..len)
            .map(|_| {
                if rng.random() {
                    rng.random_range(' '..='~')
                } else {
                    rng.random()
                }
            })
            .collect();
        let ids = tokenizer.encode(&text).unwrap();
        assert_eq!(tokenizer.decode(&ids, Specials::Keep).unwrap(), text);
    }
}

#[test]
fn garbage_is_an_error_that_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tokenizer.json");
    let refused = |content: &[u8]| {
        std::fs::write(&file, content).unwrap();
        let message = Tokenizer::from_file(&file).unwrap_err().to_string();
        assert!(message.contains("tokenizer.json"), "{message}");
        message
    };
    let good = std::fs::read(path("tests/fixtures/text/directory/tokenizer.json")).unwrap();
    for content in [
        &b""[..],
        b"{}",
        b"[1,2",
        b"\xff\xfe",
        b"null",
        b"{\"version\":\"1.0\"}",
    ] {
        refused(content);
    }
    for cut in (0..good.len() - 2).step_by(97) {
        refused(&good[..cut]);
    }
    let odd = String::from_utf8(good.clone())
        .unwrap()
        .replace("\"decoder\":{", "\"decoder\":{\"x\":{");
    refused(odd.as_bytes());
    refused(br#"{"version":"1.0","added_tokens":[],"decoder":[7],"model":{}}"#);
    let random = String::from_utf8(good)
        .unwrap()
        .replace("\"dropout\":null", "\"dropout\":0.5");
    assert!(refused(random.as_bytes()).contains("dropout"));
    assert!(
        Tokenizer::from_file(directory.path().join("none.json"))
            .unwrap_err()
            .to_string()
            .contains("none.json")
    );
}

/// A GGUF file with this metadata, every entry a string, an array of strings or an array of i32.
fn gguf(entries: &[(&str, Entry)]) -> Result<Tokenizer, TextError> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(0u64.to_le_bytes());
    bytes.extend((entries.len() as u64).to_le_bytes());
    let string = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    for (key, entry) in entries {
        string(&mut bytes, key);
        match entry {
            Entry::Text(text) => {
                bytes.extend(8u32.to_le_bytes());
                string(&mut bytes, text);
            }
            Entry::Id(id) => {
                bytes.extend(4u32.to_le_bytes());
                bytes.extend(id.to_le_bytes());
            }
            Entry::Texts(texts) => {
                bytes.extend([9u32.to_le_bytes(), 8u32.to_le_bytes()].concat());
                bytes.extend((texts.len() as u64).to_le_bytes());
                texts.iter().for_each(|text| string(&mut bytes, text));
            }
            Entry::Types(types) => {
                bytes.extend([9u32.to_le_bytes(), 5u32.to_le_bytes()].concat());
                bytes.extend((types.len() as u64).to_le_bytes());
                types
                    .iter()
                    .for_each(|kind| bytes.extend(kind.to_le_bytes()));
            }
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    Tokenizer::from_gguf(&GgufFile::open(path).unwrap())
}

#[derive(Clone)]
enum Entry {
    Text(&'static str),
    Id(u32),
    Texts(&'static [&'static str]),
    Types(&'static [i32]),
}

#[test]
fn a_gguf_vocabulary_that_does_not_fit_is_refused_by_name() {
    let good = [
        ("tokenizer.ggml.model", Entry::Text("gpt2")),
        ("tokenizer.ggml.pre", Entry::Text("smollm")),
        (
            "tokenizer.ggml.tokens",
            Entry::Texts(&["a", "b", "ab", "<|end|>"]),
        ),
        ("tokenizer.ggml.token_type", Entry::Types(&[1, 1, 1, 3])),
        ("tokenizer.ggml.merges", Entry::Texts(&["a b"])),
        ("tokenizer.ggml.eos_token_id", Entry::Id(3)),
    ];
    assert_eq!(
        gguf(&good).unwrap().encode("ab<|end|>ba").unwrap(),
        [2, 3, 1, 0]
    );
    for (key, entry, words) in [
        ("tokenizer.ggml.model", Entry::Text("llama"), "`llama`"),
        ("tokenizer.ggml.pre", Entry::Text("viking"), "`viking`"),
        (
            "tokenizer.ggml.tokens",
            Entry::Texts(&["a", "b", "a", "c"]),
            "`a` twice",
        ),
        ("tokenizer.ggml.tokens", Entry::Id(7), "an array of strings"),
        (
            "tokenizer.ggml.token_type",
            Entry::Types(&[1]),
            "each of the 4 tokens",
        ),
        (
            "tokenizer.ggml.merges",
            Entry::Texts(&["ab"]),
            "expected two tokens",
        ),
        ("tokenizer.ggml.merges", Entry::Texts(&["a x"]), "merges"),
        (
            "tokenizer.ggml.eos_token_id",
            Entry::Id(4),
            "outside the vocabulary",
        ),
    ] {
        let mut entries = good.clone();
        entries
            .iter_mut()
            .filter(|e| e.0 == key)
            .for_each(|e| e.1 = entry.clone());
        let message = gguf(&entries).unwrap_err().to_string();
        assert!(
            message.contains(words) && message.contains("model.gguf"),
            "{key}: {message}"
        );
    }
    for missing in 0..5 {
        let mut entries = good.to_vec();
        let (key, _) = entries.remove(missing);
        assert!(gguf(&entries).unwrap_err().to_string().contains(key));
    }
}
