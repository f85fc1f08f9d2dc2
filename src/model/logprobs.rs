//! The one log-probability function: of completion tokens, in f32, in chunks, for DPO, GRPO, references and scores.
//!
//! Only rows that predict a completion token meet the output head, and never all of them at once, so no
//! `(tokens, vocab)` matrix of a batch exists. Training needs gradients with respect to the hidden states only (the
//! head is frozen), and those have a closed form, so the head is left out of the autograd graph: the loss is computed
//! on a leaf of log-probabilities, its gradient is carried through the head by hand, and autograd goes on from there.

use std::ops::Range;

use tch::{Kind, Tensor};

use super::batch::{Packed, SegmentId};
use super::decoder::Decoder;

/// Rows that meet the head at once.
const CHUNK: i64 = 256;

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

    /// Number of completion tokens, N.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// No tokens at all.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
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

/// Hidden states that predict the targets, ready to be scored and to carry a gradient back.
pub struct Predictors<'a> {
    head: &'a Tensor,
    /// `(N, hidden)`, with its graph where one was kept.
    rows: Tensor,
    targets: Tensor,
    /// `(N, 1)`, where any is not 1.
    temperatures: Option<Tensor>,
}

impl<'a> Predictors<'a> {
    /// Pick the predicting rows of `hidden`, `(T, hidden)`, for `targets`.
    pub fn new(model: &'a Decoder, hidden: &Tensor, targets: &Targets) -> Self {
        let device = hidden.device();
        let rows = hidden.index_select(0, &Tensor::from_slice(&targets.rows).to_device(device));
        let temperatures = targets.temperatures.iter().any(|&t| t != 1.0).then(|| {
            Tensor::from_slice(&targets.temperatures)
                .to_device(device)
                .unsqueeze(1)
        });
        let targets = Tensor::from_slice(&targets.tokens).to_device(device);
        Self {
            head: model.head(),
            rows,
            targets,
            temperatures,
        }
    }

    fn chunks(&self) -> impl Iterator<Item = (i64, i64)> {
        let total = self.targets.size()[0];
        // No targets at all are one empty chunk: there is nothing to join otherwise.
        (0..total.max(1))
            .step_by(CHUNK as usize)
            .map(move |start| (start, CHUNK.min(total - start)))
    }

    /// Divide by the temperatures of a chunk's rows.
    fn cool(&self, x: Tensor, (start, length): (i64, i64)) -> Tensor {
        match &self.temperatures {
            Some(temperatures) => x / temperatures.narrow(0, start, length),
            None => x,
        }
    }

    /// Log-softmax of a chunk's logits, `(C, vocab)` in f32.
    fn log_softmax(&self, chunk: (i64, i64)) -> Tensor {
        let rows = self.rows.detach().narrow(0, chunk.0, chunk.1);
        let logits = rows.linear(self.head, None::<&Tensor>).to_kind(Kind::Float);
        self.cool(logits, chunk).log_softmax(-1, Kind::Float)
    }

    /// Score the targets. Keeps no graph.
    pub fn score(&self) -> Scored {
        tch::no_grad(|| {
            let (mut logprobs, mut entropies) = (vec![], vec![]);
            for (start, length) in self.chunks() {
                let all = self.log_softmax((start, length));
                let token = self.targets.narrow(0, start, length).unsqueeze(1);
                logprobs.push(all.gather(1, &token, false).squeeze_dim(1));
                entropies.push(-(all.exp() * &all).sum_dim_intlist(-1, false, Kind::Float));
            }
            Scored {
                logprobs: Tensor::cat(&logprobs, 0),
                entropies: Tensor::cat(&entropies, 0),
            }
        })
    }

    /// Carry the loss's gradient with respect to the log-probabilities, `(N)`, back into the adapter's `.grad`.
    ///
    /// d logprob / d logits = onehot(token) − softmax; through the frozen head and the temperature to the hidden
    /// states; from there by autograd.
    pub fn backward(self, gradient: &Tensor) {
        let carried = tch::no_grad(|| {
            let mut carried = vec![];
            for (start, length) in self.chunks() {
                let gradient = gradient.narrow(0, start, length).unsqueeze(1);
                let token = self.targets.narrow(0, start, length).unsqueeze(1);
                let softmax = self.log_softmax((start, length)).exp_();
                let mut d_logits = softmax * -&gradient;
                let _ = d_logits.scatter_add_(1, &token, &gradient);
                let d_logits = self
                    .cool(d_logits, (start, length))
                    .to_kind(self.rows.kind());
                carried.push(d_logits.matmul(self.head));
            }
            Tensor::cat(&carried, 0)
        });
        // The sum's gradient with respect to the rows is exactly `carried`.
        (self.rows * carried).sum(Kind::Float).backward();
    }
}

/// Sum of each completion's log-probabilities, `(completions)`; differentiable.
pub fn sums(logprobs: &Tensor, spans: &[Range<usize>]) -> Tensor {
    let all: Vec<Tensor> = spans
        .iter()
        .map(|s| {
            logprobs
                .narrow(0, s.start as i64, s.len() as i64)
                .sum(Kind::Float)
        })
        .collect();
    Tensor::stack(&all, 0)
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
