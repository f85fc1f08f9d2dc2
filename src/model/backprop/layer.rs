//! A layer's forward that keeps, and its backward. Numbered as in the decoder: (1) norm, (2) q k v, (3) QK-norm and
//! rotation, (4) attention, (5) output projection, (6) norm, (7) gated feed-forward.

use tch::Tensor;

use super::Shape;
use super::attention::{Attended, Layout};
use super::gradients::{JointGradient, LiveJoint};
use super::pieces::Pieces;
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
    /// `scale · A x` of the down projection.
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

/// A projection's output, and `z = scale · A x` of what went in.
struct Projected {
    y: Tensor,
    z: Option<Tensor>,
}

type Low<'a> = Option<&'a [Option<LiveJoint>; 4]>;

fn joint(low: Low<'_>, index: usize) -> Option<&LiveJoint> {
    low.and_then(|low| low[index].as_ref())
}

/// `base + x wᵀ` with bias and update.
fn project(
    linear: &Linear,
    x: &Tensor,
    base: Option<&Tensor>,
    low: Option<&LiveJoint>,
) -> Result<Projected, GpuError> {
    let w = linear.weight().f_tr()?;
    let mut y = match base {
        Some(base) => base.f_addmm(x, &w)?,
        None => x.f_mm(&w)?,
    };
    if let Some(bias) = linear.bias() {
        let _ = y.f_add_(bias)?;
    }
    let z = match low {
        Some(low) => {
            let z = low.low(x)?;
            low.add(&mut y, &z)?;
            Some(z)
        }
        None => None,
    };
    Ok(Projected { y, z })
}

/// Gradient of a projection's input, if it is `wanted`; those of its update are added. `input` gives what went in, which
/// is made again only where the update needs it.
fn project_backward(
    linear: &Linear,
    d_y: &Tensor,
    z: Option<&Tensor>,
    (low, gradient): (Option<&LiveJoint>, Option<&mut JointGradient>),
    input: impl FnOnce() -> Result<Tensor, GpuError>,
    wanted: bool,
) -> Result<Option<Tensor>, GpuError> {
    let mut d_low = None;
    if let (Some(low), Some(z), Some(gradient)) = (low, z, gradient) {
        let d = low.backward_b(d_y, z, gradient)?;
        low.backward_a(&d, &input()?, gradient)?;
        d_low = Some((low, d));
    }
    if !wanted {
        return Ok(None);
    }
    let mut d_x = d_y.f_mm(linear.weight())?;
    if let Some((low, d)) = d_low {
        low.backward_x(&d, &mut d_x)?;
    }
    Ok(Some(d_x))
}

impl Layer {
    /// The layer's output, and what `keep` says, unless that is nothing.
    pub(super) fn forward_kept(
        &self,
        shape: &Shape,
        pieces: &Pieces,
        x: Tensor,
        layout: &Layout,
        low: Low,
        keep: Keep,
    ) -> Result<(Tensor, Option<Kept>), GpuError> {
        let attention = self.first_half(shape, pieces, &x, layout, low)?;
        let wide = self.wide(pieces, &attention.middle, low)?;
        let act = pieces.gate(&wide.y)?;
        let down = project(&self.down, &act, Some(&attention.middle), joint(low, 3))?;
        let kept = (keep != Keep::Nothing).then(|| Kept {
            x,
            attention: (keep >= Keep::Attention).then_some(attention),
            wide: (keep >= Keep::All).then_some(wide),
            z_down: down.z,
        });
        Ok((down.y, kept))
    }

    fn first_half(
        &self,
        shape: &Shape,
        pieces: &Pieces,
        x: &Tensor,
        layout: &Layout,
        low: Low,
    ) -> Result<KeptAttention, GpuError> {
        // (1) (2)
        let normed = pieces.norm(x, &self.input_norm)?;
        let qkv = project(&self.qkv, &normed, None, joint(low, 0))?;
        drop(normed);
        // (3) (4)
        let (q, k, v) = pieces.rotate(&qkv.y, self.qk_norm.as_ref(), &layout.positions)?;
        let attended = layout.forward(shape, &q, &k, &v)?;
        drop((q, k, v));
        // (5)
        let output = project(&self.output, &attended.flat()?, Some(x), joint(low, 1))?;
        Ok(KeptAttention {
            qkv,
            attended,
            z_output: output.z,
            middle: output.y,
        })
    }

    /// (6) and the first part of (7).
    fn wide(&self, pieces: &Pieces, middle: &Tensor, low: Low) -> Result<Projected, GpuError> {
        let normed = pieces.norm(middle, &self.post_norm)?;
        project(&self.gate_up, &normed, None, joint(low, 2))
    }

    /// From the gradient of the output, `(T, hidden)`, to that of the input, where it is wanted; gradients of the updates
    /// are added to theirs.
    pub(super) fn backward(
        &self,
        shape: &Shape,
        pieces: &Pieces,
        kept: Kept,
        layout: &Layout,
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
        let attention = match attention {
            Some(attention) => attention,
            None => self.first_half(shape, pieces, &x, layout, low)?,
        };
        let wide = match wide {
            Some(wide) => wide,
            None => self.wide(pieces, &attention.middle, low)?,
        };
        let is_there = |d: Option<Tensor>| d.expect("it was wanted");
        // (7)
        let d_act = is_there(project_backward(
            &self.down,
            &d_out,
            z_down.as_ref(),
            (joint(low, 3), g_down),
            || pieces.gate(&wide.y),
            true,
        )?);
        let d_wide = pieces.gate_backward(wide.y, &d_act)?;
        drop(d_act);
        let d_normed = is_there(project_backward(
            &self.gate_up,
            &d_wide,
            wide.z.as_ref(),
            (joint(low, 2), g_wide),
            || pieces.norm(&attention.middle, &self.post_norm),
            true,
        )?);
        drop(d_wide);
        // (6)
        let d_middle =
            pieces.norm_backward(&d_normed, &attention.middle, &self.post_norm, Some(d_out))?;
        drop(d_normed);
        // (5)
        let KeptAttention {
            qkv,
            attended,
            z_output,
            middle,
        } = attention;
        drop(middle);
        let d_attended = is_there(project_backward(
            &self.output,
            &d_middle,
            z_output.as_ref(),
            (joint(low, 1), g_output),
            || attended.flat(),
            true,
        )?);
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
        let d_normed = project_backward(
            &self.qkv,
            &d_qkv,
            qkv.z.as_ref(),
            (joint(low, 0), g_qkv),
            || pieces.norm(&x, &self.input_norm),
            wanted,
        )?;
        match d_normed {
            Some(d) => Ok(Some(pieces.norm_backward(
                &d,
                &x,
                &self.input_norm,
                Some(d_middle),
            )?)),
            None => Ok(None),
        }
    }
}
