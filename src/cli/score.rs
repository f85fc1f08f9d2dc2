//! `score`: per-token log-probabilities of given completions, in fp32.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::model::ModelArgs;
use crate::agent::LoadedModel;
use crate::agent::scoring::Scorer;
use crate::artifact::write_atomic;
use crate::model::Packed;
use crate::model::logprobs::Targets;
use crate::runtime::progress::Progress;

/// Options of `score`.
#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// JSON lines: {"prompt": "…", "completion": "…"} or {"input_ids": […]}. Texts are taken as they are, without a
    /// chat template.
    #[arg(long = "in", value_name = "FILE")]
    input: PathBuf,
    /// JSON lines: tokens, logprobs (one a token; of input_ids, all but the first), sum.
    #[arg(long = "out", value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Item {
    Text { prompt: String, completion: String },
    Ids { input_ids: Vec<u32> },
}

#[derive(Debug, Serialize)]
struct Scored<'a> {
    tokens: &'a [u32],
    logprobs: Vec<f32>,
    sum: f64,
}

impl ScoreArgs {
    /// Score every line.
    pub fn execute(self) -> anyhow::Result<()> {
        let folder = self.output.parent();
        let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
        if folder.is_some_and(|folder| !folder.is_dir()) {
            bail!(
                "{}: the folder to write it to is not there",
                self.output.display()
            );
        }
        let name = self.input.display().to_string();
        let file = std::fs::File::open(&self.input).with_context(|| name.clone())?;
        let mut items = vec![];
        for (number, line) in BufReader::new(file).lines().enumerate() {
            let line = line.with_context(|| format!("{name}:{}", number + 1))?;
            if line.trim().is_empty() {
                continue;
            }
            let item: Item = serde_json::from_str(&line).map_err(|_| {
                let expected =
                    r#"expected {"prompt": "…", "completion": "…"} or {"input_ids": […]}"#;
                anyhow::anyhow!("{name}:{}: {expected}, got {}", number + 1, excerpt(&line))
            })?;
            items.push((number + 1, item));
        }
        if items.is_empty() {
            bail!("{name}: nothing to score: the file has no lines");
        }
        let (model, adapter) = self.model.load()?;
        let (mut told, mut packed) = (vec![], vec![]);
        for (number, item) in items {
            let (batch, targets, tokens) = item
                .packed(&model)
                .with_context(|| format!("{name}:{number}"))?;
            told.push((number, tokens));
            packed.push((batch, targets));
        }
        let scorer = Scorer::new(&model, adapter.as_ref())?;
        let mut lines = String::new();
        let mut progress = Progress::new("score", packed.len());
        scorer.score(&packed, |at, logprobs| -> anyhow::Result<()> {
            let (number, tokens) = &told[at];
            let logprobs = logprobs.with_context(|| format!("{name}:{number}"))?;
            let scored = Scored {
                tokens,
                sum: logprobs.iter().map(|&l| f64::from(l)).sum(),
                logprobs,
            };
            lines.push_str(&serde_json::to_string(&scored)?);
            lines.push('\n');
            progress.add(1);
            Ok(())
        })?;
        progress.finish();
        write_atomic(&self.output, lines.as_bytes())?;
        Ok(())
    }
}

fn excerpt(line: &str) -> String {
    let short: String = line.chars().take(80).collect();
    if short.len() < line.len() {
        format!("{short}…")
    } else {
        short
    }
}

impl Item {
    /// What is computed, what of it is predicted, and its tokens.
    fn packed(self, model: &LoadedModel) -> anyhow::Result<(Packed, Targets, Vec<u32>)> {
        let tokenizer = model.codec.tokenizer();
        let mut batch = Packed::new();
        let config = model.decoder.config();
        let fits = |ids: &[u32]| -> anyhow::Result<()> {
            if ids.len() as i64 > config.max_position {
                bail!(
                    "{} tokens exceed the model's context of {}",
                    ids.len(),
                    config.max_position
                );
            }
            if let Some(bad) = ids.iter().find(|&&id| i64::from(id) >= config.vocab_size) {
                bail!(
                    "token {bad}: the model knows 0 to {}",
                    config.vocab_size - 1
                );
            }
            Ok(())
        };
        let (targets, tokens) = match self {
            Item::Text { prompt, completion } => {
                let (prompt, completion) =
                    (tokenizer.encode(&prompt)?, tokenizer.encode(&completion)?);
                if prompt.is_empty() || completion.is_empty() {
                    bail!("prompt and completion must not be empty");
                }
                fits(&[&prompt[..], &completion].concat())?;
                let root = batch.root(&prompt);
                let child = batch.child(root, &completion);
                (
                    Targets::of_children(&batch, [(child, &completion[..])]),
                    completion,
                )
            }
            Item::Ids { input_ids } => {
                if input_ids.len() < 2 {
                    bail!(
                        "expected at least two ids, got {}: nothing predicts the first",
                        input_ids.len()
                    );
                }
                fits(&input_ids)?;
                let root = batch.root(&input_ids);
                (
                    Targets::of_root(&batch, root, &input_ids),
                    input_ids[1..].to_vec(),
                )
            }
        };
        Ok((batch, targets, tokens))
    }
}
