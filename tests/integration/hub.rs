//! Models from a hub: a server on this machine that speaks its protocol and has the faults of real networks; a tiny real
//! model; the program's own client, and the program.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use atp_pipeline::artifact::digest_file;
use atp_pipeline::hub::{Hub, HubError, Revision, Settings};
use atp_pipeline::model::tensors::{encode_safetensors, read_safetensors};
use atp_pipeline::runtime::http::Patience;
use hf_hub::RepoType;
use tempfile::TempDir;

use crate::faults::disk::write_model;
use crate::support::{Ended, files, program};

mod server;

use server::{COMMIT, Fault, OTHER, Seen, Site};

const NAME: &str = "tiny/llama";
const REPO: &str = "models/tiny/llama";

/// A tiny model as a repository has it: two shards with their index, and files that nobody needs.
fn model() -> BTreeMap<String, Vec<u8>> {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().join("model");
    write_model(&at);
    let tensors = read_safetensors(&at.join("model.safetensors")).expect("tensors");
    fs::remove_file(at.join("model.safetensors")).expect("a file");
    let (mut shards, mut map) = ([vec![], vec![]], serde_json::Map::new());
    for (i, (name, tensor)) in tensors.into_iter().enumerate() {
        map.insert(
            name.clone(),
            format!("model-0000{}-of-00002.safetensors", i % 2 + 1).into(),
        );
        shards[i % 2].push((name, tensor));
    }
    let mut all = files(&at);
    for (i, shard) in shards.iter().enumerate() {
        let bytes = encode_safetensors(shard).expect("bytes");
        all.insert(format!("model-0000{}-of-00002.safetensors", i + 1), bytes);
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": map }).to_string();
    all.insert("model.safetensors.index.json".into(), index.into_bytes());
    all.insert("consolidated.safetensors".into(), vec![0; 9000]);
    all.insert("original/params.json".into(), b"{}".to_vec());
    all.insert("README.md".into(), b"card".to_vec());
    all
}

struct Place {
    site: Site,
    cache: TempDir,
}

impl Place {
    fn new() -> Self {
        let site = Site::open();
        site.publish(REPO, COMMIT, model());
        let cache = tempfile::tempdir().expect("a folder");
        Self { site, cache }
    }

    fn settings(&self) -> Settings {
        Settings {
            endpoint: self.site.endpoint.clone(),
            cache: self.cache.path().into(),
            timeout: Duration::from_millis(400),
            patience: Patience {
                attempts: 4,
                first: Duration::from_millis(5),
                longest: Duration::from_millis(20),
            },
            ..Settings::from_lookup(&|_| None)
        }
    }

    fn hub(&self) -> Hub {
        Hub::new(self.settings())
    }

    fn main(&self) -> Revision {
        let found = self.hub().look_up(RepoType::Model, NAME, "main");
        found.expect("a revision")
    }

    fn fetch(&self, file: &str) -> Result<PathBuf, HubError> {
        self.hub().fetch(&self.main(), file)
    }

    /// What lies in the cache below the repository's folder, but for links.
    fn blobs(&self) -> Vec<String> {
        let folder = self.cache.path().join("models--tiny--llama/blobs");
        let entries = fs::read_dir(folder)
            .expect("blobs")
            .map(|e| e.expect("an entry"));
        let mut names: Vec<_> = entries
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// The program, with this hub in its environment and nothing else of the kind.
    fn call(&self, arguments: &[&str], set: &[(&str, &str)]) -> Ended {
        let mut command = program(self.cache.path(), arguments);
        for name in [
            "HF_TOKEN",
            "HF_TOKEN_PATH",
            "HF_HUB_OFFLINE",
            "HF_HUB_CACHE",
            "HF_HOME",
        ] {
            command.env_remove(name);
        }
        command
            .env("HF_ENDPOINT", &self.site.endpoint)
            .env("HF_HOME", self.cache.path().join("home"))
            .envs(set.iter().copied());
        command.output().expect("a process").into()
    }
}

const SHARD: &str = "model-00001-of-00002.safetensors";

fn gets(seen: &[Seen], part: &str) -> Vec<Seen> {
    let of = |s: &&Seen| s.line.starts_with("GET") && s.line.contains(part);
    seen.iter().filter(of).cloned().collect()
}

#[test]
fn files_lie_as_the_python_library_has_them() {
    let place = Place::new();
    let found = place.main();
    assert_eq!(found.commit, COMMIT);
    let hub = place.hub();
    let path = hub.fetch(&found, SHARD).expect("a file");
    let root = place.cache.path().join("models--tiny--llama");
    assert_eq!(path, root.join("snapshots").join(COMMIT).join(SHARD));
    let target = fs::read_link(&path).expect("a link");
    let digest = digest_file(&path).expect("a digest").to_string();
    assert_eq!(target, Path::new("../../blobs").join(&digest));
    assert_eq!(fs::read(&path).expect("bytes"), model()[SHARD]);
    let nested = hub.fetch(&found, "original/params.json").expect("a file");
    assert_eq!(fs::read(nested).expect("bytes"), b"{}");
    assert!(!root.join("refs/main").exists(), "not before all is there");
    hub.pin(&found).expect("a ref");
    assert_eq!(
        fs::read_to_string(root.join("refs/main")).expect("a ref"),
        COMMIT
    );
    // Nothing is asked for what is there.
    place.site.seen();
    hub.fetch(&found, SHARD).expect("a file");
    assert!(place.site.seen().is_empty());
}

#[test]
fn a_broken_download_goes_on_where_it_ended() {
    let place = Place::new();
    place.site.next("GET /storage", Fault::Cut(5000));
    place.site.next("GET /storage", Fault::Cut(1000));
    place.fetch(SHARD).expect("a file");
    let ranges: Vec<_> = gets(&place.site.seen(), "/storage")
        .into_iter()
        .map(|s| s.range)
        .collect();
    let from = |n: usize| Some(format!("bytes={n}-"));
    assert_eq!(ranges, [None, from(5000), from(6000)]);
    assert!(
        place
            .blobs()
            .iter()
            .all(|name| !name.ends_with("incomplete"))
    );
}

#[test]
fn a_later_process_goes_on_too_and_nothing_half_written_has_a_name() {
    let place = Place::new();
    // Each attempt brings nothing: patience ends.
    place.site.next("GET /storage", Fault::Cut(5000));
    for _ in 0..4 {
        place.site.next("GET /storage", Fault::Cut(0));
    }
    let error = place.fetch(SHARD).expect_err("no file").to_string();
    assert!(
        error.contains("ended after 5000 of") || error.contains("broke after 5000"),
        "{error}"
    );
    assert!(
        error.contains("is kept") && error.contains("goes on there"),
        "{error}"
    );
    let blobs = place.blobs();
    assert!(
        blobs.len() == 1 && blobs[0].ends_with(".incomplete"),
        "{blobs:?}"
    );
    let snapshot = place.cache.path().join("models--tiny--llama/snapshots");
    assert!(!snapshot.join(COMMIT).join(SHARD).exists());
    place.site.seen();
    place.fetch(SHARD).expect("a file");
    let seen = gets(&place.site.seen(), "/storage");
    assert_eq!(seen[0].range.as_deref(), Some("bytes=5000-"));
}

#[test]
fn servers_that_do_not_keep_to_ranges_are_not_believed() {
    for fault in [
        Fault::Whole,
        Fault::Shifted,
        Fault::Status("416 Range Not Satisfiable", ""),
    ] {
        let place = Place::new();
        place.site.next("GET /storage", Fault::Cut(5000));
        place.site.next("GET /storage", fault.clone());
        let path = place
            .fetch(SHARD)
            .unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        assert_eq!(fs::read(path).expect("bytes"), model()[SHARD], "{fault:?}");
    }
}

#[test]
fn a_changed_byte_is_found_by_the_digest() {
    for file in [SHARD, "config.json"] {
        let place = Place::new();
        let part = if file == SHARD {
            "GET /storage"
        } else {
            "GET /tiny"
        };
        place.site.next(part, Fault::Flipped);
        let path = place.fetch(file).expect("fetched once more");
        assert_eq!(fs::read(path).expect("bytes"), model()[file]);
        let place = Place::new();
        place.site.next(part, Fault::Flipped);
        place.site.next(part, Fault::Flipped);
        let error = place.fetch(file).expect_err("twice is enough").to_string();
        assert!(
            error.contains("expected digest") && error.contains(file),
            "{error}"
        );
        let left = place
            .blobs()
            .into_iter()
            .filter(|name| !name.ends_with("incomplete"));
        assert_eq!(left.count(), 0);
    }
}

#[test]
fn busy_and_failing_servers_are_asked_again() {
    let place = Place::new();
    place.site.next(
        "GET /api",
        Fault::Status("429 Too Many Requests", "Retry-After: 1\r\n"),
    );
    let begin = Instant::now();
    let found = place.main();
    assert!(
        begin.elapsed() >= Duration::from_secs(1),
        "the server asked for a second"
    );
    for status in ["500 Internal Server Error", "503 Service Unavailable"] {
        place.site.next("HEAD /tiny", Fault::Status(status, ""));
        place.site.next("GET /storage", Fault::Status(status, ""));
    }
    place.hub().fetch(&found, SHARD).expect("a file");
    for _ in 0..4 {
        place
            .site
            .next("GET /api", Fault::Status("502 Bad Gateway", ""));
    }
    let error = place.hub().look_up(RepoType::Model, NAME, "main");
    let error = error.expect_err("four times is enough").to_string();
    assert!(
        error.contains("HTTP 502") && error.contains("again later"),
        "{error}"
    );
    let left = "429 Too Many Requests";
    place
        .site
        .next("GET /api", Fault::Status(left, "Retry-After: 9000\r\n"));
    let error = place.hub().look_up(RepoType::Model, NAME, "main");
    let error = error.expect_err("nobody waits so long").to_string();
    assert!(error.contains("fewer requests"), "{error}");
}

#[test]
fn slow_links_are_borne_and_silent_ones_cut() {
    let place = Place::new();
    // Longer than the time-out in all, but never silent for so long.
    place
        .site
        .next("GET /storage", Fault::Slow(8, Duration::from_millis(100)));
    place.fetch(SHARD).expect("a file");
    let other = "model-00002-of-00002.safetensors";
    place
        .site
        .next("GET /storage", Fault::Silent(Duration::from_secs(2)));
    let begin = Instant::now();
    place.fetch(other).expect("a file");
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "waited for silence to end"
    );
}

#[test]
fn an_expired_address_is_asked_for_anew() {
    let place = Place::new();
    place
        .site
        .next("GET /storage", Fault::Status("403 Forbidden", ""));
    place.fetch(SHARD).expect("a file");
    let heads = place
        .site
        .seen()
        .into_iter()
        .filter(|s| s.line.starts_with("HEAD"));
    assert_eq!(heads.count(), 2);
}

#[test]
fn a_renamed_repository_is_followed() {
    let place = Place::new();
    let api = "Location: /api/models/tiny/llama/revision/main\r\n";
    place
        .site
        .next("GET /api", Fault::Status("307 Temporary Redirect", api));
    let found = place.main();
    let file: &'static str =
        "Location: /tiny/llama/resolve/0123456789abcdef0123456789abcdef01234567/config.json\r\n";
    place
        .site
        .next("HEAD /tiny", Fault::Status("307 Temporary Redirect", file));
    let path = place.hub().fetch(&found, "config.json").expect("a file");
    assert_eq!(fs::read(path).expect("bytes"), model()["config.json"]);
    // Round and round: an error, no hang.
    for _ in 0..9 {
        place
            .site
            .next("GET /api", Fault::Status("307 Temporary Redirect", api));
    }
    let error = place.hub().look_up(RepoType::Model, NAME, "main");
    let error = error.expect_err("too many").to_string();
    assert!(error.contains("more than 5 redirects"), "{error}");
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let place = Place::new();
    place.site.gate(REPO);
    let hub = Hub::new(Settings {
        token: Some("hf_good".into()),
        ..place.settings()
    });
    let found = hub
        .look_up(RepoType::Model, NAME, "main")
        .expect("a revision");
    hub.fetch(&found, SHARD).expect("a file");
    let seen = place.site.seen();
    assert!(!gets(&seen, "/storage").is_empty());
    for request in seen {
        let with = request.token.is_some();
        assert_eq!(with, !request.line.contains("/storage"), "{request:?}");
    }
}

#[test]
fn refusals_say_what_to_click() {
    let place = Place::new();
    place.site.gate(REPO);
    let told = |token: Option<&str>, name: &str, revision: &str, file: &str| {
        let hub = Hub::new(Settings {
            token: token.map(str::to_owned),
            token_from: "HF_TOKEN".into(),
            ..place.settings()
        });
        let found = hub.look_up(RepoType::Model, name, revision);
        found
            .and_then(|found| hub.fetch(&found, file))
            .expect_err("refused")
            .to_string()
    };
    let page = format!("{}/{NAME}", place.site.endpoint);
    let cases: [(String, &[&str]); 6] = [
        (
            told(None, NAME, "main", SHARD),
            &[
                "401",
                "gated",
                &page,
                "“Agree and access repository”",
                "HF_TOKEN",
                "settings/tokens",
            ],
        ),
        (
            told(Some("hf_stranger"), NAME, "main", SHARD),
            &[
                "403",
                "gated",
                &page,
                "“Agree and access repository”",
                "token from HF_TOKEN",
            ],
        ),
        (
            told(Some("hf_bad"), NAME, "main", SHARD),
            &["401", "token from HF_TOKEN is not valid"],
        ),
        (
            told(None, "tiny/lama", "main", SHARD),
            &["401", "no such repository", "spelling", "private"],
        ),
        (
            told(None, NAME, "v9", SHARD),
            &["404", "no revision `v9`", "/commits"],
        ),
        (
            told(Some("hf_good"), NAME, "main", "weights.bin"),
            &["404", "`weights.bin`", "spelling"],
        ),
    ];
    for (told, parts) in cases {
        for part in parts {
            assert!(told.contains(part), "`{part}` in: {told}");
        }
    }
}

#[test]
fn the_hub_cannot_write_outside_its_cache() {
    let place = Place::new();
    let mut files = model();
    files.insert("../../../escape.json".into(), b"{}".to_vec());
    place.site.publish(REPO, COMMIT, files);
    let error = place.hub().look_up(RepoType::Model, NAME, "main");
    let error = error.expect_err("refused").to_string();
    assert!(error.contains("no folder can hold"), "{error}");
}

#[test]
fn the_program_samples_from_a_model_of_the_hub_and_offline_from_its_cache() {
    let place = Place::new();
    place.site.next("GET /storage", Fault::Cut(5000));
    let arguments = [
        "sample",
        "--model",
        NAME,
        "--max-new-tokens",
        "4",
        "--json",
        "Hello",
    ];
    let offline = ("HF_HUB_OFFLINE", "1");
    let before = place.call(&arguments, &[offline]);
    assert_eq!(before.code, Some(1));
    assert!(
        before.err.contains("HF_HUB_OFFLINE forbids"),
        "{}",
        before.err
    );
    let first = place.call(&arguments, &[]);
    assert_eq!(first.code, Some(0), "{}", first.err);
    assert!(first.err.contains(COMMIT), "{}", first.err);
    let seen = place.site.seen();
    for unneeded in ["consolidated", "original", "README"] {
        assert!(
            !seen.iter().any(|s| s.line.contains(unneeded)),
            "{unneeded} was fetched"
        );
    }
    // In the cache now: no request at all.
    for set in [&[offline][..], &[]] {
        let again = place.call(&arguments, set);
        assert_eq!(
            (again.code, &again.out),
            (Some(0), &first.out),
            "{}",
            again.err
        );
        assert!(place.site.seen().is_empty());
    }
    // What `main` stands for has moved on; a pinned commit stays what it was, and both can be had.
    let mut files = model();
    files.insert("generation_config.json".into(), b"{}".to_vec());
    place.site.publish(REPO, OTHER, files);
    let at = format!("{NAME}@{OTHER}");
    let pinned = [
        "sample",
        "--model",
        &at,
        "--max-new-tokens",
        "4",
        "--json",
        "Hello",
    ];
    let pinned = place.call(&pinned, &[]);
    assert_eq!(pinned.code, Some(0), "{}", pinned.err);
    assert!(pinned.err.contains(OTHER), "{}", pinned.err);
    let fetched = gets(&place.site.seen(), "/storage");
    assert!(
        fetched.is_empty(),
        "the same bytes were fetched twice: {fetched:?}"
    );
}

#[test]
fn a_stages_manifest_names_the_commit() {
    let place = Place::new();
    let recipe = format!(
        "seeds = [1]\nvariants = [\"base\"]\n[models.tiny]\nsource = \"{NAME}\"\nrevision = \"{COMMIT}\"\n\
         [role_play]\ntrain_per_environment = 4\ntest_per_environment = 2\n\
         [generation]\nelicitation = \"score\"\n[evaluation]\nrounds = 1\n"
    );
    fs::write(place.cache.path().join("r.toml"), recipe).expect("a recipe");
    let run = ["evaluate", "r.toml", "--run-dir", "run"];
    let planned = place.call(&["run", "r.toml", "--run-dir", "run", "--dry-run"], &[]);
    assert_eq!(planned.code, Some(0), "{}", planned.err);
    assert!(place.site.seen().is_empty(), "a dry run fetches nothing");
    let ended = place.call(&run, &[]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let manifest = place
        .cache
        .path()
        .join("run/latest/evaluate-base/manifest.json");
    let manifest = fs::read_to_string(manifest).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
    assert_eq!(manifest["inputs"]["model"], format!("{NAME}@{COMMIT}"));
}
