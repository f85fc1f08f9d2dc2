//! `serve`: a model by the protocol of OpenAI's chat completions. For programs of this machine: no keys, no encryption.

use std::io::Read;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use tiny_http::{Header, Method, Response, Server};

use super::model::ModelArgs;
use crate::agent::{GenerationConfig, LoadedModel};
use crate::generation::{Completion, Engine, GenerationError, Request};
use crate::model::Adapter;
use crate::runtime::interrupt::{Interrupted, is_requested};
use crate::runtime::seed::derive;
use crate::text::Message;

/// Most bytes of a request.
const LONGEST: u64 = 16 << 20;
/// Most requests that are computed together.
const MOST_TOGETHER: usize = 64;
/// Threads that read requests.
const READERS: usize = 4;

/// Options of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address to listen at.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port; 0 takes a free one, which is printed.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// What clients call the model [default: the model's name, with `+` and the adapter folder's name where there is one].
    #[arg(long, value_name = "NAME")]
    served_model_name: Option<String>,
    #[command(flatten)]
    model: ModelArgs,
}

/// A request's body; what else clients send is ignored, as other servers do, but for what would change the answer.
#[derive(Debug, Deserialize)]
struct Body {
    /// Must be the served one's where it is named: a misspelt name would be answered by a model that was not meant.
    model: Option<String>,
    messages: Vec<Message>,
    #[serde(alias = "max_completion_tokens")]
    max_tokens: Option<usize>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<usize>,
    min_p: Option<f64>,
    seed: Option<i64>,
    #[serde(default)]
    stream: bool,
    n: Option<u32>,
    stop: Option<Value>,
    tools: Option<Value>,
    logprobs: Option<Value>,
    #[serde(default)]
    chat_template_kwargs: Value,
}

/// One to be answered.
struct Job {
    body: Body,
    request: tiny_http::Request,
}

impl ServeArgs {
    /// Serve until a stop is asked for.
    pub fn execute(self) -> anyhow::Result<()> {
        let (model, adapter) = self.model.load()?;
        let name = self
            .served_model_name
            .unwrap_or_else(|| self.model.name_with_adapter());
        let address = format!("{}:{}", self.host, self.port);
        let server = Server::http(&address).map_err(|error| {
            anyhow!("cannot listen at {address}: {error}; name another --port, or 0 for a free one")
        })?;
        let server = Arc::new(server);
        tell!("http://{}/v1#{name}", server.server_addr());
        let (sender, jobs) = channel();
        for _ in 0..READERS {
            let (server, sender, name) = (Arc::clone(&server), sender.clone(), name.clone());
            std::thread::spawn(move || {
                while let Ok(request) = server.recv() {
                    receive(request, &name, &sender);
                }
            });
        }
        drop(sender);
        let mut served = 0;
        // A stop is how a server ends: no error, and nothing to go on with.
        while !is_requested() {
            let batch = gather(&jobs)?;
            served += batch.len() as u64;
            answer(&model, adapter.as_ref(), &name, served, batch)?;
        }
        tracing::info!("stopped; requests served: {served}");
        Ok(())
    }
}

/// What has come in by now.
fn gather(jobs: &Receiver<Job>) -> anyhow::Result<Vec<Job>> {
    let first = match jobs.recv_timeout(Duration::from_millis(100)) {
        Ok(job) => job,
        Err(RecvTimeoutError::Timeout) => return Ok(vec![]),
        Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the server has stopped listening"),
    };
    let mut batch = vec![first];
    // Requests that were sent together come within a moment of each other.
    while batch.len() < MOST_TOGETHER
        && let Ok(job) = jobs.recv_timeout(Duration::from_millis(5))
    {
        batch.push(job);
    }
    Ok(batch)
}

fn receive(mut request: tiny_http::Request, name: &str, jobs: &Sender<Job>) {
    let path = request
        .url()
        .split('?')
        .next()
        .unwrap_or_default()
        .to_owned();
    match (request.method(), path.as_str()) {
        (Method::Get, "/health") => reply(request, 200, &json!({ "status": "ok" })),
        (Method::Get, "/v1/models") => {
            let data = json!([{
                "id": name, "object": "model", "created": seconds_of_1970(), "owned_by": "atp-pipeline",
            }]);
            reply(request, 200, &json!({ "object": "list", "data": data }));
        }
        (Method::Post, "/v1/chat/completions") => match read(&mut request) {
            Ok(Body {
                model: Some(other), ..
            }) if other != name => {
                let problem = format!("the model `{other}` is not served here, `{name}` is");
                refuse(request, 404, &problem);
            }
            Ok(body) => {
                // The other side ends when the program does.
                let _ = jobs.send(Job { body, request });
            }
            Err(problem) => refuse(request, 400, &problem),
        },
        _ => refuse(
            request,
            404,
            "there are GET /v1/models, GET /health and POST /v1/chat/completions",
        ),
    }
}

fn read(request: &mut tiny_http::Request) -> Result<Body, String> {
    let mut bytes = vec![];
    let reader = request.as_reader().take(LONGEST + 1);
    { reader }
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    if bytes.len() as u64 > LONGEST {
        return Err(format!("the request is longer than {LONGEST} bytes"));
    }
    let body: Body = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    let absent = |value: &Option<Value>| {
        value
            .as_ref()
            .is_none_or(|v| v.is_null() || *v == false || v.as_array().is_some_and(Vec::is_empty))
    };
    if body.stream {
        Err("`stream`: only false is served".into())
    } else if body.n.is_some_and(|n| n != 1) {
        Err("`n`: only 1 is served; send several requests".into())
    } else if !absent(&body.stop) {
        Err("`stop`: is not served; a text ends with its turn".into())
    } else if !absent(&body.tools) {
        Err("`tools`: are not served".into())
    } else if !absent(&body.logprobs) {
        Err("`logprobs`: are not served; `atp-pipeline score` computes them".into())
    } else {
        Ok(body)
    }
}

/// Compute a batch and answer each.
fn answer(
    model: &LoadedModel,
    adapter: Option<&Adapter>,
    name: &str,
    served: u64,
    batch: Vec<Job>,
) -> anyhow::Result<()> {
    let (mut requests, mut asked) = (vec![], vec![]);
    for job in batch {
        match prepare(model, &job.body) {
            Ok(request) => {
                requests.push(request);
                asked.push(job);
            }
            Err(problem) => refuse(job.request, 400, &problem),
        }
    }
    if requests.is_empty() {
        return Ok(());
    }
    let completions = match Engine::new(&model.decoder, adapter).generate(&requests, |_| ()) {
        Ok(completions) => completions,
        Err(Interrupted) => {
            for job in asked {
                refuse(job.request, 503, "the server is stopping");
            }
            return Ok(());
        }
    };
    for ((job, request), completion) in asked.into_iter().zip(requests).zip(completions) {
        let id = format!("chatcmpl-{served}-{:016x}", request.seed);
        match said(model, name, &id, &request, completion) {
            Ok(body) => reply(job.request, 200, &body),
            Err(error) => {
                let too_long = matches!(
                    error.downcast_ref::<GenerationError>(),
                    Some(GenerationError::TooLong { .. } | GenerationError::BadPrompt(_))
                );
                refuse(
                    job.request,
                    if too_long { 400 } else { 500 },
                    &format!("{error:#}"),
                );
            }
        }
    }
    Ok(())
}

fn prepare(model: &LoadedModel, body: &Body) -> Result<Request, String> {
    let thinking = body.chat_template_kwargs["enable_thinking"].as_bool();
    let base = GenerationConfig::default();
    let config = GenerationConfig {
        temperature: body.temperature.unwrap_or(base.temperature),
        top_p: body.top_p.unwrap_or(base.top_p),
        top_k: body.top_k.unwrap_or(base.top_k),
        min_p: body.min_p.unwrap_or(base.min_p),
        max_new_tokens: body.max_tokens.unwrap_or(base.max_new_tokens),
        thinking,
        ..base
    };
    config
        .check()
        .map_err(|(field, problem)| format!("`{field}`: {problem}"))?;
    let prompt = model
        .codec
        .encode_chat(&body.messages, &config.render_options());
    let prompt = prompt.map_err(|e| e.to_string())?;
    let room = (model.decoder.config().max_position as usize).saturating_sub(prompt.len());
    Ok(Request {
        // Without a limit, up to the end of the context.
        max_new_tokens: match body.max_tokens {
            Some(limit) => limit,
            None => config.max_new_tokens.min(room),
        },
        prompt,
        sampling: config.sampling(),
        stop: model.codec.stop_ids().to_vec(),
        halt: None,
        seed: derive(body.seed.unwrap_or(0) as u64, "serve"),
    })
}

fn said(
    model: &LoadedModel,
    name: &str,
    id: &str,
    request: &Request,
    completion: Result<Completion, GenerationError>,
) -> anyhow::Result<Value> {
    let completion = completion?;
    let text = model.codec.decode_turn(&completion.tokens)?;
    let (prompt, written) = (request.prompt.len(), completion.tokens.len());
    Ok(json!({
        "id": id,
        "object": "chat.completion",
        "created": seconds_of_1970(),
        "model": name,
        "choices": [{
            "index": 0,
            "message": { "role": "assistant", "content": text },
            "finish_reason": completion.finish.name(),
        }],
        "usage": {
            "prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written,
        },
    }))
}

/// Now, as the protocol tells times.
fn seconds_of_1970() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

fn refuse(request: tiny_http::Request, status: u16, problem: &str) {
    let kind = if status < 500 {
        "invalid_request_error"
    } else {
        "server_error"
    };
    reply(
        request,
        status,
        &json!({ "error": { "message": problem, "type": kind } }),
    );
}

fn reply(request: tiny_http::Request, status: u16, body: &Value) {
    let mut response = Response::from_string(body.to_string()).with_status_code(status);
    if let Ok(header) = Header::from_bytes("Content-Type", "application/json") {
        response = response.with_header(header);
    }
    // A client that has gone is its own business.
    if let Err(error) = request.respond(response).context("answer") {
        tracing::debug!("{error:#}");
    }
}
