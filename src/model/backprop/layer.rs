//! A layer's forward that keeps, and its backward. Numbered as in the decoder: (1) norm, (2) q k v, (3) QK-norm and
//! rotation, (4) attention, (5) output projection, (6) norm, (7) gated feed-forward.

use tch::Tensor;

use super::Shape;
use super::attention::{Attended, Layout};
use super::gradients::{JointGradient, LiveJoint};
use super::pieces::{Inputs, Pieces};
use super::plan::Keep;
use crate::model::decoder::Layer;
use crate::model::linear::Linear;
use crate::runtime::gpu::GpuError;

/// What a layer keeps. The input always; the rest by the plan, and made again in the backward where it is missing.
pub struct Kept {
    /// `(T, hidden)`.
    x: Tensor,
    attention: Option<KeptAttention>,
    /// Gate and up side by side, with the low-rank part of what they come from.
    wide: Option<Projected>,
    /// `A x` of the down projection.
    z_down: Option<Tensor>,
}

/// The first half of a layer.
struct KeptAttention {
    /// q, k and v before norm and rotation, side by side.
    qkv: Projected,
    attended: Attended,
    z_output: Option<Tensor>,
    /// The input with attention's output added, `(T, hidden)`.
    middle: Tensor,
}

/// A projection's output, and `z = A x` of what went in.
struct Projected {
    y: Tensor,
    z: Option<Tensor>,
}

type Low<'a> = Option<&'a [Option<LiveJoint>; 4]>;

fn joint(low: Low<'_>, index: usize) -> Option<&LiveJoint> {
    low.and_then(|low| low[index].as_ref())
}

/// The way back through an update, between the gradient of its projection's output and that of its input.
struct Back<'a> {
    pieces: &'a Pieces,
    low: &'a LiveJoint,
    gradient: &'a mut JointGradient,
    /// Gradient of `x Aᵀ`.
    d_low: Tensor,
}

impl<'a> Back<'a> {
    /// Adds B's gradient.
    fn new(
        pieces: &'a Pieces,
        (low, gradient): (Option<&'a LiveJoint>, Option<&'a mut JointGradient>),
        d_y: &Tensor,
        z: Option<&Tensor>,
    ) -> Result<Option<Self>, GpuError> {
        let (Some(low), Some(gradient), Some(z)) = (low, gradient, z) else {
            return Ok(None);
        };
        let d_low = low.backward_b(pieces, d_y, z, gradient)?;
        Ok(Some(Self {
            pieces,
            low,
            gradient,
            d_low,
        }))
    }

    /// Adds A's gradient; `x` is what went into the projection.
    fn input(self, x: &Tensor) -> Result<(), GpuError> {
        self.low
            .backward_a(self.pieces, &self.d_low, x, self.gradient)
    }
}

/// Gradient of a projection's input.
fn input_gradient(
    pieces: &Pieces,
    linear: &Linear,
    d_y: &Tensor,
    back: Option<&Back>,
) -> Result<Tensor, GpuError> {
    let low = back.map(|back| (back.low, &back.d_low));
    pieces.project_back(d_y, linear, low)
}

/// What a layer gives to the next.
pub struct Stream {
    /// `(T, hidden)`.
    pub x: Tensor,
    /// Its norm by the next layer's weight.
    pub normed: Tensor,
}

impl Layer {
    /// The layer's output, and what `keep` says, unless that is nothing; `next_norm` is the norm that reads the output.
    pub(super) fn forward_kept(
        &self,
        (shape, pieces, layout): (&Shape, &Pieces, &Layout),
        stream: Stream,
        low: Low,
        keep: Keep,
        next_norm: &Tensor,
    ) -> Result<(Stream, Option<Kept>), GpuError> {
        let Stream { x, normed } = stream;
        let (attention, normed) = self.first_half((shape, pieces, layout), &x, normed, low)?;
        let wide = self.wide(pieces, normed, low)?;
        let act = Inputs::new(pieces, pieces.gate(&wide.y)?, joint(low, 3))?;
        let (next, normed) = pieces.add_and_norm(&attention.middle, &self.down, &act, next_norm)?;
        let z_down = act.into_low();
        let kept = (keep != Keep::Nothing).then(|| Kept {
            x,
            attention: (keep >= Keep::Attention).then_some(attention),
            wide: (keep >= Keep::All).then_some(wide),
            z_down,
        });
        Ok((Stream { x: next, normed }, kept))
    }

    /// Gate and up of the normed rows.
    fn wide(&self, pieces: &Pieces, normed: Tensor, low: Low) -> Result<Projected, GpuError> {
        let inputs = Inputs::new(pieces, normed, joint(low, 2))?;
        Ok(Projected {
            y: pieces.project(&inputs, &self.gate_up, true)?,
            z: inputs.into_low(),
        })
    }

    /// (1) to (5), from the normed input; and (6), the norm of the result.
    fn first_half(
        &self,
        (shape, pieces, layout): (&Shape, &Pieces, &Layout),
        x: &Tensor,
        normed: Tensor,
        low: Low,
    ) -> Result<(KeptAttention, Tensor), GpuError> {
        let inputs = Inputs::new(pieces, normed, joint(low, 0))?;
        let qkv = Projected {
            y: pieces.project(&inputs, &self.qkv, false)?,
            z: inputs.into_low(),
        };
        let (q, k, v) = pieces.rotate(&qkv.y, self.qk_norm.as_ref(), &layout.positions)?;
        let attended = layout.forward(shape, &q, &k, &v)?;
        drop((q, k, v));
        let flat = Inputs::new(pieces, attended.flat()?, joint(low, 1))?;
        let (middle, normed) = pieces.add_and_norm(x, &self.output, &flat, &self.post_norm)?;
        let z_output = flat.into_low();
        let kept = KeptAttention {
            qkv,
            attended,
            z_output,
            middle,
        };
        Ok((kept, normed))
    }

    /// From the gradient of the output, `(T, hidden)`, to that of the input, where it is wanted; gradients of the updates
    /// are added to theirs.
    pub(super) fn backward(
        &self,
        (shape, pieces, layout): (&Shape, &Pieces, &Layout),
        kept: Kept,
        low: &[Option<LiveJoint>; 4],
        d_out: Tensor,
        (wanted, gradients): (bool, &mut [Option<JointGradient>; 4]),
    ) -> Result<Option<Tensor>, GpuError> {
        let Kept {
            x,
            attention,
            wide,
            z_down,
        } = kept;
        let [g_qkv, g_output, g_wide, g_down] = gradients.each_mut().map(Option::as_mut);
        let low = Some(low);
        let mut normed = None;
        let attention = match attention {
            Some(attention) => attention,
            None => {
                let first = pieces.norm(&x, &self.input_norm)?;
                let (attention, second) =
                    self.first_half((shape, pieces, layout), &x, first, low)?;
                normed = Some(second);
                attention
            }
        };
        let wide = match wide {
            Some(wide) => wide,
            None => {
                let normed = match normed.take() {
                    Some(normed) => normed,
                    None => pieces.norm(&attention.middle, &self.post_norm)?,
                };
                self.wide(pieces, normed, low)?
            }
        };
        drop(normed);
        // (7)
        let back = Back::new(pieces, (joint(low, 3), g_down), &d_out, z_down.as_ref())?;
        let d_act = input_gradient(pieces, &self.down, &d_out, back.as_ref())?;
        let (d_wide, act) = pieces.gate_backward(wide.y, d_act)?;
        if let Some(back) = back {
            back.input(&act)?;
        }
        drop(act);
        let back = Back::new(pieces, (joint(low, 2), g_wide), &d_wide, wide.z.as_ref())?;
        let d_normed = input_gradient(pieces, &self.gate_up, &d_wide, back.as_ref())?;
        drop(d_wide);
        // (6)
        let (d_middle, normed) =
            pieces.norm_backward(d_normed, &attention.middle, &self.post_norm, Some(d_out))?;
        if let Some(back) = back {
            back.input(&normed)?;
        }
        drop(normed);
        // (5)
        let KeptAttention {
            qkv,
            attended,
            z_output,
            middle,
        } = attention;
        drop(middle);
        let back = Back::new(
            pieces,
            (joint(low, 1), g_output),
            &d_middle,
            z_output.as_ref(),
        )?;
        let d_attended = input_gradient(pieces, &self.output, &d_middle, back.as_ref())?;
        if let Some(back) = back {
            back.input(&attended.flat()?)?;
        }
        // (4)
        let d_attended = d_attended.f_view(attended.out.size().as_slice())?; // (T, H · D) → (T, H, D)
        let (q, k, v) = pieces.rotate(&qkv.y, self.qk_norm.as_ref(), &layout.positions)?;
        let rotated = layout.backward(shape, (&q, &k, &v), &attended, &d_attended)?;
        drop((q, k, v, attended, d_attended));
        // (3)
        let d_qkv = pieces.rotate_backward(
            &qkv.y,
            self.qk_norm.as_ref(),
            &layout.positions,
            &rotated,
            layout.back(),
        )?;
        drop(rotated);
        // (2) (1)
        let back = Back::new(pieces, (joint(low, 0), g_qkv), &d_qkv, qkv.z.as_ref())?;
        if !wanted {
            if let Some(back) = back {
                back.input(&pieces.norm(&x, &self.input_norm)?)?;
            }
            return Ok(None);
        }
        let d_normed = input_gradient(pieces, &self.qkv, &d_qkv, back.as_ref())?;
        drop(d_qkv);
        let (d_x, normed) = pieces.norm_backward(d_normed, &x, &self.input_norm, Some(d_middle))?;
        if let Some(back) = back {
            back.input(&normed)?;
        }
        Ok(Some(d_x))
    }
}
