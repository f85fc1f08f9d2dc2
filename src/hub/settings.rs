//! Where the hub is and what may be done with it, by the environment variables that `huggingface_hub` reads.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::runtime::http::Patience;

/// Address of the hub, cache, token.
#[derive(Clone)]
pub struct Settings {
    /// `HF_ENDPOINT`; `https://huggingface.co`.
    pub endpoint: String,
    /// `HF_HUB_CACHE`; `hub` in `HF_HOME`, which is `huggingface` in `XDG_CACHE_HOME` or `~/.cache`.
    pub cache: PathBuf,
    /// `HF_TOKEN`, or what `HF_TOKEN_PATH` or `token` in `HF_HOME` holds.
    pub token: Option<String>,
    /// Where the token came from, in words.
    pub token_from: String,
    /// `HF_HUB_OFFLINE`: nothing is fetched.
    pub offline: bool,
    /// `HF_HUB_DOWNLOAD_TIMEOUT`, in seconds: the longest silence of a server; 10 s.
    pub timeout: Duration,
    /// How often a request is tried.
    pub patience: Patience,
}

impl std::fmt::Debug for Settings {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token_from", &self.token_from)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// As the environment says.
    pub fn from_env() -> Self {
        Self::from_lookup(&|name| std::env::var_os(name))
    }

    /// As `from_env`, of any environment.
    pub fn from_lookup(environment: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| environment(name).filter(|value| !value.is_empty());
        let path = |name: &str| set(name).map(PathBuf::from);
        let text = |name: &str| set(name).map(|v| v.to_string_lossy().trim().to_owned());
        let on = |name: &str| {
            let value = text(name).unwrap_or_default().to_uppercase();
            ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
        };
        let home = path("HOME").unwrap_or_default();
        let caches = path("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache"));
        let own = path("HF_HOME").unwrap_or_else(|| caches.join("huggingface"));
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .unwrap_or_else(|| own.join("hub"));
        let (token, token_from) = match (text("HF_TOKEN"), text("HUGGING_FACE_HUB_TOKEN")) {
            _ if on("HF_HUB_DISABLE_IMPLICIT_TOKEN") => {
                (None, "HF_HUB_DISABLE_IMPLICIT_TOKEN".to_owned())
            }
            (Some(token), _) => (Some(token), "HF_TOKEN".to_owned()),
            (None, Some(token)) => (Some(token), "HUGGING_FACE_HUB_TOKEN".to_owned()),
            (None, None) => {
                let file = path("HF_TOKEN_PATH").unwrap_or_else(|| own.join("token"));
                let token = std::fs::read_to_string(&file).unwrap_or_default();
                (Some(token.trim().to_owned()), file.display().to_string())
            }
        };
        let seconds = text("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|s| s.parse().ok());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache,
            // A token with a line break would be another header.
            token: token.filter(|t| !t.is_empty() && t.chars().all(|c| c.is_ascii_graphic())),
            token_from,
            offline: on("HF_HUB_OFFLINE"),
            timeout: Duration::from_secs(seconds.filter(|s| *s > 0).unwrap_or(10)),
            patience: Patience::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Settings {
        Settings::from_lookup(&|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.into())
        })
    }

    #[test]
    fn the_cache_lies_where_huggingface_hub_has_it() {
        let cache = |variables: &[(&str, &str)]| of(variables).cache.display().to_string();
        assert_eq!(cache(&[("HOME", "/h")]), "/h/.cache/huggingface/hub");
        let both = [("HOME", "/h"), ("XDG_CACHE_HOME", "/x")];
        assert_eq!(cache(&both), "/x/huggingface/hub");
        assert_eq!(cache(&[("HF_HOME", "/f")]), "/f/hub");
        assert_eq!(cache(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")]), "/c");
        assert_eq!(
            cache(&[("HF_HOME", ""), ("HOME", "/h")]),
            "/h/.cache/huggingface/hub"
        );
    }

    #[test]
    fn the_token_is_taken_from_the_usual_places_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        std::fs::write(folder.path().join("token"), "stored\n").unwrap();
        let other = folder.path().join("elsewhere");
        std::fs::write(&other, " named ").unwrap();
        let token = |variables: &[(&str, &str)]| of(variables).token;
        assert_eq!(token(&[("HF_HOME", home)]).as_deref(), Some("stored"));
        let path = ("HF_TOKEN_PATH", other.to_str().unwrap());
        assert_eq!(token(&[("HF_HOME", home), path]).as_deref(), Some("named"));
        let given = ("HF_TOKEN", "given\n");
        assert_eq!(token(&[path, given]).as_deref(), Some("given"));
        assert_eq!(
            token(&[given, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]),
            None
        );
        assert_eq!(token(&[("HF_TOKEN", "two\r\nlines: x")]), None);
        assert_eq!(token(&[("HOME", "/nowhere")]), None);
        assert!(!format!("{:?}", of(&[given])).contains("given"));
    }

    #[test]
    fn address_and_offline() {
        assert_eq!(of(&[]).endpoint, "https://huggingface.co");
        let mirror = of(&[("HF_ENDPOINT", "https://mirror.example/")]);
        assert_eq!(mirror.endpoint, "https://mirror.example");
        for (value, offline) in [("1", true), ("true", true), ("0", false), ("", false)] {
            assert_eq!(of(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
        }
    }
}
