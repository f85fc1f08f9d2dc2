//! `recipe`: begin one, check it, show every value and where it comes from, list those that are built in.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::artifact::write_atomic;
use crate::recipe::explain::explain;
use crate::recipe::plan::DEFAULT_RECIPE;
use crate::recipe::{Recipe, RecipeError};
use crate::runtime::embedded::RECIPES;

/// Options of `recipe`.
#[derive(Debug, Args)]
pub struct RecipeArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Write a commented recipe to begin with, valid as it is: it lies over one that is built in.
    Init {
        /// Its file, for example mine.toml.
        path: PathBuf,
        /// The built-in recipe below it.
        #[arg(long, default_value = DEFAULT_RECIPE)]
        from: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Check recipes; exits with an error if anything is wrong with one.
    Check {
        /// Files, or names of built-in ones; all built-in ones if none is given.
        recipes: Vec<String>,
        /// Lay a value over each, as `run --set` does; may be given several times.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        assignments: Vec<String>,
        /// Print JSON: for each whether it is valid, and if not, what is wrong where.
        #[arg(long)]
        json: bool,
    },
    /// Print every value of a recipe and where it comes from: a file and its line, --set, or the program's own default.
    Explain {
        /// A recipe file, or the name of one that comes with the program.
        #[arg(default_value = DEFAULT_RECIPE)]
        recipe: String,
        /// Only keys that begin so, for example `dpo`.
        keys: Vec<String>,
        /// Lay a value over the recipe; may be given several times.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        assignments: Vec<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the built-in recipes.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

impl RecipeArgs {
    /// Do it.
    pub fn execute(self) -> anyhow::Result<()> {
        match self.what {
            What::Init { path, from, json } => init(&path, &from, json),
            What::Check {
                recipes,
                assignments,
                json,
            } => check(recipes, &assignments, json),
            What::Explain {
                recipe,
                keys,
                assignments,
                json,
            } => show(&recipe, &keys, &assignments, json),
            What::List { json } => list(json),
        }
    }
}

fn init(path: &Path, from: &str, json: bool) -> anyhow::Result<()> {
    if path.extension().is_none_or(|ending| ending != "toml") {
        bail!(
            "expected a file that ends in .toml, got `{}`",
            path.display()
        );
    }
    if path.exists() {
        bail!("`{}` is there already; it is left as it is", path.display());
    }
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        bail!("there is no folder `{}`", folder.display());
    }
    if !RECIPES.iter().any(|(name, _)| *name == from) {
        let known: Vec<&str> = RECIPES.iter().map(|(name, _)| *name).collect();
        bail!("--from: expected one of {}, got `{from}`", known.join(", "));
    }
    let below = Recipe::load(from, &[])?;
    let model = below
        .settings
        .models
        .keys()
        .next()
        .map_or("mine", String::as_str);
    let shown = path.display();
    let text = format!(
        "# Lies over the built-in recipe `{from}`: what is not here is as it is there. Every value and where it comes from:\n\
         #     atp-pipeline recipe explain {shown}\n\
         extends = \"{from}\"\n\
         title = \"{}\"\n\
         # One replication for each.\n\
         seeds = [1]\n\
         \n\
         # Another model: a folder, a .gguf file, or owner/name on the hub.\n\
         # [models.{model}]\n\
         # source = \"Qwen/Qwen3-0.6B\"\n\
         \n\
         # [dpo.optim]\n\
         # lr = 5e-6\n\
         \n\
         # [grpo]\n\
         # group = 4\n\
         \n\
         # [evaluation]\n\
         # rounds = 6\n",
        path.file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .replace(['"', '\\'], "")
    );
    write_atomic(path, text.as_bytes())?;
    if json {
        tell!("{}", json!({"path": path, "from": from}));
        return Ok(());
    }
    tell!("{shown}: a recipe to begin with");
    tell!("what it would do: `atp-pipeline run {shown} --dry-run`");
    Ok(())
}

fn check(recipes: Vec<String>, assignments: &[String], json: bool) -> anyhow::Result<()> {
    let recipes = match recipes.is_empty() {
        true => RECIPES.iter().map(|(name, _)| (*name).to_owned()).collect(),
        false => recipes,
    };
    let mut wrong = 0;
    let mut all = vec![];
    for recipe in &recipes {
        let found = Recipe::load(recipe, assignments);
        wrong += usize::from(found.is_err());
        match (&found, json) {
            (Ok(_), true) => all.push(json!({"recipe": recipe, "valid": true})),
            (Err(error), true) => {
                all.push(json!({"recipe": recipe, "valid": false, "error": described(error)}));
            }
            (Ok(found), false) => tell!("{recipe}: valid, {}", outline(found)),
            (Err(error), false) => tell!("{error}"),
        }
    }
    if json {
        tell!("{}", serde_json::to_string_pretty(&all)?);
    }
    match wrong {
        0 => Ok(()),
        1 if recipes.len() == 1 => bail!("the recipe cannot be used"),
        wrong => bail!("{wrong} of {} recipes cannot be used", recipes.len()),
    }
}

/// What a valid recipe is about, in a few words.
fn outline(recipe: &Recipe) -> String {
    let settings = &recipe.settings;
    let list = |names: Vec<&str>| names.join(", ");
    format!(
        "{}; models {}; variants {}; {} seed{}",
        list(settings.testbeds.iter().map(|t| t.key()).collect()),
        list(settings.models.keys().map(String::as_str).collect()),
        list(settings.variants.iter().map(|v| v.name()).collect()),
        settings.seeds.len(),
        if settings.seeds.len() == 1 { "" } else { "s" }
    )
}

/// An error as data, with its place where it has one.
fn described(error: &RecipeError) -> Value {
    match error {
        RecipeError::Invalid(invalid) => json!({
            "file": invalid.source, "line": invalid.line, "column": invalid.column,
            "message": invalid.message, "help": invalid.help,
        }),
        other => json!({"message": other.to_string()}),
    }
}

fn show(recipe: &str, keys: &[String], assignments: &[String], json: bool) -> anyhow::Result<()> {
    let mut settings = explain(recipe, assignments)?;
    let within = |key: &str, prefix: &str| {
        let rest = key.strip_prefix(prefix.trim_end_matches('.'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    if let Some(lost) = keys
        .iter()
        .find(|prefix| !settings.iter().any(|setting| within(&setting.key, prefix)))
    {
        let mut known: Vec<&str> = settings
            .iter()
            .flat_map(|setting| {
                let ends = setting.key.match_indices('.').map(|(at, _)| at);
                ends.chain([setting.key.len()])
                    .map(|end| &setting.key[..end])
            })
            .collect();
        known.sort_unstable();
        known.dedup();
        let near = crate::recipe::nearest(lost, &known);
        let help = near.map_or(String::new(), |near| format!(", did you mean `{near}`?"));
        bail!("the recipe has no key `{lost}`{help}");
    }
    settings.retain(|setting| {
        keys.is_empty() || keys.iter().any(|prefix| within(&setting.key, prefix))
    });
    if json {
        tell!("{}", serde_json::to_string_pretty(&settings)?);
        return Ok(());
    }
    let lines: Vec<String> = settings
        .iter()
        .map(|setting| format!("{} = {}", setting.key, setting.value))
        .collect();
    // A few long lists shall not push all places to the right.
    let width = lines
        .iter()
        .map(|line| line.chars().count())
        .filter(|n| *n <= 60)
        .max();
    let width = width.unwrap_or(0);
    for (line, setting) in lines.iter().zip(&settings) {
        tell!("{line:width$}  # {}", setting.origin);
    }
    Ok(())
}

fn list(json: bool) -> anyhow::Result<()> {
    let mut all = vec![];
    for (name, _) in RECIPES {
        let recipe = Recipe::load(name, &[])?;
        all.push((*name, recipe.settings.title.clone(), outline(&recipe)));
    }
    if json {
        let object =
            |(name, title, outline)| json!({"name": name, "title": title, "outline": outline});
        let all: Vec<_> = all.into_iter().map(object).collect();
        tell!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        for (name, _, outline) in all {
            tell!("{name:22} {outline}");
        }
    }
    Ok(())
}
