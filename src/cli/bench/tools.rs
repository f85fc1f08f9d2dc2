//! Texts that call a program and go on with its result: turn by turn, and with programs that run beside the decoding.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::ensure;
use clap::Args;
use rand::Rng;
use serde_json::json;
use tch::Device;

use super::{Loaded, Subject, median, random_ids};
use crate::generation::{
    Completion, Engine, Finish, Halt, Onward, Outside, Request, Sampling, Stats,
};
use crate::runtime::seed::{derive, stream};
use crate::tool::{Execution, Queue, Sandbox, SandboxConfig, Status};

/// Options of `bench tools`.
#[derive(Debug, Args)]
pub struct ToolsArgs {
    /// Texts.
    #[arg(long, default_value_t = 64)]
    requests: usize,
    /// Tokens of a prompt.
    #[arg(long, default_value_t = 200)]
    prompt: usize,
    /// Tokens of a text after its prompt, what programs put in included.
    #[arg(long, default_value_t = 192)]
    new: usize,
    /// Calls of a text. After how many tokens each comes is drawn.
    #[arg(long, default_value_t = 2)]
    calls: usize,
    /// Tokens that each call puts in.
    #[arg(long, default_value_t = 24)]
    inserted: usize,
    /// Seconds that a program takes.
    #[arg(long, default_value_t = 0.05)]
    program_seconds: f64,
    /// Programs run at a time; 0 for as many as there are processors.
    #[arg(long, default_value_t = 0)]
    workers: usize,
    /// Sequences side by side; as suits the device by default.
    #[arg(long)]
    slots: Option<usize>,
    /// Measured repetitions, both ways in turn; the medians are printed.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    #[command(flatten)]
    subject: Subject,
}

/// Texts as they are given back, and what was done for them.
struct Done {
    seconds: f64,
    texts: Vec<Completion>,
    programs: usize,
    stats: Stats,
}

/// What is asked, by whichever way.
struct Work<'a> {
    args: &'a ToolsArgs,
    loaded: &'a Loaded,
    sandbox: &'a Sandbox,
    run: usize,
}

impl ToolsArgs {
    /// Measure; prints a JSON line for each way.
    pub fn execute(self) -> anyhow::Result<()> {
        ensure!(
            self.requests > 0 && self.prompt > 0,
            "expected texts and prompts of at least one token"
        );
        ensure!(
            self.new > 2 * (self.calls * self.inserted + self.calls + 1),
            "--new {} leaves no room to write beside {} calls that put in {} tokens each",
            self.new,
            self.calls,
            self.inserted
        );
        let loaded = self.subject.load()?;
        let sandbox = Sandbox::new(&SandboxConfig {
            workers: self.workers,
            wall_seconds: 60.0 + 10.0 * self.program_seconds,
            cpu_seconds: 60.0 + 10.0 * self.program_seconds,
            ..SandboxConfig::default()
        })?;
        let work = |run| Work {
            args: &self,
            loaded: &loaded,
            sandbox: &sandbox,
            run,
        };
        // Workers are started by their first program, and the decoder prepares its weights.
        sandbox.run(&vec![program(0.2); sandbox.workers()]);
        work(0).beside(&work(0).requests()[..1])?;
        let mut ways = [vec![], vec![]];
        for run in 1..=self.repeat.max(1) {
            let (work, requests) = (work(run), work(run).requests());
            let done = [work.in_turns(&requests)?, work.beside(&requests)?];
            ensure!(
                loaded.decoder.device() != Device::Cpu || done[0].texts == done[1].texts,
                "the texts of both ways differ"
            );
            for (way, done) in ways.iter_mut().zip(done) {
                way.push(done);
            }
        }
        let seconds = ways
            .each_ref()
            .map(|way| median(way.iter().map(|done| done.seconds).collect()));
        for ((name, way), seconds) in ["turns", "beside"].into_iter().zip(&ways).zip(seconds) {
            self.print(name, way, seconds);
        }
        tell!(
            "{}",
            json!({"what": "tools", "way": "both", "ratio": self.ratio(&ways)})
        );
        Ok(())
    }

    /// How many times as long turns take, run by run.
    fn ratio(&self, ways: &[Vec<Done>; 2]) -> f64 {
        let both = ways[0].iter().zip(&ways[1]);
        median(both.map(|(a, b)| a.seconds / b.seconds).collect())
    }

    fn print(&self, name: &str, way: &[Done], seconds: f64) {
        let done = &way[0];
        let tokens: usize = done.texts.iter().map(|text| text.tokens.len()).sum();
        let generated = tokens - done.programs * self.inserted;
        tell!(
            "{}",
            json!({
                "what": "tools", "way": name, "requests": self.requests, "prompt": self.prompt, "new": self.new,
                "programs": done.programs, "program_seconds": self.program_seconds, "inserted": self.inserted,
                "threads": tch::get_num_threads(), "seconds": seconds, "tokens": generated,
                "tokens_per_second": generated as f64 / seconds, "steps": done.stats.steps,
                "prompt_tokens": done.stats.prompt_tokens, "preempted": done.stats.preempted,
            })
        );
    }
}

/// A sum, and the rest of the time nothing useful.
fn program(seconds: f64) -> String {
    format!(
        "import time\nfrom fractions import Fraction\nstart = time.perf_counter()\n\
         total = sum(Fraction(1, k * (k + 1)) for k in range(1, 100))\n\
         while time.perf_counter() - start < {seconds}:\n    pass\nprint(total)\n"
    )
}

fn check(execution: &Execution) -> anyhow::Result<()> {
    let right = execution.status == Status::Finished && execution.stdout == "99/100\n";
    ensure!(right, "a program failed: {execution:?}");
    Ok(())
}

impl Work<'_> {
    fn requests(&self) -> Vec<Request> {
        (0..self.args.requests)
            .map(|text| Request {
                prompt: random_ids(
                    &format!("tools/{}/{text}", self.run),
                    self.args.prompt,
                    self.loaded.vocabulary,
                ),
                max_new_tokens: self.args.new,
                sampling: Sampling::default(),
                stop: vec![],
                halt: self.halt(text, 0),
                seed: self.seed(text, 0),
            })
            .collect()
    }

    /// What ends a turn: a call, as long as there are any.
    fn halt(&self, text: usize, turn: usize) -> Option<Halt> {
        let args = self.args;
        let mean = (args.new - args.calls * args.inserted) / (args.calls + 1);
        let after = stream(self.seed(text, turn), "call").random_range(1..2 * mean);
        (turn < args.calls).then(|| Halt::new(move |tokens| tokens.len() >= after))
    }

    fn seed(&self, text: usize, turn: usize) -> u64 {
        derive(self.run as u64, &format!("bench/tools/{text}/{turn}"))
    }

    /// How a text goes on after its program, as its turn with this number.
    fn onward(&self, text: usize, turn: usize) -> (Vec<u32>, Option<Halt>, u64) {
        let name = format!("tools/{}/{text}/{turn}", self.run);
        (
            random_ids(&name, self.args.inserted, self.loaded.vocabulary),
            self.halt(text, turn),
            self.seed(text, turn),
        )
    }

    fn engine(&self) -> Engine<'_> {
        // What an earlier way left in the cache is not what is measured.
        self.loaded.decoder.release_cache();
        let engine = Engine::new(&self.loaded.decoder, self.loaded.adapter.as_ref());
        match self.args.slots {
            Some(slots) => engine.with_slots(slots),
            None => engine,
        }
    }

    /// All texts until each ends or calls, then all programs, then all again.
    fn in_turns(&self, requests: &[Request]) -> anyhow::Result<Done> {
        let engine = self.engine();
        let started = Instant::now();
        let mut texts: Vec<Option<Completion>> = vec![None; requests.len()];
        let mut going: Vec<(usize, Request)> = requests.iter().cloned().enumerate().collect();
        let (mut programs, mut stats) = (0, Stats::default());
        for turn in 1.. {
            let asked: Vec<Request> = going.iter().map(|(_, request)| request.clone()).collect();
            let (parts, done) = engine.generate_measured(&asked, |_| ())?;
            stats.steps += done.steps;
            stats.prompt_tokens += done.prompt_tokens;
            stats.preempted += done.preempted;
            let mut called = vec![];
            for ((index, _), part) in going.drain(..).zip(parts) {
                let part = part?;
                let halted = part.finish == Finish::Halt;
                let text = match texts[index].take() {
                    None => part,
                    Some(before) => Completion {
                        tokens: [before.tokens, part.tokens].concat(),
                        logprobs: [before.logprobs, part.logprobs].concat(),
                        finish: part.finish,
                    },
                };
                texts[index] = Some(text);
                if halted {
                    called.push(index);
                }
            }
            if called.is_empty() {
                break;
            }
            programs += called.len();
            let codes = vec![program(self.args.program_seconds); called.len()];
            self.sandbox.run(&codes).iter().try_for_each(check)?;
            for index in called {
                let (Some(text), request) = (&mut texts[index], &requests[index]) else {
                    continue;
                };
                let (inserted, halt, seed) = self.onward(index, turn);
                text.tokens.extend(inserted);
                text.logprobs.resize(text.tokens.len(), 0.0);
                if text.tokens.len() >= request.max_new_tokens {
                    text.finish = Finish::Length;
                    continue;
                }
                let next = Request {
                    prompt: [&request.prompt[..], &text.tokens].concat(),
                    max_new_tokens: request.max_new_tokens - text.tokens.len(),
                    halt,
                    seed,
                    ..request.clone()
                };
                going.push((index, next));
            }
        }
        Ok(Done {
            seconds: started.elapsed().as_secs_f64(),
            texts: texts.into_iter().flatten().collect(),
            programs,
            stats,
        })
    }

    /// Each program as soon as it is called.
    fn beside(&self, requests: &[Request]) -> anyhow::Result<Done> {
        let engine = self.engine();
        let started = Instant::now();
        let (texts, programs, stats) = std::thread::scope(|scope| {
            let mut calls = Calls {
                work: self,
                queue: Queue::new(scope, self.sandbox, requests.len()),
                turns: BTreeMap::new(),
                failed: None,
            };
            let (texts, stats) = engine.generate_with(requests, &mut calls, |_| ())?;
            calls.failed.map_or(Ok(()), Err)?;
            anyhow::Ok((texts, calls.turns.values().sum(), stats))
        })?;
        Ok(Done {
            seconds: started.elapsed().as_secs_f64(),
            texts: texts.into_iter().collect::<Result<_, _>>()?,
            programs,
            stats,
        })
    }
}

/// The programs of texts that are being decoded.
struct Calls<'a> {
    work: &'a Work<'a>,
    queue: Queue,
    /// Calls of each text.
    turns: BTreeMap<usize, usize>,
    failed: Option<anyhow::Error>,
}

impl Outside for Calls<'_> {
    fn halted(&mut self, index: usize, _: &Completion) {
        *self.turns.entry(index).or_default() += 1;
        let program = program(self.work.args.program_seconds);
        self.queue.put(index, program);
    }

    fn ready(&mut self, wait: bool) -> Vec<(usize, Onward)> {
        let mut answers = vec![];
        for (index, execution) in self.queue.done(wait) {
            let onward = match check(&execution) {
                Ok(()) => {
                    let (inserted, halt, seed) = self.work.onward(index, self.turns[&index]);
                    Onward::With {
                        inserted,
                        halt,
                        seed,
                    }
                }
                Err(error) => {
                    self.failed = Some(error);
                    Onward::End
                }
            };
            answers.push((index, onward));
        }
        answers
    }
}
