//! The one log-probability function: of completion tokens, in f32, in chunks, for DPO, GRPO, references and scores.
//!
//! Only rows that predict a completion token meet the output head, and never all of them at once, so no
//! `(tokens, vocab)` matrix of a batch exists in f32. Training needs gradients with respect to the hidden states only
//! (the head is frozen), and those have a closed form: the slope of a loss with respect to the log-probabilities
//! is carried through the head by hand, and by [`super::backprop`] from there.

use std::ops::Range;

use tch::{Device, Tensor};

use super::backprop::Pieces;
use super::batch::{Packed, SegmentId};
use super::decoder::Decoder;
use super::host::product::{by, by_transposed};
use crate::runtime::gpu::GpuError;

/// Rows that meet the head at once: few where their logits are widened to f32, more where a kernel reads them as they are.
const CHUNK: i64 = 256;
const CHUNK_FUSED: i64 = 2048;

/// Logits that are kept between a loss and its backward, at most, in bytes; of more they are computed again.
pub const KEPT_LOGITS: usize = 2 << 30;

/// Which packed rows predict which tokens: the completions of a batch, one after the other.
#[derive(Debug, Default, Clone)]
pub struct Targets {
    rows: Vec<i64>,
    tokens: Vec<i64>,
    temperatures: Vec<f32>,
    spans: Vec<Range<usize>>,
}

impl Targets {
    /// All tokens of these children of a packed batch, at temperature 1.
    pub fn of_children<'a>(
        batch: &Packed,
        completions: impl IntoIterator<Item = (SegmentId, &'a [u32])>,
    ) -> Self {
        let mut targets = Self::default();
        for (child, tokens) in completions {
            targets.push(&batch.predictors(child), tokens, 1.0);
        }
        targets
    }

    /// Every token of a root but its first, which nothing predicts, at temperature 1.
    pub fn of_root(batch: &Packed, root: SegmentId, tokens: &[u32]) -> Self {
        let mut targets = Self::default();
        let rows: Vec<usize> = batch
            .rows(root)
            .take(tokens.len().saturating_sub(1))
            .collect();
        targets.push(&rows, &tokens[1..], 1.0);
        targets
    }

    /// As [`Self::push`], without the tokens in these places.
    pub fn push_without(
        &mut self,
        rows: &[usize],
        tokens: &[u32],
        temperature: f64,
        left_out: &[Range<usize>],
    ) -> usize {
        let own = |place: &usize| !left_out.iter().any(|range| range.contains(place));
        let (rows, tokens): (Vec<usize>, Vec<u32>) = (0..tokens.len())
            .filter(own)
            .map(|place| (rows[place], tokens[place]))
            .unzip();
        self.push(&rows, &tokens, temperature)
    }

    /// Add a span of tokens with the packed rows that predict them; gives the span's index.
    ///
    /// `temperature` divides the logits, as the sampler's did (TRL divides likewise before its log-probs).
    pub fn push(&mut self, rows: &[usize], tokens: &[u32], temperature: f64) -> usize {
        assert_eq!(rows.len(), tokens.len(), "a row a token");
        let start = self.tokens.len();
        self.rows.extend(rows.iter().map(|&r| r as i64));
        self.tokens.extend(tokens.iter().map(|&t| i64::from(t)));
        self.temperatures
            .extend(std::iter::repeat_n(temperature as f32, tokens.len()));
        self.spans.push(start..self.tokens.len());
        self.spans.len() - 1
    }

    /// Put another batch's targets behind these; `rows` is the row that its first packed row became. Gives their places.
    pub fn append(&mut self, other: &Self, rows: usize) -> Range<usize> {
        let start = self.tokens.len();
        self.rows
            .extend(other.rows.iter().map(|row| row + rows as i64));
        self.tokens.extend(&other.tokens);
        self.temperatures.extend(&other.temperatures);
        let spans = other.spans.iter();
        self.spans
            .extend(spans.map(|s| s.start + start..s.end + start));
        start..self.tokens.len()
    }

    /// Number of completion tokens, N.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// No tokens at all.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Each completion's predicting rows, tokens and temperatures.
    pub fn iter(&self) -> impl Iterator<Item = (&[i64], &[i64], &[f32])> {
        self.spans.iter().map(|s| {
            let at = s.clone();
            (
                &self.rows[at.clone()],
                &self.tokens[at.clone()],
                &self.temperatures[at],
            )
        })
    }

    /// Places of each completion's tokens among the N.
    pub fn spans(&self) -> &[Range<usize>] {
        &self.spans
    }
}

/// Log-probabilities and entropies of completion tokens.
pub struct Scored {
    /// `(N)`, f32: log-softmax of the logits divided by the temperature, at the token.
    pub logprobs: Tensor,
    /// `(N)`, f32: entropy of that distribution, in nats.
    pub entropies: Tensor,
}

impl Scored {
    /// The log-probabilities as numbers.
    ///
    /// # Errors
    /// The device refuses.
    pub fn values(&self) -> Result<Vec<f32>, GpuError> {
        Ok(Vec::try_from(&self.logprobs.f_to_device(Device::Cpu)?)?)
    }
}

/// Hidden states that predict the targets, ready to be scored and to carry a gradient back.
pub struct Predictors<'a> {
    head: &'a Tensor,
    pieces: &'a Pieces,
    places: Vec<i64>,
    /// `(N, hidden)`.
    rows: Tensor,
    /// `(N)`.
    targets: Tensor,
    /// `(N)`, where any is not 1.
    temperatures: Option<Tensor>,
    /// Logits and logarithms of their sums by chunk, where they were kept.
    kept: Vec<(Option<Tensor>, Tensor)>,
}

impl<'a> Predictors<'a> {
    /// Pick the predicting rows of `hidden`, `(T, hidden)`, for `targets`.
    pub fn new(model: &'a Decoder, hidden: &Tensor, targets: &Targets) -> Result<Self, GpuError> {
        let device = hidden.device();
        let places = Tensor::f_from_slice(&targets.rows)?.f_to_device(device)?;
        let temperatures = match targets.temperatures.iter().any(|&t| t != 1.0) {
            true => Some(Tensor::f_from_slice(&targets.temperatures)?.f_to_device(device)?),
            false => None,
        };
        Ok(Self {
            head: model.head(),
            pieces: model.pieces(),
            places: targets.rows.clone(),
            rows: hidden.detach().f_index_select(0, &places)?,
            targets: Tensor::f_from_slice(&targets.tokens)?.f_to_device(device)?,
            temperatures,
            kept: vec![],
        })
    }

    /// The packed row of each predicting row.
    pub fn rows(&self) -> &[i64] {
        &self.places
    }

    fn chunks(&self) -> Vec<(i64, i64)> {
        let total = self.targets.size()[0];
        let chunk = if self.pieces.are_fused() {
            CHUNK_FUSED
        } else {
            CHUNK
        };
        // No targets at all are one empty chunk: there is nothing to join otherwise.
        (0..total.max(1))
            .step_by(chunk as usize)
            .map(|start| (start, chunk.min(total - start)))
            .collect()
    }

    fn logits(&self, (start, length): (i64, i64)) -> Result<Tensor, GpuError> {
        let rows = self.rows.f_narrow(0, start, length)?;
        Ok(by_transposed(&rows, self.head, None, None)?)
    }

    fn of_chunk(&self, (start, length): (i64, i64)) -> Result<(Tensor, Option<Tensor>), GpuError> {
        let temperatures = match &self.temperatures {
            Some(all) => Some(all.f_narrow(0, start, length)?),
            None => None,
        };
        Ok((self.targets.f_narrow(0, start, length)?, temperatures))
    }

    /// Score the targets.
    pub fn score(&self) -> Result<Scored, GpuError> {
        let _no_grad = tch::no_grad_guard();
        Ok(self.score_chunks(false)?.0)
    }

    /// Score the targets and keep what [`Self::backward`] needs.
    pub fn score_to_train(&mut self) -> Result<Scored, GpuError> {
        let _no_grad = tch::no_grad_guard();
        let size = self.head.kind().elt_size_in_bytes();
        let bytes = self.rows.size()[0] as usize * self.head.size()[0] as usize * size;
        let (scored, kept) = self.score_chunks(bytes <= KEPT_LOGITS)?;
        self.kept = kept;
        Ok(scored)
    }

    #[allow(clippy::type_complexity)]
    fn score_chunks(
        &self,
        keep: bool,
    ) -> Result<(Scored, Vec<(Option<Tensor>, Tensor)>), GpuError> {
        let (mut logprobs, mut entropies, mut kept) = (vec![], vec![], vec![]);
        for chunk in self.chunks() {
            let logits = self.logits(chunk)?;
            let (tokens, temperatures) = self.of_chunk(chunk)?;
            let [logprob, entropy, sums] =
                self.pieces.score(&logits, &tokens, temperatures.as_ref())?;
            logprobs.push(logprob);
            entropies.push(entropy);
            kept.push((keep.then_some(logits), sums));
        }
        let scored = Scored {
            logprobs: Tensor::f_cat(&logprobs, 0)?,
            entropies: Tensor::f_cat(&entropies, 0)?,
        };
        Ok((scored, kept))
    }

    /// Gradient of the predicting rows, `(N, hidden)`, from that of their log-probabilities, `(N)` in f32:
    /// d logprob / d logits = (onehot(token) − softmax) / temperature, through the frozen head.
    ///
    /// # Panics
    /// Unless [`Self::score_to_train`] came before.
    pub fn backward(mut self, gradient: &Tensor) -> Result<Tensor, GpuError> {
        let _no_grad = tch::no_grad_guard();
        let gradient = gradient.f_to_device(self.rows.device())?;
        let kept = std::mem::take(&mut self.kept);
        assert!(!kept.is_empty(), "scores come before their gradient");
        let mut carried = Vec::with_capacity(kept.len());
        for (chunk, (logits, sums)) in self.chunks().into_iter().zip(kept) {
            let logits = match logits {
                Some(logits) => logits,
                None => self.logits(chunk)?,
            };
            let (tokens, temperatures) = self.of_chunk(chunk)?;
            let slope = gradient.f_narrow(0, chunk.0, chunk.1)?;
            let d_logits = self.pieces.score_backward(
                logits,
                &tokens,
                temperatures.as_ref(),
                &sums,
                &slope,
            )?;
            carried.push(by(&d_logits, self.head, None)?);
        }
        Ok(Tensor::f_cat(&carried, 0)?)
    }
}

/// Log-probabilities as a loss takes them: `(N)` on the CPU, where losses are computed, beginning a graph of their own.
pub fn leaf(logprobs: &Tensor) -> Result<Tensor, GpuError> {
    Ok(logprobs
        .f_to_device(Device::Cpu)?
        .f_detach()?
        .f_set_requires_grad(true)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tool_put_in_is_no_target() {
        let mut targets = Targets::default();
        let (rows, tokens) = ([4, 5, 6, 7, 8], [10, 11, 12, 13, 14]);
        let span = targets.push_without(&rows, &tokens, 0.7, &[1..3, 4..5]);
        assert_eq!(
            (targets.rows.as_slice(), targets.tokens.as_slice()),
            (&[4, 7][..], &[10, 13][..])
        );
        assert_eq!(targets.spans[span], 0..2);
        assert_eq!(targets.temperatures, [0.7, 0.7]);
    }
}
