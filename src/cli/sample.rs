//! `sample`: what a model generates.

use clap::Args;

use super::model::ModelArgs;
use crate::agent::{Ask, Elicitation, GenerationConfig, ask};
use crate::runtime::seed::derive;
use crate::text::{Message, Speaker};

/// Options of `sample`.
#[derive(Debug, Args)]
pub struct SampleArgs {
    /// What the user says; without it, standard input.
    prompt: Option<String>,
    /// System turn; the template's own if not given.
    #[arg(long)]
    system: Option<String>,
    /// Samples.
    #[arg(short, long, default_value_t = 1)]
    n: u32,
    /// Most tokens of a sample.
    #[arg(long, default_value_t = 256)]
    max_new_tokens: usize,
    /// Temperature; 0 is greedy.
    #[arg(long, default_value_t = 0.7, allow_negative_numbers = true)]
    temperature: f64,
    /// Keep the k likeliest tokens; 0 keeps all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Keep the likeliest tokens up to this probability.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f64,
    /// Keep tokens at least this fraction as likely as the likeliest.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    min_p: f64,
    /// Thinking mode of models that have one.
    #[arg(long)]
    thinking: Option<bool>,
    /// Root of the random streams.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print a JSON object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

impl SampleArgs {
    /// Generate and print.
    pub fn execute(self) -> anyhow::Result<()> {
        let prompt = match self.prompt {
            Some(text) => text,
            None => std::io::read_to_string(std::io::stdin())?,
        };
        let config = GenerationConfig {
            elicitation: Elicitation::Free,
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            thinking: self.thinking,
        };
        if let Err((field, problem)) = config.check() {
            anyhow::bail!("--{}: {problem}", field.replace('_', "-"));
        }
        let mut messages: Vec<Message> = self
            .system
            .map(|s| Message::new(Speaker::System, s))
            .into_iter()
            .collect();
        messages.push(Message::new(Speaker::User, prompt));
        let asks: Vec<Ask> = (0..self.n)
            .map(|i| Ask {
                messages: messages.clone(),
                options: vec![],
                seed: derive(self.seed, &format!("sample/{i}")),
            })
            .collect();
        let (model, adapter) = self.model.load()?;
        for (i, answer) in ask(&model, adapter.as_ref(), &config, &asks, |_| ())?
            .into_iter()
            .enumerate()
        {
            let answer = answer?;
            if self.json {
                let line = serde_json::json!({
                    "text": answer.text, "finish": answer.finish,
                    "prompt_tokens": answer.prompt.len(), "completion_tokens": answer.sampled.len(),
                    "tokens": answer.sampled, "logprobs": answer.logprobs,
                });
                tell!("{line}");
            } else {
                if self.n > 1 {
                    tell!("--- {} ---", i + 1);
                }
                tell!("{}", answer.text);
            }
        }
        Ok(())
    }
}
