//! Adapters as the kernels read them: bf16, the ranks padded to a multiple of 8, the parts of a joint projection side
//! by side, so that A x of all of them comes out of the same matrix product as the frozen layer. For prompts there is B once
//! more, as it lies in the room of the weights.

use tch::{Kind, Tensor};

use super::Layer;
use super::kernels::{Matrix, Updates};
use crate::model::config::ModelConfig;
use crate::model::lora::{Adapter, JOINT};
use crate::model::room;
use crate::runtime::gpu::{GpuError, pointer};

/// One joint projection's matrices.
#[derive(Debug)]
pub struct Pair {
    /// `(parts · rank, inner)`.
    pub a: Matrix,
    /// `(outputs, rank)`.
    b: Tensor,
    /// `(outputs, parts · rank)`: B times the scale, each part beside its own rows, zeros elsewhere; where the weights have
    /// room for it.
    behind: Option<Tensor>,
}

impl Pair {
    /// Numbers behind a row of the weights where they and the update are one product.
    pub fn joined(&self) -> Option<i64> {
        self.behind.as_ref().map(|b| b.size()[1])
    }
}

/// One adapter, ready.
#[derive(Debug)]
pub struct Packed {
    /// By layer, then in the order of [`JOINT`].
    layers: Vec<[Pair; 4]>,
    /// `(1)`.
    scale: Tensor,
    /// Where the matrices for the room of the weights go ([`room::entry`]).
    pub rooms: Option<Tensor>,
    /// Two sums over all numbers: equal for equal contents.
    pub fingerprint: [f64; 2],
}

/// The rank that the kernels are compiled for.
pub fn padded_rank(adapter: Option<&Adapter>) -> i64 {
    adapter.map_or(8, |a| (a.config.rank + 7) / 8 * 8)
}

impl Packed {
    /// Copy an adapter of the model of these weights.
    pub(super) fn new(
        adapter: &Adapter,
        config: &ModelConfig,
        weights: &[Layer],
        multiprocessors: u32,
    ) -> Result<Self, GpuError> {
        let device = weights[0].input_norm.device();
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
        let (mut layers, mut entries) = (Vec::with_capacity(weights.len()), vec![]);
        for (layer, layer_weights) in weights.iter().enumerate() {
            let mut pairs = Vec::with_capacity(4);
            for (joint, (targets, (a_size, b_size, inner))) in JOINT.iter().zip(sizes).enumerate() {
                let (a, b) = (take(a_size, inner), take(b_size, rank));
                let (weight, width) = (&layer_weights.joint[joint].weight, a.size()[0]);
                let behind = match room::behind(weight) >= width {
                    true => Some(Tensor::f_zeros(
                        [b.size()[0], width],
                        (Kind::BFloat16, device),
                    )?),
                    false => None,
                };
                let mut first = 0;
                for (part, target) in targets.iter().enumerate() {
                    let outputs = target.features(config).1;
                    if let Some(update) = adapter.get(layer, *target) {
                        a.narrow(0, part as i64 * rank, own).copy_(&update.a);
                        b.narrow(0, first, outputs)
                            .narrow(1, 0, own)
                            .copy_(&update.b);
                        if let Some(behind) = &behind {
                            let place = behind.narrow(0, first, outputs);
                            let mut place = place.narrow(1, part as i64 * rank, own);
                            place.copy_(&(&update.b * adapter.config.scale()));
                        }
                    }
                    first += outputs;
                }
                if let Some(behind) = &behind {
                    let place = room::joined(weight, width)?.f_narrow(1, inner, width)?;
                    entries.push(room::entry(behind, &place));
                }
                pairs.push(Pair {
                    a: Matrix::new(&a, multiprocessors)?,
                    b,
                    behind,
                });
            }
            let Ok(pairs) = pairs.try_into() else {
                unreachable!("four projections")
            };
            layers.push(pairs);
        }
        let scale = Tensor::from_slice(&[adapter.config.scale() as f32]).to_device(device);
        let rooms = match entries.is_empty() {
            true => None,
            false => Some(Tensor::f_from_slice(entries.as_flattened())?.f_to_device(device)?),
        };
        // In slices: memory may be full of keys and values.
        const SLICE: i64 = 1 << 22;
        let waves = Tensor::f_arange(SLICE, (Kind::Double, device))?.f_sin()?;
        let mut fingerprint = [0.0, adapter.config.scale()];
        for (index, from) in (0..total).step_by(SLICE as usize).enumerate() {
            let count = SLICE.min(total - from);
            let slice = all.narrow(0, from, count).f_to_kind(Kind::Double)?;
            let weighted = (&slice * waves.narrow(0, 0, count)).sum(Kind::Double);
            fingerprint[0] += slice.sum(Kind::Double).double_value(&[]);
            fingerprint[1] += weighted.double_value(&[]) * (index as f64 + 1.0).sqrt();
        }
        Ok(Self {
            layers,
            scale,
            rooms,
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
