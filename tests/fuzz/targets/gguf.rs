//! A GGUF file of any bytes: header, metadata, every tensor's values, the tokenizer in it.
#![no_main]

use atp_pipeline::formats::gguf::GgufFile;
use atp_pipeline::text::TextCodec;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = GgufFile::from_bytes("fuzz.gguf", bytes.to_vec()) else {
        return;
    };
    for info in file.tensors() {
        assert!(file.bytes(info).len() <= bytes.len());
        if let Ok(values) = file.values(info) {
            assert_eq!(values.len(), info.elements());
        }
    }
    if file.metadata("tokenizer.ggml.model").is_some() {
        let _ = TextCodec::from_gguf(&file);
    }
});
