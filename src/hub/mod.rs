//! Files of repositories on a hub: found by commit, fetched with patience, checked by digest, kept in the hub's cache.
//!
//! Names of repositories, their addresses and folders are those of the `hf-hub` crate, and the cache is the one that
//! Python's `huggingface_hub` uses: what either has fetched, the other finds. The transfer is done here, since a file of
//! many gigabytes must survive a broken line, and nothing unchecked may lie under a file's name:
//!
//! ```text
//! HEAD …/resolve/<commit>/<file> ──▶ etag (its digest), size, address ──▶ blobs/<etag>.incomplete ──(Range: from where it ended)
//!     ──▶ size and digest ──▶ fsync, rename to blobs/<etag> ──▶ snapshots/<commit>/<file> links to it
//! ```
//!
//! `refs/<revision>` is written when all that was asked for is there, so an update that broke off leaves what was.

mod cache;
mod problem;
mod settings;
mod transfer;

use std::path::PathBuf;

use hf_hub::api::RepoInfo;
use hf_hub::{Repo, RepoType};
use ureq::Agent;

use self::cache::Folder;
pub use self::problem::HubError;
pub use self::settings::Settings;
use crate::runtime::http;

/// A way to the hub.
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
    agent: Agent,
}

/// A repository at one commit.
#[derive(Debug, Clone)]
pub struct Revision {
    kind: RepoType,
    /// `owner/name`.
    pub name: String,
    /// Branch, tag or commit, as it was asked for.
    pub asked: String,
    /// The commit.
    pub commit: String,
    /// All files of the commit, by name.
    pub files: Vec<String>,
}

impl Revision {
    fn repo(&self) -> Repo {
        Repo::with_revision(self.name.clone(), self.kind, self.commit.clone())
    }
}

impl Hub {
    /// As the environment says: see [`Settings::from_env`].
    pub fn from_env() -> Self {
        Self::new(Settings::from_env())
    }

    /// With these settings.
    pub fn new(settings: Settings) -> Self {
        let agent = http::agent(&settings.endpoint, settings.timeout);
        Self { settings, agent }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The commit of a revision and what files it has. Offline, or where `known` is enough, as the cache remembers them.
    ///
    /// # Errors
    /// A name that cannot be one; no such repository or revision, no right to it, no answer; offline, not in the cache.
    pub fn look_up(
        &self,
        kind: RepoType,
        name: &str,
        revision: &str,
    ) -> Result<Revision, HubError> {
        check_name(name)?;
        check_revision(revision)?;
        if self.settings.offline {
            return self.known(kind, name, revision).ok_or_else(|| {
                HubError::failed(format!(
                    "revision `{revision}` is not in the cache {}, and HF_HUB_OFFLINE forbids to fetch it; unset it, or \
                     fetch where there is a network and copy the cache",
                    self.settings.cache.display()
                ))
            });
        }
        let repo = Repo::with_revision(name.into(), kind, revision.into());
        let url = format!("{}/api/{}", self.settings.endpoint, repo.api_url());
        let text = self.text(&url).map_err(|f| self.explain(f, &repo, None))?;
        let info: RepoInfo = serde_json::from_str(&text).map_err(|error| {
            HubError::failed(format!(
                "{url}: expected the description of a repository, got something else ({error}); is HF_ENDPOINT a hub?"
            ))
        })?;
        let hex = |c: char| c.is_ascii_hexdigit();
        if info.sha.len() != 40 || !info.sha.chars().all(hex) {
            let problem = format!(
                "{url}: expected a commit of 40 hex digits, got `{}`",
                info.sha
            );
            return Err(HubError::failed(problem));
        }
        let mut files: Vec<String> = info.siblings.into_iter().map(|s| s.rfilename).collect();
        files.sort();
        if let Some(odd) = files.iter().find(|file| !is_plain(file)) {
            let problem = format!("the hub lists a file that no folder can hold: {odd:?}");
            return Err(HubError::failed(problem));
        }
        let found = Revision {
            kind,
            name: name.into(),
            asked: revision.into(),
            commit: info.sha,
            files,
        };
        self.folder(&found.repo()).remember_listing(&found)?;
        Ok(found)
    }

    /// What the cache knows of a revision.
    pub fn known(&self, kind: RepoType, name: &str, revision: &str) -> Option<Revision> {
        check_name(name).and(check_revision(revision)).ok()?;
        let repo = Repo::with_revision(name.into(), kind, revision.into());
        let folder = self.folder(&repo);
        let commit = folder.commit(revision)?;
        let files = folder.listing(&commit)?;
        Some(Revision {
            kind,
            name: name.into(),
            asked: revision.into(),
            commit,
            files,
        })
    }

    /// A file of the revision, if the cache has it.
    pub fn cached(&self, revision: &Revision, file: &str) -> Option<PathBuf> {
        let path = self
            .folder(&revision.repo())
            .pointer(&revision.commit, file);
        path.is_file().then_some(path)
    }

    /// The folder that its files lie in.
    pub fn snapshot(&self, revision: &Revision) -> PathBuf {
        self.folder(&revision.repo()).snapshot(&revision.commit)
    }

    /// A file of the revision on this machine, fetched unless the cache has it.
    ///
    /// # Errors
    /// No answer after several attempts, no right to it, no room, a digest that is not the hub's; a stop was asked for.
    /// What was fetched so far stays, and the next call goes on there.
    pub fn fetch(&self, revision: &Revision, file: &str) -> Result<PathBuf, HubError> {
        if !is_plain(file) {
            return Err(HubError::failed(format!(
                "{file:?} is no file of a repository"
            )));
        }
        if let Some(path) = self.cached(revision, file) {
            return Ok(path);
        }
        if self.settings.offline {
            return Err(HubError::failed(format!(
                "`{file}` of commit {} is not in the cache {}, and HF_HUB_OFFLINE forbids to fetch it",
                revision.commit,
                self.settings.cache.display()
            )));
        }
        self.transfer(&revision.repo(), file)
    }

    /// Let the name of the revision stand for its commit from now on: all that is needed of it is there.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn pin(&self, revision: &Revision) -> Result<(), HubError> {
        match revision.asked == revision.commit {
            true => Ok(()),
            false => self
                .folder(&revision.repo())
                .set_ref(&revision.asked, &revision.commit),
        }
    }

    fn folder(&self, repo: &Repo) -> Folder {
        Folder::new(&self.settings.cache, &repo.folder_name())
    }
}

fn check_name(name: &str) -> Result<(), HubError> {
    let fine = |part: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && part.len() <= 96 && !part.contains("..") && part.chars().all(known)
    };
    let parts: Vec<&str> = name.split('/').collect();
    match parts.len() == 2 && parts.iter().all(|part| fine(part)) {
        true => Ok(()),
        false => Err(HubError::failed(format!(
            "expected `owner/name` of letters, digits, `-`, `_`, `.`, got `{name}`"
        ))),
    }
}

fn check_revision(revision: &str) -> Result<(), HubError> {
    let known = |c: char| c.is_ascii_alphanumeric() || "-_./+".contains(c);
    let fine = !revision.is_empty() && revision.chars().all(known) && is_plain(revision);
    match fine {
        true => Ok(()),
        false => Err(HubError::failed(format!(
            "expected a branch, a tag or a commit as the revision, got `{revision}`"
        ))),
    }
}

/// A relative path that stays below where it starts. The hub is not trusted with more.
fn is_plain(file: &str) -> bool {
    let fine = |part: &str| !part.is_empty() && part != "." && part != "..";
    !file.contains(['\\', '\0', '\n']) && file.split('/').all(fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_cache_are_refused() {
        for name in [
            "owner", "owner/", "../x", "a/..", "a/b/c", "a/b c", "/a", "a/b?x",
        ] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_name("Qwen/Qwen3-8B").is_ok());
        for revision in ["", "../main", "a//b", "/main", "a b", "a\n", "ma%2fin"] {
            assert!(check_revision(revision).is_err(), "{revision}");
        }
        for revision in ["main", "refs/pr/1", "v1.0"] {
            assert!(check_revision(revision).is_ok(), "{revision}");
        }
        for file in [
            "../config.json",
            "/etc/passwd",
            "a/../../b",
            "a//b",
            "",
            "a\\b",
        ] {
            assert!(!is_plain(file), "{file}");
        }
        assert!(is_plain("main/train-00000-of-00001.parquet"));
    }
}
