//! Room for an adapter's part beside frozen weights and beside the rows that meet them.
//!
//! A matrix product is one sum in f32, rounded once; cuBLAS, told to add it to a matrix in bf16, rounds it before, and most
//! of a small update is lost. So where training has kernels of its own, B lies behind the rows of W and z = x Aᵀ behind
//! those of x, and `[x z] [W B]ᵀ = x Wᵀ + z Bᵀ` is one product; A lies below W, and `[d_y d_z] [W; A]` is one on the way
//! back. A matrix has room where its rows lie further apart than they are long. Generation computes prompts in the same way.

use tch::{Device, Kind, TchError, Tensor};

use super::config::ModelConfig;
use super::lora::{JOINT, Target};
use crate::runtime::gpu::Shape;

/// Ranks of a target that find room beside the weights. A joint projection's targets share theirs.
pub const RANKS: i64 = 32;

/// Room of a joint projection of so many targets, in numbers: whole lines of the cache.
pub fn of_targets(targets: usize) -> i64 {
    (targets as u64 * RANKS as u64).next_multiple_of(64) as i64
}

/// Numbers that the room of a model's weights adds to them.
pub fn of_model(config: &ModelConfig) -> i64 {
    let joint = |targets: &&[Target]| {
        let room = of_targets(targets.len());
        let inputs = targets[0].features(config).0;
        let outputs: i64 = targets.iter().map(|t| t.features(config).1).sum();
        (outputs + room) * (inputs + room) - outputs * inputs
    };
    config.layers * JOINT.iter().map(joint).sum::<i64>()
}

/// Whether weights of this kind get room when they are loaded onto this device.
pub fn is_given(kind: Kind, device: Device) -> bool {
    device.is_cuda() && kind == Kind::BFloat16
}

/// An uninitialised matrix, `(count, width)`, with room behind its rows.
///
/// # Errors
/// No memory.
pub fn rows(
    (count, width): (i64, i64),
    room: i64,
    (kind, device): (Kind, Device),
) -> Result<Tensor, TchError> {
    Tensor::f_empty([count, width + room], (kind, device))?.f_narrow(1, 0, width)
}

/// Room behind the rows of a matrix.
pub fn behind(x: &Tensor) -> i64 {
    x.stride()[0] - x.size()[1]
}

/// The matrix with `ranks` numbers of the room behind its rows, `(count, width + ranks)`.
///
/// # Errors
/// There is less room.
pub fn joined(x: &Tensor, ranks: i64) -> Result<Tensor, TchError> {
    let size = [x.size()[0], x.size()[1] + ranks];
    x.f_as_strided(size.as_slice(), [x.stride()[0], 1].as_slice(), None)
}

/// Entry of the kernel that lays matrices out (`room.cu`): all of a contiguous matrix, to where a view of the room lies. The
/// memory of both must outlive the entry.
pub fn entry(from: &Tensor, to: &Tensor) -> [i64; 5] {
    debug_assert!(from.is_contiguous() && from.size() == to.size());
    let [at, place] = [from, to].map(|t| t.data_ptr() as i64);
    [at, place, from.size()[0], from.size()[1], to.stride()[0]]
}

/// How that kernel is launched on a table of such entries.
pub fn shape(table: &Tensor) -> Shape {
    Shape::new((64, table.numel() as u32 / 5), 256)
}

/// Write a matrix behind the rows of another.
///
/// # Errors
/// There is less room.
pub fn put_behind(x: &Tensor, z: &Tensor) -> Result<(), TchError> {
    let (width, ranks) = (x.size()[1], z.size()[1]);
    joined(x, ranks)?.f_narrow(1, width, ranks)?.f_copy_(z)
}
