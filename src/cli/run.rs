//! `run`, and the commands that run a part of a recipe: `generate`, `pairs`, `train`, `evaluate`, `report`.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, ValueEnum};

use super::DeviceArgs;
use crate::artifact::file::{create_folder, is_taken};
use crate::artifact::{ArtifactError, free_space, write_atomic};
use crate::model::lora::CONFIG_FILE;
use crate::recipe::Recipe;
use crate::recipe::plan::DEFAULT_RECIPE;
use crate::recipe::raw::{StageKind, Variant};
use crate::runtime::ranks::{Place, Ranks, launch};
use crate::scenario::Testbed;
use crate::stages::bodies::{Machine, Pipeline, REPORT_PAGE, pipeline};
use crate::stages::{RunOptions, run, select};

/// Which recipe, with what laid over it, and where its results go.
#[derive(Debug, Clone, Args)]
pub struct RecipeArgs {
    /// A recipe file, or the name of one that comes with the program.
    #[arg(default_value = DEFAULT_RECIPE)]
    recipe: String,
    /// Where results go [default: runs/RECIPE].
    #[arg(long)]
    run_dir: Option<PathBuf>,
    /// Lay a value over the recipe, for example --set dpo.optim.lr=1e-5; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    assignments: Vec<String>,
    /// Root seeds, in place of the recipe's.
    #[arg(long, value_name = "SEED,…", value_delimiter = ',')]
    seed: Vec<u64>,
    /// A model in place of the recipe's: folder, .gguf file, embedded name, or owner/name on the hub.
    #[arg(long)]
    model: Option<String>,
}

impl RecipeArgs {
    /// The recipe, and its run directory.
    pub(super) fn load(&self) -> anyhow::Result<(Recipe, PathBuf)> {
        let mut assignments = self.assignments.clone();
        if !self.seed.is_empty() {
            assignments.push(format!("seeds={:?}", self.seed));
        }
        let mut recipe = Recipe::load(&self.recipe, &assignments)?;
        if let Some(model) = &self.model {
            recipe.replace_models(absolute_if_there(model))?;
        }
        let root = self.run_dir.clone();
        let root = root.unwrap_or_else(|| Path::new("runs").join(&recipe.name));
        Ok((recipe, root))
    }

    /// The arguments again, for a command that is run in the same folder.
    pub(super) fn words(&self, root: &Path) -> Vec<String> {
        let mut words = vec![
            self.recipe.clone(),
            "--run-dir".into(),
            root.display().to_string(),
        ];
        for assignment in &self.assignments {
            words.extend(["--set".into(), assignment.clone()]);
        }
        if !self.seed.is_empty() {
            let seeds: Vec<String> = self.seed.iter().map(u64::to_string).collect();
            words.extend(["--seed".into(), seeds.join(",")]);
        }
        if let Some(model) = &self.model {
            words.extend(["--model".into(), model.clone()]);
        }
        words
    }
}

/// Options of `run` and its parts.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Only this stage and what it needs; may be given several times.
    #[arg(long, value_name = "STAGE")]
    only: Vec<String>,
    /// Say what would run and why; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// After a failure go on with the stages that do not depend on it.
    #[arg(long)]
    keep_going: bool,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
    /// Other processes make other stages in the same run directory; set in the jobs of `submit`.
    #[arg(long, hide = true)]
    beside: bool,
    /// Share the work among this many processes on this machine, each with a GPU of its own or a part of the cores.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    nproc: Option<u16>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Say nothing that is not wrong.
    #[arg(skip)]
    pub quiet: bool,
}

/// What `train` trains by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    /// Direct preference optimisation.
    Dpo,
    /// Group-relative policy optimisation.
    Grpo,
    /// GRPO, which begins with the adapter of DPO.
    DpoGrpo,
}

/// The stages that a command is about.
enum About<'a> {
    /// Those of these kinds; without any, what the recipe wants.
    Kinds(&'a [StageKind]),
    /// Those that train a variant, and where its adapter is copied to.
    Training {
        variant: Variant,
        out: Option<&'a Path>,
    },
}

impl About<'_> {
    fn is_all(&self) -> bool {
        matches!(self, Self::Kinds([]))
    }

    fn stages(&self, pipeline: &Pipeline) -> Vec<String> {
        match self {
            Self::Kinds(kinds) => {
                let of = kinds.iter().flat_map(|&kind| pipeline.of_kind(kind));
                of.collect()
            }
            Self::Training { variant, .. } => pipeline.training(*variant),
        }
    }

    /// One adapter is copied; these stages, which would run, train so many.
    fn check_out(&self, stages: &[&str]) -> anyhow::Result<()> {
        match self {
            Self::Training { out: Some(_), .. } if stages.len() > 1 => bail!(
                "--out takes one adapter, this recipe trains {}: {}; name one of them by --only, or leave --out away",
                stages.len(),
                stages.join(", ")
            ),
            _ => Ok(()),
        }
    }

    /// Why a recipe has none of them, and how it gets some.
    fn none_in(&self, recipe: &Recipe) -> anyhow::Error {
        // Of the other kinds, pairs alone can be left out: DPO reads them.
        let missing = match self {
            Self::Kinds(_) => Variant::Dpo,
            Self::Training { variant, .. } => *variant,
        };
        let variants = &recipe.settings.variants;
        let remedy = if variants.contains(&missing) {
            String::new()
        } else {
            let wanted = variants.iter().chain([&missing]);
            let names: Vec<&str> = wanted.map(|variant| variant.name()).collect();
            format!(": --set 'variants={names:?}'")
        };
        anyhow::anyhow!(
            "recipe `{}` has no such stage; its `variants` leave it out{remedy}",
            recipe.name
        )
    }
}

/// Options of `train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// How to train.
    #[arg(long)]
    method: Method,
    /// Peak learning rate.
    #[arg(long, allow_hyphen_values = true)]
    lr: Option<f64>,
    /// Passes over the data.
    #[arg(long)]
    epochs: Option<u64>,
    /// β: of DPO's loss, or weight of GRPO's KL penalty.
    #[arg(long, allow_hyphen_values = true)]
    beta: Option<f64>,
    /// Rank of the adapter.
    #[arg(long)]
    rank: Option<u32>,
    /// Completions a prompt (GRPO).
    #[arg(long)]
    group: Option<u64>,
    /// Copy the trained adapter (a PEFT folder) here.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    #[command(flatten)]
    pub run: RunArgs,
}

impl TrainArgs {
    /// Train.
    pub fn execute(mut self) -> anyhow::Result<()> {
        let (table, variant) = match self.method {
            Method::Dpo => ("dpo", Variant::Dpo),
            Method::Grpo => ("grpo", Variant::Grpo),
            Method::DpoGrpo => ("grpo", Variant::DpoGrpo),
        };
        if self.group.is_some() && self.method == Method::Dpo {
            bail!("--group is of GRPO; DPO has no groups");
        }
        let out = self.out.take();
        // Before hours of training, not after them.
        if let Some(out) = &out {
            check_target(out)?;
        }
        let given = [
            ("optim.lr", self.lr.map(|v| format!("{v:?}"))),
            ("epochs", self.epochs.map(|v| v.to_string())),
            ("beta", self.beta.map(|v| format!("{v:?}"))),
            ("lora.rank", self.rank.map(|v| v.to_string())),
            ("group", self.group.map(|v| v.to_string())),
        ];
        // A testbed's own table lies over the one at the top; what was typed lies over both.
        let given_recipe = &self.run.recipe;
        let recipe = Recipe::load(&given_recipe.recipe, &given_recipe.assignments)?;
        let own = |testbed: &&Testbed| {
            let (all, here) = (&recipe.settings, recipe.of(**testbed));
            all.dpo != here.dpo || all.grpo != here.grpo
        };
        let beds: Vec<&Testbed> = recipe.settings.testbeds.iter().filter(own).collect();
        for (key, value) in given {
            let Some(value) = value else { continue };
            // Where one adapter is trained by both methods, both say its shape.
            let both = key == "lora.rank" && recipe.settings.variants.contains(&Variant::DpoGrpo);
            let tables = if both {
                vec!["dpo", "grpo"]
            } else {
                vec![table]
            };
            for table in tables {
                let own = beds.iter().map(|bed| format!("{}.{table}", bed.key()));
                let places = [table.to_owned()].into_iter().chain(own);
                let assignments = places.map(|place| format!("{place}.{key}={value}"));
                self.run.recipe.assignments.extend(assignments);
            }
        }
        let out = out.as_deref();
        self.run.run_stages(&About::Training { variant, out })?;
        Ok(())
    }
}

/// Options of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Show the page in the browser.
    #[arg(long, conflicts_with = "dry_run")]
    open: bool,
    #[command(flatten)]
    pub run: RunArgs,
}

impl ReportArgs {
    /// Write the report.
    pub fn execute(self) -> anyhow::Result<()> {
        let folders = self.run.run_stages(&About::Kinds(&[StageKind::Report]))?;
        match (self.open, folders.first()) {
            (true, Some(folder)) => super::open::show(&folder.join(REPORT_PAGE)),
            _ => Ok(()),
        }
    }
}

/// Only an adapter is written over.
fn check_target(to: &Path) -> anyhow::Result<()> {
    if is_taken(to) && !to.join(CONFIG_FILE).is_file() {
        bail!(
            "{}: expected nothing there, an empty folder or an adapter to replace; remove it, or name another one",
            to.display()
        );
    }
    Ok(())
}

/// Where the adapters of these stages are; the only one is copied to `out`.
fn adapters(folders: &[PathBuf], out: Option<&Path>) -> anyhow::Result<Vec<PathBuf>> {
    let made: Vec<PathBuf> = folders.iter().map(|f| f.join("adapter")).collect();
    match (out, &made[..]) {
        (None, _) | (_, []) => Ok(made),
        (Some(out), [adapter]) => {
            copy_folder(adapter, out)?;
            Ok(vec![out.to_path_buf()])
        }
        (Some(_), several) => bail!("--out takes one adapter, {} were trained", several.len()),
    }
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    let list = || -> std::io::Result<Vec<PathBuf>> {
        std::fs::read_dir(from)?.map(|e| Ok(e?.path())).collect()
    };
    let mut files = list().map_err(ArtifactError::io("list folder", from))?;
    // First what the folder is known by: a copy that was cut short may be made again.
    files.sort_by_key(|path| !path.ends_with(CONFIG_FILE));
    create_folder(to)?;
    for path in files {
        let bytes = std::fs::read(&path).map_err(ArtifactError::io("read", &path))?;
        write_atomic(&to.join(path.file_name().unwrap_or_default()), &bytes)?;
    }
    Ok(())
}

impl RunArgs {
    /// Run the recipe, or its stages of these kinds and what they need.
    pub fn execute(self, kinds: &[StageKind]) -> anyhow::Result<()> {
        self.run_stages(&About::Kinds(kinds)).map(|_| ())
    }

    /// As [`Self::execute`], of what the command is about; gives the folders of those stages.
    fn run_stages(mut self, about: &About) -> anyhow::Result<Vec<PathBuf>> {
        let place = match (Place::from_environment()?, self.nproc) {
            _ if self.dry_run => None,
            // A rank already, or one that the processes below it are not.
            (place, None | Some(1)) => place,
            (Some(place), Some(_)) if launch::is_launched() => Some(place),
            (_, Some(size)) => {
                return launch::run(size.into())
                    .map(|()| vec![])
                    .map_err(Into::into);
            }
        };
        let ranks = match place {
            Some(place) => {
                self.device.share(&place)?;
                Ranks::connect(place)?
            }
            None => Ranks::alone(),
        };
        let result = self.run_ranks(about, &ranks);
        ranks.conclude(result)
    }

    /// As [`Self::run_stages`], as one of the ranks.
    fn run_ranks(self, about: &About, ranks: &Ranks) -> anyhow::Result<Vec<PathBuf>> {
        let (recipe, root) = self.recipe.load()?;
        let machine = Machine::new(self.device.open()?, ranks.clone());
        let pipeline = pipeline(&recipe, &machine, !self.dry_run)?;
        let asked = about.stages(&pipeline);
        if !about.is_all() && asked.is_empty() {
            return Err(about.none_in(&recipe));
        }
        let only = match (self.only.is_empty(), asked.is_empty()) {
            (false, _) => Some(self.only),
            (true, false) => Some(asked.clone()),
            (true, true) => pipeline.wanted,
        };
        let selected = select(&pipeline.stages, only.as_deref())?;
        let runs = |name: &&String| {
            let mut stages = pipeline.stages.iter().zip(&selected);
            stages.any(|(stage, runs)| *runs && stage.name() == **name)
        };
        let trained: Vec<&str> = asked.iter().filter(runs).map(String::as_str).collect();
        about.check_out(&trained)?;
        let options = RunOptions {
            dry_run: self.dry_run,
            only,
            keep_going: self.keep_going,
            beside: self.beside,
            ranks: ranks.clone(),
        };
        let mut done = run(&root, &pipeline.stages, &options);
        if !ranks.is_first() {
            return done.result.map(|()| vec![]);
        }
        if self.dry_run {
            done.summary.tell_needs(pipeline.memory, free_space(&root));
        }
        let folders: Vec<PathBuf> = asked
            .iter()
            .filter_map(|name| done.summary.stage(name)?.folder.clone())
            .collect();
        let adapters = match about {
            About::Training { out, .. } if done.result.is_ok() && !self.dry_run => {
                adapters(&folders, *out)
            }
            _ => Ok(vec![]),
        };
        if let Ok([adapter]) = adapters.as_deref() {
            done.summary.adapter = Some(adapter.clone());
        }
        if self.json {
            tell!("{}", serde_json::to_string_pretty(&done.summary)?);
        } else if !self.quiet && !done.summary.stages.is_empty() {
            tell!("{}", done.summary);
        }
        done.result?;
        for adapter in adapters? {
            if !self.json && !self.quiet {
                tell!("adapter: {}", adapter.display());
            }
        }
        Ok(folders)
    }
}

/// A path typed at the command line is relative to the current folder, not to the recipe.
fn absolute_if_there(model: &str) -> String {
    let path = Path::new(model);
    if path.exists() {
        std::path::absolute(path).map_or_else(|_| model.to_owned(), |p| p.display().to_string())
    } else {
        model.to_owned()
    }
}
