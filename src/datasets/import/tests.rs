//! A small hub on this machine: it answers as the real one does (commit by the API, large files redirected to another
//! host with their SHA-256 as the linked etag, ranges), and serves Parquet of the published schemas.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow::array::{Array, ArrayRef, ListArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::*;
use crate::artifact::digest_bytes;
use crate::scenario::tool_use::Source;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Repository, path, bytes.
type Files = Vec<(&'static str, &'static str, Vec<u8>)>;

struct Hub {
    endpoint: String,
    /// Method and target of each request.
    log: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    fn serve(files: Files) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (seen, own) = (Arc::clone(&log), endpoint.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                answer(stream, &own, &files, &seen);
            }
        });
        Self { endpoint, log }
    }

    fn api(&self, cache: &Path) -> crate::hub::Hub {
        let (endpoint, cache) = (self.endpoint.clone(), cache.to_owned());
        crate::hub::Hub::new(crate::hub::Settings {
            endpoint,
            cache,
            patience: crate::runtime::http::Patience {
                attempts: 2,
                first: std::time::Duration::from_millis(5),
                longest: std::time::Duration::from_millis(5),
            },
            ..crate::hub::Settings::from_lookup(&|_| None)
        })
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

fn answer(mut stream: TcpStream, endpoint: &str, files: &Files, log: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let request = lines.next().and_then(Result::ok).unwrap_or_default();
    let headers: Vec<String> = lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .map(|line| line.to_lowercase())
        .collect();
    log.lock().unwrap().push(request.clone());
    let target = request.split(' ').nth(1).unwrap_or_default();
    let range = headers.iter().find_map(|h| h.strip_prefix("range: bytes="));
    let mut reply = |status: &str, headers: &str, body: &[u8]| {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        // A client that has gone is its own business.
        let _ = stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(body));
    };
    for (repo, path, bytes) in files {
        if let Some(rest) = target.strip_prefix(&format!("/api/datasets/{repo}/revision/")) {
            if rest != "main" && rest != COMMIT {
                break;
            }
            let siblings: Vec<serde_json::Value> = files
                .iter()
                .filter(|(r, ..)| r == repo)
                .map(|(_, path, _)| serde_json::json!({ "rfilename": path }))
                .collect();
            let info = serde_json::json!({ "id": repo, "sha": COMMIT, "siblings": siblings, "private": false });
            return reply(
                "200 OK",
                "Content-Type: application/json\r\n",
                info.to_string().as_bytes(),
            );
        }
        if target == format!("/datasets/{repo}/resolve/{COMMIT}/{path}") {
            let digest = match path.contains("damaged") {
                true => "f".repeat(64),
                false => digest_bytes(bytes).to_string(),
            };
            let headers = format!(
                "X-Repo-Commit: {COMMIT}\r\nX-Linked-Etag: \"{digest}\"\r\nX-Linked-Size: {}\r\nETag: \"other\"\r\n\
                 Location: {endpoint}/cdn/{repo}/{path}\r\n",
                bytes.len()
            );
            return reply("302 Found", &headers, b"");
        }
        if target == format!("/cdn/{repo}/{path}") {
            let (from, to) = range.and_then(|r| r.split_once('-')).unwrap_or(("0", ""));
            let from: usize = from.parse().unwrap();
            let to = to.parse().unwrap_or(bytes.len() - 1).min(bytes.len() - 1);
            let headers = format!("Content-Range: bytes {from}-{to}/{}\r\n", bytes.len());
            return reply("206 Partial Content", &headers, &bytes[from..=to]);
        }
    }
    reply("404 Not Found", "X-Error-Code: EntryNotFound\r\n", b"");
}

fn parquet(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap()))
        .set_max_row_group_size(17)
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn strings(of: impl IntoIterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(of))
}

/// A question without a run of three words in common with any other.
fn question(mark: &str, i: usize) -> String {
    format!("{mark}{i} packs {i} crates{i} with {mark} pears{i} each{i}. How{i} many pears{i}?")
}

fn gsm8k_rows(mark: &str, count: usize) -> Vec<(String, String)> {
    (2..count + 2)
        .map(|i| {
            let solution = format!(
                "{mark} packs {i}*3 = <<{i}*3={}>>{} pears.\n#### {}",
                i * 3,
                i * 3,
                i * 3
            );
            (question(mark, i), solution)
        })
        .collect()
}

fn gsm8k(rows: &[(String, String)]) -> Vec<u8> {
    parquet(vec![
        ("question", strings(rows.iter().map(|r| r.0.clone()))),
        ("answer", strings(rows.iter().map(|r| r.1.clone()))),
    ])
}

/// Rows of the metadata table: problem, solution, domain.
fn thoughts_rows() -> Vec<(String, String, String)> {
    let good = |i: usize| {
        let text = format!(
            "Permutation{i} of {i} marbles{i}: in how many ways{i}? Number{i} them{i} all{i}."
        );
        (
            text,
            format!(
                "By counting, \\boxed{{\\frac{{{i}}}{{7}}}} first; so \\boxed{{{}}}.",
                i * 11
            ),
            "math".to_owned(),
        )
    };
    let mut rows: Vec<_> = (100..200).map(good).collect();
    for (text, solution, domain) in [
        ("Permutation code", "\\boxed{5}", "code"),
        ("Weigh the marbles", "\\boxed{5}", "math"),
        ("A permutation again", "\\boxed{x + 1}", "math"),
        ("A permutation without a box", "it is 5", "math"),
        ("A permutation [asy] picture", "\\boxed{5}", "math"),
    ] {
        rows.push((text.into(), solution.into(), domain.into()));
    }
    rows
}

fn metadata(rows: &[(String, String, String)]) -> Vec<u8> {
    let filler = || strings(rows.iter().map(|_| "x".repeat(2000)));
    parquet(vec![
        ("problem", strings(rows.iter().map(|r| r.0.clone()))),
        ("deepseek_reasoning", filler()),
        ("deepseek_solution", filler()),
        (
            "ground_truth_solution",
            strings(rows.iter().map(|r| r.1.clone())),
        ),
        ("domain", strings(rows.iter().map(|r| r.2.clone()))),
        ("source", filler()),
        ("test_cases", filler()),
        ("starter_code", filler()),
    ])
}

/// The training table: system, conversations.
fn conversations(rows: &[(String, String, String)]) -> Vec<u8> {
    let (mut from, mut value) = (Vec::new(), Vec::new());
    for (text, solution, domain) in rows {
        let instruction = if domain == "math" {
            "Return your final response within \\boxed{}. "
        } else {
            ""
        };
        from.extend(["user".to_owned(), "assistant".to_owned()]);
        value.push(format!("{instruction}{text}"));
        value.push(format!(
            "<|begin_of_thought|>\n\n\\boxed{{1}}\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n{solution}\n\n<|end_of_solution|>"
        ));
    }
    let turns = StructArray::from(vec![
        (
            Arc::new(Field::new("from", DataType::Utf8, true)),
            strings(from),
        ),
        (
            Arc::new(Field::new("value", DataType::Utf8, true)),
            strings(value),
        ),
    ]);
    let item = Arc::new(Field::new("item", turns.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths(rows.iter().map(|_| 2));
    let lists: ArrayRef = Arc::new(ListArray::new(item, offsets, Arc::new(turns), None));
    parquet(vec![
        (
            "system",
            strings(rows.iter().map(|_| "Your role".to_owned())),
        ),
        ("conversations", lists),
    ])
}

fn gsm8k_files() -> Files {
    let mut train = gsm8k_rows("Ann", 60);
    train.push((
        "Too many words: ".to_owned() + &"word ".repeat(50),
        "<<1+1=2>>\n#### 2".into(),
    ));
    train.push(("Too large: 5000?".into(), "<<1+1=2>>\n#### 2".into()));
    train.push((
        "Too long?".into(),
        "<<1+1=2>><<2+1=3>><<3+1=4>><<4+1=5>>\n#### 5".into(),
    ));
    vec![
        ("openai/gsm8k", "README.md", b"card".to_vec()),
        (
            "openai/gsm8k",
            "main/train-00000-of-00001.parquet",
            gsm8k(&train),
        ),
        (
            "openai/gsm8k",
            "main/test-00000-of-00001.parquet",
            gsm8k(&gsm8k_rows("Ben", 40)),
        ),
        (
            "openai/gsm8k",
            "socratic/train-00000-of-00001.parquet",
            b"not read".to_vec(),
        ),
    ]
}

const THOUGHTS: &str = "open-thoughts/OpenThoughts-114k";

fn all_files() -> Files {
    let rows = thoughts_rows();
    let mut files = gsm8k_files();
    files.push((
        THOUGHTS,
        "data/train-00000-of-00002.parquet",
        b"not read".to_vec(),
    ));
    files.push((
        THOUGHTS,
        "metadata/train-00000-of-00003.parquet",
        metadata(&rows[..50]),
    ));
    files.push((
        THOUGHTS,
        "metadata/train-00001-of-00003.parquet",
        metadata(&rows[50..]),
    ));
    files.push((
        THOUGHTS,
        "metadata/train-00002-of-00003.parquet",
        b"not read".to_vec(),
    ));
    files
}

fn spec() -> ProblemSpec {
    ProblemSpec {
        train_simple: 50,
        train_complex: 40,
        test_simple: 30,
        test_complex: 20,
    }
}

#[test]
fn the_hubs_files_become_disjoint_sets() {
    let hub = Hub::serve(all_files());
    let cache = tempfile::tempdir().unwrap();
    let (set, report) =
        import_by(&hub.api(cache.path()), &ImportSpec::default(), &spec(), 1).unwrap();
    let count = |split, difficulty| {
        let all = set.train.iter().chain(&set.test);
        all.filter(|p| p.split == split && p.difficulty == difficulty)
            .count() as u32
    };
    for split in [Split::Train, Split::Test] {
        for difficulty in Difficulty::BOTH {
            assert_eq!(count(split, difficulty), spec().count(split, difficulty));
        }
    }
    crate::datasets::problems::check(&set.train).unwrap();
    crate::datasets::problems::check(&set.test).unwrap();
    assert_eq!(set.disjointness.texts, 140);
    assert!(
        set.train[..50]
            .iter()
            .all(|p| p.text.starts_with("Ann") && p.source == Source::Gsm8k)
    );
    assert!(
        set.test[..30]
            .iter()
            .all(|p| p.text.starts_with("Ben") && p.program.is_some())
    );
    let complex = &set.train[50];
    assert_eq!(
        (complex.source, complex.family.as_str()),
        (Source::OpenThoughts, "combinatorics")
    );
    let number: u32 = complex.text["Permutation".len()..]
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(complex.answer, (number * 11).to_string());
    assert_eq!(report.programs, 80);
    assert_eq!(
        report.commits.values().collect::<Vec<_>>(),
        [COMMIT, COMMIT]
    );
    assert_eq!(
        report.rows,
        BTreeMap::from([("gsm8k".into(), 103), ("openthoughts".into(), 105)])
    );
    let refused: Vec<(&str, usize)> = report
        .refused
        .iter()
        .map(|(why, n)| (why.as_str(), *n))
        .collect();
    assert_eq!(
        refused,
        [
            ("gsm8k: 1 to 3 computation steps", 1),
            ("gsm8k: at most 50 words", 1),
            ("gsm8k: numbers of at most 1000", 1),
            ("openthoughts: a numeric answer", 2),
            (
                "openthoughts: a topic of multi-step algorithms, combinatorics or advanced algebra",
                1
            ),
            ("openthoughts: no pictures", 1),
            ("openthoughts: the domain mathematics", 1),
        ]
    );
    let fetched: Vec<String> = hub
        .requests()
        .into_iter()
        .filter(|r| r.contains("/cdn/"))
        .collect();
    assert!(
        fetched
            .iter()
            .all(|r| r.contains("main/t") || r.contains("metadata/train-0000")),
        "{fetched:?}"
    );
    assert!(!fetched.iter().any(|r| r.contains("00002-of-00003")));

    // Again: the same, and nothing is fetched but the commit.
    let (again, _) = import_by(&hub.api(cache.path()), &ImportSpec::default(), &spec(), 1).unwrap();
    assert_eq!(again, set);
    let requests = hub.requests();
    assert!(
        !requests.is_empty() && requests.iter().all(|r| r.starts_with("GET /api/datasets/")),
        "{requests:?}"
    );
    let (other, _) = import_by(&hub.api(cache.path()), &ImportSpec::default(), &spec(), 2).unwrap();
    assert_ne!(other.train, set.train);
}

#[test]
fn the_training_table_serves_where_there_is_no_metadata() {
    let rows = thoughts_rows();
    let hub = Hub::serve(vec![(
        THOUGHTS,
        "data/train-00000-of-00001.parquet",
        conversations(&rows),
    )]);
    let cache = tempfile::tempdir().unwrap();
    let wanted = ProblemSpec {
        train_simple: 0,
        test_simple: 0,
        ..spec()
    };
    let (set, report) =
        import_by(&hub.api(cache.path()), &ImportSpec::default(), &wanted, 1).unwrap();
    assert_eq!((set.train.len(), set.test.len()), (40, 20));
    assert!(
        set.train[0].text.starts_with("Permutation"),
        "{}",
        set.train[0].text
    );
    assert_eq!(report.refused["openthoughts: the domain mathematics"], 1);
}

#[test]
fn test_problems_near_training_are_left_out() {
    let train = gsm8k_rows("Ann", 20);
    let mut test = gsm8k_rows("Ben", 20);
    // The same question with its first word and its last number changed, and one that is there twice.
    test.push((train[0].0.replacen("Ann2", "Carl", 1), train[0].1.clone()));
    test.push(test[0].clone());
    let hub = Hub::serve(vec![
        ("openai/gsm8k", "main/train-0.parquet", gsm8k(&train)),
        ("openai/gsm8k", "main/test-0.parquet", gsm8k(&test)),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let wanted = ProblemSpec {
        train_simple: 20,
        test_simple: 20,
        train_complex: 0,
        test_complex: 0,
    };
    let (set, _) = import_by(&hub.api(cache.path()), &ImportSpec::default(), &wanted, 1).unwrap();
    assert!(set.test.iter().all(|p| p.text.starts_with("Ben")));
    let more = ProblemSpec {
        test_simple: 21,
        ..wanted
    };
    let error = import_by(&hub.api(cache.path()), &ImportSpec::default(), &more, 1)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "data set `openai/gsm8k`: 21 test simple problems were asked for, 20 of 42 rows can be used (refused: a text of \
         its own 1, a text unlike the training problems' 1); ask for fewer"
    );
}

#[test]
fn what_goes_wrong_is_said_with_its_mending() {
    let error = |files: Files, from: ImportSpec, gone: bool| {
        let hub = Hub::serve(files);
        let cache = tempfile::tempdir().unwrap();
        let mut api = hub.api(cache.path());
        if gone {
            // A port that was free a moment ago.
            let free = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap();
            api = Hub {
                endpoint: format!("http://{free}"),
                log: Arc::default(),
            }
            .api(cache.path());
        }
        import_by(&api, &from, &spec(), 1).unwrap_err().to_string()
    };
    let unreachable = error(Vec::new(), ImportSpec::default(), true);
    for part in [
        "data set `openai/gsm8k`",
        "HF_ENDPOINT",
        "`source = \"generated\"`",
    ] {
        assert!(unreachable.contains(part), "{unreachable}");
    }
    let mut from = ImportSpec::default();
    from.gsm8k.revision = "v9".into();
    let missing = error(gsm8k_files(), from, false);
    assert!(
        missing.contains("404") && missing.contains("check the spelling and the revision"),
        "{missing}"
    );
    let other = error(
        vec![("openai/gsm8k", "README.md", Vec::new())],
        ImportSpec::default(),
        false,
    );
    assert!(
        other.contains("has no file `main/train-*.parquet`"),
        "{other}"
    );
    let name = "main/train-damaged.parquet";
    let damaged = error(
        vec![("openai/gsm8k", name, gsm8k(&gsm8k_rows("Ann", 5)))],
        ImportSpec::default(),
        false,
    );
    assert!(
        damaged.contains("`main/train-damaged.parquet`: expected digest ffff"),
        "{damaged}"
    );
    let columns = parquet(vec![
        ("query", strings(["a".to_owned()])),
        ("answer", strings(["b".to_owned()])),
    ]);
    let columns = error(
        vec![("openai/gsm8k", "main/train-0.parquet", columns)],
        ImportSpec::default(),
        false,
    );
    assert!(
        columns.contains("train-0.parquet: no column `question`; the file has: query, answer"),
        "{columns}"
    );
    let cut = gsm8k(&gsm8k_rows("Ann", 50))[..300].to_vec();
    let cut = error(
        vec![("openai/gsm8k", "main/train-0.parquet", cut)],
        ImportSpec::default(),
        false,
    );
    assert!(
        cut.contains("train-0.parquet: not a readable Parquet file"),
        "{cut}"
    );
}

#[test]
fn unknown_keys_are_refused() {
    assert!(serde_json::from_str::<ImportSpec>(r#"{"openthoughts_files": 5}"#).is_ok());
    assert!(serde_json::from_str::<ImportSpec>(r#"{"files": 5}"#).is_err());
}

/// Written by pyarrow, as the files on the hub are: Snappy. Made by scripts/oracle/hub_fixture.py.
#[test]
fn a_file_written_by_pyarrow_is_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hub");
    let mut rows = Vec::new();
    columns::strings(
        &folder.join("gsm8k.parquet"),
        ["question", "answer"],
        |[question, answer]| rows.push(gsm8k::problem(question, answer, Split::Train)),
    )
    .unwrap();
    let answers: Vec<String> = rows.into_iter().map(|row| row.unwrap().answer).collect();
    assert_eq!(answers, ["42", "60"]);
}
