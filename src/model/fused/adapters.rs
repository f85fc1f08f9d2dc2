//! Adapters as the kernels read them: bf16, the ranks padded to a multiple of 8, the parts of a joint projection side
//! by side, so that A x of all of them comes out of the same matrix product as the frozen layer.

use tch::{Device, Kind, Tensor};

use super::kernels::{Matrix, Updates};
use crate::model::config::ModelConfig;
use crate::model::lora::{Adapter, JOINT};
use crate::runtime::gpu::{GpuError, pointer};

/// One joint projection's matrices.
#[derive(Debug)]
pub struct Pair {
    /// `(parts · rank, inner)`.
    pub a: Matrix,
    /// `(outputs, rank)`.
    b: Tensor,
}

/// One adapter, ready.
#[derive(Debug)]
pub struct Packed {
    /// By layer, then in the order of [`JOINT`].
    layers: Vec<[Pair; 4]>,
    /// `(1)`.
    scale: Tensor,
    /// Two sums over all numbers: equal for equal contents.
    pub fingerprint: [f64; 2],
}

/// The rank that the kernels are compiled for.
pub fn padded_rank(adapter: Option<&Adapter>) -> i64 {
    adapter.map_or(8, |a| (a.config.rank + 7) / 8 * 8)
}

impl Packed {
    /// Copy an adapter of this model.
    pub fn new(
        adapter: &Adapter,
        config: &ModelConfig,
        device: Device,
        multiprocessors: u32,
    ) -> Result<Self, GpuError> {
        let rank = padded_rank(Some(adapter));
        let own = adapter.config.rank;
        // One buffer for all, so that its fingerprint is two sums.
        let sizes = JOINT.map(|targets| {
            let inner = targets[0].features(config).0;
            let outputs: i64 = targets.iter().map(|t| t.features(config).1).sum();
            (targets.len() as i64 * rank * inner, outputs * rank, inner)
        });
        let total: i64 = sizes.iter().map(|(a, b, _)| a + b).sum::<i64>() * config.layers;
        let all = Tensor::f_zeros([total], (Kind::BFloat16, device))?;
        let mut at = 0;
        let mut take = |numbers: i64, columns: i64| {
            at += numbers;
            all.narrow(0, at - numbers, numbers).view([-1, columns])
        };
        let mut layers = Vec::with_capacity(config.layers as usize);
        for layer in 0..config.layers as usize {
            let mut pairs = Vec::with_capacity(4);
            for (targets, (a_size, b_size, inner)) in JOINT.iter().zip(sizes) {
                let (a, b) = (take(a_size, inner), take(b_size, rank));
                let mut first = 0;
                for (part, target) in targets.iter().enumerate() {
                    let outputs = target.features(config).1;
                    if let Some(update) = adapter.get(layer, *target) {
                        a.narrow(0, part as i64 * rank, own).copy_(&update.a);
                        b.narrow(0, first, outputs)
                            .narrow(1, 0, own)
                            .copy_(&update.b);
                    }
                    first += outputs;
                }
                pairs.push(Pair {
                    a: Matrix::new(&a, multiprocessors)?,
                    b,
                });
            }
            let Ok(pairs) = pairs.try_into() else {
                unreachable!("four projections")
            };
            layers.push(pairs);
        }
        let scale = Tensor::from_slice(&[adapter.config.scale() as f32]).to_device(device);
        // In slices: memory may be full of keys and values.
        const SLICE: i64 = 1 << 22;
        let weights = Tensor::f_arange(SLICE, (Kind::Double, device))?.f_sin()?;
        let mut fingerprint = [0.0, adapter.config.scale()];
        for (index, from) in (0..total).step_by(SLICE as usize).enumerate() {
            let count = SLICE.min(total - from);
            let slice = all.narrow(0, from, count).f_to_kind(Kind::Double)?;
            let weighted = (&slice * weights.narrow(0, 0, count)).sum(Kind::Double);
            fingerprint[0] += slice.sum(Kind::Double).double_value(&[]);
            fingerprint[1] += weighted.double_value(&[]) * (index as f64 + 1.0).sqrt();
        }
        Ok(Self {
            layers,
            scale,
            fingerprint,
        })
    }

    /// A projection's matrices.
    pub fn pair(&self, layer: usize, joint: usize) -> &Pair {
        &self.layers[layer][joint]
    }

    /// As an argument of a kernel; `low` holds A x, `adapter` is by row.
    pub fn updates(&self, layer: usize, joint: usize, low: &Tensor, adapter: &Tensor) -> Updates {
        let pair = self.pair(layer, joint);
        let width = pair.a.shape().0 as i32;
        Updates {
            low: pointer(low),
            b: pointer(&pair.b),
            adapter: pointer(adapter),
            scale: pointer(&self.scale),
            stride: width,
            width,
            outputs: pair.b.size()[0] as i32,
            count: 1,
            wide: 1,
        }
    }
}
