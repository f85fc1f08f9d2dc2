//! A hub on this machine, as the real one answers: commits by the API, small files at once with git's object id as their
//! etag, large ones by a redirect to another host with their SHA-256 as the linked etag, ranges, error codes; and, where
//! a test wants it, with the faults of real networks.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atp_pipeline::artifact::digest_bytes;
use sha1::{Digest, Sha1};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const OTHER: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// What goes wrong with a request, once.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This status, with these header lines.
    Status(&'static str, &'static str),
    /// The body ends after so many bytes, though more were announced.
    Cut(usize),
    /// The body comes in so many pieces, with a pause after each.
    Slow(usize, Duration),
    /// One byte of the body is another.
    Flipped,
    /// The range is ignored: the whole file, status 200.
    Whole,
    /// Headers, then silence.
    Silent(Duration),
    /// Asked for a range, another one is sent.
    Shifted,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Method and target.
    pub line: String,
    pub range: Option<String>,
    pub token: Option<String>,
}

#[derive(Default)]
struct State {
    /// By repository (`models/owner/name`) and commit: files.
    commits: BTreeMap<(String, String), BTreeMap<String, Vec<u8>>>,
    /// By repository and name: commits.
    branches: BTreeMap<(String, String), String>,
    gated: Vec<String>,
    /// Part of a request line, and what goes wrong with the next one that has it.
    faults: Vec<(&'static str, Fault)>,
    seen: Vec<Seen>,
}

/// The hub and its storage, two hosts.
#[derive(Clone)]
pub struct Site {
    pub endpoint: String,
    storage: String,
    state: Arc<Mutex<State>>,
}

/// Files from this size on are large ones.
const LARGE: usize = 4096;

impl Site {
    pub fn open() -> Self {
        let bind = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let (hub, storage) = (bind(), bind());
        let address = |l: &TcpListener| format!("http://{}", l.local_addr().expect("an address"));
        let site = Self {
            endpoint: address(&hub),
            storage: address(&storage),
            state: Arc::default(),
        };
        for listener in [hub, storage] {
            let site = site.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let site = site.clone();
                    std::thread::spawn(move || site.answer(stream));
                }
            });
        }
        site
    }

    /// `main` of a repository, for example `models/owner/name`, is this commit with these files.
    pub fn publish(&self, repo: &str, commit: &str, files: BTreeMap<String, Vec<u8>>) {
        let mut state = self.state.lock().unwrap();
        state.commits.insert((repo.into(), commit.into()), files);
        state
            .branches
            .insert((repo.into(), "main".into()), commit.into());
    }

    pub fn gate(&self, repo: &str) {
        self.state.lock().unwrap().gated.push(repo.into());
    }

    /// The next request whose line has `part` goes wrong like this.
    pub fn next(&self, part: &'static str, fault: Fault) {
        self.state.lock().unwrap().faults.push((part, fault));
    }

    /// What was asked since the last time.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.lock().unwrap().seen)
    }

    fn answer(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut stream = stream;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
            let mut headers = BTreeMap::new();
            loop {
                let mut header = String::new();
                reader.read_line(&mut header).ok()?;
                let Some((name, value)) = header.trim_end().split_once(": ") else {
                    break;
                };
                headers.insert(name.to_lowercase(), value.to_owned());
            }
            assert_eq!(
                headers.get("accept-encoding").map(String::as_str),
                Some("identity"),
                "a compressed answer could not be resumed"
            );
            let (range, token) = (headers.get("range"), headers.get("authorization"));
            let fault = {
                let mut state = self.state.lock().unwrap();
                state.seen.push(Seen {
                    line: line.clone(),
                    range: range.cloned(),
                    token: token.cloned(),
                });
                let at = state
                    .faults
                    .iter()
                    .position(|(part, _)| line.contains(part));
                at.map(|at| state.faults.remove(at).1)
            };
            let reply = self.reply(&line, range, token.map(String::as_str), fault.as_ref());
            let whole = reply.send(&mut stream, line.starts_with("HEAD"), fault)?;
            if !whole {
                return None;
            }
        }
    }

    fn reply(
        &self,
        line: &str,
        range: Option<&String>,
        token: Option<&str>,
        fault: Option<&Fault>,
    ) -> Reply {
        if let Some(Fault::Status(status, headers)) = fault {
            return Reply::new(status, headers, b"{\"error\": \"as the test wants it\"}");
        }
        let state = self.state.lock().unwrap();
        let target = line.split(' ').nth(1).unwrap_or_default();
        if let Some(token) = token
            && token != "Bearer hf_good"
            && token != "Bearer hf_stranger"
        {
            return Reply::new(
                "401 Unauthorized",
                "X-Error-Message: Invalid credentials in Authorization header\r\n",
                b"",
            );
        }
        if let Some(rest) = target.strip_prefix("/storage/") {
            // Signed addresses are refused together with a token, as by the real storage.
            if token.is_some() {
                return Reply::new("400 Bad Request", "", b"two ways to authenticate");
            }
            let digest = rest.split('?').next().unwrap_or_default();
            let all = state.commits.values().flat_map(BTreeMap::values);
            let found = all
                .into_iter()
                .find(|bytes| digest_bytes(bytes).to_string() == digest);
            return match found {
                Some(bytes) => Reply::ranged(bytes, range, "", fault),
                None => Reply::new("404 Not Found", "", b""),
            };
        }
        let (api, rest) = match target.strip_prefix("/api/") {
            Some(rest) => (true, rest.to_owned()),
            None if target.starts_with("/datasets/") => (false, target[1..].to_owned()),
            None => (false, format!("models{target}")),
        };
        let parts: Vec<&str> = rest.splitn(6, '/').collect();
        let [kind, owner, name, verb, revision, ..] = parts[..] else {
            return Reply::new("404 Not Found", "", b"");
        };
        let repo = format!("{kind}/{owner}/{name}");
        if !state.branches.keys().any(|(known, _)| *known == repo) {
            let status = if token.is_some() {
                "404 Not Found"
            } else {
                "401 Unauthorized"
            };
            let headers = "X-Error-Code: RepoNotFound\r\nX-Error-Message: Repository not found\r\n";
            return Reply::new(status, headers, b"");
        }
        let commit = match state.branches.get(&(repo.clone(), revision.into())) {
            Some(commit) => commit.clone(),
            None => revision.to_owned(),
        };
        let Some(files) = state.commits.get(&(repo.clone(), commit.clone())) else {
            return Reply::new("404 Not Found", "X-Error-Code: RevisionNotFound\r\n", b"");
        };
        if api {
            assert_eq!(verb, "revision");
            let siblings: Vec<_> = files
                .keys()
                .map(|name| serde_json::json!({ "rfilename": name }))
                .collect();
            let info = serde_json::json!({ "id": repo, "sha": commit, "siblings": siblings });
            let json = "Content-Type: application/json\r\n";
            return Reply::new("200 OK", json, info.to_string().as_bytes());
        }
        assert_eq!(verb, "resolve");
        if state.gated.contains(&repo) && token != Some("Bearer hf_good") {
            let status = if token.is_some() {
                "403 Forbidden"
            } else {
                "401 Unauthorized"
            };
            let headers = "X-Error-Code: GatedRepo\r\nX-Error-Message: Access to this model is restricted\r\n";
            return Reply::new(status, headers, b"");
        }
        let Some(bytes) = files.get(parts[5]) else {
            return Reply::new("404 Not Found", "X-Error-Code: EntryNotFound\r\n", b"");
        };
        if bytes.len() < LARGE {
            let mut hash = Sha1::new();
            hash.update(format!("blob {}\0", bytes.len()));
            hash.update(bytes);
            let id: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
            let headers = format!("ETag: W/\"{id}\"\r\nX-Repo-Commit: {commit}\r\n");
            return Reply::ranged(bytes, range, &headers, fault);
        }
        let digest = digest_bytes(bytes);
        let headers = format!(
            "X-Repo-Commit: {commit}\r\nX-Linked-Etag: \"{digest}\"\r\nX-Linked-Size: {}\r\nETag: \"of-the-redirect\"\r\n\
             Location: {}/storage/{digest}?signature=x\r\n",
            bytes.len(),
            self.storage
        );
        Reply::new("302 Found", &headers, b"")
    }
}

struct Reply {
    status: String,
    headers: String,
    body: Vec<u8>,
}

impl Reply {
    fn new(status: &str, headers: &str, body: &[u8]) -> Self {
        Self {
            status: status.into(),
            headers: headers.into(),
            body: body.into(),
        }
    }

    fn ranged(bytes: &[u8], range: Option<&String>, headers: &str, fault: Option<&Fault>) -> Self {
        let from = range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        match from {
            Some(from) if !matches!(fault, Some(Fault::Whole)) => {
                let mut from: usize = from;
                if from >= bytes.len() {
                    return Self::new("416 Range Not Satisfiable", "", b"");
                }
                if matches!(fault, Some(Fault::Shifted)) {
                    from -= 1;
                }
                let all = bytes.len();
                let headers = format!("{headers}Content-Range: bytes {from}-{}/{all}\r\n", all - 1);
                Self::new("206 Partial Content", &headers, &bytes[from..])
            }
            _ => Self::new("200 OK", headers, bytes),
        }
    }

    /// Whether all of it was sent.
    fn send(mut self, stream: &mut TcpStream, head: bool, fault: Option<Fault>) -> Option<bool> {
        let length = self.body.len();
        let headers = format!(
            "HTTP/1.1 {}\r\n{}Content-Length: {length}\r\n\r\n",
            self.status, self.headers
        );
        stream.write_all(headers.as_bytes()).ok()?;
        if head {
            return Some(true);
        }
        match fault {
            Some(Fault::Cut(bytes)) => {
                stream.write_all(&self.body[..bytes.min(length)]).ok()?;
                return Some(false);
            }
            Some(Fault::Slow(pieces, pause)) => {
                for piece in self.body.chunks(length.div_ceil(pieces)) {
                    stream.write_all(piece).ok()?;
                    std::thread::sleep(pause);
                }
                return Some(true);
            }
            Some(Fault::Silent(pause)) => {
                std::thread::sleep(pause);
                return Some(false);
            }
            Some(Fault::Flipped) => self.body[length / 2] ^= 1,
            _ => {}
        }
        stream.write_all(&self.body).ok()?;
        Some(true)
    }
}
