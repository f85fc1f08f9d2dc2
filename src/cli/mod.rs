//! The command line: one file a subcommand, no logic of its own.

use clap::{Args, Parser, Subcommand};
use tch::Device;

use crate::runtime::device::{self, DeviceChoice};
use crate::runtime::ranks::Place;

/// `println!` that no reader who has gone, and no full disk, can end ([`start::tell`]).
macro_rules! tell {
    ($($text:tt)*) => {
        $crate::cli::start::tell(format_args!($($text)*))
    };
}

mod bench;
mod compare;
mod data;
mod doctor;
pub mod early;
mod export;
mod model;
mod open;
mod recipe;
mod run;
mod sample;
mod scenario;
mod score;
mod serve;
mod shell;
pub mod start;
mod status;
mod submit;

const EXITS: &str = "Exit codes: 0 done, 1 failed (one message on standard error), 2 wrong arguments, 69 ended \
                     because another rank did, 130 stopped on request with the work saved. The \
                     first Ctrl-C saves and stops, the second quits at once.";

/// Train aligned LLM agents, let them evolve on their own experience, and measure whether they tip.
///
/// Everything is described by a recipe, a TOML file. `run` does what a recipe says; the other commands do a part of it,
/// or look at models and runs. Without a recipe the one for a laptop CPU is taken.
#[derive(Debug, Parser)]
#[command(name = "atp-pipeline", version, max_term_width = 100, after_help = EXITS)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Say more; twice, for debugging. RUST_LOG overrides it.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Say only what went wrong.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a recipe: data, pairs, training, evaluation, report; what is up to date is skipped.
    Run(run::RunArgs),
    /// Hand a recipe to Slurm: a job a stage, with their dependencies; arrays over models, seeds and variants.
    Submit(submit::SubmitArgs),
    /// Show the stages of a run directory and how far they are.
    Status(status::StatusArgs),
    /// Draw the training and test questions of a recipe.
    Generate(run::RunArgs),
    /// Sample the preference pairs of a recipe, and what they need.
    Pairs(run::RunArgs),
    /// Train an adapter by DPO, by GRPO, or by GRPO on top of DPO, and what it needs.
    Train(run::TrainArgs),
    /// Evaluate the agents of a recipe over their self-evolution rounds, and what they need.
    Evaluate(run::RunArgs),
    /// Write the report of a recipe, and what it needs.
    Report(run::ReportArgs),
    /// Set two runs beside each other: rates, differences, intervals.
    Compare(compare::CompareArgs),
    /// Begin, check, explain or list recipes.
    Recipe(recipe::RecipeArgs),
    /// Check, show, begin or list scenario files.
    Scenario(scenario::ScenarioArgs),
    /// Look into a table of questions, pairs or evaluation rows, or write it for other tools.
    Data(data::DataArgs),
    /// Write an adapter, a merged model, a GGUF file or TensorBoard logs for other programs.
    Export(export::ExportArgs),
    /// Serve a model by the protocol of OpenAI's chat completions, for programs of this machine.
    Serve(serve::ServeArgs),
    /// Print what a model generates.
    Sample(sample::SampleArgs),
    /// Write per-token log-probabilities of given completions.
    Score(score::ScoreArgs),
    /// Measure generation, training, rounds, tools and ranks on this machine.
    Bench(bench::BenchArgs),
    /// Check the machine: libtorch, GPU, memory, disk, the embedded model.
    Doctor(doctor::DoctorArgs),
    /// Print the completions of a shell, to be put where it looks for them.
    Completions(shell::CompletionsArgs),
    /// Print the manual page, or write those of all commands into a folder.
    Man(shell::ManArgs),
}

/// Where tensors are computed.
#[derive(Debug, Clone, Args)]
pub struct DeviceArgs {
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto", env = "ATP_DEVICE")]
    device: DeviceChoice,
    /// Threads; 0 takes all cores. Results on a CPU are the same, byte for byte, for the same number.
    #[arg(long, default_value_t = 0, env = "ATP_THREADS")]
    threads: usize,
    /// The same results every time on a GPU too, at some cost in speed.
    #[arg(long, env = "ATP_DETERMINISTIC", value_parser = clap::builder::FalseyValueParser::new())]
    deterministic: bool,
}

impl DeviceArgs {
    /// Among ranks: the GPU of this one, and its part of the cores.
    fn share(&mut self, place: &Place) -> anyhow::Result<()> {
        if self.threads == 0 {
            let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
            self.threads = (cores / place.local_size).max(1);
        }
        self.device = device::of_rank(self.device, place.local_rank)?;
        Ok(())
    }

    /// Set the threads and open the device.
    fn open(&self) -> anyhow::Result<Device> {
        if self.deterministic {
            device::make_deterministic()
                .map_err(|problem| anyhow::anyhow!("--deterministic: {problem}"))?;
            tracing::info!("deterministic algorithms only");
        }
        device::set_threads(self.threads);
        Ok(device::open(self.device)?)
    }
}

impl Cli {
    /// Do it.
    pub fn execute(self) -> anyhow::Result<()> {
        use crate::recipe::raw::StageKind;
        let quiet = self.quiet;
        let with = |mut run: run::RunArgs| {
            run.quiet = quiet;
            run
        };
        match self.command {
            Command::Run(args) => with(args).execute(&[]),
            Command::Generate(args) => with(args).execute(&[StageKind::Data]),
            Command::Pairs(args) => with(args).execute(&[StageKind::Pairs]),
            Command::Evaluate(args) => with(args).execute(&[StageKind::Evaluate]),
            Command::Train(mut args) => {
                args.run.quiet = quiet;
                args.execute()
            }
            Command::Report(mut args) => {
                args.run.quiet = quiet;
                args.execute()
            }
            Command::Compare(args) => args.execute(),
            Command::Submit(args) => args.execute(),
            Command::Data(args) => args.execute(),
            Command::Export(args) => args.execute(),
            Command::Serve(args) => args.execute(),
            Command::Sample(args) => args.execute(),
            Command::Score(args) => args.execute(),
            Command::Bench(args) => args.execute(),
            Command::Doctor(args) => args.execute(),
            Command::Status(args) => args.execute(),
            Command::Recipe(args) => args.execute(),
            Command::Scenario(args) => args.execute(),
            Command::Completions(args) => args.execute(),
            Command::Man(args) => args.execute(),
        }
    }
}
