//! What kernels of the step read and write, where it is more than a few tensors.

use tch::Tensor;

/// What a norm reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// `(rows, hidden)`, what the layers add up to.
    pub residual: &'a Tensor,
    /// `(hidden)`.
    pub weight: &'a Tensor,
    /// `(rows, hidden)`.
    pub out: &'a Tensor,
}

/// What `Kernels::rotate` reads and writes beside the projection.
#[derive(Debug, Clone, Copy)]
pub struct Rotation<'a> {
    /// Weights of the norms on each head.
    pub norms: Option<(&'a Tensor, &'a Tensor)>,
    /// `(positions, head width / 2)`.
    pub cosines: &'a Tensor,
    /// The same.
    pub sines: &'a Tensor,
    /// `(rows)`.
    pub position: &'a Tensor,
    /// `(rows)`.
    pub place: &'a Tensor,
    /// `(rows, heads, head width)`.
    pub q: &'a Tensor,
    /// `(rows, kv heads, head width)` each.
    pub packed: Option<(&'a Tensor, &'a Tensor)>,
    /// `(pages, kv heads, PAGE, head width)`.
    pub key_cache: &'a Tensor,
    /// The same.
    pub value_cache: &'a Tensor,
}
