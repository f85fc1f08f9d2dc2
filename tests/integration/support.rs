//! What the tests share: fixtures, the real small model, comparison of tensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use atp_pipeline::model::tensors::read_safetensors;
use atp_pipeline::model::{Decoder, Weights};
use tch::{Device, Kind, Tensor};

/// A file or folder of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A committed fixture.
pub fn fixture(path: &str) -> PathBuf {
    repository("tests/fixtures").join(path)
}

/// The tensors of a fixture.
pub fn tensors(path: &str) -> BTreeMap<String, Tensor> {
    read_safetensors(&fixture(path)).expect("a readable fixture")
}

/// The real small model's file, fetched by the set-up script.
pub fn smollm2_path() -> PathBuf {
    let path = repository(".deps/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(
        path.is_file(),
        "{} is missing: run `python3 scripts/setup.py model`",
        path.display()
    );
    path
}

/// The real small model in f32, loaded once for all tests.
pub fn smollm2() -> &'static Decoder {
    struct Shared(Decoder);
    // SAFETY: tests only read the frozen weights; libtorch's reference counts are atomic.
    unsafe impl Sync for Shared {}
    // SAFETY: as above; the decoder is moved once into its cell.
    unsafe impl Send for Shared {}
    static MODEL: OnceLock<Shared> = OnceLock::new();
    let load = || {
        let weights = Weights::open(&smollm2_path()).expect("a model file");
        Shared(Decoder::load(&weights, Kind::Float, Device::Cpu).expect("a loadable model"))
    };
    &MODEL.get_or_init(load).0
}

/// Largest difference, relative to the largest expected magnitude.
pub fn relative_error(got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(got.size(), expected.size(), "shapes");
    let (got, expected) = (got.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    ((got - &expected).abs().max() / expected.abs().max()).double_value(&[])
}

/// Token ids of a fixture.
pub fn ids(tensor: &Tensor) -> Vec<u32> {
    Vec::<i64>::try_from(tensor)
        .expect("ids")
        .into_iter()
        .map(|id| id as u32)
        .collect()
}

/// A JSON fixture.
pub fn json(path: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(fixture(path)).expect("a fixture");
    serde_json::from_str(&text).expect("JSON")
}
