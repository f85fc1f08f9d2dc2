//! The kernels of `low_rank.cu` as functions of tensors: an adapter's part of training's products.

use tch::{Kind, Tensor};

use super::gradients::JointGradient;
use super::kernels::{blocks, launch};
use crate::kernel_arguments;
use crate::model::room;
use crate::runtime::gpu::{GpuError, Kernel, Module, Shape, addresses, pointer};

/// Columns that a block has, rows of a step, and steps under way (`low_rank.cu`).
const STRIP: i64 = 256;
const STEP: i64 = 32;
const STAGES: i64 = 4;

/// Blocks that a Hopper GPU runs at a time, and what a block costs beside its steps, in steps. Constants, so that sums have
/// the same order on every GPU.
const AT_ONCE: i64 = 264;
const BLOCK_COSTS: i64 = 4;

/// Ranks of a joint projection, in eights, that are built.
const EIGHTS: [i64; 5] = [1, 2, 3, 4, 6];

/// Kernels of one number of ranks.
#[derive(Debug, Clone, Copy)]
struct Reading {
    ranks: i64,
    inner: Kernel,
    back: Kernel,
    input: Kernel,
}

/// All of them.
#[derive(Debug)]
pub struct LowRank {
    pack: Kernel,
    lay_out: Kernel,
    readings: Vec<Reading>,
    sum: Kernel,
    input_sum: Kernel,
}

/// How many blocks share the rows of a strip of columns, and how many rows each has.
fn division(rows: i64, columns: i64) -> (i64, i64) {
    let (steps, strips) = (blocks(rows, STEP), blocks(columns, STRIP));
    let cost =
        |splits: &i64| blocks(strips * splits, AT_ONCE) * (blocks(steps, *splits) + BLOCK_COSTS);
    let splits = (1..=steps.clamp(1, 16)).min_by_key(cost).unwrap_or(1);
    let each = blocks(steps, splits);
    (blocks(steps, each.max(1)), each * STEP)
}

impl Reading {
    /// Shared memory of a block that makes both products.
    fn shared(ranks: i64) -> u32 {
        let under_way = STAGES * STEP * (STRIP + 8 + ranks) * 2;
        (under_way + 4 * STEP * ranks * 4) as u32
    }

    fn shape(&self, columns: i64, splits: i64) -> Shape {
        let strips = blocks(columns, STRIP);
        Shape {
            shared: Self::shared(self.ranks),
            ..Shape::new((strips as u32, splits as u32), 256)
        }
    }
}

impl LowRank {
    pub(super) fn new(module: &Module) -> Result<Self, GpuError> {
        let mut readings = vec![];
        for eights in EIGHTS {
            let ranks = 8 * eights;
            let bytes = Reading::shared(ranks);
            let named = |what: &str| module.kernel(&format!("low_rank_{what}_{eights}"));
            let (back, input) = (named("back")?, named("input")?);
            let inner = named("inner")?;
            // Smaller GPUs have less shared memory; libtorch's products serve there.
            if let (Ok(back), Ok(input)) = (back.allow_shared(bytes), input.allow_shared(bytes)) {
                readings.push(Reading {
                    ranks,
                    inner,
                    back,
                    input,
                });
            }
        }
        Ok(Self {
            pack: module.kernel("pack_adapter")?,
            lay_out: module.kernel("lay_out")?,
            readings,
            sum: module.kernel("low_rank_sum")?,
            input_sum: module.kernel("low_rank_input_sum")?,
        })
    }

    /// B matrices of an adapter out of its flat buffer into `out`, in bf16, by the entries of `table`, `(matrices, 5)`; see
    /// `low_rank.cu`.
    pub fn pack(
        &self,
        flat: &Tensor,
        table: &Tensor,
        scale: f64,
        out: &Tensor,
    ) -> Result<(), GpuError> {
        let ([from, list, to], scale) = (addresses([flat, table, out]), scale as f32);
        launch(
            self.pack,
            Shape::new((64, table.numel() as u32 / 5), 256),
            kernel_arguments![from, list, scale, to],
        )
    }

    /// Matrices into the room of the weights, by the entries of `table`, `(matrices, 5)` ([`room::entry`]).
    pub fn lay_out(&self, table: &Tensor) -> Result<(), GpuError> {
        let [list] = addresses([table]);
        launch(self.lay_out, room::shape(table), kernel_arguments![list])
    }

    fn reading(&self, rows: &Tensor, ranks: i64) -> Option<Reading> {
        let whole =
            rows.stride()[1] == 1 && [rows.size()[1], rows.stride()[0]].map(|n| n % 8) == [0, 0];
        let fits = self.readings.iter().find(|r| r.ranks == ranks).copied();
        fits.filter(|_| whole)
    }

    /// `z = x aᵀ`, `(T, R)`, of `(T, in)` and `(R, in)`; and x with z behind its rows where it is to be `joined`, x itself
    /// where it has the room. Nothing where no kernel was built for the shapes.
    pub fn inner(
        &self,
        x: &Tensor,
        a: &Tensor,
        joined: bool,
    ) -> Result<Option<(Tensor, Tensor)>, GpuError> {
        let ([rows, inner], ranks) = (shape(x), a.size()[0]);
        let Some(reading) = self.reading(x, ranks) else {
            return Ok(None);
        };
        let like = (x.kind(), x.device());
        let z = Tensor::f_empty([rows, ranks], like)?;
        let has_room = room::behind(x) >= ranks;
        let out = match joined && !has_room {
            true => room::rows((rows, inner), room::of_targets(1).max(ranks), like)?,
            false => x.shallow_clone(),
        };
        let copies = i32::from(joined && !has_room);
        let to = if joined { pointer(&out) } else { 0 };
        let [from, by, low] = addresses([x, a, &z]);
        let [stride, to_stride] = [x, &out].map(|t| t.stride()[0] as i32);
        let [count, length] = [rows, inner].map(|n| n as i32);
        launch(
            reading.inner,
            Shape::new((blocks(rows, 32) as u32, 1), 512),
            kernel_arguments![from, stride, by, count, length, low, to, to_stride, copies],
        )?;
        Ok(Some((z, out)))
    }

    /// From the gradient of a projection's output, `(T, out)`, in one reading: what goes back through `b`, `(T, R)`, which is
    /// put behind the rows too where they have the room, and the gradient of `b`, times `scale`, added to its targets'.
    /// Nothing where no kernel was built for the shapes.
    pub fn back(
        &self,
        d_y: &Tensor,
        z: &Tensor,
        b: &Tensor,
        (rank, scale): (i64, f64),
        gradient: &JointGradient,
    ) -> Result<Option<Tensor>, GpuError> {
        let Some(reading) = self.reading(d_y, z.size()[1]) else {
            return Ok(None);
        };
        let ([rows, columns], ranks) = (shape(d_y), reading.ranks);
        let (splits, per) = division(rows, columns);
        let grid = reading.shape(columns, splits);
        let float = (Kind::Float, d_y.device());
        let low = Tensor::f_empty([i64::from(grid.grid.0), rows, ranks], float)?;
        let sums = Tensor::f_empty([splits, columns, ranks], float)?;
        let d_low = Tensor::f_empty([rows, ranks], (z.kind(), z.device()))?;
        let [from, inner, by, to_low, to_sums] = addresses([d_y, z, b, &low, &sums]);
        let [count, wide, each, parts] = [rows, columns, per, splits].map(|n| n as i32);
        let stride = d_y.stride()[0] as i32;
        launch(
            reading.back,
            grid,
            kernel_arguments![from, stride, inner, by, to_low, to_sums, count, wide, each],
        )?;
        let [to, list, flat] = addresses([&d_low, &gradient.blocks, &gradient.flat]);
        let strips = grid.grid.0 as i32;
        let roomy = match room::behind(d_y) >= ranks {
            true => from,
            false => 0,
        };
        let (all_ranks, rank, scale) = (ranks as i32, rank as i32, scale as f32);
        launch(
            self.sum,
            Shape::new((512, 1 + gradient.blocks.size()[0] as u32), 256),
            kernel_arguments![
                to_low, strips, count, to, roomy, stride, to_sums, parts, wide, all_ranks, list,
                rank, scale, flat
            ],
        )?;
        Ok(Some(d_low))
    }

    /// `zᵀ x`, `(R, in)`, of `(T, R)` and `(T, in)`, is added to `a`; false where no kernel was built for the shapes.
    pub fn input(&self, x: &Tensor, z: &Tensor, a: &Tensor) -> Result<bool, GpuError> {
        let Some(reading) = self.reading(x, z.size()[1]) else {
            return Ok(false);
        };
        let ([rows, columns], ranks) = (shape(x), reading.ranks);
        let (splits, per) = division(rows, columns);
        let sums = Tensor::f_empty([splits, ranks, columns], (Kind::Float, x.device()))?;
        let [from, inner, to_sums, to] = addresses([x, z, &sums, a]);
        let [count, wide, each, parts] = [rows, columns, per, splits].map(|n| n as i32);
        let stride = x.stride()[0] as i32;
        launch(
            reading.input,
            reading.shape(columns, splits),
            kernel_arguments![from, stride, inner, to_sums, count, wide, each],
        )?;
        let numbers = (columns * ranks) as i32;
        launch(
            self.input_sum,
            Shape::new((128, 1), 256),
            kernel_arguments![to_sums, parts, numbers, to],
        )?;
        Ok(true)
    }
}

/// Rows and columns.
fn shape(x: &Tensor) -> [i64; 2] {
    let size = x.size();
    [size[0], size[1]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_all_rows_between_them() {
        for rows in [0, 1, 31, 32, 33, 500, 4096, 16_001] {
            for columns in [8, 576, 4096, 6144, 12_288, 24_576] {
                let (splits, per) = division(rows, columns);
                assert!(per % STEP == 0 && splits <= 16);
                assert!(splits * per >= rows && (splits - 1) * per < rows.max(1));
            }
        }
        // 96 strips: in two parts they would leave a quarter of the GPU idle, in five they take two turns.
        assert_eq!(division(4096, 24_576), (5, 832));
        assert_eq!(division(4096, 4096), (16, 256));
    }
}
