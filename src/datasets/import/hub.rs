//! Data sets of the hub: files of one commit, in the hub's cache.

use std::path::PathBuf;

use hf_hub::RepoType;
use serde::{Deserialize, Serialize};

use super::ImportReport;
use crate::hub::{Hub, HubError};

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
#[error(
    "data set `{repo}`: {source}; without a hub, `source = \"generated\"` (the default) makes problems of the same kinds"
)]
pub struct DatasetError {
    repo: String,
    source: HubError,
}

/// The Parquet files that begin with the first prefix that any file begins with, by name, at most `most` of them.
/// Notes commit and files.
pub(super) fn fetch(
    hub: &Hub,
    dataset: &HubDataset,
    prefixes: &[&str],
    most: usize,
    report: &mut ImportReport,
) -> Result<Vec<PathBuf>, DatasetError> {
    let name = &dataset.repo;
    let fail = |source: HubError| DatasetError {
        repo: name.clone(),
        source,
    };
    // The second look at a data set stays at the commit of the first.
    let revision = report.commits.get(name).unwrap_or(&dataset.revision);
    let found = hub
        .look_up(RepoType::Dataset, name, revision)
        .map_err(fail)?;
    tracing::info!("data set {name}, commit {}", found.commit);
    report.commits.insert(name.clone(), found.commit.clone());
    let files = |prefix: &&str| {
        let of = |f: &&String| f.starts_with(prefix) && f.ends_with(".parquet");
        found.files.iter().filter(of).collect::<Vec<_>>()
    };
    let wanted = prefixes.iter().map(files).find(|files| !files.is_empty());
    let wanted = wanted.ok_or_else(|| {
        let wanted: Vec<String> = prefixes.iter().map(|p| format!("`{p}*.parquet`")).collect();
        fail(HubError::Failed(format!(
            "commit {} has no file {}; is it the right data set?",
            found.commit,
            wanted.join(" or ")
        )))
    })?;
    let mut paths = Vec::new();
    for file in wanted.into_iter().take(most) {
        paths.push(hub.fetch(&found, file).map_err(fail)?);
        report.files.push(format!("{name}/{file}"));
    }
    hub.pin(&found).map_err(fail)?;
    Ok(paths)
}
