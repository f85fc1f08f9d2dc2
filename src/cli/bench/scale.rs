//! One rank against all: DPO steps and generation shared out, as training and evaluation do it.

use std::time::Instant;

use anyhow::ensure;
use clap::Args;
use serde_json::json;

use super::{Subject, filled_adapter, median, random_ids};
use crate::generation::{Engine, Request, Sampling};
use crate::model::Decoder;
use crate::model::batch::passes;
use crate::runtime::ranks::{Ended, Place, Ranks, launch};
use crate::training::dpo_trainer::{
    DpoConfig, DpoSums, PairTokens, accumulate, reference_logprobs,
};
use crate::training::optim::OptimConfig;
use crate::training::pass::{Policy, budget};
use crate::training::state::TrainState;

/// Options of `bench scale`.
#[derive(Debug, Args)]
pub struct ScaleArgs {
    /// Processes on this machine; without it, the ranks that `srun` or torchrun started, or one.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    nproc: Option<u16>,
    /// Pairs of a DPO step, over all ranks.
    #[arg(long, default_value_t = 16)]
    pairs: usize,
    /// Requests of a generation, over all ranks.
    #[arg(long, default_value_t = 64)]
    requests: usize,
    /// Tokens of a prompt.
    #[arg(long, default_value_t = 400)]
    prompt: usize,
    /// Tokens of a completion, learnt from or generated.
    #[arg(long, default_value_t = 100)]
    completion: usize,
    /// Rank of the adapter.
    #[arg(long, default_value_t = 8)]
    rank: i64,
    /// Measured repetitions; the median is printed.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    #[command(flatten)]
    subject: Subject,
}

impl ScaleArgs {
    /// Measure; prints a JSON line for DPO and one for generation.
    pub fn execute(mut self) -> anyhow::Result<()> {
        ensure!(
            self.pairs > 0
                && self.requests > 0
                && self.prompt > 0
                && self.completion > 0
                && self.rank > 0,
            "expected pairs, requests, a prompt, a completion and a rank of at least one"
        );
        let place = match (Place::from_environment()?, self.nproc) {
            (place, None | Some(1)) => place,
            (Some(place), Some(_)) if launch::is_launched() => Some(place),
            (_, Some(size)) => return Ok(launch::run(size.into())?),
        };
        let ranks = match place {
            Some(place) => {
                self.subject.model.device_mut().share(&place)?;
                Ranks::connect(place)?
            }
            None => Ranks::alone(),
        };
        let measured = self.measure(&ranks);
        ranks.conclude(measured)
    }

    fn measure(&self, ranks: &Ranks) -> anyhow::Result<()> {
        let loaded = self.subject.load()?;
        let decoder = &loaded.decoder;
        let ids = |what: &str, i: usize, count| {
            random_ids(&format!("{what}/{i}"), count, loaded.vocabulary)
        };
        let pairs: Vec<PairTokens> = (0..self.pairs)
            .map(|i| PairTokens {
                prompt: ids("prompt", i, self.prompt),
                chosen: ids("chosen", i, self.completion),
                rejected: ids("rejected", i, self.completion),
                inserted: Default::default(),
            })
            .collect();
        let requests: Vec<Request> = (0..self.requests)
            .map(|i| Request {
                prompt: ids("request", i, self.prompt),
                max_new_tokens: self.completion,
                sampling: Sampling::default(),
                stop: vec![],
                halt: None,
                seed: i as u64,
            })
            .collect();
        let adapter = filled_adapter(decoder, self.rank, 0);
        let mut state = TrainState::with_adapter(adapter, decoder.config(), OptimConfig::default());
        let alone = self.time(ranks, true, |with| {
            dpo_step(decoder, &mut state, &pairs, with)
        })?;
        let together = self.time(ranks, false, |with| {
            dpo_step(decoder, &mut state, &pairs, with)
        })?;
        self.tell("dpo-step", ranks, &state, alone, together);
        let alone = self.time(ranks, true, |with| {
            generate(decoder, &state, &requests, with)
        })?;
        let together = self.time(ranks, false, |with| {
            generate(decoder, &state, &requests, with)
        })?;
        self.tell("generate", ranks, &state, alone, together);
        Ok(())
    }

    /// Median seconds of some work, on rank 0 alone or on all. The first time warms up.
    fn time(
        &self,
        ranks: &Ranks,
        alone: bool,
        mut work: impl FnMut(&Ranks) -> anyhow::Result<()>,
    ) -> anyhow::Result<f64> {
        let mut seconds = vec![];
        for _ in 0..=self.repeat.max(1) {
            ranks.barrier()?;
            let begin = Instant::now();
            match (alone, ranks.is_first()) {
                (true, true) => work(&Ranks::alone())?,
                (true, false) => {}
                (false, _) => work(ranks)?,
            }
            ranks.barrier()?;
            seconds.push(begin.elapsed().as_secs_f64());
        }
        seconds.remove(0);
        Ok(median(seconds))
    }

    fn tell(&self, what: &str, ranks: &Ranks, state: &TrainState, alone: f64, together: f64) {
        if ranks.is_first() {
            let line = json!({
                "what": what, "ranks": ranks.size(), "pairs": self.pairs, "requests": self.requests,
                "prompt": self.prompt, "completion": self.completion, "threads": tch::get_num_threads(),
                "gradient_bytes": 4 * state.gradients.flat().numel(),
                "seconds_one_rank": alone, "seconds": together, "speedup": alone / together,
            });
            tell!("{line}");
        }
    }
}

/// References, gradients and an optimiser step, as the trainer takes it.
fn dpo_step(
    decoder: &Decoder,
    state: &mut TrainState,
    pairs: &[PairTokens],
    ranks: &Ranks,
) -> anyhow::Result<()> {
    let config = DpoConfig::default();
    let costs: Vec<u64> = pairs.iter().map(|pair| pair.size() as u64).collect();
    let mine: Vec<&PairTokens> = ranks.mine(&costs).into_iter().map(|i| &pairs[i]).collect();
    let sizes: Vec<usize> = mine.iter().map(|pair| pair.size()).collect();
    let room = budget(decoder, state.gradients.flat().numel(), 0, None);
    let policy = Policy::new(decoder, &state.adapter, &mut state.live, &room)?;
    let mut sums = DpoSums::default();
    for pass in passes(&sizes, room.tokens) {
        let reference = reference_logprobs(decoder, &mine[pass.clone()], config.loss)?;
        let (pairs, all) = (&mine[pass], pairs.len());
        accumulate(
            &policy,
            pairs,
            &reference,
            &config,
            all,
            &mut state.gradients,
            &mut sums,
        )?;
    }
    ranks.sum(state.gradients.flat())?;
    let norm = state.take_step(1e-5)?;
    ensure!(norm.is_finite(), "the gradient is not finite");
    Ok(())
}

/// Every rank generates for its share of the requests, and gets all texts.
fn generate(
    decoder: &Decoder,
    state: &TrainState,
    requests: &[Request],
    ranks: &Ranks,
) -> anyhow::Result<()> {
    let costs = vec![1; requests.len()];
    let texts: Vec<Vec<u32>> = ranks.share(&costs, |mine| {
        let own: Vec<Request> = mine.iter().map(|&i| requests[i].clone()).collect();
        let done = Engine::new(decoder, Some(&state.adapter)).generate(&own, |_| ())?;
        let tokens = done
            .into_iter()
            .map(|text| text.map_or_else(|_| vec![], |text| text.tokens));
        Ok::<_, Ended>(tokens.collect())
    })?;
    ensure!(
        texts.iter().all(|text| !text.is_empty()),
        "a request gave no text"
    );
    Ok(())
}
