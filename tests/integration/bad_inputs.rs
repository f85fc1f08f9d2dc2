//! What bad inputs get: one message that names the place, what was expected and what is there; exit code 1 or 2; nothing
//! written. Every row of `tests/BAD_INPUTS.md` is a row here, and `the_table_is_the_one_that_is_tested` holds the two
//! together; `ATP_WRITE_TABLE=1` writes the table anew.

mod formats;
mod models;
mod places;
mod recipes;
mod tables;
mod texts;

use std::fs;
use std::path::{Path, PathBuf};

use atp_pipeline::runtime::seed::stream;
use rand::Rng;
use tempfile::TempDir;

use crate::cli::refused;
use crate::support::repository;

/// Makes an input in a folder and gives the arguments that meet it.
type Make = Box<dyn Fn(&Path) -> Vec<String>>;

/// A bad input, and what is said of it.
pub struct Row {
    /// What is wrong with it.
    input: &'static str,
    make: Make,
    /// Parts of the message.
    says: &'static [&'static str],
}

/// A row.
fn row(
    input: &'static str,
    make: impl Fn(&Path) -> Vec<String> + 'static,
    says: &'static [&'static str],
) -> Row {
    let make = Box::new(make);
    Row { input, make, says }
}

/// An input that looks bad and is taken, and what becomes of it; a test of its own holds it.
pub struct Taken {
    input: &'static str,
    gets: &'static str,
}

/// The parts of the table, in its order.
fn parts() -> Vec<(&'static str, Vec<Row>)> {
    vec![
        ("Recipes", recipes::rows()),
        ("Model folders", models::rows()),
        ("Adapters", models::adapter_rows()),
        ("GGUF files", formats::gguf_rows()),
        ("safetensors files", formats::safetensors_rows()),
        ("Tables", tables::rows()),
        ("Texts", texts::rows()),
        ("Places and rights", places::rows()),
    ]
}

fn taken() -> Vec<Taken> {
    [texts::taken(), places::taken()]
        .into_iter()
        .flatten()
        .collect()
}

/// A workplace with what most rows begin with: a valid model of two layers, a recipe for it and its environments.
pub fn workplace() -> TempDir {
    crate::faults::disk::workplace()
}

/// Arguments as the program takes them.
pub fn typed(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|a| (*a).to_owned()).collect()
}

/// Each row in a workplace of its own.
fn hold(rows: Vec<Row>) {
    for row in rows {
        let folder = workplace();
        let arguments = (row.make)(folder.path());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        println!("{}", row.input);
        refused(folder.path(), &arguments, row.says);
    }
}

/// The table as it stands in the repository.
fn table() -> String {
    let mut text = String::from(
        "# Bad inputs\n\n\
         What the program does with what it cannot use: one message, exit code 1 (2 for wrong arguments), nothing written.\n\
         Every row is a test (`tests/integration/bad_inputs`); `…` stands for the rest of the message. Written by\n\
         `ATP_WRITE_TABLE=1 cargo test --test integration bad_inputs::the_table`.\n",
    );
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    for (part, rows) in parts() {
        text += &format!("\n## {part}\n\n| input | message |\n|---|---|\n");
        for row in rows {
            let says: Vec<String> = row.says.iter().map(|s| cell(s)).collect();
            text += &format!("| {} | … {} … |\n", cell(row.input), says.join(" … "));
        }
    }
    text += "\n## Taken, and what becomes of them\n\n| input | what it gets |\n|---|---|\n";
    for row in taken() {
        text += &format!("| {} | {} |\n", cell(row.input), cell(row.gets));
    }
    text
}

#[test]
fn the_table_is_the_one_that_is_tested() {
    let path: PathBuf = repository("tests/BAD_INPUTS.md");
    if std::env::var_os("ATP_WRITE_TABLE").is_some() {
        fs::write(&path, table()).expect("a file");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(written, table(), "ATP_WRITE_TABLE=1 writes it anew");
}

#[test]
fn recipes() {
    hold(recipes::rows());
}

#[test]
fn model_folders() {
    hold(models::rows());
}

#[test]
fn adapters() {
    hold(models::adapter_rows());
}

#[test]
fn gguf_files() {
    hold(formats::gguf_rows());
}

#[test]
fn safetensors_files() {
    hold(formats::safetensors_rows());
}

#[test]
fn tables() {
    hold(tables::rows());
}

#[test]
fn texts() {
    hold(texts::rows());
}

#[test]
fn places() {
    hold(places::rows());
}

/// `count` versions of `bytes`, each cut at a drawn place or with a few drawn bytes changed.
pub fn spoilt(bytes: &[u8], count: usize, name: &str) -> impl Iterator<Item = Vec<u8>> {
    let mut draw = stream(1, name);
    let bytes = bytes.to_vec();
    (0..count).map(move |_| {
        let mut spoilt = bytes.clone();
        if draw.random_bool(0.3) {
            spoilt.truncate(draw.random_range(0..bytes.len()));
        } else {
            for _ in 0..draw.random_range(1..8) {
                let at = draw.random_range(0..bytes.len());
                spoilt[at] = draw.random();
            }
        }
        spoilt
    })
}
