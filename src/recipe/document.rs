//! A recipe as its sources: the files it extends, itself, and `--set` assignments; decoded with errors that have a place.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::merge::{merge, shift};
use super::words::reword;
use super::{Invalid, RecipeError};

/// The key that names the recipe below this one, relative to its own folder.
pub const EXTENDS: &str = "extends";

/// One text that keys come from.
#[derive(Debug, Clone)]
struct Source {
    /// Path as the user wrote it, or `--set`.
    label: String,
    text: String,
    is_file: bool,
}

/// A recipe, not yet decoded.
#[derive(Debug, Clone)]
pub struct Document {
    /// Later ones lie over earlier ones. Places are counted through all texts, with one between two of them.
    sources: Vec<Source>,
    /// How tables inside sections are read, if they are.
    overrides: Option<Overrides>,
}

/// Tables that stand at the top for all sections, and may stand in a section for it alone.
#[derive(Debug, Clone)]
struct Overrides {
    /// All sections.
    sections: Vec<&'static str>,
    /// The tables.
    tables: &'static [&'static str],
    /// The section whose own tables are laid over those at the top; those of the others are left out.
    chosen: Option<&'static str>,
}

/// Decode a TOML text that stands alone or extends files beside `path`.
pub fn parse_toml<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, RecipeError> {
    Document::from_text(path, text)?.decode()
}

/// A recipe's text as it was found.
#[derive(Debug)]
pub struct Text {
    /// The text.
    pub text: String,
    /// It is part of the program, and so is what it extends.
    pub is_built_in: bool,
}

/// Finds a recipe's text by its path; also told whether the recipe that extends it is part of the program.
pub type Read<'a> = dyn Fn(&Path, bool) -> io::Result<Text> + 'a;

impl Document {
    /// Read a recipe and those it extends.
    pub fn load(path: &Path) -> Result<Self, RecipeError> {
        Self::load_with(path, &read_file)
    }

    /// As [`Document::load`], with the texts read by `read`: for recipes that are part of the program.
    pub fn load_with(path: &Path, read: &Read<'_>) -> Result<Self, RecipeError> {
        let text = read_as(path, None, read)?;
        Self::gather(path, text, read)
    }

    /// A recipe whose own text is given; files it extends are read.
    pub fn from_text(path: &Path, text: &str) -> Result<Self, RecipeError> {
        let text = Text {
            text: text.to_string(),
            is_built_in: false,
        };
        Self::gather(path, text, &read_file)
    }

    fn gather(path: &Path, mut text: Text, read: &Read<'_>) -> Result<Self, RecipeError> {
        let mut sources = Vec::new();
        let mut chain = vec![path.to_path_buf()];
        loop {
            let path = chain[chain.len() - 1].clone();
            let is_built_in = text.is_built_in;
            let source = Source {
                label: path.display().to_string(),
                text: text.text,
                is_file: true,
            };
            let base = base_of(&source, &path)?;
            sources.insert(0, source);
            let Some(base) = base else { break };
            // Those of the program extend only each other, whatever files of their names there are.
            let circle = !is_built_in && chain.iter().any(|other| clean(other) == clean(&base));
            chain.push(base.clone());
            if circle {
                return Err(RecipeError::Circle { chain });
            }
            text = read_as(&base, Some((&path, is_built_in)), read)?;
        }
        Ok(Self {
            sources,
            overrides: None,
        })
    }

    /// Lay an assignment `a.b.c=value` over what is there. The value is TOML; what is none is taken as a text, so that
    /// `--set model.name=smollm2` needs no quotes. A number in the path counts the elements of a list from 0.
    pub fn set(&mut self, assignment: &str) -> Result<(), RecipeError> {
        let source = |text: String| Source {
            label: "--set".to_string(),
            text,
            is_file: false,
        };
        let as_typed = source(assignment.trim().to_string());
        let malformed = |message: &str| {
            let whole = 0..as_typed.text.len();
            Err(invalid(&as_typed, whole, message.to_string()))
        };
        let Some((key, value)) = as_typed.text.split_once('=') else {
            return malformed("expected `key=value`, for example `dpo.optim.lr=5e-6`");
        };
        if assignment.contains(['\n', '\r']) {
            return malformed("expected one assignment on one line");
        }
        let result = parse(&as_typed);
        let bare = !value.trim_start().starts_with(['"', '\'', '[', '{']);
        let source = match result {
            Ok(_) => as_typed,
            Err(_) if bare && !value.trim().is_empty() => {
                let text = toml::Value::String(value.trim().to_string()).to_string();
                let quoted = source(format!("{key}={text}"));
                // If this fails, it is the key that is wrong.
                parse(&quoted)?;
                quoted
            }
            Err(error) => return Err(error),
        };
        self.sources.push(source);
        Ok(())
    }

    /// The recipe as one of its sections sees it: the section's own `tables` laid over those at the top. Without a
    /// `chosen` one, the recipe without the sections' own tables.
    pub fn seen_by(
        &self,
        chosen: Option<&'static str>,
        sections: impl IntoIterator<Item = &'static str>,
        tables: &'static [&'static str],
    ) -> Self {
        Self {
            sources: self.sources.clone(),
            overrides: Some(Overrides {
                sections: sections.into_iter().collect(),
                tables,
                chosen,
            }),
        }
    }

    /// Decode the merged recipe. `T` should deny unknown fields.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, RecipeError> {
        let table = self.merged()?;
        let root = Spanned::new(self.root(), table.clone());
        T::deserialize(Deserializer::from(root)).map_err(|error| {
            let path = path_of(&error);
            let reworded = reword(error.message(), &path);
            let keys: Vec<&str> = path.split('.').filter(|key| !key.is_empty()).collect();
            // Behind a tag, serde knows only the table's place: find the key in it.
            let key = reworded.key.as_deref();
            let span = key
                .and_then(|key| key_span(table_at(&table, &keys)?, key))
                .or(error.span())
                .unwrap_or(self.root());
            let (source, span) = self.locate(span);
            let mut invalid = place(source, span.clone(), reworded.message);
            if reworded.missing && span.is_empty() {
                invalid.excerpt = None;
            }
            invalid.help = reworded.help;
            RecipeError::Invalid(Box::new(invalid))
        })
    }

    /// The merged recipe as a table, for a record of what was run.
    pub fn resolved(&self) -> Result<toml::Table, RecipeError> {
        self.decode()
    }

    /// An error about the value at `path` (for example `train.lr` or `models.0.name`), placed where that value, or the
    /// table that should hold it, was written. For checks that types cannot make.
    pub fn error_at(&self, path: &str, message: impl std::fmt::Display) -> RecipeError {
        let span = match self.merged() {
            Ok(table) => deepest(&table, path).unwrap_or(self.root()),
            Err(error) => return error,
        };
        let (source, span) = self.locate(span);
        let mut invalid = place(source, span.clone(), format!("`{path}`: {message}"));
        if span.is_empty() {
            invalid.excerpt = None;
        }
        RecipeError::Invalid(Box::new(invalid))
    }

    /// Where exactly the value at `path` was written: the source and its line; `None` where it was not.
    pub fn written_at(&self, path: &str) -> Option<(String, usize)> {
        let table = self.merged().ok()?;
        let mut keys = path.split('.');
        let mut value = table.get(keys.next()?)?;
        for key in keys {
            value = value.get_ref().as_table()?.get(key)?;
        }
        let (source, span) = self.locate(value.span());
        let found = place(source, span, String::new());
        Some((found.source, found.line))
    }

    fn merged(&self) -> Result<DeTable<'_>, RecipeError> {
        let mut merged = DeTable::new();
        for (source, offset) in self.with_offsets() {
            let mut table = parse(source)?;
            if source.is_file {
                table.remove(EXTENDS);
            }
            merge(&mut merged, shift(table, offset), !source.is_file);
        }
        if let Some(overrides) = &self.overrides {
            overrides.apply(&mut merged);
        }
        Ok(merged)
    }

    /// The sources, each with the place of its first byte.
    fn with_offsets(&self) -> impl DoubleEndedIterator<Item = (&Source, usize)> {
        let offsets = self.sources.iter().scan(0, |next, source| {
            let offset = *next;
            *next += source.text.len() + 1;
            Some((source, offset))
        });
        offsets.collect::<Vec<_>>().into_iter()
    }

    /// The place of the recipe as a whole: the beginning of the file that was asked for.
    fn root(&self) -> Range<usize> {
        let mut files = self.with_offsets().filter(|(source, _)| source.is_file);
        let start = files.next_back().map_or(0, |(_, offset)| offset);
        start..start
    }

    /// The source of a place, and the place in it.
    fn locate(&self, span: Range<usize>) -> (&Source, Range<usize>) {
        let mut sources = self.with_offsets().rev();
        let (source, offset) = sources
            .find(|(_, offset)| *offset <= span.start)
            .unwrap_or((&self.sources[0], 0));
        (source, span.start - offset..span.end.saturating_sub(offset))
    }
}

impl Overrides {
    fn apply(&self, root: &mut DeTable<'_>) {
        let mut over = DeTable::new();
        for section in &self.sections {
            let Some(DeValue::Table(table)) = root.get_mut(*section).map(Spanned::get_mut) else {
                continue;
            };
            for key in self.tables {
                if let Some((key, value)) = table.remove_entry(*key)
                    && self.chosen == Some(section)
                {
                    over.insert(key, value);
                }
            }
        }
        merge(root, over, true);
    }
}

fn read_file(path: &Path, _: bool) -> io::Result<Text> {
    Ok(Text {
        text: fs::read_to_string(path)?,
        is_built_in: false,
    })
}

/// `by` is the recipe that extends this one, and whether it is part of the program.
fn read_as(path: &Path, by: Option<(&Path, bool)>, read: &Read<'_>) -> Result<Text, RecipeError> {
    read(path, by.is_some_and(|(_, is_built_in)| is_built_in)).map_err(|source| RecipeError::Read {
        path: path.to_path_buf(),
        by: by.map(|(by, _)| by.to_path_buf()),
        source,
    })
}

fn parse(source: &Source) -> Result<DeTable<'_>, RecipeError> {
    DeTable::parse(&source.text)
        .map(Spanned::into_inner)
        .map_err(|error| {
            let end = source.text.len();
            let span = error.span().unwrap_or(end..end);
            invalid(source, span, format!("not TOML: {}", error.message()))
        })
}

/// The file that this one extends.
fn base_of(source: &Source, path: &Path) -> Result<Option<PathBuf>, RecipeError> {
    let table = parse(source)?;
    let Some(value) = table.get(EXTENDS) else {
        return Ok(None);
    };
    match value.get_ref().as_str() {
        Some(base) => Ok(Some(path.parent().unwrap_or(Path::new("")).join(base))),
        None => {
            let message = format!("`{EXTENDS}`: expected the path of a recipe, in quotes");
            Err(invalid(source, value.span(), message))
        }
    }
}

/// A path without `.` and `..`, for comparison.
fn clean(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if clean.file_name().is_some() => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    clean
}

/// The key path of an error, dotted; the library shows it in its last line only.
fn path_of(error: &toml::de::Error) -> String {
    let text = error.to_string();
    let last = text.trim_end().rsplit('\n').next().unwrap_or_default();
    let path = last
        .strip_prefix("in `")
        .and_then(|rest| rest.strip_suffix('`'));
    path.unwrap_or_default().to_string()
}

/// The table at these keys, which do not lead through lists.
fn table_at<'a, 'i>(table: &'a DeTable<'i>, keys: &[&str]) -> Option<&'a DeTable<'i>> {
    keys.iter()
        .try_fold(table, |table, key| table.get(*key)?.get_ref().as_table())
}

fn key_span(table: &DeTable, key: &str) -> Option<Range<usize>> {
    table.get_key_value(key).map(|(key, _)| key.span())
}

/// The place of the value at a dotted path, or of the deepest value on the way to it.
fn deepest(table: &DeTable, path: &str) -> Option<Range<usize>> {
    let mut keys = path.split(['.', '[', ']']).filter(|key| !key.is_empty());
    let mut value = table.get(keys.next()?)?;
    for key in keys {
        let next = match value.get_ref() {
            DeValue::Table(table) => table.get(key),
            DeValue::Array(items) => key.parse().ok().and_then(|at: usize| items.get(at)),
            _ => None,
        };
        match next {
            Some(next) => value = next,
            None => break,
        }
    }
    Some(value.span())
}

fn invalid(source: &Source, span: Range<usize>, message: String) -> RecipeError {
    RecipeError::Invalid(Box::new(place(source, span, message)))
}

/// Line, column and excerpt of a place in one source.
fn place(source: &Source, span: Range<usize>, message: String) -> Invalid {
    let text = &source.text;
    let floor = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let (start, end) = (floor(span.start), floor(span.end.max(span.start)));
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let line = text[line_start..line_end]
        .trim_end_matches('\r')
        .to_string();
    let length = text[start..end.min(line_end).max(start)].chars().count();
    Invalid {
        source: source.label.clone(),
        line: text[..start].matches('\n').count() + 1,
        column: text[line_start..start].chars().count() + 1,
        message,
        excerpt: Some((line, length)),
        help: None,
    }
}

#[cfg(test)]
mod tests;
