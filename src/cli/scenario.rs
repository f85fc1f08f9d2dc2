//! `scenario`: check scenario files, show one with sample prompts, begin a new one, list those that are built in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use crate::artifact::write_atomic;
use crate::recipe::defences::defence_of;
use crate::recipe::nearest;
use crate::runtime::message::as_text;
use crate::scenario::defence::Defence;
use crate::scenario::kind::{KINDS, ScenarioKind, ScenarioSheet, ShowOptions, named, recognise};
use crate::scenario::question::AnswerForm;
use crate::text::Speaker;

/// Options of `scenario`.
#[derive(Debug, Args)]
pub struct ScenarioArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Check scenario files; exits with an error if anything is wrong with one.
    Check {
        /// Files, or folders with .toml files in them or below; the built-in ones if none is given.
        paths: Vec<PathBuf>,
        /// Print JSON: what is in each file, and what is wrong.
        #[arg(long)]
        json: bool,
    },
    /// Print a scenario, and prompts drawn from it: one for training, one for the test.
    Show {
        /// A scenario file, or the name of a built-in one.
        scenario: String,
        /// Only the prompts.
        #[arg(long)]
        prompt: bool,
        /// Print JSON: the scenario as data, the prompts as messages.
        #[arg(long, conflicts_with = "prompt")]
        json: bool,
        /// Root of the random streams that the prompts are drawn from.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// What an answer holds: letter or name.
        #[arg(long, default_value = "letter", value_parser = answer_form)]
        answer: AnswerForm,
        /// Also the test prompt after simulated rounds under a defence: a built-in one, or measures as in
        /// '{ window = 2, redaction = "mask" }'.
        #[arg(long, value_parser = defence)]
        defence: Option<Defence>,
    },
    /// Write a commented scenario file to begin with, valid as it is.
    New {
        /// Its name: lower-case letters, digits, hyphens.
        name: String,
        /// Its kind: role-play or coordination.
        #[arg(long, default_value = "role-play")]
        kind: String,
        /// Where to write it: a folder, or a file called NAME.toml [default: NAME.toml].
        #[arg(long, value_name = "PATH")]
        out: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the built-in scenarios.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

fn answer_form(text: &str) -> Result<AnswerForm, String> {
    match text {
        "letter" => Ok(AnswerForm::Letter),
        "name" => Ok(AnswerForm::Name),
        other => Err(format!("expected letter or name, got `{other}`")),
    }
}

fn defence(text: &str) -> Result<Defence, String> {
    defence_of(text).map_err(|error| error.to_string())
}

impl ScenarioArgs {
    /// Do it.
    pub fn execute(self) -> anyhow::Result<()> {
        match self.what {
            What::Check { paths, json } => check(&paths, json),
            What::Show {
                scenario,
                prompt,
                json,
                seed,
                answer,
                defence,
            } => {
                let options = ShowOptions {
                    seed,
                    answer,
                    defence,
                };
                let sheet = sheet(&scenario, &options)?;
                match (json, prompt) {
                    (true, _) => tell!("{}", serde_json::to_string_pretty(&sheet)?),
                    (false, only_prompts) => print_sheet(&sheet, only_prompts),
                }
                Ok(())
            }
            What::New {
                name,
                kind,
                out,
                json,
            } => new(&name, &kind, out, json),
            What::List { json } => list(json),
        }
    }
}

/// A scenario's text under the path that messages name.
type Source = (PathBuf, String);

/// What a check found, a line or an object each.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Finding {
    /// A file, or a folder of several of one kind, in which nothing is wrong.
    Valid {
        #[serde(serialize_with = "as_text")]
        path: PathBuf,
        kind: &'static str,
        /// How many files; one for a file.
        files: usize,
        valid: bool,
        content: String,
    },
    /// What is wrong, with its place.
    Problem { problem: String },
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Problem { problem } => f.write_str(problem),
            Self::Valid {
                path,
                kind,
                files: 1,
                content,
                ..
            } => write!(f, "{}: {kind}, {content}", path.display()),
            Self::Valid {
                path,
                kind,
                files,
                content,
                ..
            } => write!(f, "{}: {files} {kind}s together: {content}", path.display()),
        }
    }
}

fn check(paths: &[PathBuf], json: bool) -> anyhow::Result<()> {
    let sources = match paths {
        [] => KINDS.iter().flat_map(|kind| built_in(*kind)).collect(),
        paths => {
            let mut sources = vec![];
            for path in paths {
                sources.extend(gather(path)?);
            }
            sources
        }
    };
    let found = findings(&sources);
    match json {
        true => tell!("{}", serde_json::to_string_pretty(&found)?),
        false => found.iter().for_each(|finding| tell!("{finding}")),
    }
    let wrong = |finding: &&Finding| matches!(finding, Finding::Problem { .. });
    match found.iter().filter(wrong).count() {
        0 => Ok(()),
        1 => bail!("1 problem found"),
        problems => bail!("{problems} problems found"),
    }
}

fn findings(sources: &[Source]) -> Vec<Finding> {
    // Valid files of one folder and kind are one set: what a recipe's `folder` would name.
    let mut sets: BTreeMap<(PathBuf, &str), Vec<&Source>> = BTreeMap::new();
    let mut all = vec![];
    let problem = |problem| Finding::Problem { problem };
    for source in sources {
        let (path, text) = source;
        let checked = recognise(path, text).and_then(|kind| Ok((kind, kind.check(path, text)?)));
        match checked {
            Ok((kind, content)) => {
                let folder = path.parent().unwrap_or(Path::new("")).to_owned();
                sets.entry((folder, kind.name())).or_default().push(source);
                all.push(Finding::Valid {
                    path: path.clone(),
                    kind: kind.noun(),
                    files: 1,
                    valid: true,
                    content,
                });
            }
            Err(found) => all.extend(found.into_iter().map(problem)),
        }
    }
    for ((folder, kind), files) in &sets {
        let Some(kind) = named(kind).filter(|_| files.len() > 1) else {
            continue;
        };
        let texts: Vec<(&Path, &str)> = files
            .iter()
            .map(|(p, t)| (p.as_path(), t.as_str()))
            .collect();
        let folder = match folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => folder,
        };
        all.push(match kind.check_set(&texts) {
            Ok(content) => Finding::Valid {
                path: folder.to_owned(),
                kind: kind.noun(),
                files: files.len(),
                valid: true,
                content,
            },
            Err(found) => problem(format!("{}: {found}", folder.display())),
        });
    }
    all
}

/// The scenarios of a kind that are part of the program.
fn built_in(kind: &dyn ScenarioKind) -> Vec<Source> {
    let folder = PathBuf::from("data").join(kind.name().replace('-', "_"));
    kind.embedded()
        .iter()
        .map(|(name, text)| (folder.join(format!("{name}.toml")), (*text).to_owned()))
        .collect()
}

/// A file, or the TOML files in a folder and below, sorted.
fn gather(path: &Path) -> anyhow::Result<Vec<Source>> {
    let cannot = || format!("cannot read `{}`", path.display());
    if !path.is_dir() {
        return Ok(vec![(
            path.to_owned(),
            std::fs::read_to_string(path).with_context(cannot)?,
        )]);
    }
    let mut inside = vec![];
    for entry in std::fs::read_dir(path).with_context(cannot)? {
        inside.push(entry.with_context(cannot)?.path());
    }
    inside.sort();
    let mut sources = vec![];
    for inner in inside {
        if inner.is_dir() {
            // A folder without scenarios is nothing wrong below another one.
            sources.extend(gather(&inner).unwrap_or_default());
        } else if inner.extension().is_some_and(|e| e == "toml") {
            sources.extend(gather(&inner)?);
        }
    }
    if sources.is_empty() {
        bail!("no .toml file in `{}`", path.display());
    }
    Ok(sources)
}

fn sheet(scenario: &str, options: &ShowOptions) -> anyhow::Result<ScenarioSheet> {
    let path = Path::new(scenario);
    let all: Vec<Source> = KINDS.iter().flat_map(|kind| built_in(*kind)).collect();
    let stem = |source: &Source| {
        let stem = source.0.file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    };
    let (path, text) = if path.is_file() {
        gather(path)?.remove(0)
    } else if path.is_dir() {
        bail!("`{scenario}` is a folder; name one of its files");
    } else if let Some(source) = all.iter().find(|source| stem(source) == scenario) {
        source.clone()
    } else {
        let names: Vec<String> = all.iter().map(stem).collect();
        let help = nearest(scenario, &names).map_or_else(
            || format!("; it is no file, and the program has {}", names.join(", ")),
            |near| format!("; did you mean `{near}`?"),
        );
        bail!("there is no scenario `{scenario}`{help}");
    };
    let wrong = |found: Vec<String>| {
        let more = match found.len() {
            1 => String::new(),
            n => format!(" (and {} more: `scenario check` lists them)", n - 1),
        };
        anyhow::anyhow!("{}{more}", found[0])
    };
    let kind = recognise(&path, &text).map_err(wrong)?;
    kind.show(&path, &text, options).map_err(wrong)
}

fn print_sheet(sheet: &ScenarioSheet, only_prompts: bool) {
    if !only_prompts {
        tell!("{}: {} ({})\n", sheet.id, sheet.title, sheet.kind);
        for (label, text) in &sheet.lines {
            tell!("{label:13} {text}");
        }
    }
    for (i, prompt) in sheet.prompts.iter().enumerate() {
        if i > 0 || !only_prompts {
            tell!("");
        }
        tell!("--- {} ---", prompt.id);
        for message in &prompt.messages {
            let who = match message.role {
                Speaker::System => "system",
                Speaker::User => "user",
                Speaker::Assistant => "assistant",
                Speaker::Tool => "tool",
            };
            tell!("[{who}]\n{}", message.content);
        }
    }
}

fn new(name: &str, kind: &str, out: Option<PathBuf>, json: bool) -> anyhow::Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || !name.chars().all(plain) {
        bail!("NAME: expected lower-case letters, digits and hyphens, got `{name}`");
    }
    let Some(kind) = named(kind) else {
        let kinds: Vec<&str> = KINDS.iter().map(|kind| kind.name()).collect();
        let near = nearest(kind, &kinds);
        let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        bail!(
            "--kind: expected {}, got `{kind}`{hint}",
            kinds.join(" or ")
        );
    };
    let file = format!("{name}.toml");
    let path = match out {
        None => PathBuf::from(&file),
        Some(folder) if folder.is_dir() => folder.join(&file),
        Some(path) if path.file_name().is_some_and(|f| f == file.as_str()) => path,
        Some(path) => bail!(
            "--out: expected a folder or a file called `{file}`, as a scenario has its file's name; got `{}`",
            path.display()
        ),
    };
    if path.exists() {
        bail!("`{}` is there already; it is left as it is", path.display());
    }
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        bail!("--out: there is no folder `{}`", folder.display());
    }
    write_atomic(&path, kind.skeleton(name).as_bytes())?;
    if json {
        tell!("{}", json!({"path": path, "kind": kind.name()}));
        return Ok(());
    }
    tell!("{}: a {} to begin with", path.display(), kind.noun());
    tell!(
        "check it with `atp-pipeline scenario check {}`",
        path.display()
    );
    Ok(())
}

fn list(json: bool) -> anyhow::Result<()> {
    let options = ShowOptions {
        seed: 1,
        answer: AnswerForm::default(),
        defence: None,
    };
    let mut all = vec![];
    for kind in KINDS {
        for (path, text) in built_in(*kind) {
            // Built-in scenarios are valid: a test holds it.
            let title = kind.show(&path, &text, &options).map(|sheet| sheet.title);
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            all.push((name.into_owned(), kind.name(), title.unwrap_or_default()));
        }
    }
    if json {
        let object = |(name, kind, title)| json!({"name": name, "kind": kind, "title": title});
        let all: Vec<_> = all.into_iter().map(object).collect();
        tell!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        for (name, kind, title) in all {
            tell!("{name:20} {kind:14} {title}");
        }
    }
    Ok(())
}
