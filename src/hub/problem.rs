//! What went wrong with the hub, and what to do about it.

use hf_hub::Repo;

use super::Hub;
use super::transfer::Failed;
use crate::artifact::ArtifactError;
use crate::runtime::http::Failure;
use crate::runtime::interrupt::Interrupted;

/// A file of the hub that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A stop was asked for; what was fetched so far is kept.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
    /// The cache cannot be written or read.
    #[error("{0}; the hub's cache can be moved by HF_HUB_CACHE or HF_HOME")]
    Cache(#[from] ArtifactError),
    /// The hub did not give it, or what it gave is not right.
    #[error("{0}")]
    Failed(String),
}

impl HubError {
    pub(super) fn failed(problem: impl Into<String>) -> Self {
        Self::Failed(problem.into())
    }
}

impl Hub {
    /// A failure in words, with what mends it. `file` is none where the repository itself was asked for.
    pub(super) fn explain(&self, failed: Failed, repo: &Repo, file: Option<&str>) -> HubError {
        let failure = match failed {
            Failed::Stopped(stop) => return stop.into(),
            Failed::With(failure) => failure,
        };
        let endpoint = &self.settings.endpoint;
        let page = format!("{endpoint}/{}", repo.url());
        let what = file.map_or("the repository".to_owned(), |file| format!("`{file}`"));
        let Failure::Status {
            status, code, text, ..
        } = &failure
        else {
            return HubError::failed(format!(
                "cannot fetch {what}: {failure}; check the network (and HTTPS_PROXY, HF_ENDPOINT), or download it elsewhere \
                 and name its folder; what was fetched is kept, the same command goes on there"
            ));
        };
        let log_in = format!(
            "make a token with read access at {endpoint}/settings/tokens, and store it (`hf auth login`) or export it as \
             HF_TOKEN"
        );
        let (token, from) = (&self.settings.token, &self.settings.token_from);
        let gated = code == "GatedRepo" || text.to_lowercase().contains("gated");
        let mend = match (*status, code.as_str()) {
            (401 | 403, _) if gated && token.is_none() => format!(
                "it is gated: log in at {page} and click “Agree and access repository” (some owners have a form there, and \
                 answer by mail); then {log_in}"
            ),
            (401 | 403, _) if gated => format!(
                "it is gated, and the account of the token from {from} has no access: open {page} with that account and click \
                 “Agree and access repository” (if you did, the owners have yet to approve); a fine-grained token also needs \
                 “Read access to contents of all public gated repos you can access”"
            ),
            (401, "RepoNotFound") | (404, "RepoNotFound") | (401, "") if token.is_none() => format!(
                "there is no such repository, or it is private: check the spelling at {page}; for a private one {log_in}"
            ),
            (404, "RepoNotFound") => format!(
                "there is no such repository, or the account of the token from {from} may not see it: check the spelling at \
                 {page}"
            ),
            (401, _) => format!("the token from {from} is not valid: {log_in}"),
            (403, _) => format!("the account of the token from {from} has no access: see {page}"),
            (404, "RevisionNotFound") => format!(
                "it has no revision `{}`: see {page}/commits for branches, tags and commits",
                repo.revision()
            ),
            (404, _) => format!("check the spelling and the revision at {page}"),
            (429, _) => "the hub asks for fewer requests: wait some minutes and run the same command again; with a token \
                         (`hf auth login`) more are allowed"
                .to_owned(),
            (500.., _) => "the hub has a fault: run the same command again later; what was fetched is kept".to_owned(),
            _ => format!("see {page}"),
        };
        HubError::failed(format!("the hub refuses {what} ({failure}): {mend}"))
    }
}
