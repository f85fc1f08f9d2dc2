//! The workplace of these tests, and the library that is preloaded into the program to make its disk and clock fail.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use atp_pipeline::model::tensors::encode_safetensors;
use atp_pipeline::runtime::seed::stream;
use rand::Rng;
use serde_json::{Value, json};
use tch::Tensor;
use tempfile::TempDir;

use crate::support::{
    Ended, TINY_STAGES, assert_same, files, fixture, program, repository, results,
};

/// Six training and four test questions; three steps each of DPO and GRPO, all with a checkpoint; two rounds. Choices
/// follow a few sampled tokens, so that every way of computing is met.
const RECIPE: &str = r#"
title = "A random model"
seeds = [1]

[models.random]
source = "model"

[role_play]
folder = "environments"
train_per_environment = 3
test_per_environment = 2

[generation]
elicitation = "constrained"
max_new_tokens = 6

[pairs]
attempts = 2
template_fallback = true

[dpo]
epochs = 1
accumulation = 2
checkpoint_every = 1

[grpo]
epochs = 1
group = 2
prompts_per_step = 2
skip_zero_variance = false
checkpoint_every = 1

[evaluation]
rounds = 2
"#;

/// The preloaded library, compiled once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = repository("tests/integration/faults/disk.cpp");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libatp-disk.so");
        let fresh = target.with_extension(format!("so.{}", std::process::id()));
        let given = std::env::var("CXX");
        let compilers = match &given {
            Ok(given) => vec![given.as_str()],
            Err(_) => vec!["c++", "g++"],
        };
        let compile = |compiler: &&str| {
            Command::new(compiler)
                .args(["-std=c++17", "-O1", "-shared", "-fPIC", "-Wall"])
                .args([source.as_path(), Path::new("-o"), &fresh])
                .args(["-ldl"])
                .output()
                .ok()
        };
        let compiled = compilers.iter().find_map(compile);
        let compiled = compiled.expect("a C++ compiler, which libtorch's bindings need too");
        let said = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success(), "{said}");
        fs::rename(&fresh, &target).expect("a file of ours");
        target
    })
}

/// A model folder: a Llama of two layers with random weights and the fixture's tokenizer.
pub fn write_model(folder: &Path) {
    fs::create_dir(folder).expect("a folder");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let from = fixture("text/directory").join(name);
        fs::copy(from, folder.join(name)).expect("a fixture");
    }
    let config = json!({
        "model_type": "llama", "hidden_act": "silu", "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 8192,
        "tie_word_embeddings": true, "vocab_size": 485,
    });
    fs::write(folder.join("config.json"), config.to_string()).expect("a file");
    let mut random = stream(1, "faults/model");
    let mut tensor = |name: &str, shape: &[i64]| {
        let numbers: Vec<f32> = (0..shape.iter().product::<i64>())
            .map(|_| match shape.len() {
                1 => 1.0,
                _ => random.random_range(-0.4..0.4),
            })
            .collect();
        (name.to_owned(), Tensor::from_slice(&numbers).reshape(shape))
    };
    let mut tensors = vec![
        tensor("model.embed_tokens.weight", &[485, 32]),
        tensor("model.norm.weight", &[32]),
    ];
    for layer in 0..2 {
        for (name, shape) in [
            ("input_layernorm", &[32][..]),
            ("post_attention_layernorm", &[32]),
            ("self_attn.q_proj", &[32, 32]),
            ("self_attn.k_proj", &[16, 32]),
            ("self_attn.v_proj", &[16, 32]),
            ("self_attn.o_proj", &[32, 32]),
            ("mlp.gate_proj", &[64, 32]),
            ("mlp.up_proj", &[64, 32]),
            ("mlp.down_proj", &[32, 64]),
        ] {
            tensors.push(tensor(
                &format!("model.layers.{layer}.{name}.weight"),
                shape,
            ));
        }
    }
    let bytes = encode_safetensors(&tensors).expect("bytes");
    fs::write(folder.join("model.safetensors"), bytes).expect("a file");
}

/// A new workplace: recipe, environments, model.
pub fn workplace() -> TempDir {
    let folder = tempfile::Builder::new()
        .prefix("atp-faults-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .expect("a temporary folder");
    let environments = folder.path().join("environments");
    fs::create_dir(&environments).expect("a folder");
    for name in ["bakery.toml", "taxi.toml"] {
        let from = repository("data/role_play").join(name);
        fs::copy(from, environments.join(name)).expect("an environment");
    }
    write_model(&folder.path().join("model"));
    fs::write(folder.path().join("random.toml"), RECIPE).expect("a recipe");
    folder
}

/// The workplace that the tests share.
pub fn shared() -> &'static Path {
    static SHARED: OnceLock<TempDir> = OnceLock::new();
    extern "C" fn remove() {
        if let Some(folder) = SHARED.get() {
            // A static is never dropped; best effort.
            let _ = fs::remove_dir_all(folder.path());
        }
    }
    let folder = SHARED.get_or_init(|| {
        // SAFETY: the handler is a plain function that touches a static only.
        unsafe { libc::atexit(remove) };
        workplace()
    });
    folder.path()
}

/// When a kill comes, seen from its operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before it.
    Before,
    /// Half of the bytes are written.
    Half,
    /// After it.
    After,
}

/// What the disk and the clock do to a process.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Kill it at this operation.
    pub kill: Option<(usize, When)>,
    /// From this operation on, fail with this error number.
    pub fail: Option<(usize, i32)>,
    /// Refuse locks with this error number.
    pub lock: Option<i32>,
    /// Be a machine of this name, whose locks others do not see.
    pub host: Option<&'static str>,
    /// Each look at the clock gives this many seconds less.
    pub back: Option<u64>,
}

/// A change to the disk.
#[derive(Debug, Clone)]
pub struct Operation {
    /// Counted from 1; 0 for what changes nothing, an fsync.
    pub number: usize,
    /// Its name.
    pub name: String,
    /// Path in the run directory; of a rename, from and to.
    pub paths: Vec<String>,
}

impl Operation {
    /// The path that is changed.
    pub fn target(&self) -> &str {
        self.paths.last().map_or("", String::as_str)
    }

    /// The stage it belongs to.
    pub fn stage(&self) -> Option<&'static str> {
        let (folder, rest) = self.target().split_once('/')?;
        let name = rest.split('/').next().unwrap_or_default();
        let name = name.trim_start_matches('.').split(".atp-tmp-").next()?;
        let name = match folder {
            "latest" => name,
            _ => name.rsplit_once('-').map_or(name, |(stem, _)| stem),
        };
        TINY_STAGES.into_iter().find(|stage| *stage == name)
    }
}

/// A run directory in a workplace, removed in the end.
pub struct Run {
    /// The workplace.
    pub workplace: PathBuf,
    /// The run directory.
    pub path: PathBuf,
}

impl Run {
    /// A new one in the shared workplace; nothing is made yet.
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("run-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        Self::at(shared(), shared().join(name))
    }

    /// This one.
    pub fn at(workplace: &Path, path: PathBuf) -> Self {
        Self {
            workplace: workplace.to_owned(),
            path,
        }
    }

    /// The program on it, in this world; `arguments` are added.
    pub fn command(&self, world: &World, arguments: &[&str]) -> Command {
        let path = self.path.to_str().expect("UTF-8");
        let fixed = ["run", "random.toml", "--run-dir", path];
        let mut command = program(&self.workplace, &[&fixed, arguments].concat());
        command
            .env("ATP_THREADS", "1")
            .env("XDG_CACHE_HOME", self.workplace.join("cache"))
            .env("LD_PRELOAD", library())
            .env("ATP_DISK_ROOT", &self.path)
            .env("ATP_DISK_LOG", self.log());
        if let Some((number, when)) = world.kill {
            let when = match when {
                When::Before => "before",
                When::Half => "half",
                When::After => "after",
            };
            command.env("ATP_DISK_KILL", format!("{number}:{when}"));
        }
        if let Some((number, error)) = world.fail {
            command.env("ATP_DISK_FAIL", format!("{number}:{error}"));
        }
        if let Some(error) = world.lock {
            command.env("ATP_LOCK_ERROR", error.to_string());
        }
        if let Some(host) = world.host {
            command.env("ATP_HOST", host).env("ATP_LOCK_SILENCE", "7");
        }
        if let Some(seconds) = world.back {
            command.env("ATP_CLOCK_BACK", seconds.to_string());
        }
        command
    }

    /// Run the recipe in this world.
    pub fn go(&self, world: &World) -> Ended {
        let _ = fs::remove_file(self.log());
        let ended = self.command(world, &[]).output().expect("a process");
        ended.into()
    }

    /// Run the recipe to its end, undisturbed.
    pub fn finish(&self) -> Ended {
        let ended = self.go(&World::default());
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        ended
    }

    fn log(&self) -> PathBuf {
        self.path.with_extension("operations")
    }

    /// What the last process did to the disk, fsyncs included.
    pub fn operations(&self) -> Vec<Operation> {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        text.lines()
            .map(|line| {
                let mut words = line.split(' ').map(str::to_owned);
                Operation {
                    number: words.next().and_then(|n| n.parse().ok()).expect("a number"),
                    name: words.next().expect("a name"),
                    paths: words.collect(),
                }
            })
            .collect()
    }

    /// The folder of a stage.
    pub fn stage(&self, name: &str) -> PathBuf {
        let entries = fs::read_dir(self.path.join("stages")).expect("stages");
        let mut folders = entries.map(|entry| entry.expect("an entry").path());
        let is_it = |path: &PathBuf| {
            let folder = path.file_name().unwrap_or_default().to_string_lossy();
            folder
                .rsplit_once('-')
                .is_some_and(|(stem, _)| stem == name)
        };
        folders.find(is_it).expect("the stage's folder")
    }

    /// All that the stages left, without the times in it, and the place of the model, which may be another for each run.
    pub fn results(&self) -> BTreeMap<String, Vec<u8>> {
        let mut all = results(&self.path, &TINY_STAGES);
        for stage in TINY_STAGES {
            let path = self.path.join("latest").join(stage).join("manifest.json");
            let text = fs::read(&path).expect("a manifest");
            let mut manifest: Value = serde_json::from_slice(&text).expect("JSON");
            for time in ["seconds", "finished"] {
                let removed = manifest.as_object_mut().and_then(|m| m.remove(time));
                assert!(removed.is_some(), "{time}");
            }
            let inputs = manifest["inputs"].as_object_mut().expect("inputs");
            if let Some(model) = inputs.get_mut("model") {
                assert!(
                    model
                        .as_str()
                        .is_some_and(|model| Path::new(model).is_dir())
                );
                *model = Value::Null;
            }
            // The report tells how long its stages took.
            if stage == "report" {
                for file in ["report.html", "report.md"] {
                    let outputs = manifest["outputs"].as_object_mut().expect("outputs");
                    assert!(outputs.remove(file).is_some(), "{file}");
                }
            }
            all.insert(
                format!("{stage}/manifest"),
                manifest.to_string().into_bytes(),
            );
        }
        all
    }

    /// It is finished, has the reference's bytes, and holds nothing of unfinished work.
    pub fn assert_finished(&self) {
        assert_same(&self.results(), &reference().results);
        for name in files(&self.path).keys() {
            let left = ["checkpoints/", "started.json", ".atp-tmp-"];
            let left = left.iter().any(|part| name.contains(part));
            assert!(!left, "{name} is left in {}", self.path.display());
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
        let _ = fs::remove_file(self.log());
    }
}

/// A run that nothing happened to.
pub struct Reference {
    /// What it left.
    pub results: BTreeMap<String, Vec<u8>>,
    /// What it did to the disk.
    pub operations: Vec<Operation>,
}

impl Reference {
    /// The changes to the disk, without fsyncs.
    pub fn changes(&self) -> impl Iterator<Item = &Operation> {
        self.operations.iter().filter(|o| o.number > 0)
    }

    /// The number of the first change that fits.
    pub fn find(&self, stage: &str, name: &str, in_path: &str) -> usize {
        self.find_nth(stage, name, in_path, 0)
    }

    /// The number of the n-th change that fits, from 0.
    pub fn find_nth(&self, stage: &str, name: &str, in_path: &str, n: usize) -> usize {
        self.changes()
            .filter(|o| o.stage() == Some(stage) && o.name == name)
            .filter(|o| o.target().contains(in_path))
            .nth(n)
            .unwrap_or_else(|| panic!("no {name} of {in_path} in {stage}"))
            .number
    }
}

/// The undisturbed run, made once.
pub fn reference() -> &'static Reference {
    static REFERENCE: OnceLock<Reference> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let run = Run::new();
        run.finish();
        Reference {
            results: run.results(),
            operations: run.operations(),
        }
    })
}
