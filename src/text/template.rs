//! Chat templates: the Jinja source that comes with a model, rendered as transformers renders it.
//!
//! What transformers adds to Jinja is here: trimmed blocks, `raise_exception`, `strftime_now`, its `tojson`, the
//! `generation` tag (which changes nothing in the text), and the methods of Python's strings (`python`). Two things
//! differ on purpose: `strftime_now` takes its date from the caller, so that a prompt does not depend on the day, and
//! output and steps are limited.

use std::io::Write;

use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, context};

use super::{Message, TextError};
use crate::runtime::budget::within;
use crate::runtime::guard::guarded;

mod python;
mod time;

pub use time::Date;

const NAME: &str = "chat_template";
/// What is said where it takes more memory than its limits allow.
const RUNAWAY: &str = "chat template: it takes more than 1 GiB of memory for one conversation; mend \
                       `chat_template` of the model (chat_template.jinja or tokenizer_config.json), or take another model";

/// What a prompt is rendered for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RenderOptions {
    /// Ends with the opening of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Whether the model is to think (`enable_thinking`); `None` leaves it to the template.
    pub thinking: Option<bool>,
    /// What `strftime_now` says.
    pub date: Date,
}

impl RenderOptions {
    /// A prompt for the model to answer, thinking left to the template.
    pub fn prompt() -> Self {
        Self {
            add_generation_prompt: true,
            ..Self::default()
        }
    }
}

/// How far a template may go. It comes with the model, so it is not trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Steps of the template machine; real conversations take some thousands.
    pub steps: u64,
    /// Bytes of a prompt.
    pub bytes: usize,
    /// Bytes of memory on the way to it. Going beyond them ends the process: a text that doubles itself in a loop grows
    /// faster than steps can tell.
    pub memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            steps: 20_000_000,
            bytes: 16 << 20,
            memory: 1 << 30,
        }
    }
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos_token: Option<String>,
    eos_token: Option<String>,
    limits: Limits,
}

impl ChatTemplate {
    /// Compiles `source`. The tokens are what the template may write as `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// If the source is not a template; the message names the line.
    pub fn new(
        source: &str,
        bos_token: Option<&str>,
        eos_token: Option<&str>,
    ) -> Result<Self, TextError> {
        Self::limited(source, bos_token, eos_token, Limits::default())
    }

    /// As [`new`](Self::new), with limits of one's own.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn limited(
        source: &str,
        bos_token: Option<&str>,
        eos_token: Option<&str>,
        limits: Limits,
    ) -> Result<Self, TextError> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(limits.steps));
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        python::install(&mut environment);
        environment.add_function("raise_exception", |message: String| -> Result<(), Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        let plain = without_generation_tags(source);
        let compile = || environment.add_template_owned(NAME, plain);
        within(limits.memory, RUNAWAY, || guarded(compile))
            .map_err(TextError::Template)?
            .map_err(|e| TextError::Template(explain(&e)))?;
        Ok(Self {
            environment,
            source: source.to_string(),
            bos_token: bos_token.map(str::to_string),
            eos_token: eos_token.map(str::to_string),
            limits,
        })
    }

    /// The source as it came with the model.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The conversation as the model reads it.
    ///
    /// # Errors
    /// If the template raises an exception (many refuse an order of roles), fails, or goes beyond its [`Limits`].
    pub fn render(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<String, TextError> {
        let failed = |e: Error| TextError::Template(explain(&e));
        let template = self.environment.get_template(NAME).map_err(failed)?;
        let date = options.date;
        let strftime_now = move |format: String| {
            let text = date.format(&format);
            text.map_err(|reason| Error::new(ErrorKind::InvalidOperation, reason))
        };
        // A variable that is not passed is undefined, which templates tell apart from none and false.
        let optional = |name: &'static str, value: Option<Value>| value.map(|value| (name, value));
        let extra: Value = [
            optional("bos_token", self.bos_token.as_deref().map(Value::from)),
            optional("eos_token", self.eos_token.as_deref().map(Value::from)),
            optional("enable_thinking", options.thinking.map(Value::from)),
        ]
        .into_iter()
        .flatten()
        .collect();
        let variables = context! {
            messages => Value::from_serialize(messages),
            add_generation_prompt => options.add_generation_prompt,
            strftime_now => Value::from_function(strftime_now),
            tools => (),
            documents => (),
            ..extra
        };
        let mut out = Limited {
            bytes: Vec::new(),
            limit: self.limits.bytes,
            overflowed: false,
        };
        // minijinja panics in some reversed slices, such as `''[::-1]`.
        let render = || template.render_captured_to(variables, &mut out).map(|_| ());
        let rendered = within(self.limits.memory, RUNAWAY, || guarded(render));
        if out.overflowed {
            return Err(TextError::Template(format!(
                "it writes more than {} bytes for {} messages",
                self.limits.bytes,
                messages.len()
            )));
        }
        rendered.map_err(TextError::Template)?.map_err(failed)?;
        String::from_utf8(out.bytes).map_err(|e| TextError::Template(e.to_string()))
    }
}

/// Memory that refuses to grow beyond the limit.
struct Limited {
    bytes: Vec<u8>,
    limit: usize,
    overflowed: bool,
}

impl Write for Limited {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        if buffer.len() > self.limit - self.bytes.len() {
            self.overflowed = true;
            return Err(std::io::Error::other("the output is too long"));
        }
        self.bytes.extend_from_slice(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The error with its causes, on one line.
fn explain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// `{% generation %}` marks the assistant's tokens for a training mask and writes nothing: a scope of its own does the
/// same.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        rest = tag;
        let inner = tag.trim_start_matches(['-', '+']).trim_start();
        for (word, instead) in [("generation", "with"), ("endgeneration", "endwith")] {
            let Some(after) = inner.strip_prefix(word) else {
                continue;
            };
            if after
                .trim_start()
                .trim_start_matches(['-', '+'])
                .starts_with("%}")
            {
                out.push_str(&tag[..tag.len() - inner.len()]);
                out.push_str(instead);
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests;
