//! Rounds of self-evolution as an evaluation decodes them: every agent's prompt is the last one with one more line of
//! history, for several variants of a model.

use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::{Subject, filled_adapter, random_ids};
use crate::generation::{Engine, Request, Sampling, Stats};

/// Options of `bench rounds`.
#[derive(Debug, Args)]
pub struct RoundsArgs {
    /// Agents, each with its prompt.
    #[arg(long, default_value_t = 64)]
    agents: usize,
    /// Rounds.
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// Variants of the model: the first is the base, the others have adapters of rank 8.
    #[arg(long, default_value_t = 3)]
    variants: usize,
    /// Tokens of a prompt in the first round.
    #[arg(long, default_value_t = 260)]
    prompt: usize,
    /// Tokens that each round adds to it.
    #[arg(long, default_value_t = 40)]
    history: usize,
    /// Tokens of an answer.
    #[arg(long, default_value_t = 256)]
    new: usize,
    #[command(flatten)]
    subject: Subject,
}

impl RoundsArgs {
    /// Measure.
    pub fn execute(self) -> anyhow::Result<()> {
        let loaded = self.subject.load()?;
        let started = Instant::now();
        let mut total = Stats::default();
        for variant in 0..self.variants {
            let adapter = (variant > 0).then(|| filled_adapter(&loaded.decoder, 8, variant as u64));
            for round in 0..self.rounds {
                // A prompt is the round's before and what came since, at its end.
                let requests: Vec<Request> = (0..self.agents)
                    .map(|agent| Request {
                        prompt: random_ids(
                            &agent.to_string(),
                            self.prompt + round * self.history,
                            loaded.vocabulary,
                        ),
                        max_new_tokens: self.new,
                        sampling: Sampling {
                            temperature: 0.7,
                            ..Sampling::default()
                        },
                        stop: vec![],
                        halt: None,
                        seed: (variant * self.rounds + round) as u64 * 1000 + agent as u64,
                    })
                    .collect();
                let (done, stats) = Engine::new(&loaded.decoder, adapter.as_ref())
                    .generate_measured(&requests, |_| ())?;
                for text in done {
                    text?;
                }
                total.prompt_tokens += stats.prompt_tokens;
                total.shared_tokens += stats.shared_tokens;
                total.new_tokens += stats.new_tokens;
                total.steps += stats.steps;
                total.prompt_seconds += stats.prompt_seconds;
                total.seconds += stats.seconds;
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        tell!(
            "{}",
            json!({
                "what": "rounds", "agents": self.agents, "rounds": self.rounds, "variants": self.variants,
                "seconds": seconds, "decode_share": (total.seconds - total.prompt_seconds) / seconds,
                "prompt_share": total.prompt_seconds / seconds,
                "tokens_per_second": total.new_tokens as f64 / seconds,
                "prompt_tokens_computed": total.prompt_tokens, "prompt_tokens_shared": total.shared_tokens,
                "new_tokens": total.new_tokens, "steps": total.steps,
            })
        );
        Ok(())
    }
}
