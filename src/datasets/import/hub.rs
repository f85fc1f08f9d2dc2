//! Data sets of the hub: files of one commit, in the hub's cache.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiError};
use hf_hub::{Repo, RepoType};
use serde::{Deserialize, Serialize};

use super::{ImportError, ImportReport};
use crate::artifact::digest_file;

/// A data set on the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubDataset {
    /// `owner/name`.
    pub repo: String,
    /// Branch, tag or commit. Whatever it is, its commit is looked up once and all files are taken from that.
    pub revision: String,
}

/// A data set that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("data set `{repo}`: {problem}")]
pub struct HubError {
    repo: String,
    problem: String,
}

impl HubError {
    /// The hub's error with what can be done about it.
    pub(super) fn new(repo: &str, error: &ApiError) -> Self {
        let text = error.to_string();
        let hint = if ["status code 401", "status code 403"]
            .iter()
            .any(|s| text.contains(s))
        {
            "if it is gated, accept its terms on the hub and log in (`hf auth login`)"
        } else if text.contains("status code 404") {
            "check the spelling and the revision"
        } else {
            "check the network, or set HF_ENDPOINT to a mirror that can be reached"
        };
        Self {
            repo: repo.to_owned(),
            problem: format!(
                "{text}; {hint}; without a hub, `source = \"generated\"` (the default) makes problems of the same kinds"
            ),
        }
    }

    fn other(repo: &str, problem: String) -> Self {
        Self {
            repo: repo.to_owned(),
            problem,
        }
    }
}

/// The Parquet files that begin with the first prefix that any file begins with, by name, at most `most` of them.
/// Notes commit and files.
pub(super) fn fetch(
    api: &Api,
    dataset: &HubDataset,
    prefixes: &[&str],
    most: usize,
    report: &mut ImportReport,
) -> Result<Vec<PathBuf>, ImportError> {
    let name = &dataset.repo;
    let fail = |error: ApiError| HubError::new(name, &error);
    let repo = |revision: &str| {
        api.repo(Repo::with_revision(
            name.clone(),
            RepoType::Dataset,
            revision.to_owned(),
        ))
    };
    // The second look at a data set stays at the commit of the first.
    let revision = report.commits.get(name).unwrap_or(&dataset.revision);
    let info = repo(revision).info().map_err(fail)?;
    tracing::info!("data set {name}, commit {}", info.sha);
    report.commits.insert(name.clone(), info.sha.clone());
    let pinned = repo(&info.sha);
    let files = |prefix: &&str| {
        let mut files: Vec<&str> = info
            .siblings
            .iter()
            .map(|s| s.rfilename.as_str())
            .filter(|f| f.starts_with(prefix) && f.ends_with(".parquet"))
            .collect();
        files.sort_unstable();
        files
    };
    let found = prefixes.iter().map(files).find(|files| !files.is_empty());
    let found = found.ok_or_else(|| {
        let wanted: Vec<String> = prefixes.iter().map(|p| format!("`{p}*.parquet`")).collect();
        HubError::other(
            name,
            format!(
                "commit {} has no file {}; is it the right data set?",
                info.sha,
                wanted.join(" or ")
            ),
        )
    })?;
    let mut paths = Vec::new();
    for file in found.into_iter().take(most) {
        let path = pinned.get(file).map_err(fail)?;
        whole(name, file, &path)?;
        report.files.push(format!("{name}/{file}"));
        paths.push(path);
    }
    Ok(paths)
}

/// A large file lies in the cache under its SHA-256, as the hub gave it: a download cut short is found here.
fn whole(repo: &str, file: &str, path: &Path) -> Result<(), ImportError> {
    let blob = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let stem = blob.file_name().unwrap_or_default().to_string_lossy();
    if stem.len() != 64 || !stem.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(());
    }
    let digest = digest_file(&blob).map_err(|e| HubError::other(repo, e.to_string()))?;
    let digest = digest.to_string();
    if digest == *stem {
        return Ok(());
    }
    Err(ImportError::Hub(HubError::other(
        repo,
        format!(
            "`{file}` is damaged: expected SHA-256 {stem}, got {digest}; delete {} and run again",
            blob.display()
        ),
    )))
}
