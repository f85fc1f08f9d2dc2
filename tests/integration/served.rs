//! Models that another program serves: the program's own `serve` with a tiny real model, before it a relay with the
//! faults of real servers, and evaluations through both.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Child;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use atp_pipeline::evaluation::rounds::read_rows;
use atp_pipeline::evaluation::row::EvalRow;
use atp_pipeline::scenario::Outcome;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::faults::disk::workplace;
use crate::support::{Ended, program};

/// `serve` with the workplace's model; stopped when dropped.
struct Served {
    child: Child,
    /// `host:port`.
    address: String,
}

impl Served {
    fn start(folder: &Path) -> Self {
        let arguments = ["serve", "--model", "model", "--port", "0", "-q"];
        let mut child = program(folder, &arguments).spawn().expect("a process");
        let out = child.stdout.take().expect("its output");
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("http://");
        let address = address.and_then(|a| a.strip_suffix("/v1#model"));
        let address = address.unwrap_or_else(|| panic!("an address, got `{line}`"));
        Self {
            address: address.to_owned(),
            child,
        }
    }

    fn post(&self, body: &Value) -> (String, Value) {
        let text = body.to_string();
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        let answer = exchange(&self.address, request.as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").expect("headers");
        let status = head.split(' ').nth(1).expect("a status").to_owned();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Best effort.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn exchange(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.write_all(request).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// What the relay does with a request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Act {
    /// Hands it on.
    Relay,
    /// Answers with this status and header line.
    Refuse(&'static str, &'static str),
    /// Closes the connection.
    Drop,
    /// Answers with something else than JSON.
    Garble,
}

/// A server before the server.
struct Relay {
    address: String,
    /// Bodies of the requests, in the order they came.
    bodies: Arc<Mutex<Vec<Value>>>,
    keys: Arc<Mutex<Vec<Option<String>>>>,
    /// Most requests that were under way at a time.
    most: Arc<AtomicUsize>,
}

impl Relay {
    /// `act` is asked for the n-th request with the body, from 0.
    fn start(to: &str, act: impl Fn(usize, &Value) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let relay = Self {
            address: listener.local_addr().expect("an address").to_string(),
            bodies: Arc::default(),
            keys: Arc::default(),
            most: Arc::default(),
        };
        let (bodies, keys) = (Arc::clone(&relay.bodies), Arc::clone(&relay.keys));
        let (most, now, act) = (
            Arc::clone(&relay.most),
            Arc::new(AtomicUsize::new(0)),
            Arc::new(act),
        );
        let to = to.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (bodies, keys, to) = (Arc::clone(&bodies), Arc::clone(&keys), to.clone());
                let (most, now, act) = (Arc::clone(&most), Arc::clone(&now), Arc::clone(&act));
                std::thread::spawn(move || {
                    let under_way = UnderWay(now);
                    most.fetch_max(
                        under_way.0.fetch_add(1, Ordering::SeqCst) + 1,
                        Ordering::SeqCst,
                    );
                    serve_one(stream, &to, &bodies, &keys, &*act, under_way);
                });
            }
        });
        relay
    }
}

/// Counts a request among those under way, until its answer can be read.
struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn serve_one(
    mut stream: TcpStream,
    to: &str,
    bodies: &Mutex<Vec<Value>>,
    keys: &Mutex<Vec<Option<String>>>,
    act: &dyn Fn(usize, &Value) -> Act,
    under_way: UnderWay,
) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (mut length, mut key) = (0, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap_or_default();
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "authorization" => key = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut text = vec![0; length];
    reader.read_exact(&mut text).ok()?;
    let body: Value = serde_json::from_slice(&text).ok()?;
    let number = {
        let mut bodies = bodies.lock().unwrap();
        bodies.push(body.clone());
        keys.lock().unwrap().push(key);
        bodies.len() - 1
    };
    let answer = |status: &str, header: &str, body: &str| {
        format!(
            "HTTP/1.1 {status}\r\n{header}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let reply = match act(number, &body) {
        Act::Drop => return None,
        Act::Garble => answer("200 OK", "", "<html>"),
        Act::Refuse(status, header) => answer(
            status,
            header,
            "{\"error\": {\"message\": \"as the test wants it\"}}",
        ),
        Act::Relay => {
            let head = format!(
                "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
            );
            exchange(to, &[head.as_bytes(), &text].concat())
        }
    };
    drop(under_way);
    stream.write_all(reply.as_bytes()).ok()
}

/// A recipe that evaluates the untrained model alone; `more` stands at its top, `model` in the model's table.
fn recipe(folder: &Path, name: &str, more: &str, model: &str) {
    let text = format!(
        "variants = [\"base\"]\n{more}\n[models.m]\n{model}\n[role_play]\nfolder = \"environments\"\ntrain_per_environment \
         = 4\ntest_per_environment = 2\n[generation]\nelicitation = \"free\"\nmax_new_tokens = 8\ntemperature = 0.0\n\
         [evaluation]\nrounds = 2\n"
    );
    fs::write(folder.join(name), text).expect("a recipe");
}

fn run(folder: &Path, recipe: &str, directory: &str, set: &[(&str, &str)]) -> Ended {
    let arguments = ["run", recipe, "--run-dir", directory];
    let mut command = program(folder, &arguments);
    command.envs(set.iter().copied());
    command.output().expect("a process").into()
}

fn rows(folder: &Path, directory: &str) -> Vec<EvalRow> {
    read_rows(
        &folder
            .join(directory)
            .join("latest/evaluate-base/rows.parquet"),
    )
    .expect("rows")
}

fn place() -> TempDir {
    workplace()
}

#[test]
fn a_served_model_answers_as_the_loaded_one() {
    let folder = place();
    let at = folder.path();
    let served = Served::start(at);
    let source = format!("source = \"http://{}/v1#model\"", served.address);
    recipe(at, "served.toml", "", &source);
    recipe(at, "loaded.toml", "", "source = \"model\"");
    for (name, directory) in [("served.toml", "served"), ("loaded.toml", "loaded")] {
        let ended = run(at, name, directory, &[]);
        assert_eq!(ended.code, Some(0), "{name}: {}", ended.err);
    }
    let (served, loaded) = (rows(at, "served"), rows(at, "loaded"));
    assert_eq!(served.len(), 8);
    for (by_request, here) in served.iter().zip(&loaded) {
        let view = |row: &EvalRow| {
            let tokens = (row.prompt_tokens, row.completion_tokens);
            (
                row.question_id.clone(),
                row.round,
                row.text.clone(),
                row.outcome,
                row.finish.clone(),
                tokens,
            )
        };
        assert_eq!(view(by_request), view(here));
        assert!(by_request.prompt_tokens > 10 && !by_request.text.is_empty());
    }
    let manifest = fs::read_to_string(at.join("served/latest/evaluate-base/manifest.json"));
    let manifest = manifest.expect("a manifest");
    assert!(
        manifest.contains("/v1#model") && manifest.contains("as served at http://"),
        "{manifest}"
    );
}

#[test]
fn passing_faults_cost_a_wait_and_lasting_ones_a_decision() {
    let folder = place();
    let at = folder.path();
    let served = Served::start(at);
    let seen = Arc::new(Mutex::new(BTreeMap::<String, usize>::new()));
    let count = Arc::clone(&seen);
    // The first time: passing faults of four kinds. One conversation is refused whenever it comes.
    let relay = Relay::start(&served.address, move |n, body| {
        let mut seen = count.lock().unwrap();
        let times = seen
            .entry(body["messages"].to_string() + &body["seed"].to_string())
            .or_default();
        *times += 1;
        let round_2 = body["messages"].to_string().contains("Round 1");
        match (*times, n % 4) {
            _ if body["seed"].as_u64().is_none() => Act::Refuse("422 Unprocessable Entity", ""),
            (1, 0) if n == 0 => Act::Refuse("429 Too Many Requests", "Retry-After: 1\r\n"),
            (1, 0 | 1) if !round_2 => Act::Refuse("503 Service Unavailable", ""),
            (1, 2) if !round_2 => Act::Drop,
            (_, 3) if !round_2 => Act::Refuse("400 Bad Request", ""),
            (1, 0) => Act::Garble,
            _ => Act::Relay,
        }
    });
    let source = format!(
        "source = \"http://{}/v1#model\"\nendpoint = {{ concurrency = 1, api_key_env = \"ATP_TEST_KEY\" }}",
        relay.address
    );
    recipe(at, "r.toml", "", &source);
    let without = run(at, "r.toml", "run", &[]);
    assert_eq!(without.code, Some(1));
    assert!(
        without.err.contains("`ATP_TEST_KEY`") && without.err.contains("export it"),
        "{}",
        without.err
    );
    let begin = Instant::now();
    let ended = run(at, "r.toml", "run", &[("ATP_TEST_KEY", "sk-x")]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(
        begin.elapsed() >= Duration::from_secs(1),
        "the server asked for a second"
    );
    let rows = rows(at, "run");
    let failed: Vec<_> = rows
        .iter()
        .filter(|row| row.outcome == Outcome::Failed)
        .collect();
    assert!(
        !failed.is_empty() && failed.len() < rows.len(),
        "{} of {}",
        failed.len(),
        rows.len()
    );
    for row in failed {
        let error = row.error.clone().expect("a reason");
        let known =
            error.contains("HTTP 400: as the test wants it") || error.contains("expected JSON");
        assert!(known, "{error}");
        assert!(row.text.is_empty() && row.finish == "error");
    }
    assert!(
        rows.iter()
            .any(|row| row.outcome == Outcome::Invalid || row.outcome.role().is_some())
    );
    let keys = relay.keys.lock().unwrap();
    assert!(
        keys.iter().all(|key| key.as_deref() == Some("Bearer sk-x")),
        "{keys:?}"
    );
    assert_eq!(
        relay.most.load(Ordering::SeqCst),
        1,
        "one request at a time"
    );
}

#[test]
fn what_is_asked_is_what_the_recipe_says() {
    let folder = place();
    let at = folder.path();
    let served = Served::start(at);
    let relay = Relay::start(&served.address, |_, _| {
        std::thread::sleep(Duration::from_millis(150));
        Act::Relay
    });
    let source = format!("source = \"http://{}/v1#model\"", relay.address);
    recipe(at, "r.toml", "", &source);
    let text = fs::read_to_string(at.join("r.toml")).expect("a recipe");
    let text = text.replace(
        "temperature = 0.0",
        "temperature = 0.7\ntop_p = 0.9\ntop_k = 5\nthinking = false",
    );
    fs::write(at.join("r.toml"), text).expect("a recipe");
    let ended = run(at, "r.toml", "run", &[]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let bodies = relay.bodies.lock().unwrap();
    assert_eq!(bodies.len(), 8);
    let mut seeds: Vec<u64> = vec![];
    for body in bodies.iter() {
        assert_eq!(body["model"], "model");
        assert_eq!(
            (&body["temperature"], &body["top_p"]),
            (&json!(0.7), &json!(0.9))
        );
        assert_eq!(
            (&body["top_k"], &body["max_tokens"]),
            (&json!(5), &json!(8))
        );
        assert_eq!(
            body["chat_template_kwargs"],
            json!({ "enable_thinking": false })
        );
        assert_eq!(body["min_p"], json!(0.0), "llama.cpp would put in 0.05");
        assert_eq!(body["messages"][1]["role"], "user");
        seeds.push(body["seed"].as_u64().expect("a seed"));
    }
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), 8, "every decision has a seed of its own");
    assert!(seeds.iter().all(|seed| *seed < 1 << 31));
    assert!(
        relay.most.load(Ordering::SeqCst) > 1,
        "several requests at a time"
    );
}

#[test]
fn a_server_that_is_gone_ends_the_evaluation_and_rounds_are_kept() {
    let folder = place();
    let at = folder.path();
    let served = Served::start(at);
    let relay = Relay::start(&served.address, |n, _| match n {
        0..4 => Act::Relay,
        _ => Act::Refuse("401 Unauthorized", ""),
    });
    let source = format!(
        "source = \"http://{}/v1#model\"\nendpoint = {{ concurrency = 1 }}",
        relay.address
    );
    recipe(at, "r.toml", "", &source);
    let ended = run(at, "r.toml", "run", &[]);
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    for part in ["HTTP 401", "api_key_env", "goes on after them"] {
        assert!(ended.err.contains(part), "`{part}` in: {}", ended.err);
    }
    // Nobody asks on where all will be refused.
    assert_eq!(relay.bodies.lock().unwrap().len(), 5);
    let stages = fs::read_dir(at.join("run/stages")).expect("stages");
    let kept = stages
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.display().to_string().contains("evaluate-base"))
        .any(|path| path.join("checkpoints").is_dir());
    assert!(kept, "the first round's checkpoint");
}

#[test]
fn what_a_served_model_cannot_do_is_said_before_anything_runs() {
    let folder = place();
    let at = folder.path();
    let served = "source = \"http://127.0.0.1:9/v1#m\"";
    let told = |change: &dyn Fn(String) -> String, model: &str| {
        recipe(at, "r.toml", "", model);
        let text = fs::read_to_string(at.join("r.toml")).expect("a recipe");
        fs::write(at.join("r.toml"), change(text)).expect("a recipe");
        let ended = run(at, "r.toml", "run", &[]);
        assert_eq!(ended.code, Some(1), "{}", ended.err);
        assert!(!at.join("run").exists(), "nothing was begun");
        ended.err
    };
    let same = |text: String| text;
    let cases: [(String, &[&str]); 8] = [
        (
            told(
                &|t| t.replace("max_new", "top_k = 5\nmax_new"),
                &format!("{served}\nendpoint = {{ extensions = false }}"),
            ),
            &["would not be told", "`endpoint.extensions = true`"],
        ),
        (
            told(&|t| t.replace("[\"base\"]", "[\"base\", \"dpo\"]"), served),
            &["not trained by dpo", "variants = [\"base\"]", "r.toml:1:"],
        ),
        (
            told(&|t| t.replace("\"free\"", "\"score\""), served),
            &["no logits", "expected `free`", "elicitation"],
        ),
        (
            told(&|t| format!("testbeds = [\"tool_use\"]\n{t}"), served),
            &["tool's result", "`role_play` and `coordination`"],
        ),
        (
            told(&same, "source = \"http://127.0.0.1:9/v1\""),
            &["after `#`", "r.toml:4:"],
        ),
        (
            told(&same, "source = \"model\"\nendpoint = { concurrency = 2 }"),
            &["is for models that a server has"],
        ),
        (
            told(
                &same,
                &format!("{served}\nendpoint = {{ concurrency = 0 }}"),
            ),
            &["expected 1 to 1024, got 0"],
        ),
        (
            told(&same, &format!("{served}\nendpoint = {{ conurrency = 2 }}")),
            &["`concurrency`"],
        ),
    ];
    for (told, parts) in cases {
        for part in parts {
            assert!(told.contains(part), "`{part}` in: {told}");
        }
    }
    let option = [
        "run",
        "laptop",
        "--run-dir",
        "run",
        "--model",
        "http://127.0.0.1:9/v1#m",
    ];
    let ended: Ended = program(at, &option).output().expect("a process").into();
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.err.contains("cannot be trained") || ended.err.contains("not trained by"),
        "{}",
        ended.err
    );
    let sample = ["sample", "--model", "http://127.0.0.1:9/v1#m", "Hello"];
    let ended: Ended = program(at, &sample).output().expect("a process").into();
    assert!(
        ended.err.contains("served by another program"),
        "{}",
        ended.err
    );
}

#[test]
fn serve_answers_and_refuses() {
    let folder = place();
    let served = Served::start(folder.path());
    let message = json!([{ "role": "user", "content": "Hello" }]);
    let ask = |more: Value| {
        let mut body = json!({ "messages": message, "max_tokens": 4, "seed": 7 });
        for (key, value) in more.as_object().expect("an object") {
            body[key] = value.clone();
        }
        served.post(&body)
    };
    let (status, first) = ask(json!({}));
    assert_eq!(status, "200", "{first}");
    let (_, again) = ask(json!({}));
    assert_eq!(first["choices"], again["choices"], "the same seed");
    let (_, other) = ask(json!({ "seed": 8 }));
    assert_ne!(first["choices"], other["choices"]);
    assert!(
        first["usage"]["completion_tokens"]
            .as_u64()
            .is_some_and(|n| (1..=4).contains(&n))
    );
    for (wrong, part) in [
        (json!({ "stream": true }), "`stream`"),
        (json!({ "n": 2 }), "`n`"),
        (json!({ "stop": ["x"] }), "`stop`"),
        (json!({ "temperature": -1.0 }), "`temperature`"),
        (json!({ "messages": "Hello" }), "invalid type"),
        (
            json!({ "max_tokens": 100_000 }),
            "exceed the model's context",
        ),
    ] {
        let (status, body) = ask(wrong);
        let text = body["error"]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(status == "400" && text.contains(part), "{status} {body}");
    }
    assert_eq!(ask(json!({ "model": "model" })).0, "200");
    let (status, body) = ask(json!({ "model": "modell" }));
    let text = body["error"]["message"].as_str().unwrap_or_default();
    assert!(status == "404" && text.contains("`modell`"), "{body}");
    let models = exchange(
        &served.address,
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    assert!(models.contains("\"id\":\"model\""), "{models}");
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time");
    let created = first["created"].as_u64().expect("a time");
    assert!(
        now.as_secs().abs_diff(created) < 600,
        "{created} at {now:?}"
    );
}

#[test]
fn a_server_that_is_told_to_stop_ends_well_and_is_called_as_asked() {
    let folder = place();
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut child = program(
            folder.path(),
            &[
                "serve",
                "--model",
                "model",
                "--port",
                "0",
                "--served-model-name",
                "aligned",
            ],
        )
        .spawn()
        .expect("a process");
        let mut out = BufReader::new(child.stdout.take().expect("its output"));
        let mut line = String::new();
        out.read_line(&mut line).expect("a line");
        assert!(line.trim().ends_with("/v1#aligned"), "{line}");
        // SAFETY: a signal to a process of this test's own.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        let ended = child.wait_with_output().expect("its end");
        let told = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(0), "{told}");
        assert!(told.contains("stopped; requests served: 0"), "{told}");
        assert!(!told.contains("again"), "{told}");
    }
}
