//! `data`: look into a table, or write it for other tools.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::agent::ModelSpec;
use crate::agent::model::text_codec;
use crate::artifact::table::any::{AnyTable, read_any};
use crate::artifact::table::encode_parquet;
use crate::artifact::write_atomic;
use crate::datasets::export::{
    dataset_info, json_lines, llama_factory_pairs, trl_pairs, trl_problems, trl_prompts,
};
use crate::datasets::games::GAMES_SCHEMA;
use crate::datasets::inspect::{self, Inspection, Unit};
use crate::datasets::pairs::PAIRS_SCHEMA;
use crate::datasets::problems::PROBLEMS_SCHEMA;
use crate::datasets::questions::QUESTIONS_SCHEMA;
use crate::datasets::{SCHEMA_KEY, games, pairs, problems, questions};
use crate::evaluation;
use crate::evaluation::rounds::read_rows;
use crate::scenario::prompt::AnswerStyle;
use crate::stages::evaluations::Evaluated;

/// Options of `data`.
#[derive(Debug, Args)]
pub struct DataArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print a table's columns, counts, balance, repeats, near-duplicates and lengths.
    Inspect {
        /// A Parquet file.
        file: PathBuf,
        /// Count lengths in tokens of this model: folder, .gguf file, embedded name, or owner/name on the hub. Words
        /// without it.
        #[arg(long)]
        model: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write questions or preference pairs in the layout of another trainer, or evaluation rows for another viewer.
    Export {
        /// A Parquet file that `generate` or `pairs` left; with --format inspect one that `evaluate` left; with --format
        /// jsonl, any.
        file: PathBuf,
        /// The layout.
        #[arg(long, value_enum)]
        format: Format,
        /// Where to write it. Its ending says how: .jsonl or .parquet for trl, .json or .jsonl for llama-factory (whose
        /// dataset_info.json beside it gets an entry), .jsonl for jsonl, .json for inspect.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// How the prompts of questions ask for the answer: reasoned, or direct as with elicitation `score`.
        #[arg(long, value_enum, default_value_t = Style::Reasoned)]
        style: Style,
        /// Print JSON: the files that were written and how many rows each has.
        #[arg(long)]
        json: bool,
    },
}

/// Layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// TRL: conversational preference pairs, or prompts for GRPO.
    Trl,
    /// LLaMA-Factory: sharegpt ranking pairs.
    LlamaFactory,
    /// The rows as they are, a JSON object a line.
    Jsonl,
    /// inspect_ai: evaluation rows, where a run left them, as a log for its viewer.
    Inspect,
}

/// [`AnswerStyle`] as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Style {
    /// Think first, then the JSON.
    Reasoned,
    /// The JSON alone.
    Direct,
}

/// What a table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Questions,
    Games,
    Problems,
    Pairs,
    Rows,
    Other,
}

impl Kind {
    fn of(table: &AnyTable) -> Self {
        let has = |name: &str| table.columns.iter().any(|column| column.name == name);
        match table.metadata.get(SCHEMA_KEY).map(String::as_str) {
            Some(QUESTIONS_SCHEMA) => Self::Questions,
            Some(GAMES_SCHEMA) => Self::Games,
            Some(PROBLEMS_SCHEMA) => Self::Problems,
            Some(PAIRS_SCHEMA) => Self::Pairs,
            _ if ["variant", "round", "question_id", "outcome"]
                .into_iter()
                .all(has) =>
            {
                Self::Rows
            }
            _ => Self::Other,
        }
    }
}

impl DataArgs {
    /// Do it.
    pub fn execute(self) -> anyhow::Result<()> {
        match self.what {
            What::Inspect { file, model, json } => {
                let found = inspect_file(&file, model.as_deref())?;
                match json {
                    true => tell!("{}", serde_json::to_string_pretty(&found)?),
                    false => tell!("{}", found.to_string().trim_end()),
                }
                Ok(())
            }
            What::Export {
                file,
                format,
                out,
                style,
                json,
            } => {
                let written = export(&file, format, &out, style)?;
                match json {
                    true => tell!("{}", serde_json::to_string_pretty(&written)?),
                    false => written.iter().for_each(|written| tell!("{written}")),
                }
                Ok(())
            }
        }
    }
}

fn inspect_file(file: &Path, model: Option<&str>) -> anyhow::Result<Inspection> {
    let table = read_any(file)?;
    let codec = match model {
        Some(model) => {
            let path = ModelSpec::new(model).resolve(Path::new("."), true)?;
            Some(text_codec(&path)?)
        }
        None => None,
    };
    let unit = codec.as_ref().map_or(Unit::Words, Unit::Tokens);
    let (kind, sections) = match Kind::of(&table) {
        Kind::Questions => (
            "questions",
            inspect::questions(&questions::read(file)?, unit)?,
        ),
        Kind::Games => ("games", inspect::games(&games::read(file)?, unit)?),
        Kind::Problems => ("problems", inspect::problems(&problems::read(file)?, unit)?),
        Kind::Pairs => (
            "preference pairs",
            inspect::pairs(&pairs::read(file)?, unit)?,
        ),
        Kind::Rows => match read_rows(file) {
            Ok(rows) => ("evaluation rows", evaluation::inspect::rows(&rows)),
            Err(problem) => {
                tracing::warn!("not this version's evaluation rows: {problem}");
                ("table", vec![])
            }
        },
        Kind::Other => ("table", vec![]),
    };
    Ok(Inspection {
        kind,
        rows: table.rows.len(),
        metadata: table.metadata,
        columns: table.columns,
        sections,
    })
}

/// A file that an export wrote.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Written {
    /// A table.
    Rows { file: PathBuf, rows: usize },
    /// A log of inspect_ai.
    Log { file: PathBuf, samples: usize },
    /// LLaMA-Factory's list of sets.
    Entry { file: PathBuf, entry: String },
}

impl std::fmt::Display for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rows { file, rows } => write!(f, "{}: {rows} rows", file.display()),
            Self::Log { file, samples } => write!(f, "{}: {samples} samples", file.display()),
            Self::Entry { file, entry } => write!(f, "{}: entry `{entry}`", file.display()),
        }
    }
}

/// The ending of a file's name.
fn ending(path: &Path) -> &str {
    path.extension().and_then(|e| e.to_str()).unwrap_or("")
}

fn export(file: &Path, format: Format, out: &Path, style: Style) -> anyhow::Result<Vec<Written>> {
    let endings: &[&str] = match format {
        Format::Trl => &["jsonl", "parquet"],
        Format::LlamaFactory => &["json", "jsonl"],
        Format::Jsonl => &["jsonl"],
        Format::Inspect => &["json"],
    };
    if !endings.contains(&ending(out)) {
        let name = format.to_possible_value();
        bail!(
            "--out: expected a file that ends in .{} for {}, got `{}`",
            endings.join(" or ."),
            name.map_or(String::new(), |n| n.get_name().to_owned()),
            out.display()
        );
    }
    let folder = out.parent().filter(|f| !f.as_os_str().is_empty());
    if folder.is_some_and(|folder| !folder.is_dir()) {
        bail!("{}: the folder to write it to is not there", out.display());
    }
    if std::fs::canonicalize(file)
        .is_ok_and(|file| std::fs::canonicalize(out).is_ok_and(|out| out == file))
    {
        bail!("--out: that is the table itself, `{}`", file.display());
    }
    let table = read_any(file)?;
    let style = match style {
        Style::Reasoned => AnswerStyle::Reasoned,
        Style::Direct => AnswerStyle::Direct,
    };
    let mut written = vec![];
    let bytes = match (format, Kind::of(&table)) {
        (Format::Jsonl, _) => json_lines(&table.rows)?,
        (Format::Inspect, _) => return Ok(vec![export_log(file, out)?]),
        (Format::Trl, Kind::Pairs) => encoded(&trl_pairs(&pairs::read(file)?), out)?,
        (Format::Trl, Kind::Questions) => {
            encoded(&trl_prompts(&questions::read(file)?, style), out)?
        }
        (Format::Trl, Kind::Games) => encoded(&trl_prompts(&games::read(file)?, style), out)?,
        (Format::Trl, Kind::Problems) => encoded(&trl_problems(&problems::read(file)?), out)?,
        (Format::LlamaFactory, Kind::Pairs) => {
            let pairs = llama_factory_pairs(&pairs::read(file)?);
            // Before the set itself: an entry that cannot be written leaves nothing behind.
            written.push(write_dataset_info(out)?);
            match ending(out) {
                "json" => format!("{}\n", serde_json::to_string_pretty(&pairs)?).into_bytes(),
                _ => json_lines(&pairs)?,
            }
        }
        (Format::LlamaFactory, Kind::Questions | Kind::Games | Kind::Problems) => bail!(
            "{}: LLaMA-Factory has no layout for prompts alone; export preference pairs, or questions with --format trl",
            file.display()
        ),
        (_, Kind::Rows | Kind::Other) => bail!(
            "{}: expected questions or preference pairs (metadata `{SCHEMA_KEY}` of `{QUESTIONS_SCHEMA}` or \
             `{PAIRS_SCHEMA}`), got another table; --format jsonl writes any",
            file.display()
        ),
    };
    write_atomic(out, &bytes)?;
    written.push(Written::Rows {
        file: out.to_path_buf(),
        rows: table.rows.len(),
    });
    Ok(written)
}

/// A log needs more than rows: what was evaluated, from the manifest beside them, and the questions, from the run.
fn export_log(file: &Path, out: &Path) -> anyhow::Result<Written> {
    let folder = file
        .canonicalize()
        .with_context(|| format!("cannot read `{}`", file.display()))?;
    let (folder, run) = match (folder.parent(), folder.ancestors().nth(3)) {
        (Some(folder), Some(run)) => (folder, run),
        _ => bail!("{}: expected rows in a run directory", file.display()),
    };
    let Some(evaluated) = Evaluated::load(folder)? else {
        bail!(
            "{}: expected evaluation rows where a run left them, as `runs/laptop/latest/evaluate-base/rows.parquet`; \
             there is no manifest of a finished evaluation beside this file",
            file.display()
        );
    };
    let log = evaluated.inspect_ai(run)?;
    write_atomic(out, &serde_json::to_vec(&log)?)?;
    let samples = log["samples"].as_array().map_or(0, Vec::len);
    Ok(Written::Log {
        file: out.to_path_buf(),
        samples,
    })
}

/// Rows as the file's ending says.
fn encoded<T: Serialize + DeserializeOwned>(rows: &[T], out: &Path) -> anyhow::Result<Vec<u8>> {
    Ok(match ending(out) {
        "parquet" => encode_parquet(rows)?,
        _ => json_lines(rows)?,
    })
}

/// LLaMA-Factory finds sets by their entry in `dataset_info.json` in the same folder.
fn write_dataset_info(out: &Path) -> anyhow::Result<Written> {
    let path = out.with_file_name("dataset_info.json");
    let (name, file) = (out.file_stem(), out.file_name());
    let text =
        |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    if out == path {
        bail!("--out: `dataset_info.json` is LLaMA-Factory's list of sets; choose another name");
    }
    let existing = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).context(format!("cannot read `{}`", path.display())),
    };
    let info = dataset_info(existing.as_deref(), &text(name), &text(file))
        .map_err(|problem| anyhow::anyhow!("{}: {problem}", path.display()))?;
    write_atomic(&path, info.as_bytes())?;
    Ok(Written::Entry {
        file: path,
        entry: text(name),
    })
}
