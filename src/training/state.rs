//! What a training run carries from step to step, and how it is checkpointed: adapter, optimiser, step, log position.
//!
//! Random streams need no saving: every draw is named by its step.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::TrainError;
use super::optim::{AdamW, OptimConfig};
use crate::artifact::{Checkpoint, Checkpoints, Digest, LogMark, MetricsLog, digest_bytes};
use crate::model::backprop::{Gradients, Live};
use crate::model::tensors::{decode_safetensors, encode_safetensors};
use crate::model::{Adapter, LoraConfig, ModelConfig};
use crate::runtime::gpu::GpuError;
use crate::runtime::memory::Keeping;
use crate::runtime::ranks::{RankError, Ranks};

const ADAPTER: &str = "adapter.safetensors";
const MOMENTS: &str = "moments.safetensors";
const STATE: &str = "state.json";

/// The part of a checkpoint that is no tensor.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    step: u64,
    /// Log files and how much of each this step saw.
    logs: BTreeMap<String, LogMark>,
}

/// A digest of a tensor of f32, of which little leaves the device: the numbers' bits are summed as integers, exactly and in
/// any order, every 4096th to one sum. One flipped bit changes it.
fn fingerprint(flat: &Tensor) -> Digest {
    const SUMS: i64 = 4096;
    let bits = flat.detach().view([-1]).view_dtype(Kind::Int);
    let even = bits.size()[0] / SUMS * SUMS;
    let rows = bits.narrow(0, 0, even).view([-1, SUMS]);
    let sums = rows.sum_dim_intlist([0].as_slice(), false, Kind::Int64);
    let rest = bits.narrow(0, even, bits.size()[0] - even);
    let all = Tensor::cat(&[sums, rest.to_kind(Kind::Int64)], 0).to_device(Device::Cpu);
    let numbers = Vec::<i64>::try_from(all).unwrap_or_default();
    let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    digest_bytes(&bytes)
}

/// Adapter and optimiser at a step.
pub struct TrainState {
    /// The weights being trained.
    pub adapter: Adapter,
    /// Their optimiser.
    pub optimiser: AdamW,
    /// Optimiser steps done.
    pub step: u64,
    /// Gradients of the step under way.
    pub gradients: Gradients,
    /// The adapter as a model computes with it, from step to step.
    pub live: Option<Live>,
    /// A step's memory is the next one's.
    _keeping: Option<Keeping>,
}

impl TrainState {
    /// A fresh adapter and optimiser.
    pub fn new(
        lora: &LoraConfig,
        model: &ModelConfig,
        optim: OptimConfig,
        seed: u64,
        device: Device,
    ) -> Self {
        let adapter = Adapter::new(lora, model, seed, device);
        Self::with_adapter(adapter, model, optim)
    }

    /// Go on from a given adapter, with a fresh optimiser.
    pub fn with_adapter(adapter: Adapter, model: &ModelConfig, optim: OptimConfig) -> Self {
        Self {
            optimiser: AdamW::new(optim, vec![adapter.flat().shallow_clone()]),
            gradients: Gradients::zeros(&adapter, model),
            live: None,
            _keeping: Keeping::on(adapter.flat().device()),
            adapter,
            step: 0,
        }
    }

    /// Take an optimiser step on the gradients, and forget them. Gives their norm before clipping.
    ///
    /// # Errors
    /// The device refuses.
    pub fn take_step(&mut self, lr: f64) -> Result<f64, GpuError> {
        let norm = self
            .optimiser
            .step(lr, &mut [&mut self.gradients.flat().shallow_clone()])?;
        self.gradients.reset();
        Ok(norm)
    }

    /// All ranks stand at this step with this adapter, bit for bit. A broken or other kind of machine, or another recipe,
    /// so ends the run before anything is written that comes of it.
    ///
    /// # Errors
    /// They differ, or a rank is gone.
    pub fn agree(&self, ranks: &Ranks) -> Result<(), RankError> {
        if ranks.is_alone() {
            return Ok(());
        }
        let found = format!("{} {}", self.step, fingerprint(self.adapter.flat()));
        ranks.agree_on(&format!("the adapter after step {}", self.step), &found)
    }

    /// Moments by name, as views of the optimiser's.
    fn moments(&self, device: Device) -> Vec<(String, Tensor)> {
        let [first, second] = self.optimiser.moments();
        let views = |moment: &str, flat: &Tensor| {
            let named = self.adapter.named_views(&flat.to_device(device));
            let named = named
                .into_iter()
                .map(|(name, view)| (format!("{moment}/{name}"), view));
            named.collect::<Vec<_>>()
        };
        let mut all = views("first", &first[0]);
        all.extend(views("second", &second[0]));
        all
    }

    /// Save this step, with further files of the trainer's; the logs are made durable first.
    pub fn save(
        &self,
        checkpoints: &Checkpoints,
        logs: &mut BTreeMap<String, MetricsLog>,
        extra: &[(&str, &[u8])],
    ) -> Result<(), TrainError> {
        let mut marks = BTreeMap::new();
        for (name, log) in logs {
            marks.insert(name.clone(), log.sync()?);
        }
        let saved = Saved {
            step: self.step,
            logs: marks,
        };
        let saved = serde_json::to_vec_pretty(&saved).expect("JSON of plain values");
        let moments = encode_safetensors(&self.moments(Device::Cpu))?;
        let adapter = self.adapter.encode()?;
        let own: [(&str, &[u8]); 3] = [(ADAPTER, &adapter), (MOMENTS, &moments), (STATE, &saved)];
        checkpoints.save(self.step, &[&own, extra].concat())?;
        Ok(())
    }

    /// Go back to the newest checkpoint that is intact, together with the part of the logs that it saw, if there is one;
    /// opens the logs at what it saw.
    pub fn resume(
        &mut self,
        checkpoints: &Checkpoints,
        folder: &Path,
        logs: &[&str],
    ) -> Result<BTreeMap<String, MetricsLog>, TrainError> {
        let mut marks = BTreeMap::new();
        let usable = |checkpoint: &Checkpoint| {
            let saved: Saved =
                checkpoint
                    .read(STATE)
                    .map_err(|e| e.to_string())
                    .and_then(|bytes| {
                        serde_json::from_slice(&bytes).map_err(|e| format!("{STATE}: {e}"))
                    })?;
            for name in logs {
                let mark = saved.logs.get(*name).copied().unwrap_or_default();
                mark.check(&folder.join(name)).map_err(|e| e.to_string())?;
            }
            Ok(())
        };
        if let Some(checkpoint) = checkpoints.latest_where(usable)? {
            marks = self.restore(&checkpoint)?;
            tracing::info!("going on from step {}", self.step);
        }
        let open = |name: &&str| {
            let mark = marks.get(*name).copied().unwrap_or_default();
            let log = MetricsLog::open(&folder.join(name), &mark)?;
            Ok(((*name).to_owned(), log))
        };
        logs.iter().map(open).collect()
    }

    fn restore(
        &mut self,
        checkpoint: &Checkpoint,
    ) -> Result<BTreeMap<String, LogMark>, TrainError> {
        let damaged = |problem: String| TrainError::Checkpoint {
            path: checkpoint.folder.clone(),
            problem,
        };
        let read = |name: &str| -> Result<_, TrainError> {
            Ok(decode_safetensors(
                &checkpoint.path(name),
                &checkpoint.read(name)?,
            )?)
        };
        self.adapter
            .decode_into(&checkpoint.folder, &read(ADAPTER)?)?;
        let saved: Saved = serde_json::from_slice(&checkpoint.read(STATE)?)
            .map_err(|e| damaged(format!("{STATE}: {e}")))?;
        let moments = read(MOMENTS)?;
        for (name, own) in self.moments(self.adapter.flat().device()) {
            let saved = moments
                .get(&name)
                .ok_or_else(|| damaged(format!("no moment `{name}`")))?;
            if saved.size() != own.size() {
                return Err(damaged(format!(
                    "`{name}`: expected {:?}, got {:?}",
                    own.size(),
                    saved.size()
                )));
            }
            own.shallow_clone().copy_(saved);
        }
        self.optimiser.set_steps(saved.step);
        self.step = saved.step;
        Ok(saved.logs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_flipped_bit_is_another_fingerprint() {
        for length in [1, 4095, 4096, 3 * 4096 + 7] {
            let flat = Tensor::arange(length, (Kind::Float, Device::Cpu)) / 7.0;
            let before = fingerprint(&flat);
            assert_eq!(fingerprint(&flat.copy()), before);
            for place in [0, length / 2, length - 1] {
                let other = flat.copy();
                let bits = other.view_dtype(Kind::Int);
                let _ = bits.narrow(0, place, 1).bitwise_xor_(1);
                assert_ne!(fingerprint(&other), before, "{place} of {length}");
            }
        }
    }
}
