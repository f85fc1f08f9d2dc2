//! One file from the hub: described, fetched from where an earlier attempt ended, checked, put in its place.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use hf_hub::Repo;
use sha1::{Digest as _, Sha1};
use ureq::{Request, Response};

use super::{Hub, HubError};
use crate::artifact::file::create_folder;
use crate::artifact::{ArtifactError, digest_file};
use crate::runtime::http::{self, Failure, wait};
use crate::runtime::interrupt::check;
use crate::runtime::progress::Progress;

const MOST_REDIRECTS: usize = 5;

/// What the hub says of a file.
struct Described {
    /// SHA-256 of a large file, git's object id of a small one.
    etag: String,
    size: Option<u64>,
    /// Where the bytes are, if not where they were asked for.
    address: String,
}

/// How an attempt ended early.
enum Broken {
    /// Another one may help.
    By(Failure),
    /// None will.
    For(HubError),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::By(failure)
    }
}

impl<E: Into<HubError>> From<E> for Broken {
    fn from(error: E) -> Self {
        Self::For(error.into())
    }
}

impl Hub {
    /// The body of an answer that is text.
    pub(super) fn text(&self, url: &str) -> Result<String, Failed> {
        self.patiently(url, || {
            let response = self.follow("GET", url, &[])?.1;
            let text = response.into_string();
            text.map_err(|error| Failure::broken(format!("{url}: {error}")))
        })
    }

    pub(super) fn transfer(&self, repo: &Repo, file: &str) -> Result<PathBuf, HubError> {
        let url = format!(
            "{}/{}/resolve/{}/{}",
            self.settings.endpoint,
            repo.url(),
            repo.url_revision(),
            encoded(file)
        );
        let explain = |failed| self.explain(failed, repo, Some(file));
        let described = self.describe(&url, repo).map_err(explain)?;
        let folder = self.folder(repo);
        let blob = folder.blob(&described.etag);
        let _lock = folder.lock(&described.etag)?;
        if !blob.is_file() {
            if let Some(parent) = blob.parent() {
                create_folder(parent)?;
            }
            self.download(repo, &url, file, described.into_parts(), &blob)?;
        }
        let etag = blob.file_name().unwrap_or_default().to_string_lossy();
        folder.link(repo.revision(), file, &etag)
    }

    fn describe(&self, url: &str, repo: &Repo) -> Result<Described, Failed> {
        self.patiently(url, || {
            let (address, response) = self.follow_here("HEAD", url)?;
            let header = |name: &str| response.header(name).map(str::trim);
            let wrong = |text: String| Failure::Transport {
                text: format!("{url}: {text}"),
                passing: false,
                reached: true,
            };
            if let Some(commit) = header("x-repo-commit")
                && commit != repo.revision()
            {
                let asked = repo.revision();
                return Err(wrong(format!("asked for commit {asked}, the hub answers for {commit}")));
            }
            let etag = header("x-linked-etag").or_else(|| header("etag"));
            let etag = etag.unwrap_or_default().trim_start_matches("W/").trim_matches('"');
            // It becomes the name of a file.
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if etag.is_empty() || etag.len() > 128 || !etag.chars().all(plain) {
                return Err(wrong(format!(
                    "the server's etag `{etag}` is none of a hub; is HF_ENDPOINT a hub or a mirror of one?"
                )));
            }
            let moved = (300..400).contains(&response.status());
            let length = if moved { None } else { header("content-length") };
            let size = header("x-linked-size").or(length);
            let location = header("location").filter(|_| moved);
            Ok(Described {
                etag: etag.to_owned(),
                size: size.and_then(|s| s.parse().ok()),
                address: location.map_or(address.clone(), |location| absolute(&address, location)),
            })
        })
    }

    /// Fetch the bytes into `<blob>.incomplete`, check them, and give them their name.
    fn download(
        &self,
        repo: &Repo,
        url: &str,
        file: &str,
        (etag, size, mut address): (String, Option<u64>, String),
        blob: &Path,
    ) -> Result<(), HubError> {
        let part = blob.with_file_name(format!("{etag}.incomplete"));
        let mut out = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&part)
            .map_err(ArtifactError::io("open", &part))?;
        let name = file.rsplit('/').next().unwrap_or(file);
        let mut progress = Progress::of_bytes(name, size.unwrap_or(0));
        let (mut failures, mut damaged, mut renewed) = (0, false, false);
        loop {
            let before = length(&out, &part)?;
            self.enough_room(&part, size.unwrap_or(0).saturating_sub(before))?;
            match self.go_on(&address, &mut out, &part, size, &mut progress) {
                Ok(()) => match check_digest(&part, &etag)? {
                    None => break,
                    Some(got) => {
                        cut(&out, &part)?;
                        if std::mem::replace(&mut damaged, true) {
                            return Err(HubError::failed(format!(
                                "`{file}`: expected digest {etag}, got {got}, twice; something between here and the hub \
                                 changes it (a proxy, a mirror); nothing was kept"
                            )));
                        }
                        tracing::warn!(
                            "{file}: its digest is not the hub's; fetching it once more"
                        );
                    }
                },
                Err(Broken::For(error)) => return Err(error),
                Err(Broken::By(failure)) => {
                    if length(&out, &part)? > before {
                        (failures, renewed) = (0, false);
                    }
                    failures += 1;
                    let elsewhere = origin(&address) != origin(url);
                    let refused = matches!(
                        failure,
                        Failure::Status {
                            status: 400..=410,
                            ..
                        }
                    );
                    // Addresses of the storage behind the hub are signed and expire.
                    let expired = elsewhere && refused && !std::mem::replace(&mut renewed, true);
                    match self.settings.patience.pause(failures, &failure) {
                        Some(pause) => {
                            tracing::warn!(
                                "{file}: {failure}; going on in {:.0} s",
                                pause.as_secs_f64().ceil()
                            );
                            wait(pause)?;
                        }
                        None if expired => {}
                        None => {
                            return Err(self.explain(Failed::With(failure), repo, Some(file)));
                        }
                    }
                    let explain = |failed| self.explain(failed, repo, Some(file));
                    let again = self.describe(url, repo).map_err(explain)?;
                    if again.etag != etag {
                        return Err(HubError::failed(format!(
                            "`{file}` changed while it was fetched; run the same command again"
                        )));
                    }
                    address = again.address;
                }
            }
        }
        progress.finish();
        out.sync_all().map_err(ArtifactError::io("write", &part))?;
        fs::rename(&part, blob).map_err(ArtifactError::io("rename", &part))?;
        Ok(())
    }

    /// One attempt: append what is missing.
    fn go_on(
        &self,
        address: &str,
        out: &mut File,
        part: &Path,
        size: Option<u64>,
        progress: &mut Progress,
    ) -> Result<(), Broken> {
        let mut have = length(out, part)?;
        if size.is_some_and(|size| have > size) {
            cut(out, part)?;
            have = 0;
        }
        if size == Some(have) {
            return Ok(());
        }
        let range = format!("bytes={have}-");
        let headers: &[(&str, &str)] = match have {
            0 => &[],
            _ => &[("Range", &range)],
        };
        let response = match self.follow("GET", address, headers) {
            Ok((_, response)) => response,
            Err(failure) => {
                if matches!(failure, Failure::Status { status: 416, .. }) {
                    cut(out, part)?;
                    return Err(
                        Failure::broken("the server has no such range; starting over").into(),
                    );
                }
                return Err(failure.into());
            }
        };
        if response.status() != 206 {
            // The whole of it, whatever was asked for.
            cut(out, part)?;
            have = 0;
        } else {
            let said = response.header("content-range").unwrap_or_default();
            let total = said.rsplit('/').next().and_then(|n| n.parse::<u64>().ok());
            if !said.starts_with(&format!("bytes {have}-")) || (size.is_some() && total != size) {
                let text =
                    format!("asked for {range} of {size:?} bytes, got `{said}`; starting over");
                cut(out, part)?;
                return Err(Failure::broken(text).into());
            }
        }
        progress.skip(have as usize);
        let io = |error: std::io::Error| HubError::from(ArtifactError::io("write", part)(error));
        out.seek(SeekFrom::Start(have)).map_err(io)?;
        let mut body = response.into_reader();
        let mut piece = vec![0; 1 << 18];
        loop {
            check()?;
            let read = body.read(&mut piece).map_err(|error| {
                Failure::broken(format!("the connection broke after {have} bytes ({error})"))
            })?;
            if read == 0 {
                break;
            }
            have += read as u64;
            if size.is_some_and(|size| have > size) {
                cut(out, part)?;
                return Err(Failure::broken("more bytes came than were announced").into());
            }
            out.write_all(&piece[..read]).map_err(io)?;
            progress.add(read);
        }
        match size {
            Some(size) if have < size => {
                let text = format!("the connection ended after {have} of {size} bytes");
                Err(Failure::broken(text).into())
            }
            _ => Ok(()),
        }
    }

    /// Refuse to begin what the disk cannot hold.
    fn enough_room(&self, part: &Path, needed: u64) -> Result<(), HubError> {
        match ArtifactError::free_space(part) {
            Some(free) if free < needed => Err(HubError::failed(format!(
                "{:.1} MB are still to be fetched, {:.1} MB are free at {}; free space there, or let HF_HUB_CACHE or HF_HOME \
                 name a folder elsewhere",
                needed as f64 / 1e6,
                free as f64 / 1e6,
                self.settings.cache.display()
            ))),
            _ => Ok(()),
        }
    }

    /// Ask again after failures that may pass.
    fn patiently<T>(
        &self,
        url: &str,
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Failed> {
        for failures in 1.. {
            check()?;
            let failure = match attempt() {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            let Some(pause) = self.settings.patience.pause(failures, &failure) else {
                return Err(Failed::With(failure));
            };
            tracing::warn!(
                "{}: {failure}; trying again in {:.0} s",
                http::host(url),
                pause.as_secs_f64().ceil()
            );
            wait(pause)?;
        }
        unreachable!("patience ends")
    }

    /// One request; the token goes to the hub alone.
    fn request(&self, method: &str, url: &str) -> Request {
        let ours = origin(url) == origin(&self.settings.endpoint);
        let request = match ours {
            true => self.agent.request(method, url),
            false => http::agent(url, self.settings.timeout).request(method, url),
        };
        // Compressed bytes could neither be resumed nor measured.
        let request = request.set("Accept-Encoding", "identity");
        match &self.settings.token {
            Some(token) if ours => request.set("Authorization", &format!("Bearer {token}")),
            _ => request,
        }
    }

    /// The answer, after redirects to wherever.
    fn follow(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
    ) -> Result<(String, Response), Failure> {
        self.redirected(method, url, headers, |_, _| true)
    }

    /// The answer, after redirects on the hub itself, as of renamed repositories, but not to where a large file's bytes are:
    /// that redirect is the one that says what they are.
    fn follow_here(&self, method: &str, url: &str) -> Result<(String, Response), Failure> {
        self.redirected(method, url, &[], |next, response| {
            origin(next) == origin(url) && response.header("x-linked-etag").is_none()
        })
    }

    fn redirected(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        goes: impl Fn(&str, &Response) -> bool,
    ) -> Result<(String, Response), Failure> {
        let mut url = url.to_owned();
        for _ in 0..=MOST_REDIRECTS {
            let mut request = self.request(method, &url);
            for (name, value) in headers {
                request = request.set(name, value);
            }
            let response = request.call().map_err(Failure::of)?;
            let moved = (300..400).contains(&response.status());
            let next = response.header("location").filter(|_| moved);
            let next = next.map(|location| absolute(&url, location));
            match next {
                Some(next) if goes(&next, &response) => url = next,
                _ => return Ok((url, response)),
            }
        }
        Err(Failure::Transport {
            text: format!("{url}: more than {MOST_REDIRECTS} redirects"),
            passing: false,
            reached: true,
        })
    }
}

impl Described {
    fn into_parts(self) -> (String, Option<u64>, String) {
        (self.etag, self.size, self.address)
    }
}

/// Why a request came to nothing.
pub(super) enum Failed {
    /// This was the last failure.
    With(Failure),
    /// A stop was asked for.
    Stopped(crate::runtime::interrupt::Interrupted),
}

impl From<crate::runtime::interrupt::Interrupted> for Failed {
    fn from(stop: crate::runtime::interrupt::Interrupted) -> Self {
        Self::Stopped(stop)
    }
}

fn length(file: &File, path: &Path) -> Result<u64, HubError> {
    let meta = file
        .metadata()
        .map_err(ArtifactError::io("examine", path))?;
    Ok(meta.len())
}

fn cut(file: &File, path: &Path) -> Result<(), HubError> {
    Ok(file.set_len(0).map_err(ArtifactError::io("write", path))?)
}

/// The digest of the file, where the etag is a digest and another one.
fn check_digest(path: &Path, etag: &str) -> Result<Option<String>, HubError> {
    let hex = etag.bytes().all(|b| b.is_ascii_hexdigit());
    let got = match etag.len() {
        64 if hex => digest_file(path)?.to_string(),
        40 if hex => git_object_id(path)?,
        _ => {
            tracing::debug!(
                "{}: the etag is no digest; only the size was checked",
                path.display()
            );
            return Ok(None);
        }
    };
    Ok((!got.eq_ignore_ascii_case(etag)).then_some(got))
}

/// What git calls the content: SHA-1 of a small header and the bytes.
fn git_object_id(path: &Path) -> Result<String, HubError> {
    let io = |error| HubError::from(ArtifactError::io("read", path)(error));
    let mut file = File::open(path).map_err(io)?;
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", length(&file, path)?));
    let mut piece = vec![0; 1 << 18];
    loop {
        match file.read(&mut piece).map_err(io)? {
            0 => break,
            read => hash.update(&piece[..read]),
        }
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> &str {
    let from = url.find("://").map_or(0, |at| at + 3);
    let end = url[from..]
        .find(['/', '?', '#'])
        .map_or(url.len(), |at| from + at);
    &url[..end]
}

/// Where a redirect leads.
fn absolute(url: &str, location: &str) -> String {
    if location.contains("://") {
        location.to_owned()
    } else if location.starts_with('/') {
        format!("{}{location}", origin(url))
    } else {
        let folder = url.rsplit_once('/').map_or(url, |(folder, _)| folder);
        format!("{folder}/{location}")
    }
}

/// A path as it stands in an address.
fn encoded(path: &str) -> String {
    let mut text = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                text.push(byte as char);
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(origin("https://hub.example/a/b?c"), "https://hub.example");
        assert_eq!(origin("http://127.0.0.1:80"), "http://127.0.0.1:80");
        let base = "https://hub.example/a/b";
        assert_eq!(absolute(base, "/x"), "https://hub.example/x");
        assert_eq!(
            absolute(base, "https://cdn.example/y"),
            "https://cdn.example/y"
        );
        assert_eq!(encoded("a b/ü%.json"), "a%20b/%C3%BC%25.json");
    }

    #[test]
    fn the_object_id_is_gits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        // `printf 'hello\n' | git hash-object --stdin`
        std::fs::write(&path, "hello\n").unwrap();
        let id = "ce013625030ba8dba906f756967f9e9ca394464a";
        assert_eq!(git_object_id(&path).unwrap(), id);
        assert_eq!(check_digest(&path, id).unwrap(), None);
        std::fs::write(&path, "hallo\n").unwrap();
        assert!(check_digest(&path, id).unwrap().is_some());
    }
}
