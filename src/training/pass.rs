//! One pass through the model: log-probabilities of packed completions, a loss on them, gradients of the adapter.
//!
//! Losses are computed on the CPU, where a few thousand numbers cost less than the launches of their many small
//! operations would on a GPU.

use tch::{Device, Tensor};

use super::TrainError;
use crate::model::backprop::plan::Budget;
use crate::model::backprop::{Gradients, Live};
use crate::model::footprint::Footprint;
use crate::model::logprobs::{Predictors, Scored, Targets, leaf};
use crate::model::{Adapter, Decoder, Packed};
use crate::runtime::gpu::GpuError;
use crate::runtime::memory::{empty_cache, free_and_total};

/// A model with an adapter that is being trained, as it is between two steps.
pub struct Policy<'a> {
    /// The frozen weights.
    pub model: &'a Decoder,
    live: &'a Live,
    budget: &'a Budget,
}

/// Memory for activations: of a GPU's whole memory what the weights leave, and so many numbers of the adapter that is
/// `trained` with its optimiser and of one that is `frozen`; or of `limit` bytes where that is given. It counts what the GPU
/// has, not what is free at the moment, so that a run is the same when it is repeated.
pub fn budget(model: &Decoder, trained: usize, frozen: usize, limit: Option<usize>) -> Budget {
    let config = model.config();
    let bytes = free_and_total(model.device()).map(|(_, total)| {
        let size = model.kind().elt_size_in_bytes();
        // Matrices, gradients and two moments in f32, copies in the weights' kind; of a frozen one the copies alone.
        let copies = 2 * size;
        let adapters = trained * (4 * 4 + copies) + frozen * copies;
        let fixed = Footprint::of(config, model.kind(), model.device()).weights + adapters;
        // The driver, the context and the kernels take their part of the whole.
        let whole = limit.unwrap_or(total / 100 * 96);
        whole.saturating_sub(fixed)
    });
    Budget::new(config, model.kind(), bytes)
}

impl<'a> Policy<'a> {
    /// The policy of this adapter until it changes; `live` is what the last one left.
    ///
    /// # Errors
    /// The device refuses.
    pub fn new(
        model: &'a Decoder,
        adapter: &Adapter,
        live: &'a mut Option<Live>,
        budget: &'a Budget,
    ) -> Result<Self, GpuError> {
        Ok(Self {
            model,
            live: Live::renewed(live, adapter, model)?,
            budget,
        })
    }

    /// The adapter as the model computes with it.
    pub fn live(&self) -> &Live {
        self.live
    }

    /// Score the targets, and add the gradients that follow from `slope`: ∂ loss / ∂ log-probabilities, `(N)` in f32 on the
    /// CPU, out of those scores. Without one none are added.
    ///
    /// # Errors
    /// The device refuses; some gradients may have been added by then.
    pub fn learn(
        &self,
        batch: &Packed,
        targets: &Targets,
        gradients: &mut Gradients,
        slope: impl FnOnce(&Scored) -> Result<Option<Tensor>, GpuError>,
    ) -> Result<(), GpuError> {
        let plan = self.budget.plan(batch.len(), targets.len());
        let tape = self
            .model
            .forward_kept(batch, Some(self.live), Some(&plan))?;
        let mut predictors = Predictors::new(self.model, tape.hidden(), targets)?;
        let scored = predictors.score_to_train()?;
        match slope(&scored)? {
            Some(slope) => tape.backward(predictors, &slope, gradients),
            None => Ok(()),
        }
    }
}

/// The slope of a loss by autograd: `loss` gets log-probabilities, which carry a gradient, and entropies, both on the CPU. It
/// may have no value.
///
/// # Errors
/// The device refuses.
pub fn slope_of(
    scored: &Scored,
    loss: impl FnOnce(&Tensor, &Tensor) -> Option<Tensor>,
) -> Result<Option<Tensor>, GpuError> {
    let _alone = scored.logprobs.device().is_cuda().then(OneThread::new);
    let leaf = leaf(&scored.logprobs)?;
    let entropies = scored.entropies.f_to_device(Device::Cpu)?;
    let Some(value) = loss(&leaf, &entropies) else {
        return Ok(None);
    };
    value.f_backward()?;
    let gradient = leaf.f_grad()?;
    Ok(gradient.defined().then_some(gradient))
}

/// libtorch's CPU work stays on this thread while this lives: a loss is a few thousand numbers, and to wake a pool of
/// threads that have gone to sleep while the GPU worked takes longer than the GPU should wait (11 ms of 16 threads).
struct OneThread(i32);

impl OneThread {
    fn new() -> Self {
        let before = tch::get_num_threads();
        tch::set_num_threads(1);
        Self(before)
    }
}

impl Drop for OneThread {
    fn drop(&mut self) {
        tch::set_num_threads(self.0);
    }
}

/// Run `body` with this budget, and with smaller ones after it ran out of memory; the budget that served stays.
///
/// # Errors
/// Any other failure, or no memory however little is kept.
pub fn with_less<T>(
    budget: &mut Budget,
    mut body: impl FnMut(&Budget) -> Result<T, TrainError>,
) -> Result<T, TrainError> {
    loop {
        let error = match body(budget) {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        match budget.smaller() {
            Some(smaller) if error.is_out_of_memory() => {
                empty_cache();
                *budget = smaller;
                tracing::warn!(
                    "GPU memory did not hold the step; taking it again with {}",
                    budget.describe()
                );
            }
            _ => return Err(error),
        }
    }
}
