//! What is wrong with a recipe, and where.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// A recipe that cannot be read or used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// A file that cannot be read.
    #[error("cannot read the recipe `{}`{}: {source}", path.display(), extended_by(by))]
    Read {
        /// The file.
        path: PathBuf,
        /// The recipe that extends it.
        by: Option<PathBuf>,
        /// The system's reason.
        source: io::Error,
    },
    /// A name that is neither a file nor a recipe of the program.
    #[error("there is no recipe `{name}`{help}")]
    NoSuchRecipe {
        /// As it was asked for.
        name: String,
        /// What there is.
        help: String,
    },
    /// Recipes that extend each other in a circle.
    #[error("recipes extend each other in a circle: {}", circle(chain))]
    Circle {
        /// The files in the order they extend each other; the last one is among those before it.
        chain: Vec<PathBuf>,
    },
    /// A setting does not go with a model of the command line.
    #[error("`{key}`: {problem} (`--set` changes it)")]
    Setting {
        /// Where it stands in the recipe.
        key: String,
        /// What is wrong, and how to mend it.
        problem: String,
    },
    /// Something in a recipe is wrong.
    #[error(transparent)]
    Invalid(Box<Invalid>),
}

fn extended_by(by: &Option<PathBuf>) -> String {
    by.as_ref().map_or_else(String::new, |by| {
        format!(", which `{}` extends", by.display())
    })
}

fn circle(chain: &[PathBuf]) -> String {
    let names: Vec<_> = chain
        .iter()
        .map(|path| format!("`{}`", path.display()))
        .collect();
    names.join(" → ")
}

/// Something wrong at one place of a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The file, or `--set`.
    pub source: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, and how to mend it.
    pub message: String,
    /// That line of the source, and how many characters of it are meant; `None` where something is missing altogether.
    pub excerpt: Option<(String, usize)>,
    /// What could stand there.
    pub help: Option<String>,
}

impl std::error::Error for Invalid {}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            line,
            column,
            message,
            excerpt,
            help,
        } = self;
        write!(f, "{source}:{line}:{column}: {message}")?;
        let number = line.to_string();
        let gutter = " ".repeat(number.len());
        if let Some((text, length)) = excerpt {
            let before = " ".repeat(column - 1);
            let mark = "^".repeat((*length).max(1));
            write!(
                f,
                "\n{gutter} |\n{number} | {text}\n{gutter} | {before}{mark}"
            )?;
        }
        if let Some(help) = help {
            write!(f, "\n{gutter} = {help}")?;
        }
        Ok(())
    }
}
