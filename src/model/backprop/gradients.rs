//! An adapter as training computes with it, and the gradients of its matrices.

use tch::{Kind, Tensor};

use super::super::lora::{Adapter, JOINT, Target};
use super::product_f32;
use crate::model::config::ModelConfig;
use crate::runtime::gpu::GpuError;

/// One target's place in a joint projection.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// First row of its outputs.
    row: i64,
    outputs: i64,
    /// First of its ranks.
    rank: i64,
}

/// The low-rank updates of one joint projection: `y += z Bᵀ`, `z = scale · x Aᵀ`.
#[derive(Debug)]
pub struct LiveJoint {
    /// `(R, in)`: the A matrices of the targets, one below the other.
    a: Tensor,
    /// `(out, R)`: their B matrices, each beside its own rows and ranks, zeros elsewhere.
    b: Tensor,
    scale: f64,
}

/// An adapter in the weights' kind, for the steps until it changes.
#[derive(Debug)]
pub struct Live {
    layers: Vec<[Option<LiveJoint>; 4]>,
}

/// The targets of a joint projection that carry an update, with their places.
fn parts<'a>(
    adapter: &'a Adapter,
    model: &'a ModelConfig,
    layer: usize,
    joint: usize,
) -> (Vec<(Target, Part)>, i64) {
    let (mut row, mut rank, mut found) = (0, 0, vec![]);
    for &target in JOINT[joint] {
        let outputs = target.features(model).1;
        if adapter.get(layer, target).is_some() {
            found.push((target, Part { row, outputs, rank }));
            rank += adapter.config.rank;
        }
        row += outputs;
    }
    (found, row)
}

impl Live {
    /// Copies of the matrices in this kind.
    pub fn new(adapter: &Adapter, model: &ModelConfig, kind: Kind) -> Result<Self, GpuError> {
        let _no_grad = tch::no_grad_guard();
        let flat = adapter.flat().detach().f_to_kind(kind)?;
        let scale = adapter.config.scale();
        let mut layers = Vec::with_capacity(model.layers as usize);
        for layer in 0..model.layers as usize {
            let mut joints = [const { None }; 4];
            for (joint, slot) in joints.iter_mut().enumerate() {
                let (found, outputs) = parts(adapter, model, layer, joint);
                let Some(a) = adapter.joint_a(&flat, layer, joint) else {
                    continue;
                };
                let ranks = a.size()[0];
                let b = match found.as_slice() {
                    [(target, part)] if part.outputs == outputs => {
                        adapter.b_of(&flat, layer, *target)
                    }
                    _ => {
                        let b = Tensor::f_zeros([outputs, ranks], (kind, flat.device()))?;
                        for (target, part) in found {
                            b.f_narrow(0, part.row, part.outputs)?
                                .f_narrow(1, part.rank, adapter.config.rank)?
                                .f_copy_(&adapter.b_of(&flat, layer, target))?;
                        }
                        b
                    }
                };
                *slot = Some(LiveJoint { a, b, scale });
            }
            layers.push(joints);
        }
        Ok(Self { layers })
    }

    /// The updates of a layer, in the order of [`JOINT`].
    pub fn layer(&self, index: usize) -> &[Option<LiveJoint>; 4] {
        &self.layers[index]
    }
}

impl LiveJoint {
    /// `z = scale · x Aᵀ`, `(T, R)`.
    pub fn low(&self, x: &Tensor) -> Result<Tensor, GpuError> {
        Ok(x.f_mm(&self.a.f_tr()?)?.f_mul_scalar_(self.scale)?)
    }

    /// `y += z Bᵀ`, `(T, out)`.
    pub fn add(&self, y: &mut Tensor, z: &Tensor) -> Result<(), GpuError> {
        let _ = y.f_addmm_(z, &self.b.f_tr()?)?;
        Ok(())
    }

    /// The gradient with respect to `x Aᵀ`, `(T, R)`; B's own is added.
    pub fn backward_b(
        &self,
        d_y: &Tensor,
        z: &Tensor,
        gradient: &mut JointGradient,
    ) -> Result<Tensor, GpuError> {
        let d_low = d_y.f_mm(&self.b)?.f_mul_scalar_(self.scale)?;
        let d_b = product_f32(&d_y.f_tr()?, z)?; // (out, R)
        for (part, b) in &mut gradient.b {
            let own =
                d_b.f_narrow(0, part.row, part.outputs)?
                    .f_narrow(1, part.rank, b.size()[1])?;
            let _ = b.f_add_(&own)?;
        }
        Ok(d_low)
    }

    /// A's gradient is added; `x` is what went into the projection.
    pub fn backward_a(
        &self,
        d_low: &Tensor,
        x: &Tensor,
        gradient: &mut JointGradient,
    ) -> Result<(), GpuError> {
        let _ = gradient.a.f_add_(&product_f32(&d_low.f_tr()?, x)?)?;
        Ok(())
    }

    /// `d_x += d_low A`.
    pub fn backward_x(&self, d_low: &Tensor, d_x: &mut Tensor) -> Result<(), GpuError> {
        let _ = d_x.f_addmm_(d_low, &self.a)?;
        Ok(())
    }
}

/// Gradients of one joint projection's matrices, views of the flat buffer.
#[derive(Debug)]
pub struct JointGradient {
    /// `(R, in)`.
    a: Tensor,
    /// `(outputs, rank)` each.
    b: Vec<(Part, Tensor)>,
}

/// Gradients of all matrices of an adapter, in f32, in one buffer with the adapter's own layout.
#[derive(Debug)]
pub struct Gradients {
    flat: Tensor,
    pub(super) layers: Vec<[Option<JointGradient>; 4]>,
}

impl Gradients {
    /// Zeros.
    pub fn zeros(adapter: &Adapter, model: &ModelConfig) -> Self {
        let flat = adapter.flat().detach().zeros_like();
        let layers = (0..model.layers as usize).map(|layer| {
            [0, 1, 2, 3].map(|joint| {
                let a = adapter.joint_a(&flat, layer, joint)?;
                let (found, _) = parts(adapter, model, layer, joint);
                let b = found
                    .into_iter()
                    .map(|(target, part)| (part, adapter.b_of(&flat, layer, target)));
                Some(JointGradient { a, b: b.collect() })
            })
        });
        Self {
            layers: layers.collect(),
            flat,
        }
    }

    /// All of them, `(parameters)`, in the order of [`Adapter::flat`].
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// Start anew.
    pub fn reset(&mut self) {
        let _ = self.flat.zero_();
    }
}
