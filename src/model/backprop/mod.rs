//! Training without autograd: a forward that keeps what the way back needs, and that way back, written by hand.
//!
//! Autograd would hold every intermediate result and know nothing of frozen weights. Here a layer keeps its input, its
//! queries, keys and values before rotation, the attention's output, and gate and up ([`Keep::All`], 85 KiB a token and
//! layer of Qwen3-8B in bf16), or less of it and computes the rest again; everything else is made from these where it is
//! needed. No gradient of a frozen weight exists. What the gradients are is held to autograd and to TRL by tests.
//!
//! On a GPU from Ampere on, in bf16, norms, rotation and gate are kernels of our own and attention is libtorch's flash attention,
//! each with its backward (`pieces`, `attention`); elsewhere the same functions are plain tensor operations.

use tch::{Device, Kind, Tensor};

use super::batch::Packed;
use super::config::ModelConfig;
use super::decoder::Decoder;
use super::logprobs::{Predictors, Scored, Targets};
use crate::runtime::gpu::GpuError;

mod attention;
mod gradients;
mod kernels;
mod layer;
mod low_rank;
mod pieces;
pub mod plan;

pub use gradients::{Gradients, Live};
pub(super) use kernels::Kernels;
pub use pieces::Pieces;
pub use plan::{Keep, Plan};

use attention::Layout;
use layer::{Kept, Stream};

/// A forward's hidden states, and what its backward needs.
pub struct Tape<'a> {
    decoder: &'a Decoder,
    live: Option<&'a Live>,
    layout: Layout,
    /// By layer; empty where nothing was to be kept.
    layers: Vec<Kept>,
    /// What the last layer gave, `(T, hidden)`.
    last: Tensor,
    hidden: Tensor,
}

impl Decoder {
    /// Hidden states of packed sequences after the final norm, keeping by `plan` what [`Tape::backward`] needs; without a
    /// plan, nothing. No autograd graph is made.
    ///
    /// # Errors
    /// The device refuses: out of memory, above all.
    pub fn forward_kept<'a>(
        &'a self,
        batch: &Packed,
        live: Option<&'a Live>,
        plan: Option<&Plan>,
    ) -> Result<Tape<'a>, GpuError> {
        let _no_grad = tch::no_grad_guard();
        let pieces = self.pieces();
        let device = self.device();
        if let Some(live) = live {
            live.lay_out(pieces)?;
        }
        let layout = Layout::new(batch, device, pieces)?;
        let tokens = Tensor::f_from_slice(batch.token_ids())?.f_to_device(device)?;
        let x = self.embedding().f_index_select(0, &tokens)?; // (T, hidden)
        let normed = pieces.norm(&x, self.norm_before(0))?;
        let mut stream = Stream { x, normed };
        let mut layers = Vec::new();
        let shape = Shape::of(self.config());
        for index in 0..self.layer_count() {
            let keep = plan.map_or(Keep::Nothing, |plan| plan.keep(index));
            let low = live.map(|live| live.layer(index));
            let (next, kept) = self.layer(index).forward_kept(
                (&shape, pieces, &layout),
                stream,
                low,
                keep,
                self.norm_before(index + 1),
            )?;
            stream = next;
            layers.extend(kept);
        }
        Ok(Tape {
            decoder: self,
            live,
            layout,
            layers,
            last: stream.x,
            hidden: stream.normed,
        })
    }

    /// Scores without gradient, on the CPU; no adapter is the reference.
    ///
    /// # Errors
    /// The device refuses.
    pub fn score(
        &self,
        batch: &Packed,
        live: Option<&Live>,
        targets: &Targets,
    ) -> Result<Scored, GpuError> {
        let tape = self.forward_kept(batch, live, None)?;
        let scored = Predictors::new(self, tape.hidden(), targets)?.score()?;
        Ok(Scored {
            logprobs: scored.logprobs.f_to_device(Device::Cpu)?,
            entropies: scored.entropies.f_to_device(Device::Cpu)?,
        })
    }
}

impl Tape<'_> {
    /// Hidden states after the final norm, `(T, hidden)`.
    pub fn hidden(&self) -> &Tensor {
        &self.hidden
    }

    /// Add the gradients of the adapter's matrices. `predictors` are rows of this tape's hidden states, `gradient` is the
    /// loss's with respect to their log-probabilities, `(N)`.
    ///
    /// # Errors
    /// The device refuses. Some gradients may have been added by then.
    ///
    /// # Panics
    /// Without a plan or an adapter in the forward.
    pub fn backward(
        mut self,
        predictors: Predictors,
        gradient: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<(), GpuError> {
        let _no_grad = tch::no_grad_guard();
        let live = self.live.expect("an adapter is being trained");
        let (decoder, pieces) = (self.decoder, self.decoder.pieces());
        assert_eq!(
            self.layers.len(),
            decoder.layer_count(),
            "a forward with a plan comes first"
        );
        let count = self.hidden.size()[0];
        drop(self.hidden);
        let rows = predictors.rows().to_vec();
        let d_rows = predictors.backward(gradient)?;
        let d_hidden = pieces.sum_rows(&d_rows, &rows, count)?;
        drop(d_rows);
        // Another adapter's forward may have taken the room since.
        live.lay_out(pieces)?;
        let norm = decoder.norm_before(decoder.layer_count());
        let (mut d_x, _) = pieces.norm_backward(d_hidden, &self.last, norm, None)?;
        drop(self.last);
        let shape = Shape::of(decoder.config());
        for index in (0..decoder.layer_count()).rev() {
            let kept = self.layers.pop().expect("one a layer");
            let next = decoder.layer(index).backward(
                (&shape, pieces, &self.layout),
                kept,
                live.layer(index),
                d_x,
                // Below the first layer is nothing that learns.
                (index > 0, &mut gradients.layers[index]),
            )?;
            match next {
                Some(next) => d_x = next,
                None => break,
            }
        }
        Ok(())
    }
}

/// What layers need to know of the model.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub heads: i64,
    pub kv_heads: i64,
    pub head_dim: i64,
}

impl Shape {
    fn of(config: &ModelConfig) -> Self {
        Self {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
        }
    }

    fn scale(&self) -> f64 {
        (self.head_dim as f64).powf(-0.5)
    }
}

/// `x wᵀ` in f32 for a gradient, whatever kind the factors have.
fn product_f32(left: &Tensor, right: &Tensor) -> Result<Tensor, GpuError> {
    Ok(match left.kind() {
        Kind::Float => left.f_mm(right)?,
        _ if left.device().is_cuda() => left.f_mm_dtype(right, Kind::Float)?,
        _ => left.f_mm(right)?.f_to_kind(Kind::Float)?,
    })
}
