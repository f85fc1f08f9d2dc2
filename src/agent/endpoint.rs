//! A model that another program serves by the chat-completions protocol of OpenAI's API (vLLM, llama.cpp, SGLang, a
//! provider): asked for decisions, many at a time, with patience.
//!
//! What comes back is text. There are no logits, so options cannot be scored and nothing can be trained; prompts are the
//! server's own rendering of the messages.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ureq::Agent;

use super::elicitation::{Answer, Ask, AskError, Elicitation, GenerationConfig, Usage};
use super::model::ModelSpec;
use crate::runtime::http::{self, Failure, Patience, wait};
use crate::runtime::interrupt::{Interrupted, check};
use crate::runtime::seed::derive;

/// How a served model is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointConfig {
    /// Environment variable that holds the key; none is sent if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// Requests at a time.
    pub concurrency: usize,
    /// Most requests a minute; 0 sets no limit.
    pub requests_per_minute: u32,
    /// Longest wait for an answer, in seconds.
    pub timeout: u64,
    /// Send `top_k`, `min_p` and `chat_template_kwargs` too, which vLLM, llama.cpp and SGLang take and OpenAI's own API
    /// refuses. Without them, these servers put in values of their own: llama.cpp a `top_k` of 40, vLLM what the model's
    /// `generation_config.json` says.
    pub extensions: bool,
    /// Attempts of a request that fails in passing: no connection, HTTP 408, 429, 5xx.
    pub attempts: u32,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            api_key_env: None,
            concurrency: 8,
            requests_per_minute: 0,
            timeout: 300,
            extensions: true,
            attempts: 6,
        }
    }
}

impl EndpointConfig {
    /// What is wrong with it, if anything: field and problem.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let within = |field, got: u64, most: u64| match (1..=most).contains(&got) {
            true => Ok(()),
            false => Err((field, format!("expected 1 to {most}, got {got}"))),
        };
        within("concurrency", self.concurrency as u64, 1024)?;
        within("timeout", self.timeout, 86_400)?;
        within("attempts", self.attempts.into(), 100)
    }
}

/// Whether a model's source is the address of a server.
pub fn is_endpoint(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

/// Address and model of a source such as `http://host:8000/v1#name`.
pub fn split_source(source: &str) -> Result<(&str, &str), String> {
    let found = source
        .split_once('#')
        .filter(|(url, name)| !http::host(url).is_empty() && !name.is_empty());
    let (url, name) = found.ok_or_else(|| {
        format!(
            "expected an address and, after `#`, the model's name there, as `http://127.0.0.1:8000/v1#name`, got `{source}`"
        )
    })?;
    Ok((url.trim_end_matches('/'), name))
}

/// Why a served model gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{problem}")]
pub struct ServedError {
    /// What happened, and how to mend it.
    pub problem: String,
    /// No other request would fare better: the key is wrong, the model is not there, or the server is gone.
    pub hopeless: bool,
}

/// A served model, ready to be asked.
#[derive(Debug)]
pub struct Endpoint {
    url: String,
    name: String,
    config: EndpointConfig,
    key: Option<String>,
    agent: Agent,
    patience: Patience,
}

impl Endpoint {
    /// As a recipe names it; nothing is asked yet.
    ///
    /// # Errors
    /// No address and name, settings that make no sense, or a key that is not in the environment.
    pub fn open(spec: &ModelSpec) -> Result<Self, ServedError> {
        let fail = |problem: String| ServedError {
            problem,
            hopeless: true,
        };
        let (url, name) = split_source(&spec.source).map_err(fail)?;
        let config = spec.endpoint.clone().unwrap_or_default();
        config
            .check()
            .map_err(|(field, problem)| fail(format!("endpoint.{field}: {problem}")))?;
        let key = match &config.api_key_env {
            None => None,
            Some(variable) => {
                let key = std::env::var(variable)
                    .unwrap_or_default()
                    .trim()
                    .to_owned();
                if key.is_empty() || !key.chars().all(|c| c.is_ascii_graphic()) {
                    return Err(fail(format!(
                        "the environment variable `{variable}`, which `endpoint.api_key_env` names, holds no key; export it"
                    )));
                }
                Some(key)
            }
        };
        Ok(Self {
            url: url.to_owned(),
            name: name.to_owned(),
            agent: http::agent(url, Duration::from_secs(config.timeout)),
            patience: Patience {
                attempts: config.attempts,
                ..Patience::default()
            },
            key,
            config,
        })
    }

    /// The body of one request.
    fn body(&self, config: &GenerationConfig, ask: &Ask) -> Value {
        let mut body = json!({
            "model": self.name,
            "messages": ask.messages,
            "max_tokens": config.max_new_tokens,
            "temperature": config.temperature,
            "top_p": config.top_p,
            // Servers take signed 32-bit seeds at least.
            "seed": derive(ask.seed, "text") >> 33,
            "stream": false,
        });
        if self.config.extensions {
            body["top_k"] = json!(config.top_k);
            body["min_p"] = json!(config.min_p);
            if let Some(thinking) = config.thinking {
                body["chat_template_kwargs"] = json!({ "enable_thinking": thinking });
            }
        }
        body
    }

    /// Send one request until it is answered or patience ends.
    fn send(&self, body: &Value, gate: &Gate) -> Result<Result<Value, ServedError>, Interrupted> {
        for failures in 1.. {
            gate.pass(self.config.requests_per_minute)?;
            let request = self.agent.post(&format!("{}/chat/completions", self.url));
            let request = match &self.key {
                Some(key) => request.set("Authorization", &format!("Bearer {key}")),
                None => request,
            };
            let answer = request
                .send_json(body)
                .map_err(Failure::of)
                .and_then(|response| {
                    let status = response.status();
                    let text = response.into_string();
                    let text =
                        text.map_err(|e| Failure::broken(format!("the answer broke off ({e})")))?;
                    serde_json::from_str::<Value>(&text).map_err(|_| Failure::Transport {
                        text: format!(
                            "HTTP {status}: expected JSON of a chat completion, got something else"
                        ),
                        passing: false,
                        reached: true,
                    })
                });
            let failure = match answer {
                Ok(answer) => return Ok(Ok(answer)),
                Err(failure) => failure,
            };
            let Some(pause) = self.patience.pause(failures, &failure) else {
                return Ok(Err(self.explain(&failure)));
            };
            let seconds = pause.as_secs_f64().ceil();
            tracing::debug!("{}: {failure}; trying again in {seconds:.0} s", self.url);
            wait(pause)?;
        }
        unreachable!("patience ends")
    }

    fn explain(&self, failure: &Failure) -> ServedError {
        let (url, name) = (&self.url, &self.name);
        let (mend, hopeless) = match failure {
            Failure::Status {
                status: 401 | 403, ..
            } => (
                "; the server wants a key: let `endpoint.api_key_env` name the environment variable that holds it",
                true,
            ),
            Failure::Status { status: 404, .. } => (
                "; is the address right up to `/v1`, and is this the name the server has for the model (see its `/models`)?",
                true,
            ),
            Failure::Transport { reached: false, .. } => {
                ("; is the server running, and is this its address?", true)
            }
            _ => ("", false),
        };
        ServedError {
            problem: format!("`{name}` at {url}: {failure}{mend}"),
            hopeless,
        }
    }

    /// The answer in a chat completion.
    fn read(&self, config: &GenerationConfig, completion: &Value) -> Result<Answer, ServedError> {
        let choice = &completion["choices"][0];
        let message = &choice["message"];
        if !message.is_object() {
            let got: String = completion.to_string().chars().take(200).collect();
            return Err(ServedError {
                problem: format!(
                    "`{}` at {}: expected `choices[0].message` in the answer, got {got}",
                    self.name, self.url
                ),
                hopeless: false,
            });
        }
        let content = message["content"].as_str().unwrap_or_default();
        // Servers that part reasoning from the answer: put together again, as the model wrote it.
        let thought = [&message["reasoning_content"], &message["reasoning"]];
        let thought = thought
            .into_iter()
            .find_map(|v| v.as_str())
            .unwrap_or_default();
        let text = match thought.is_empty() {
            true => content.to_owned(),
            false => format!("<think>\n{thought}\n</think>\n\n{content}"),
        };
        let count = |field: &str| {
            let tokens = completion["usage"][field].as_u64().unwrap_or(0);
            u32::try_from(tokens).unwrap_or(u32::MAX)
        };
        Ok(Answer {
            text,
            thinking: false,
            prompt: vec![],
            sampled: vec![],
            logprobs: vec![],
            reasoning: 0,
            temperature: match config.temperature > 0.0 {
                true => config.temperature,
                false => 1.0,
            },
            bridge: vec![],
            choice: None,
            finish: match choice["finish_reason"].as_str() {
                Some("length") => "length",
                Some("content_filter") => "filtered",
                _ => "stop",
            },
            usage: Some(Usage {
                prompt: count("prompt_tokens"),
                completion: count("completion_tokens"),
            }),
        })
    }

    /// Ask for many decisions; answers come in the order of the asks. After a failure that no other request would escape,
    /// the rest fail with it at once.
    pub fn ask(
        self: &Arc<Self>,
        config: &GenerationConfig,
        asks: &[Ask],
        mut progress: impl FnMut(usize),
    ) -> Result<Vec<Result<Answer, AskError>>, Interrupted> {
        if config.elicitation != Elicitation::Free {
            let problem = "a served model gives no logits: expected elicitation `free`".to_owned();
            let error = ServedError {
                problem,
                hopeless: true,
            };
            return Ok(asks.iter().map(|_| Err(error.clone().into())).collect());
        }
        let bodies: Vec<Value> = asks.iter().map(|ask| self.body(config, ask)).collect();
        let work = Arc::new(Work {
            bodies,
            next: AtomicUsize::new(0),
            gate: Gate::default(),
            hopeless: AtomicBool::new(false),
        });
        let (sender, results) = channel();
        // Not waited for after a stop was asked for: an answer may take minutes.
        for _ in 0..self.config.concurrency.min(asks.len()) {
            let (work, endpoint, sender) = (Arc::clone(&work), Arc::clone(self), sender.clone());
            std::thread::spawn(move || {
                while !work.hopeless.load(Ordering::SeqCst) {
                    let place = work.next.fetch_add(1, Ordering::SeqCst);
                    let Some(body) = work.bodies.get(place) else {
                        break;
                    };
                    let Ok(result) = endpoint.send(body, &work.gate) else {
                        break;
                    };
                    if result.as_ref().is_err_and(|error| error.hopeless) {
                        work.hopeless.store(true, Ordering::SeqCst);
                    }
                    if sender.send((place, result)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut answers: Vec<Option<Result<Answer, AskError>>> =
            asks.iter().map(|_| None).collect();
        let mut reason = None;
        loop {
            check()?;
            match results.recv_timeout(Duration::from_millis(100)) {
                Ok((place, result)) => {
                    if let Err(error) = &result
                        && error.hopeless
                    {
                        reason.get_or_insert_with(|| error.clone());
                    }
                    let answer = result.and_then(|completion| self.read(config, &completion));
                    answers[place] = Some(answer.map_err(AskError::from));
                    progress(1);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        check()?;
        let reason = reason.unwrap_or(ServedError {
            problem: "the request was not sent".into(),
            hopeless: false,
        });
        let filled = answers.into_iter();
        Ok(filled
            .map(|answer| answer.unwrap_or_else(|| Err(reason.clone().into())))
            .collect())
    }
}

/// What the threads share.
struct Work {
    bodies: Vec<Value>,
    next: AtomicUsize,
    gate: Gate,
    hopeless: AtomicBool,
}

/// Lets so many pass a minute, evenly.
#[derive(Debug, Default)]
struct Gate {
    next: Mutex<Option<Instant>>,
}

impl Gate {
    fn pass(&self, a_minute: u32) -> Result<(), Interrupted> {
        if a_minute == 0 {
            return check();
        }
        let turn = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let turn = next.map_or(now, |next| next.max(now));
            *next = Some(turn + Duration::from_secs(60) / a_minute);
            turn
        };
        wait(turn.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_address_and_a_name() {
        let split = split_source("http://127.0.0.1:8000/v1/#Qwen/Qwen3-8B").unwrap();
        assert_eq!(split, ("http://127.0.0.1:8000/v1", "Qwen/Qwen3-8B"));
        for wrong in ["http://host/v1", "http://host/v1#", "http://#name"] {
            assert!(split_source(wrong).is_err(), "{wrong}");
        }
        assert!(is_endpoint("https://x/v1#y") && !is_endpoint("owner/name"));
    }

    #[test]
    fn the_gate_spaces_requests() {
        let gate = Gate::default();
        let begin = Instant::now();
        for _ in 0..4 {
            gate.pass(1200).unwrap();
        }
        // Three waits of 50 ms.
        assert!(begin.elapsed() >= Duration::from_millis(150));
    }
}
