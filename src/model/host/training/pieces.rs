//! What a layer has between its products: norms, gates, rotation.

use tch::{TchError, Tensor};

use super::{by_rows, empty, shape};
use crate::model::host::buffer::{Parts, memory};
use crate::model::host::rows::{exp, factor, gate, norm, tree_sum, turn};
use crate::model::lanes::{LANES, Lanes, Simd, dispatch};

/// x / rms(x) · w over the last dimension.
///
/// # Errors
/// No memory.
pub fn normed(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor, TchError> {
    let out = empty(&x.size())?;
    let (rows, width) = shape(x);
    // SAFETY: the result is new, the others are not written.
    let (x, weight, to) = unsafe { (memory(x), memory(weight), Parts::of(&out)) };
    let simd = Simd::best();
    by_rows(rows, |rows| {
        let part = rows.start * width..rows.end * width;
        // SAFETY: a task has its own rows.
        let to = unsafe { to.part(part.start, part.len()) };
        norm(simd, &x[part], weight, eps as f32, to);
    });
    Ok(out)
}

/// Gradient of a norm's input, with `more` added to it where there is some, and the norm itself again.
///
/// # Errors
/// No memory.
pub fn norm_backward(
    d_y: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    more: Option<&Tensor>,
) -> Result<(Tensor, Tensor), TchError> {
    let (d_x, normed) = (empty(&x.size())?, empty(&x.size())?);
    assert!(d_y.numel() == x.numel() && more.is_none_or(|m| m.numel() == x.numel()));
    let (rows, width) = shape(x);
    // SAFETY: the results are new, the others are not written.
    let (d_y, x, weight, more, to, again) = unsafe {
        (
            memory(d_y),
            memory(x),
            memory(weight),
            more.map(|m| memory(m)),
            Parts::of(&d_x),
            Parts::of(&normed),
        )
    };
    let (simd, eps) = (Simd::best(), eps as f32);
    by_rows(rows, |rows| {
        for at in rows.map(|row| row * width..(row + 1) * width) {
            // SAFETY: a task has its own rows.
            let (to, again) = unsafe { (to.part(at.start, width), again.part(at.start, width)) };
            let more = more.map(|more| &more[at.clone()]);
            norm_back(simd, &d_y[at.clone()], &x[at], weight, eps, more, to, again);
        }
    });
    Ok((d_x, normed))
}

#[allow(clippy::too_many_arguments)] // a kernel's
fn norm_back(
    simd: Simd,
    d_y: &[f32],
    x: &[f32],
    weight: &[f32],
    eps: f32,
    more: Option<&[f32]>,
    d_x: &mut [f32],
    normed: &mut [f32],
) {
    dispatch!(simd, norm_back_body(
        d_y: &[f32], x: &[f32], weight: &[f32], eps: f32, more: Option<&[f32]>, d_x: &mut [f32], normed: &mut [f32],
    ));
}

/// With r = 1 / rms(x), n numbers a row: dx = r · (w ∘ dy − x · r² / n · Σ (w ∘ dy ∘ x)).
///
/// # Safety
/// The processor must have the instruction set of `L`.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // six slices of one length
unsafe fn norm_back_body<L: Lanes>(
    d_y: &[f32],
    x: &[f32],
    weight: &[f32],
    eps: f32,
    more: Option<&[f32]>,
    d_x: &mut [f32],
    normed: &mut [f32],
) {
    let n = x.len();
    let (d_y, weight) = (&d_y[..n], &weight[..n]);
    let (d_x, normed) = (&mut d_x[..n], &mut normed[..n]);
    let r = factor::<L>(x, eps);
    let mut lanes = [0f32; LANES];
    let whole = n / LANES * LANES;
    for from in (0..whole).step_by(LANES) {
        for lane in 0..LANES {
            let at = from + lane;
            lanes[lane] = L::fma_one(weight[at] * d_y[at], x[at], lanes[lane]);
        }
    }
    for at in whole..n {
        lanes[at - whole] = L::fma_one(weight[at] * d_y[at], x[at], lanes[at - whole]);
    }
    let along = tree_sum(lanes) / n as f32 * (r * r);
    for at in 0..n {
        d_x[at] = (weight[at] * d_y[at] - x[at] * along) * r;
        normed[at] = x[at] * r * weight[at];
    }
    if let Some(more) = more {
        for (d_x, more) in d_x.iter_mut().zip(more) {
            *d_x += more;
        }
    }
}

/// silu(gate) ∘ up, `(T, 2 F)` to `(T, F)`.
///
/// # Errors
/// No memory.
pub fn gated(wide: &Tensor) -> Result<Tensor, TchError> {
    let (rows, width) = shape(wide);
    let half = width / 2;
    let out = empty(&[rows as i64, half as i64])?;
    // SAFETY: the result is new, the other is not written.
    let (wide, to) = unsafe { (memory(wide), Parts::of(&out)) };
    let simd = Simd::best();
    by_rows(rows, |rows| {
        // SAFETY: a task has its own rows.
        let to = unsafe { to.part(rows.start * half, rows.len() * half) };
        gate(simd, &wide[rows.start * width..rows.end * width], to, half);
    });
    Ok(out)
}

/// Gradient of gate and up, in their place, and what they made again, `(T, F)`.
///
/// # Errors
/// No memory.
pub fn gate_backward(wide: Tensor, d_act: &Tensor) -> Result<(Tensor, Tensor), TchError> {
    let (rows, width) = shape(&wide);
    let half = width / 2;
    let out = empty(&[rows as i64, half as i64])?;
    assert_eq!(d_act.numel(), rows * half, "a gradient for each product");
    // SAFETY: the result is new, gate and up are the caller's to give, the gradient is not written.
    let (d_act, inout, act) = unsafe { (memory(d_act), Parts::of(&wide), Parts::of(&out)) };
    let simd = Simd::best();
    by_rows(rows, |rows| {
        for row in rows {
            // SAFETY: a task has its own rows.
            let (wide, act) =
                unsafe { (inout.part(row * width, width), act.part(row * half, half)) };
            gate_back(simd, wide, &d_act[row * half..(row + 1) * half], act);
        }
    });
    Ok((wide, out))
}

fn gate_back(simd: Simd, wide: &mut [f32], d_act: &[f32], act: &mut [f32]) {
    dispatch!(simd, gate_back_body(wide: &mut [f32], d_act: &[f32], act: &mut [f32]));
}

/// With s = sigmoid(gate): d gate = d · up · s · (1 + gate · (1 − s)), d up = d · gate · s.
///
/// # Safety
/// The processor must have the instruction set of `L`.
#[inline(always)]
unsafe fn gate_back_body<L: Lanes>(wide: &mut [f32], d_act: &[f32], act: &mut [f32]) {
    let (gates, ups) = wide.split_at_mut(d_act.len());
    for (((gate, up), d), act) in gates.iter_mut().zip(ups).zip(d_act).zip(act) {
        let s = 1.0 / (1.0 + exp::<L>(-*gate));
        let silu = *gate * s;
        *act = silu * *up;
        *gate = d * *up * (s * (1.0 + *gate * (1.0 - s)));
        *up = d * silu;
    }
}

/// Some heads of each row of a joint projection, normed where there is a norm, and rotated: `(T, heads, D)`.
///
/// `first` is the first of the heads; `cosines` and `sines` hold half a head's numbers for each row.
///
/// # Errors
/// No memory.
pub fn rotated(
    joint: &Tensor,
    (first, heads, dim): (usize, usize, usize),
    weight: Option<&Tensor>,
    eps: f64,
    (cosines, sines): (&Tensor, &Tensor),
) -> Result<Tensor, TchError> {
    let (rows, width) = shape(joint);
    let out = empty(&[rows as i64, heads as i64, dim as i64])?;
    // SAFETY: the result is new, the others are not written.
    let (joint, weight, cosines, sines, to) = unsafe {
        (
            memory(joint),
            weight.map(|w| memory(w)),
            memory(cosines),
            memory(sines),
            Parts::of(&out),
        )
    };
    let (simd, half, own) = (Simd::best(), dim / 2, heads * dim);
    assert!(cosines.len() == rows * half && sines.len() == rows * half);
    by_rows(rows, |rows| {
        for row in rows {
            // SAFETY: a task has its own rows.
            let to = unsafe { to.part(row * own, own) };
            to.copy_from_slice(&joint[row * width + first * dim..][..own]);
            let angles = row * half..(row + 1) * half;
            let (cosines, sines) = (&cosines[angles.clone()], &sines[angles]);
            for head in to.chunks_exact_mut(dim) {
                turn(simd, head, weight, eps as f32, cosines, sines);
            }
        }
    });
    Ok(out)
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::super::tests::{leaf, near, random};
    use super::*;

    #[test]
    fn norms_and_gates_and_their_gradients_are_those_of_autograd_in_f64() {
        tch::manual_seed(1);
        for (rows, width) in [(1, 5), (7, 64), (33, 100)] {
            let (x, weight, d_y, more) = (
                random(&[rows, width]),
                random(&[width]),
                random(&[rows, width]),
                random(&[rows, width]),
            );
            let exact = leaf(&x);
            let weights = weight.to_kind(Kind::Double);
            let y =
                &exact * (exact.square().mean_dim(-1, true, Kind::Double) + 1e-5).rsqrt() * weights;
            (&y * d_y.to_kind(Kind::Double))
                .sum(Kind::Double)
                .backward();
            near(
                &normed(&x, &weight, 1e-5).expect("memory"),
                &y,
                5e-6,
                "norm",
            );
            let back = norm_backward(&d_y, &x, &weight, 1e-5, Some(&more)).expect("memory");
            let expected = exact.grad() + more.to_kind(Kind::Double);
            near(&back.0, &expected, 5e-5, "gradient of a norm");
            near(&back.1, &y, 5e-6, "norm again");

            let (wide, d_act) = (random(&[rows, 2 * width]) * 3.0, random(&[rows, width]));
            let exact = leaf(&wide);
            let halves = exact.chunk(2, 1);
            let act = halves[0].silu() * &halves[1];
            (&act * d_act.to_kind(Kind::Double))
                .sum(Kind::Double)
                .backward();
            near(&gated(&wide).expect("memory"), &act, 5e-6, "gate");
            let (d_wide, again) = gate_backward(wide, &d_act).expect("memory");
            near(&d_wide, &exact.grad(), 5e-5, "gradient of a gate");
            near(&again, &act, 5e-6, "gate again");
        }
    }

    #[test]
    fn heads_are_rotated_as_by_tensor_operations() {
        tch::manual_seed(2);
        let (rows, heads, dim) = (9, 3, 8);
        let joint = random(&[rows, 6 * dim]);
        let weight = random(&[dim]);
        let angles = random(&[rows, 1, dim / 2]);
        let (cos, sin) = (angles.cos(), angles.sin());
        let part = joint
            .narrow(1, dim, heads * dim)
            .reshape([rows, heads, dim]);
        for weight in [None, Some(&weight)] {
            let sizes = (1, heads as usize, dim as usize);
            let got = rotated(&joint, sizes, weight, 1e-6, (&cos, &sin)).expect("memory");
            let part = match weight {
                Some(weight) => part.rms_norm([dim], Some(weight), 1e-6),
                None => part.shallow_clone(),
            };
            let expected =
                crate::model::rope::rotate(&part, &(cos.shallow_clone(), sin.shallow_clone()));
            near(&got, &expected, 5e-6, "heads");
        }
    }
}
