//! What the tests share: fixtures, the real small model, the program itself and a finished run of it, comparisons.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use atp_pipeline::model::tensors::read_safetensors;
use atp_pipeline::model::{Adapter, Decoder, Weights};
use atp_pipeline::runtime::gpu::GpuError;
use atp_pipeline::training::pass::{Policy, budget};
use serde_json::Value;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

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

/// The policy of this adapter, all activations kept.
pub fn with_policy<T>(
    model: &Decoder,
    adapter: &Adapter,
    body: impl FnOnce(&Policy) -> Result<T, GpuError>,
) -> T {
    let budget = budget(model, 0, 0, None);
    let mut live = None;
    let policy = Policy::new(model, adapter, &mut live, &budget).expect("memory");
    body(&policy).expect("memory")
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

/// A recipe on two environments: eight training and four test questions, four steps of DPO and of GRPO, two rounds.
const TINY: &str = r#"
title = "Two environments"

[role_play]
folder = "environments"
train_per_environment = 4
test_per_environment = 2

[dpo]
accumulation = 2

[grpo]
# Every step updates, also where all answers of a group agree: the stop test aims between sampling and update.
skip_zero_variance = false
prompts_per_step = 2
"#;

/// Names of its stages, in order.
pub const TINY_STAGES: [&str; 8] = [
    "data",
    "pairs",
    "train-dpo",
    "train-grpo",
    "evaluate-base",
    "evaluate-dpo",
    "evaluate-grpo",
    "report",
];

/// A temporary folder below `target`, and in it the tiny recipe as `tiny.toml`, which extends the smoke recipe.
pub fn workplace() -> TempDir {
    let folder = tempfile::Builder::new()
        .prefix("atp-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .expect("a temporary folder");
    let environments = folder.path().join("environments");
    fs::create_dir(&environments).expect("a folder");
    for name in ["bakery.toml", "taxi.toml"] {
        fs::copy(
            repository("data/role_play").join(name),
            environments.join(name),
        )
        .expect("an environment");
    }
    let recipe = format!("extends = {:?}\n{TINY}", repository("recipes/smoke.toml"));
    fs::write(folder.path().join("tiny.toml"), recipe).expect("a recipe");
    folder
}

/// The program itself, to be run in this folder, undisturbed by the environment, with two threads.
pub fn program(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atp-pipeline"));
    command.args(arguments).current_dir(folder);
    for name in ["RUST_LOG", "RUST_BACKTRACE", "ATP_DEVICE"] {
        command.env_remove(name);
    }
    command.env("ATP_THREADS", "2").env("NO_COLOR", "1");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// How a process ended, and what it wrote.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ended {
    /// Standard output as JSON, of a process that ended well.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

/// Run the program to its end.
pub fn call(folder: &Path, arguments: &[&str]) -> Ended {
    program(folder, arguments)
        .output()
        .expect("a process")
        .into()
}

/// Whole pipelines run one at a time: together they would only starve each other.
pub fn heavy() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A workplace whose `run` holds a finished run of the tiny recipe, never interrupted. Not to be changed.
pub struct Finished {
    folder: TempDir,
    /// How that run ended.
    pub ended: Ended,
}

impl Finished {
    /// The workplace.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The run directory.
    pub fn run(&self) -> PathBuf {
        self.folder().join("run")
    }

    /// How long a stage took.
    pub fn seconds(&self, stage: &str) -> f64 {
        let manifest = self.run().join("latest").join(stage).join("manifest.json");
        let manifest: Value =
            serde_json::from_slice(&fs::read(manifest).expect("a manifest")).expect("JSON");
        manifest["seconds"].as_f64().expect("seconds")
    }
}

/// The finished run, made once for all tests. Do not ask for it with [`heavy`] in hand: making it takes that.
pub fn finished() -> &'static Finished {
    static FINISHED: OnceLock<Finished> = OnceLock::new();
    extern "C" fn remove() {
        if let Some(finished) = FINISHED.get() {
            // A static is never dropped; best effort.
            let _ = fs::remove_dir_all(finished.folder());
        }
    }
    let finished = FINISHED.get_or_init(|| {
        let folder = workplace();
        let _turn = heavy();
        let ended = call(folder.path(), &["run", "tiny.toml", "--run-dir", "run"]);
        // SAFETY: the handler is a plain function that touches a static only.
        unsafe { libc::atexit(remove) };
        Finished { folder, ended }
    });
    assert_eq!(finished.ended.code, Some(0), "{}", finished.ended.err);
    finished
}

/// All files below a folder, links followed, by relative path.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(folder: &Path, prefix: &str, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy();
            let name = format!("{prefix}{name}");
            if path.is_dir() {
                walk(&path, &format!("{name}/"), found);
            } else {
                found.insert(name, fs::read(&path).expect("a readable file"));
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, "", &mut found);
    found
}

/// What the stages of a run left: every file but those that tell the time (manifests, and the report's text).
pub fn results(run: &Path, stages: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for stage in stages {
        for (name, bytes) in files(&run.join("latest").join(stage)) {
            if !["manifest.json", "report.html", "report.md"].contains(&name.as_str()) {
                all.insert(format!("{stage}/{name}"), bytes);
            }
        }
    }
    all
}

/// Two sets of files are the same, byte for byte; names those that are not.
pub fn assert_same(got: &BTreeMap<String, Vec<u8>>, expected: &BTreeMap<String, Vec<u8>>) {
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(got), names(expected));
    let differ: Vec<_> = got
        .iter()
        .filter(|(name, bytes)| expected[*name] != **bytes)
        .map(|(name, _)| name)
        .collect();
    assert!(differ.is_empty(), "these differ: {differ:?}");
}
