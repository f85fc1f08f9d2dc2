//! Log-probabilities of given tokens by the forward of training, on a GPU many sequences at a time.

use super::model::LoadedModel;
use crate::model::backprop::Live;
use crate::model::batch::passes;
use crate::model::logprobs::Targets;
use crate::model::{Adapter, Decoder, Packed};
use crate::runtime::device::is_deterministic;
use crate::runtime::gpu::GpuError;
use crate::runtime::interrupt::{Interrupted, check};

/// Tokens that a GPU computes together: enough to keep it busy, few enough to fit beside its cache of keys and values.
const TOKENS: usize = 8192;

/// A model with an adapter as it is now.
pub struct Scorer<'a> {
    decoder: &'a Decoder,
    live: Option<Live>,
}

impl<'a> Scorer<'a> {
    /// Of this adapter, or of the model alone.
    ///
    /// # Errors
    /// The device refuses.
    pub fn new(model: &'a LoadedModel, adapter: Option<&Adapter>) -> Result<Self, GpuError> {
        let decoder = &model.decoder;
        let live = adapter.map(|adapter| Live::new(adapter, decoder));
        Ok(Self {
            decoder,
            live: live.transpose()?,
        })
    }

    /// Score items in their order, as many together as may be; `each` is given an item's place and the log-probabilities of
    /// its targets. On a CPU, which one keeps busy, and under the deterministic mode of a GPU each is computed alone: products of
    /// few rows sum in another order, and nothing may depend on the others.
    ///
    /// # Errors
    /// A stop on request, or what `each` ends with.
    pub fn score<E: From<Interrupted>>(
        &self,
        items: &[(Packed, Targets)],
        mut each: impl FnMut(usize, Result<Vec<f32>, GpuError>) -> Result<(), E>,
    ) -> Result<(), E> {
        let sizes: Vec<usize> = items.iter().map(|(batch, _)| batch.len()).collect();
        let most = match self.decoder.device().is_cuda() && !is_deterministic() {
            true => TOKENS,
            false => 0,
        };
        for pass in passes(&sizes, most) {
            check()?;
            for (place, scored) in pass.clone().zip(self.pass(&items[pass])) {
                each(place, scored)?;
            }
        }
        Ok(())
    }

    /// What fails together, as for lack of memory, is tried again in halves.
    fn pass(&self, items: &[(Packed, Targets)]) -> Vec<Result<Vec<f32>, GpuError>> {
        let error = match self.together(items) {
            Ok(all) => return all.into_iter().map(Ok).collect(),
            Err(error) => error,
        };
        if items.len() < 2 {
            return vec![Err(error)];
        }
        let (first, second) = items.split_at(items.len() / 2);
        let mut all = self.pass(first);
        all.extend(self.pass(second));
        all
    }

    fn together(&self, items: &[(Packed, Targets)]) -> Result<Vec<Vec<f32>>, GpuError> {
        let (mut batch, mut targets) = (Packed::new(), Targets::default());
        let places: Vec<_> = items
            .iter()
            .map(|(own, predicted)| targets.append(predicted, batch.append(own)))
            .collect();
        let live = self.live.as_ref();
        let all = self.decoder.score(&batch, live, &targets)?.values()?;
        Ok(places
            .into_iter()
            .map(|place| all[place].to_vec())
            .collect())
    }
}
