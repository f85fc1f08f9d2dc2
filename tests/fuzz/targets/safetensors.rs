//! A safetensors file of any bytes: header, and every tensor.
#![no_main]

use std::path::Path;

use atp_pipeline::model::tensors::decode_safetensors;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(tensors) = decode_safetensors(Path::new("fuzz.safetensors"), bytes) {
        for tensor in tensors.values() {
            assert!(tensor.numel() <= bytes.len());
        }
    }
});
