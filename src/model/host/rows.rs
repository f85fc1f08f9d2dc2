//! What is done to each row on its own: norms, rotation, gates.

use crate::model::lanes::{LANES, Lanes, Simd, dispatch};

const LOG2E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts, the first short enough that its products with whole numbers are exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// 1.5 · 2²³: adding it rounds to a whole number, which then stands in the low bits.
const ROUND: f32 = 12_582_912.0;
/// Of the series e^r = 1 + r + r² · (…), |r| ≤ ln 2 / 2 (Cephes' expf).
const SERIES: [f32; 6] = [
    1.987_569_1e-4,
    1.398_199_9e-3,
    8.333_452e-3,
    4.166_579_6e-2,
    1.666_666_5e-1,
    0.5,
];

/// e^x within two units in the last place for x from -87 to 88, and as at these ends beyond them; of what is no number,
/// none. Nothing but additions and products, so that loops over it become vectors and give the same bits on each.
#[inline(always)]
pub fn exp<L: Lanes>(x: f32) -> f32 {
    // In this order what is not a number stays so.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = L::fma_one(x, LOG2E, ROUND);
    let whole = shifted - ROUND;
    let rest = L::fma_one(whole, -LN2_HIGH, x);
    let rest = L::fma_one(whole, -LN2_LOW, rest);
    let mut series = SERIES[0];
    for factor in &SERIES[1..] {
        series = L::fma_one(series, rest, *factor);
    }
    let value = L::fma_one(series, rest * rest, rest) + 1.0;
    let power = (shifted.to_bits() << 23).wrapping_add(0x3f80_0000);
    value * f32::from_bits(power)
}

/// Sum of sixteen numbers as a fixed binary tree.
#[inline(always)]
pub fn tree_sum(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// RMS norm of each row of `x`, as wide as `weight`, into `out`.
pub fn norm(simd: Simd, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    dispatch!(simd, norm_body(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]));
}

/// # Safety
/// The processor must have the instruction set of `L`.
#[inline(always)]
unsafe fn norm_body<L: Lanes>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let factor = factor::<L>(x, eps);
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * factor * weight;
        }
    }
}

/// 1 / rms of a row.
#[inline(always)]
pub fn factor<L: Lanes>(x: &[f32], eps: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let whole = x.chunks_exact(LANES);
    let rest = whole.remainder();
    for part in whole {
        for (lane, x) in lanes.iter_mut().zip(part) {
            *lane = L::fma_one(*x, *x, *lane);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = L::fma_one(*x, *x, *lane);
    }
    1.0 / (tree_sum(lanes) / x.len() as f32 + eps).sqrt()
}

/// Norm (where the model has one) and rotation of one head, in place; cosines and sines are half as many as its numbers.
pub fn turn(
    simd: Simd,
    head: &mut [f32],
    weight: Option<&[f32]>,
    eps: f32,
    cosines: &[f32],
    sines: &[f32],
) {
    dispatch!(simd, turn_body(head: &mut [f32], weight: Option<&[f32]>, eps: f32, cosines: &[f32], sines: &[f32]));
}

/// # Safety
/// The processor must have the instruction set of `L`.
#[inline(always)]
unsafe fn turn_body<L: Lanes>(
    head: &mut [f32],
    weight: Option<&[f32]>,
    eps: f32,
    cosines: &[f32],
    sines: &[f32],
) {
    if let Some(weight) = weight {
        let factor = factor::<L>(head, eps);
        for (x, weight) in head.iter_mut().zip(weight) {
            *x = *x * factor * weight;
        }
    }
    let (first, second) = head.split_at_mut(cosines.len());
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
        let (x, y) = (*a, *b);
        *a = x * cos - y * sin;
        *b = y * cos + x * sin;
    }
}

/// `silu(gate) · up` of each row of `wide`, gates first and ups after them, into `out`.
pub fn gate(simd: Simd, wide: &[f32], out: &mut [f32], width: usize) {
    dispatch!(simd, gate_body(wide: &[f32], out: &mut [f32], width: usize));
}

/// # Safety
/// The processor must have the instruction set of `L`.
#[inline(always)]
unsafe fn gate_body<L: Lanes>(wide: &[f32], out: &mut [f32], width: usize) {
    for (wide, out) in wide
        .chunks_exact(2 * width)
        .zip(out.chunks_exact_mut(width))
    {
        let (gates, ups) = wide.split_at(width);
        for ((out, gate), up) in out.iter_mut().zip(gates).zip(ups) {
            *out = *gate / (1.0 + exp::<L>(-gate)) * up;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_that_of_the_library() {
        for step in -8700..8800 {
            let x = step as f32 * 0.01;
            let (got, expected) = (exp::<crate::model::lanes::Portable>(x), f64::from(x).exp());
            let error = (f64::from(got) - expected).abs() / expected;
            assert!(error < 2.5e-7, "{x}: {got:e}, {expected:e}");
        }
        assert!(exp::<crate::model::lanes::Portable>(f32::NAN).is_nan());
    }
}
