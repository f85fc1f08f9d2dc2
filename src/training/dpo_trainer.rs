//! LoRA DPO: pairs in, adapter out.
//!
//! The prompt of a pair is computed once for both completions, only completion tokens meet the output head, and the
//! reference log-probabilities (the same model without the adapter) are computed once for all epochs.

use std::ops::Range;
use std::path::Path;

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::dpo::{DpoLoss, DpoTerms, PairLogProbs, dpo};
use super::optim::OptimConfig;
use super::pass::{Policy, with_less};
use super::state::TrainState;
use super::{METRICS_FILE, TrainContext, TrainError};
use crate::artifact::table::{TableError, decode_parquet_with, encode_parquet_with};
use crate::artifact::{digest_bytes, write_atomic};
use crate::datasets::pairs::PreferencePair;
use crate::model::backprop::Gradients;
use crate::model::backprop::plan::Budget;
use crate::model::batch::passes;
use crate::model::logprobs::{Scored, Targets};
use crate::model::{Adapter, Decoder, LoraConfig, Packed};
use crate::runtime::gpu::GpuError;
use crate::runtime::interrupt::check;
use crate::runtime::progress::Progress;
use crate::runtime::ranks::{RankError, Ranks};
use crate::runtime::seed::stream;
use crate::scenario::tool_use::call::{Segment, SegmentKind, segments};

/// Settings of DPO; the defaults are the paper's for Qwen3-8B.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DpoConfig {
    /// Which loss.
    pub loss: DpoLoss,
    /// β: how far the policy may leave the reference.
    pub beta: f64,
    /// Share of pairs taken to be labelled the wrong way round.
    pub label_smoothing: f64,
    /// Passes over the pairs.
    pub epochs: u64,
    /// With `accumulation`, the pairs of an optimiser step; how many are computed at once follows from memory.
    pub micro_batch: usize,
    /// An optimiser step takes `micro_batch` times so many pairs.
    pub accumulation: usize,
    /// Pairs whose prompt and longer completion exceed this many tokens are an error.
    pub max_length: usize,
    /// Optimiser steps between checkpoints.
    pub checkpoint_every: u64,
    /// The adapter.
    pub lora: LoraConfig,
    /// The optimiser.
    #[serde(deserialize_with = "read_optim")]
    pub optim: OptimConfig,
}

/// The optimiser's defaults for this method.
fn dpo_optim() -> OptimConfig {
    OptimConfig {
        lr: 1e-5,
        warmup_ratio: 0.1,
        ..OptimConfig::default()
    }
}

fn read_optim<'de, D: serde::Deserializer<'de>>(source: D) -> Result<OptimConfig, D::Error> {
    dpo_optim().read_over(source)
}

impl Default for DpoConfig {
    fn default() -> Self {
        Self {
            loss: DpoLoss::Sigmoid,
            beta: 0.1,
            label_smoothing: 0.0,
            epochs: 12,
            micro_batch: 1,
            accumulation: 8,
            max_length: 4096,
            checkpoint_every: 10,
            lora: LoraConfig::default(),
            optim: dpo_optim(),
        }
    }
}

/// A pair as ids; completions end with the end-of-turn token.
#[derive(Debug, Clone, PartialEq)]
pub struct PairTokens {
    /// The rendered prompt.
    pub prompt: Vec<u32>,
    /// The completion to be preferred.
    pub chosen: Vec<u32>,
    /// The other one.
    pub rejected: Vec<u32>,
    /// Places in both, chosen first, that a tool put in: read, but no part of the log-probabilities.
    pub inserted: [Vec<Range<usize>>; 2],
}

/// Log-probabilities of a pair's completions under the reference: sums over tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReferenceLogProbs {
    /// The pair.
    pub pair: String,
    /// Chosen.
    pub chosen: f64,
    /// Rejected.
    pub rejected: f64,
}

/// One line of the metrics file: means over the pairs of an optimiser step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DpoMetrics {
    /// Optimiser step, from 1.
    pub step: u64,
    /// Epochs done, as a fraction.
    pub epoch: f64,
    /// Loss.
    pub loss: f64,
    /// Sum of log-probabilities of the chosen completion; with the loss `ipo` their mean, as are those
    /// below. DPO tends to lower it together with the rejected one's.
    pub chosen_logprob: f64,
    /// Sum of log-probabilities of the rejected completion.
    pub rejected_logprob: f64,
    /// Implicit reward of the chosen completion.
    pub chosen_reward: f64,
    /// Implicit reward of the rejected completion.
    pub rejected_reward: f64,
    /// Difference of the rewards.
    pub margin: f64,
    /// Share of pairs with a positive margin; half where it is exactly zero.
    pub accuracy: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of the step.
    pub lr: f64,
}

/// Sums over the pairs of a step.
#[derive(Debug, Default)]
pub struct DpoSums {
    /// Pairs.
    pub pairs: f64,
    /// Losses.
    pub loss: f64,
    chosen_logprob: f64,
    rejected_logprob: f64,
    chosen_reward: f64,
    rejected_reward: f64,
    accurate: f64,
}

impl PairTokens {
    /// Packed tokens: the prompt counts once.
    pub fn size(&self) -> usize {
        self.prompt.len() + self.chosen.len() + self.rejected.len()
    }
}

fn sizes<'a>(pairs: impl Iterator<Item = &'a PairTokens>) -> Vec<usize> {
    pairs.map(PairTokens::size).collect()
}

impl DpoSums {
    fn add(&mut self, pair: &PairLogProbs, terms: &DpoTerms) {
        let margin = terms.chosen_reward - terms.rejected_reward;
        self.pairs += 1.0;
        self.loss += terms.loss;
        self.chosen_logprob += pair.chosen;
        self.rejected_logprob += pair.rejected;
        self.chosen_reward += terms.chosen_reward;
        self.rejected_reward += terms.rejected_reward;
        self.accurate += match margin {
            m if m > 0.0 => 1.0,
            0.0 => 0.5,
            _ => 0.0,
        };
    }

    /// Sums over the pairs of all ranks.
    fn reduce(&mut self, ranks: &Ranks) -> Result<(), RankError> {
        ranks.sum_numbers(&mut [
            &mut self.pairs,
            &mut self.loss,
            &mut self.chosen_logprob,
            &mut self.rejected_logprob,
            &mut self.chosen_reward,
            &mut self.rejected_reward,
            &mut self.accurate,
        ])
    }
}

/// Pack pairs, each as a prompt with two continuations.
fn pack(pairs: &[&PairTokens]) -> (Packed, Targets) {
    let mut batch = Packed::new();
    let mut completions = vec![];
    for pair in pairs {
        let root = batch.root(&pair.prompt);
        let [chosen, rejected] = &pair.inserted;
        completions.push((batch.child(root, &pair.chosen), &pair.chosen, chosen));
        completions.push((batch.child(root, &pair.rejected), &pair.rejected, rejected));
    }
    let mut targets = Targets::default();
    for (child, tokens, inserted) in completions {
        targets.push_without(&batch.predictors(child), tokens, 1.0, inserted);
    }
    (batch, targets)
}

/// Scores of the chosen and the rejected completion of each pair: sums over tokens; means for IPO.
fn completion_scores(
    scored: &Scored,
    targets: &Targets,
    loss: DpoLoss,
) -> Result<Vec<(f64, f64)>, GpuError> {
    let logprobs = scored.values()?;
    let score = |span: &Range<usize>| {
        let sum: f64 = logprobs[span.clone()].iter().map(|&l| f64::from(l)).sum();
        sum / divisor(loss, span)
    };
    let both = targets.spans().chunks_exact(2); // chosen, rejected, chosen, …
    Ok(both
        .map(|both| (score(&both[0]), score(&both[1])))
        .collect())
}

/// What a completion's sum is divided by.
fn divisor(loss: DpoLoss, span: &Range<usize>) -> f64 {
    match loss {
        DpoLoss::Ipo => span.len() as f64,
        _ => 1.0,
    }
}

/// Completion scores under the reference.
///
/// # Errors
/// The device refuses.
pub fn reference_logprobs(
    model: &Decoder,
    pairs: &[&PairTokens],
    loss: DpoLoss,
) -> Result<Vec<(f64, f64)>, GpuError> {
    let (batch, targets) = pack(pairs);
    let scored = model.score(&batch, None, &targets)?;
    completion_scores(&scored, &targets, loss)
}

/// Add the gradients of some pairs, and their numbers to `totals`; `step_pairs` is the number of pairs of the whole step.
///
/// # Errors
/// The device refuses.
pub fn accumulate(
    policy: &Policy,
    pairs: &[&PairTokens],
    reference: &[(f64, f64)],
    config: &DpoConfig,
    step_pairs: usize,
    gradients: &mut Gradients,
    totals: &mut DpoSums,
) -> Result<(), GpuError> {
    let (batch, targets) = pack(pairs);
    policy.learn(&batch, &targets, gradients, |scored| {
        let mut slopes = vec![0f32; targets.len()];
        let scores = completion_scores(scored, &targets, config.loss)?;
        let spans = targets.spans().chunks_exact(2);
        for ((&(chosen, rejected), reference), spans) in scores.iter().zip(reference).zip(spans) {
            let pair = PairLogProbs {
                chosen,
                rejected,
                reference_chosen: reference.0,
                reference_rejected: reference.1,
            };
            let terms = dpo(&pair, config.loss, config.beta, config.label_smoothing);
            totals.add(&pair, &terms);
            for (span, sign) in spans.iter().zip([1.0, -1.0]) {
                let slope = sign * terms.slope / (divisor(config.loss, span) * step_pairs as f64);
                slopes[span.clone()].fill(slope as f32);
            }
        }
        Ok(Some(Tensor::f_from_slice(&slopes)?))
    })
}

/// Render and encode the pairs.
fn encode(
    context: &TrainContext,
    pairs: &[PreferencePair],
    max_length: usize,
) -> Result<Vec<PairTokens>, TrainError> {
    let codec = &context.model.codec;
    let end = context.model.end_of_turn()?;
    // A result is encoded apart, as it is when it is put in.
    let completion = |text: &str, results: bool| -> Result<_, TrainError> {
        let whole = Segment {
            kind: SegmentKind::Written,
            text,
        };
        let pieces = if results {
            segments(text, false)
        } else {
            vec![whole]
        };
        let (mut ids, mut inserted) = (vec![], vec![]);
        for piece in pieces {
            let start = ids.len();
            ids.extend(codec.tokenizer().encode(piece.text)?);
            if piece.kind == SegmentKind::Inserted {
                inserted.push(start..ids.len());
            }
        }
        ids.push(end);
        Ok((ids, inserted))
    };
    pairs
        .iter()
        .map(|pair| {
            let (chosen, chosen_inserted) = completion(&pair.chosen, pair.tool_results)?;
            let (rejected, rejected_inserted) = completion(&pair.rejected, pair.tool_results)?;
            let tokens = PairTokens {
                prompt: codec.encode_chat(&pair.messages(), context.render)?,
                chosen,
                rejected,
                inserted: [chosen_inserted, rejected_inserted],
            };
            let length = tokens.prompt.len() + tokens.chosen.len().max(tokens.rejected.len());
            if length > max_length {
                let id = &pair.id;
                return Err(TrainError::Data(format!(
                    "pair `{id}` has {length} tokens, more than max_length {max_length}; raise it or drop the pair"
                )));
            }
            Ok(tokens)
        })
        .collect()
}

const REFERENCE_FILE: &str = "reference_logprobs.parquet";

/// Reference scores of all pairs: those on disk from an attempt before, or computed and written.
fn references(
    context: &TrainContext,
    pairs: &[PreferencePair],
    tokens: &[PairTokens],
    loss: DpoLoss,
    budget: &Budget,
) -> Result<Vec<(f64, f64)>, TrainError> {
    let path = context.folder.join(REFERENCE_FILE);
    if path.is_file() {
        match known_references(&path, pairs) {
            Ok(scores) => return Ok(scores),
            Err(reason) => tracing::warn!("`{}`: {reason}; computing it again", path.display()),
        }
    }
    let mut progress = Progress::new("reference", tokens.len());
    let costs: Vec<u64> = tokens.iter().map(|pair| pair.size() as u64).collect();
    let scores = context.model.ranks.share(&costs, |mine| {
        let mine: Vec<&PairTokens> = mine.iter().map(|&i| &tokens[i]).collect();
        let mut scores = vec![];
        for pass in passes(&sizes(mine.iter().copied()), budget.tokens) {
            check()?;
            let scored = reference_logprobs(&context.model.decoder, &mine[pass.clone()], loss);
            scores.extend(scored?);
            progress.add(pass.len());
        }
        Ok::<_, TrainError>(scores)
    })?;
    progress.finish();
    let rows: Vec<_> = pairs
        .iter()
        .zip(&scores)
        .map(|(pair, &(chosen, rejected))| ReferenceLogProbs {
            pair: pair.id.clone(),
            chosen,
            rejected,
        })
        .collect();
    write_atomic(&path, &encode_references(&rows)?)?;
    Ok(scores)
}

/// The rows as a file, with their digest in its metadata: a resumed stage uses it again before any manifest vouches for
/// it.
fn encode_references(rows: &[ReferenceLogProbs]) -> Result<Vec<u8>, TableError> {
    encode_parquet_with(rows, &[(ROWS_DIGEST, &rows_digest(rows))])
}

const ROWS_DIGEST: &str = "atp.rows-sha256";

fn rows_digest(rows: &[ReferenceLogProbs]) -> String {
    let bytes = serde_json::to_vec(rows).expect("JSON of plain values");
    digest_bytes(&bytes).to_string()
}

/// The scores on disk, if the file is of these pairs and, byte for byte, as it was written; otherwise why not.
fn known_references(path: &Path, pairs: &[PreferencePair]) -> Result<Vec<(f64, f64)>, String> {
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    let (rows, metadata) =
        decode_parquet_with::<ReferenceLogProbs>(bytes.clone()).map_err(|e| e.to_string())?;
    let intact = metadata.get(ROWS_DIGEST) == Some(&rows_digest(&rows))
        && encode_references(&rows).is_ok_and(|again| again == bytes);
    if !intact {
        return Err("it is damaged".into());
    }
    if !rows
        .iter()
        .map(|row| &row.pair)
        .eq(pairs.iter().map(|pair| &pair.id))
    {
        return Err("it is of other pairs".into());
    }
    Ok(rows.iter().map(|row| (row.chosen, row.rejected)).collect())
}

/// Train an adapter on these pairs: a fresh one, or `start` further.
///
/// # Errors
/// See [`TrainError`].
pub fn train_dpo(
    context: &TrainContext,
    pairs: &[PreferencePair],
    config: &DpoConfig,
    start: Option<Adapter>,
) -> Result<Adapter, TrainError> {
    if pairs.is_empty() {
        return Err(TrainError::Data(
            "there are no preference pairs to train on".into(),
        ));
    }
    let model = &context.model.decoder;
    let ranks = &context.model.ranks;
    let tokens = encode(context, pairs, config.max_length)?;
    let mut budget = context.budget(&config.lora, false);
    let reference = references(context, pairs, &tokens, config.loss, &budget)?;
    let mut state = match start {
        Some(adapter) => TrainState::with_adapter(adapter, model.config(), config.optim),
        None => TrainState::new(
            &config.lora,
            model.config(),
            config.optim,
            context.seed,
            model.device(),
        ),
    };
    let mut logs = state.resume(context.checkpoints, context.folder, &[METRICS_FILE])?;
    state.agree(ranks)?;
    let batch = config.micro_batch * config.accumulation;
    let steps_per_epoch = pairs.len().div_ceil(batch) as u64;
    let total = steps_per_epoch * config.epochs;
    let mut progress = Progress::new("dpo", total as usize);
    progress.skip(state.step as usize);
    while state.step < total {
        let (epoch, within) = (
            state.step / steps_per_epoch,
            (state.step % steps_per_epoch) as usize,
        );
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        order.shuffle(&mut stream(
            context.seed,
            &format!("dpo/order/epoch-{epoch}"),
        ));
        let chosen = &order[within * batch..pairs.len().min((within + 1) * batch)];
        let costs: Vec<u64> = chosen.iter().map(|&i| tokens[i].size() as u64).collect();
        let mine: Vec<usize> = ranks.mine(&costs).into_iter().map(|i| chosen[i]).collect();
        let items: Vec<_> = mine.iter().map(|&i| &tokens[i]).collect();
        let known: Vec<_> = mine.iter().map(|&i| reference[i]).collect();
        let TrainState {
            adapter,
            gradients,
            live,
            ..
        } = &mut state;
        let taken = ranks.check().map_err(TrainError::from).and_then(|()| {
            with_less(&mut budget, |budget| {
                gradients.reset();
                let policy = Policy::new(model, adapter, live, budget)?;
                let mut totals = DpoSums::default();
                for pass in passes(&sizes(items.iter().copied()), budget.tokens) {
                    check()?;
                    accumulate(
                        &policy,
                        &items[pass.clone()],
                        &known[pass],
                        config,
                        chosen.len(),
                        gradients,
                        &mut totals,
                    )?;
                }
                Ok(totals)
            })
        });
        let mut totals = match taken {
            Err(TrainError::Interrupted(stop)) => {
                state.save(context.checkpoints, &mut logs, &[])?;
                return Err(stop.into());
            }
            other => other?,
        };
        totals.reduce(ranks)?;
        ranks.sum(state.gradients.flat())?;
        let lr = config.optim.lr
            * config
                .optim
                .schedule
                .factor(state.step, total, config.optim.warmup_ratio);
        if !totals.loss.is_finite() {
            return Err(TrainError::Diverged {
                step: state.step + 1,
                what: "the loss",
            });
        }
        let grad_norm = state.take_step(lr)?;
        if !grad_norm.is_finite() {
            return Err(TrainError::Diverged {
                step: state.step + 1,
                what: "the gradient",
            });
        }
        state.step += 1;
        state.agree(ranks)?;
        let mean = |sum: f64| sum / totals.pairs;
        let metrics = DpoMetrics {
            step: state.step,
            epoch: state.step as f64 / steps_per_epoch as f64,
            loss: mean(totals.loss),
            chosen_logprob: mean(totals.chosen_logprob),
            rejected_logprob: mean(totals.rejected_logprob),
            chosen_reward: mean(totals.chosen_reward),
            rejected_reward: mean(totals.rejected_reward),
            margin: mean(totals.chosen_reward - totals.rejected_reward),
            accuracy: mean(totals.accurate),
            grad_norm,
            lr,
        };
        for log in logs.values_mut() {
            log.append(&metrics)?;
            log.flush()?;
        }
        if state.step.is_multiple_of(config.checkpoint_every.max(1)) {
            state.save(context.checkpoints, &mut logs, &[])?;
        }
        progress.add(1);
    }
    progress.finish();
    for log in logs.values_mut() {
        log.sync()?;
    }
    Ok(state.adapter)
}
