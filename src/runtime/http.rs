//! HTTP as this program uses it: timeouts, proxies, what is worth trying again, and how long to wait before.
//!
//! Redirects are not followed here: whether a token may go along is for the caller to say.

use std::io::Read;
use std::time::{Duration, Instant};

use ureq::{Agent, AgentBuilder, ErrorKind, Response};

use super::interrupt::{Interrupted, check};

/// Most of an error's body that is read.
const MOST_OF_AN_ERROR: u64 = 8 * 1024;
/// A server that asks for a longer wait is told to the user instead.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// How often something is tried, and how long is waited in between: twice as long each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Attempts in all.
    pub attempts: u32,
    /// Wait after the first failure.
    pub first: Duration,
    /// Longest wait.
    pub longest: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 6,
            first: Duration::from_secs(1),
            longest: Duration::from_secs(30),
        }
    }
}

impl Patience {
    /// How long to wait after the `attempt`-th failure, from 1; none where there is to be no further attempt.
    pub fn pause(&self, attempt: u32, failure: &Failure) -> Option<Duration> {
        let asked = failure.retry_after().unwrap_or_default();
        if attempt >= self.attempts || !failure.is_passing() || asked > LONGEST_ASKED {
            return None;
        }
        let doubled = self.first.saturating_mul(1 << (attempt - 1).min(16));
        Some(doubled.min(self.longest).max(asked))
    }
}

/// Wait, unless a stop is asked for.
pub fn wait(pause: Duration) -> Result<(), Interrupted> {
    let end = Instant::now() + pause;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// What came instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The server says no.
    #[error("HTTP {status}{}{}", if text.is_empty() { "" } else { ": " }, text)]
    Status {
        /// As in HTTP.
        status: u16,
        /// The hub's name for it, from `X-Error-Code`.
        code: String,
        /// What the server says, on one line.
        text: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// There was no answer, or not the whole of one.
    #[error("{text}")]
    Transport {
        /// What happened.
        text: String,
        /// Another attempt may succeed.
        passing: bool,
        /// There was a connection.
        reached: bool,
    },
}

impl Failure {
    /// A connection that broke, or an answer that makes no sense.
    pub fn broken(text: impl Into<String>) -> Self {
        Self::Transport {
            text: text.into(),
            passing: true,
            reached: true,
        }
    }

    /// Another attempt may succeed.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500 | 502..=504),
            Self::Transport { passing, .. } => *passing,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Transport { .. } => None,
        }
    }

    /// From the client's error.
    pub fn of(error: ureq::Error) -> Self {
        match error {
            ureq::Error::Status(status, response) => {
                let header = |name| response.header(name).unwrap_or_default().trim().to_owned();
                let (code, said) = (header("x-error-code"), header("x-error-message"));
                let retry_after = header("retry-after").parse().ok();
                let text = if said.is_empty() {
                    body_text(response)
                } else {
                    said
                };
                Self::Status {
                    status,
                    code,
                    text,
                    retry_after: retry_after.map(Duration::from_secs),
                }
            }
            ureq::Error::Transport(transport) => Self::Transport {
                passing: matches!(
                    transport.kind(),
                    ErrorKind::ConnectionFailed | ErrorKind::Io | ErrorKind::ProxyConnect
                ),
                reached: matches!(
                    transport.kind(),
                    ErrorKind::Io | ErrorKind::BadHeader | ErrorKind::BadStatus
                ),
                text: transport.to_string(),
            },
        }
    }
}

/// What an error's body says: the message of a JSON error, or the text; on one line and short.
fn body_text(response: Response) -> String {
    let mut bytes = vec![];
    // An unreadable explanation is none.
    let _ = response
        .into_reader()
        .take(MOST_OF_AN_ERROR)
        .read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let json: Option<serde_json::Value> = serde_json::from_str(&text).ok();
    let said = json.as_ref().and_then(|json| {
        let error = &json["error"];
        let found = [&error["message"], error, &json["message"], &json["detail"]];
        found.into_iter().find_map(|v| v.as_str())
    });
    let text = said.unwrap_or(&text);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(300).filter(|c| !c.is_control()).collect()
}

/// A client for this address: `read` is the longest silence that is borne. A proxy is taken from the environment
/// (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`), but for addresses of this machine and those in `NO_PROXY`.
pub fn agent(url: &str, read: Duration) -> Agent {
    let environment = |name: &str| {
        let lower = std::env::var(name.to_lowercase()).ok();
        lower
            .or_else(|| std::env::var(name).ok())
            .unwrap_or_default()
    };
    let direct = goes_directly(host(url), &environment("NO_PROXY"));
    AgentBuilder::new()
        .timeout_connect(Duration::from_secs(10))
        .timeout_read(read)
        .timeout_write(Duration::from_secs(60))
        .redirects(0)
        .try_proxy_from_env(!direct)
        .user_agent(concat!("atp-pipeline/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Host of an address, without its port.
pub fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let authority = authority.rsplit('@').next().unwrap_or(authority);
    match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => authority.split(':').next().unwrap_or(authority),
    }
}

fn goes_directly(host: &str, no_proxy: &str) -> bool {
    let local = host == "localhost" || host == "::1" || host.starts_with("127.");
    let named = no_proxy
        .split(',')
        .map(|entry| entry.trim().trim_start_matches('.'));
    local
        || named.filter(|entry| !entry.is_empty()).any(|entry| {
            let below = host.strip_suffix(entry);
            entry == "*" || below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_end_and_servers_are_heard() {
        let patience = Patience {
            attempts: 4,
            first: Duration::from_secs(1),
            longest: Duration::from_secs(3),
        };
        let busy = |seconds: Option<u64>| Failure::Status {
            status: 429,
            code: String::new(),
            text: String::new(),
            retry_after: seconds.map(Duration::from_secs),
        };
        let pauses = [1, 2, 3, 4].map(|n| patience.pause(n, &busy(None)).map(|p| p.as_secs()));
        assert_eq!(pauses, [Some(1), Some(2), Some(3), None]);
        let asked = patience.pause(1, &busy(Some(20)));
        assert_eq!(asked, Some(Duration::from_secs(20)));
        assert_eq!(patience.pause(1, &busy(Some(4000))), None);
        let refused = Failure::Status {
            status: 403,
            code: String::new(),
            text: String::new(),
            retry_after: None,
        };
        assert_eq!(patience.pause(1, &refused), None);
    }

    #[test]
    fn proxies_are_for_other_machines() {
        for (url, name) in [
            ("http://127.0.0.1:8000/v1", "127.0.0.1"),
            (
                "https://user:secret@hub.example.org:443/a@b",
                "hub.example.org",
            ),
            ("http://[::1]:80/", "::1"),
        ] {
            assert_eq!(host(url), name);
        }
        assert!(goes_directly("127.0.0.1", "") && goes_directly("localhost", ""));
        assert!(!goes_directly("hub.example.org", ""));
        assert!(goes_directly("hub.example.org", "other, .example.org"));
        assert!(!goes_directly("myexample.org", "example.org"));
    }
}
