//! What stands between training's products on a CPU, forward and backward, in one pass over memory each: norms, rotation,
//! gates, scores of tokens. As tensor operations these are dozens of loops with a temporary tensor each, which together
//! take as long as the products.
//!
//! Every function takes contiguous f32 tensors on the CPU ([`serves`]); a row depends on no other.

use std::ops::Range;

use tch::{Device, Kind, TchError, Tensor};

use super::buffer::is_whole;
use crate::model::lanes::Simd;
use crate::runtime::team::with_team;

mod pieces;
mod shares;

pub use pieces::{gate_backward, gated, norm_backward, normed, rotated};
pub use shares::{score, score_backward, softened, softened_backward};

/// Whether these functions can take this tensor, and are the faster way.
pub fn serves(tensor: &Tensor) -> bool {
    // Without vectors of our own libtorch is the faster one.
    Simd::best() != Simd::Portable && is_whole(tensor) && tensor.numel() > 0
}

/// Call `work` with ranges of rows, on all threads.
fn by_rows(rows: usize, work: impl Fn(Range<usize>) + Sync) {
    with_team(|team| {
        team.ranges(rows, rows.div_ceil(4 * team.threads()).max(1), work);
    });
}

fn empty(size: &[i64]) -> Result<Tensor, TchError> {
    Tensor::f_empty(size, (Kind::Float, Device::Cpu))
}

/// Rows and their width, by the last dimension.
fn shape(x: &Tensor) -> (usize, usize) {
    let width = x.size().last().copied().unwrap_or(1) as usize;
    (x.numel() / width.max(1), width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_without_numbers_and_others_that_have_none_here_are_left_alone() {
        let x = random(&[4, 6]);
        assert_eq!(serves(&x), Simd::best() != Simd::Portable);
        for other in [x.narrow(0, 0, 0), x.tr(), x.to_kind(Kind::BFloat16)] {
            assert!(!serves(&other), "{other:?}");
        }
    }

    pub fn random(size: &[i64]) -> Tensor {
        Tensor::randn(size, (Kind::Float, Device::Cpu))
    }

    /// Apart by so little of what is expected, or of 1 where that is more.
    pub fn near(got: &Tensor, expected: &Tensor, most: f64, what: &str) {
        let expected = expected.to_kind(Kind::Double);
        let apart = (got.to_kind(Kind::Double) - &expected).abs() / expected.abs().clamp_min(1.0);
        let apart = apart.max().double_value(&[]);
        assert!(apart < most, "{what}: {apart:e}");
    }

    /// A leaf in f64.
    pub fn leaf(x: &Tensor) -> Tensor {
        x.to_kind(Kind::Double).set_requires_grad(true)
    }
}
