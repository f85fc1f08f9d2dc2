//! Weights in panels, and the one matrix product of the CPU.
//!
//! A panel holds 32 output columns, their weights side by side for each input: a product reads it once from end to end,
//! which is what memory does fastest, and every output is one lane of a register. An output is the sum of its inputs in
//! order, whatever else is computed beside it: rows do not depend on their neighbours, bit for bit.

use std::ops::Range;

use half::bf16;
use tch::{Kind, Tensor};

use super::buffer::{Buffer, Parts, numbers};
use crate::model::lanes::{LANES, Lanes, Simd, dispatch};

/// Columns of a panel.
pub const PANEL: usize = 2 * LANES;

#[derive(Debug)]
enum Data {
    /// `[panel][input][column]`.
    Full(Buffer<f32>),
    /// `[panel][pair of inputs][column][2]`.
    Half(Buffer<u16>),
}

/// A weight matrix.
#[derive(Debug)]
pub struct Panels {
    data: Data,
    inputs: usize,
    outputs: usize,
}

impl Panels {
    /// From `(outputs, inputs)` on the CPU, kept in bf16 where it is.
    pub fn new(weight: &Tensor) -> Self {
        let (outputs, inputs) = weight.size2().expect("a matrix");
        let (outputs, inputs) = (outputs as usize, inputs as usize);
        let count = outputs.div_ceil(PANEL);
        let half = weight.kind() == Kind::BFloat16;
        let data = match half {
            true => Data::Half(Buffer::new(count * inputs.next_multiple_of(2) * PANEL)),
            false => Data::Full(Buffer::new(count * inputs * PANEL)),
        };
        let mut panels = Self {
            data,
            inputs,
            outputs,
        };
        // A few panels at a time, so that bf16 is not widened whole.
        for first in (0..count).step_by(64) {
            let from = first * PANEL;
            let rows = outputs.min((first + 64) * PANEL) - from;
            let part = weight.narrow(0, from as i64, rows as i64);
            numbers(&part, |rows| panels.fill(first, rows));
        }
        panels
    }

    fn fill(&mut self, first: usize, rows: &[f32]) {
        use rayon::prelude::*;
        let inputs = self.inputs;
        let size = PANEL * inputs;
        match &mut self.data {
            Data::Full(data) => {
                let panels = data[first * size..].par_chunks_mut(size);
                panels
                    .zip(rows.par_chunks(size))
                    .for_each(|(panel, rows)| turn_over(rows, inputs, panel));
            }
            Data::Half(data) => {
                let stored = PANEL * inputs.next_multiple_of(2);
                let panels = data[first * stored..].par_chunks_mut(stored);
                panels.zip(rows.par_chunks(size)).for_each(|(panel, rows)| {
                    for (column, row) in rows.chunks_exact(inputs).enumerate() {
                        for (input, value) in row.iter().enumerate() {
                            panel[(input / 2 * PANEL + column) * 2 + input % 2] =
                                bf16::from_f32(*value).to_bits();
                        }
                    }
                });
            }
        }
    }

    fn panel(&self, panel: usize) -> Numbers<'_> {
        let size = self.inputs * PANEL;
        match &self.data {
            Data::Full(data) => Numbers::Full(&data[panel * size..(panel + 1) * size]),
            Data::Half(data) => {
                let size = self.inputs.next_multiple_of(2) * PANEL;
                Numbers::Half(&data[panel * size..(panel + 1) * size])
            }
        }
    }

    /// Number of panels.
    pub fn count(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// Columns of the result.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of what is multiplied.
    pub fn inputs(&self) -> usize {
        self.inputs
    }
}

/// Rows of `inputs` numbers, at most [`PANEL`] of them, as columns of a panel.
pub(super) fn turn_over(rows: &[f32], inputs: usize, panel: &mut [f32]) {
    assert!(rows.len() <= PANEL * inputs && panel.len() >= inputs * PANEL);
    dispatch!(Simd::best(), turn_over_body(rows: &[f32], inputs: usize, panel: &mut [f32]));
}

/// # Safety
/// The processor must have the instruction set of `L`; sizes as [`turn_over`] checks them.
#[inline(always)]
unsafe fn turn_over_body<L: Lanes>(rows: &[f32], inputs: usize, panel: &mut [f32]) {
    let count = rows.len() / inputs.max(1);
    let (whole_rows, whole) = (count / LANES * LANES, inputs / LANES * LANES);
    for from in (0..whole).step_by(LANES) {
        for row in (0..whole_rows).step_by(LANES) {
            let (start, to) = (
                &rows[row * inputs + from..],
                &mut panel[from * PANEL + row..],
            );
            // SAFETY: sixteen rows and sixteen columns are left of each.
            unsafe { L::turn_over(start.as_ptr(), inputs, to.as_mut_ptr(), PANEL) };
        }
    }
    for (column, row) in rows.chunks_exact(inputs).enumerate() {
        let rest = if column < whole_rows { whole } else { 0 };
        for (input, value) in row.iter().enumerate().skip(rest) {
            panel[input * PANEL + column] = *value;
        }
    }
}

/// A low-rank update that is added to a product: its inner activations, scaled, and its outer matrix.
#[derive(Clone, Copy)]
pub struct Update<'a> {
    /// `(rows, rank)`.
    pub low: &'a [f32],
    /// `(outputs, rank)`.
    pub outer: &'a Panels,
    /// Which of the ranks each panel has, first and last plus one.
    pub ranks: &'a [(usize, usize)],
}

/// What is computed: `x wᵀ (+ bias) (+ update)`.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// `(rows, inputs)`.
    pub x: &'a [f32],
    /// The weights.
    pub weights: &'a Panels,
    /// One a column.
    pub bias: Option<&'a [f32]>,
    /// Low-rank update.
    pub update: Option<Update<'a>>,
    /// Add to what is there instead of overwriting it.
    pub add: bool,
}

impl Product<'_> {
    /// Compute one panel's columns of some rows of `out`, `(rows, outputs)`.
    ///
    /// # Safety
    /// Nobody else may use these columns of these rows of `out` at the same time.
    pub unsafe fn panel(&self, simd: Simd, panel: usize, rows: Range<usize>, out: Parts) {
        let Panels {
            inputs, outputs, ..
        } = *self.weights;
        let first = panel * PANEL;
        let place = Place {
            start: out.at(first, rows.end * outputs - first),
            width: outputs,
            columns: (outputs - first).min(PANEL),
        };
        let update = self.update.map(|update| {
            let (from, to) = update.ranks[panel];
            let rank = update.outer.inputs;
            let outer = match update.outer.panel(panel) {
                Numbers::Full(all) => &all[from * PANEL..to * PANEL],
                Numbers::Half(_) => unreachable!("updates are in f32"),
            };
            LowPanel {
                low: update.low,
                rank,
                from,
                outer,
            }
        });
        let work = Work {
            x: self.x,
            inputs,
            numbers: self.weights.panel(panel),
            bias: self.bias.map(|bias| &bias[first..first + place.columns]),
            update,
            add: self.add,
        };
        // SAFETY: as the caller promises.
        unsafe { multiply(simd, work, rows, place) };
    }
}

/// A panel's weights.
#[derive(Clone, Copy)]
pub(super) enum Numbers<'a> {
    Full(&'a [f32]),
    Half(&'a [u16]),
}

/// What one panel is multiplied with.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    /// `(rows, inputs)`.
    pub x: &'a [f32],
    pub inputs: usize,
    pub numbers: Numbers<'a>,
    /// One a column of the panel.
    pub bias: Option<&'a [f32]>,
    pub update: Option<LowPanel<'a>>,
    pub add: bool,
}

/// A low-rank update's part of one panel.
#[derive(Clone, Copy)]
pub(super) struct LowPanel<'a> {
    low: &'a [f32],
    rank: usize,
    /// First of the ranks in `outer`.
    from: usize,
    outer: &'a [f32],
}

impl<'a> LowPanel<'a> {
    /// With all its ranks: `low` is `(rows, rank)`, `outer` holds a row of the panel for each.
    pub fn new(low: &'a [f32], rank: usize, outer: &'a [f32]) -> Self {
        assert_eq!(outer.len(), rank * PANEL, "a row a rank");
        Self {
            low,
            rank,
            from: 0,
            outer,
        }
    }
}

/// Columns of a row-major result that one call writes.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// The first column of the first row.
    pub start: *mut f32,
    /// Numbers from a row to the next.
    pub width: usize,
    /// At most [`PANEL`].
    pub columns: usize,
}

/// Multiply rows of `x` with a panel.
///
/// # Safety
/// The columns of `place` in these rows must be there, and the caller's alone.
pub(super) unsafe fn multiply(simd: Simd, work: Work, rows: Range<usize>, place: Place) {
    let size = match work.numbers {
        Numbers::Full(numbers) => numbers.len() / PANEL,
        Numbers::Half(numbers) => numbers.len() / PANEL / 2 * 2,
    };
    assert!(rows.end * work.inputs <= work.x.len() && size >= work.inputs);
    assert!(work.bias.is_none_or(|bias| bias.len() == place.columns) && place.columns <= PANEL);
    dispatch!(simd, panel_body(work: Work, rows: Range<usize>, place: Place));
}

/// # Safety
/// As [`multiply`]; the processor must have the instruction set of `L`.
#[inline(always)]
unsafe fn panel_body<L: Lanes>(work: Work, rows: Range<usize>, place: Place) {
    /// Calls the tile of this height; those that the instruction set has no registers for are left out.
    macro_rules! tiles {
        ($height:expr, $row:expr, $($m:literal)*) => {
            match $height {
                $($m if $m <= L::ROWS => tile::<L, $m>(&work, $row, place),)*
                height => unreachable!("a tile of {height} rows"),
            }
        };
    }
    let mut row = rows.start;
    while row < rows.end {
        let left = rows.end - row;
        // Tiles of about the same height: every one reads the whole panel.
        let height = left.div_ceil(left.div_ceil(L::ROWS));
        // SAFETY: the caller's promises; the tile ends at `rows.end` or before.
        unsafe { tiles!(height, row, 1 2 3 4 5 6 7 8 9 10 11 12) }
        row += height;
    }
}

/// `M` rows of a panel.
///
/// # Safety
/// As [`panel_body`]; the rows must be there.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // indices name rows, and iterators would not inline
unsafe fn tile<L: Lanes, const M: usize>(work: &Work, row: usize, place: Place) {
    let x: [*const f32; M] = starts(work.x, row, work.inputs);
    // SAFETY: rows of `inputs` numbers and a panel of as many, checked by `multiply` and `starts`.
    unsafe {
        let zero = [[L::zero(); 2]; M];
        let mut sums = match work.numbers {
            Numbers::Full(numbers) => full::<L, M, true>(zero, x, numbers.as_ptr(), work.inputs),
            Numbers::Half(numbers) => half::<L, M>(zero, x, numbers.as_ptr(), work.inputs),
        };
        if let Some(bias) = work.bias {
            let mut padded = [0f32; PANEL];
            padded[..bias.len()].copy_from_slice(bias);
            let (first, second) = (L::load(padded.as_ptr()), L::load(padded[LANES..].as_ptr()));
            let one = L::splat(1.0);
            for m in 0..M {
                sums[m][0] = one.fma(first, sums[m][0]);
                sums[m][1] = one.fma(second, sums[m][1]);
            }
        }
        if let Some(update) = work.update {
            let mut low: [*const f32; M] = starts(update.low, row, update.rank);
            for start in &mut low {
                *start = start.add(update.from);
            }
            let count = update.outer.len() / PANEL;
            sums = full::<L, M, false>(sums, low, update.outer.as_ptr(), count);
        }
        for m in 0..M {
            let to = place.start.add((row + m) * place.width);
            if place.columns == PANEL {
                if work.add {
                    let one = L::splat(1.0);
                    sums[m][0] = one.fma(L::load(to), sums[m][0]);
                    sums[m][1] = one.fma(L::load(to.add(LANES)), sums[m][1]);
                }
                sums[m][0].store(to);
                sums[m][1].store(to.add(LANES));
            } else {
                let mut numbers = [0f32; PANEL];
                sums[m][0].store(numbers.as_mut_ptr());
                sums[m][1].store(numbers[LANES..].as_mut_ptr());
                for (column, number) in numbers[..place.columns].iter().enumerate() {
                    let to = to.add(column);
                    *to = if work.add { *number + *to } else { *number };
                }
            }
        }
    }
}

#[inline(always)]
fn starts<const M: usize>(x: &[f32], row: usize, inputs: usize) -> [*const f32; M] {
    let x = &x[row * inputs..(row + M) * inputs];
    let mut starts = [x.as_ptr(); M];
    for (m, start) in starts.iter_mut().enumerate() {
        *start = x[m * inputs..].as_ptr();
    }
    starts
}

// Sums go in and out by value, and pointers move without a checked product: with a reference, or with a panic possible
// inside a loop, the compiler writes all sums to memory in every turn.

/// Bring near what is read some turns later, two lines in each turn: with few rows a turn is too short for the processor
/// to look far enough ahead, and weights come from memory. The second cache is asked early, as it can wait for many lines.
///
/// # Safety
/// The processor must have the instruction set of `L`.
#[inline(always)]
unsafe fn ahead<L: Lanes>(w: *const u8) {
    const NEAR: usize = 1 << 10;
    const FAR: usize = 1 << 14;
    // SAFETY: as promised; prefetching beyond the end does nothing.
    unsafe {
        L::prefetch(w.wrapping_add(NEAR));
        L::prefetch(w.wrapping_add(NEAR + 64));
        L::prefetch_second(w.wrapping_add(FAR));
        L::prefetch_second(w.wrapping_add(FAR + 64));
    }
}

/// Add the products of `count` inputs with an f32 panel, one after the other; `LONG` where it is worth looking ahead.
///
/// # Safety
/// `count` numbers must be readable at every `x`, `count` rows of a panel at `w`.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
unsafe fn full<L: Lanes, const M: usize, const LONG: bool>(
    mut sums: [[L; 2]; M],
    x: [*const f32; M],
    mut w: *const f32,
    count: usize,
) -> [[L; 2]; M] {
    for input in 0..count {
        // SAFETY: as promised.
        unsafe {
            let (first, second) = (L::load(w), L::load(w.add(LANES)));
            if LONG {
                ahead::<L>(w.cast());
            }
            for m in 0..M {
                let x = L::splat(*x[m].add(input));
                sums[m][0] = first.fma(x, sums[m][0]);
                sums[m][1] = second.fma(x, sums[m][1]);
            }
            w = w.add(PANEL);
        }
    }
    sums
}

/// The same with a bf16 panel.
///
/// # Safety
/// As [`full`]; of an odd number of inputs, the last pair is there.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
unsafe fn half<L: Lanes, const M: usize>(
    mut sums: [[L; 2]; M],
    mut x: [*const f32; M],
    mut w: *const u16,
    count: usize,
) -> [[L; 2]; M] {
    for _ in 0..count / 2 {
        // SAFETY: as promised.
        unsafe {
            let (first, first_odd) = L::load_pairs(w);
            let (second, second_odd) = L::load_pairs(w.add(PANEL));
            ahead::<L>(w.cast());
            for m in 0..M {
                let (even, odd) = (L::splat(*x[m]), L::splat(*x[m].add(1)));
                sums[m][0] = first.fma(even, sums[m][0]);
                sums[m][1] = second.fma(even, sums[m][1]);
                sums[m][0] = first_odd.fma(odd, sums[m][0]);
                sums[m][1] = second_odd.fma(odd, sums[m][1]);
                x[m] = x[m].add(2);
            }
            w = w.add(2 * PANEL);
        }
    }
    if count % 2 == 1 {
        // SAFETY: as promised.
        unsafe {
            let (first, _) = L::load_pairs(w);
            let (second, _) = L::load_pairs(w.add(PANEL));
            for m in 0..M {
                let even = L::splat(*x[m]);
                sums[m][0] = first.fma(even, sums[m][0]);
                sums[m][1] = second.fma(even, sums[m][1]);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn random(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    fn product(simd: Simd, product: Product, rows: usize, out: &mut [f32]) {
        let out = Parts::new(out);
        for panel in 0..product.weights.count() {
            // SAFETY: one call after the other.
            unsafe { product.panel(simd, panel, 0..rows, out) };
        }
    }

    #[test]
    fn products_agree_with_libtorch_whatever_is_added() {
        tch::manual_seed(1);
        for (rows, inputs, outputs) in [(1, 5, 3), (7, 64, 32), (13, 33, 70), (8, 576, 96)] {
            let (x, w) = (random(&[rows, inputs]), random(&[outputs, inputs]));
            let (bias, before) = (random(&[outputs]), random(&[rows, outputs]));
            // Two updates side by side, whose outputs meet inside a panel.
            let (rank, border) = (4, outputs / 2);
            let (low, outer) = (random(&[rows, 2 * rank]), random(&[outputs, 2 * rank]));
            let _ = outer.narrow(0, 0, border).narrow(1, rank, rank).zero_();
            let _ = outer
                .narrow(0, border, outputs - border)
                .narrow(1, 0, rank)
                .zero_();
            let outer_panels = Panels::new(&outer);
            let ranks: Vec<(usize, usize)> = (0..outer_panels.count())
                .map(|panel| {
                    let (first, last) = (panel * PANEL, (panel + 1) * PANEL);
                    let border = border as usize;
                    let from = if first < border { 0 } else { rank as usize };
                    (
                        from,
                        if last > border {
                            2 * rank as usize
                        } else {
                            rank as usize
                        },
                    )
                })
                .collect();
            for kind in [Kind::Float, Kind::BFloat16] {
                let w = w.to_kind(kind);
                let panels = Panels::new(&w);
                let expected = x
                    .to_kind(Kind::Double)
                    .matmul(&w.to_kind(Kind::Double).tr())
                    + bias.to_kind(Kind::Double)
                    + low
                        .to_kind(Kind::Double)
                        .matmul(&outer.to_kind(Kind::Double).tr())
                    + before.to_kind(Kind::Double);
                let mut out = numbers(&before, <[f32]>::to_vec);
                let bias = numbers(&bias, <[f32]>::to_vec);
                let (x, low) = (numbers(&x, <[f32]>::to_vec), numbers(&low, <[f32]>::to_vec));
                let work = Product {
                    x: &x,
                    weights: &panels,
                    bias: Some(&bias),
                    update: Some(Update {
                        low: &low,
                        outer: &outer_panels,
                        ranks: &ranks,
                    }),
                    add: true,
                };
                product(Simd::best(), work, rows as usize, &mut out);
                let error = (Tensor::from_slice(&out)
                    .view([rows, outputs])
                    .to_kind(Kind::Double)
                    - expected)
                    .abs()
                    .max()
                    .double_value(&[]);
                // Roundings of a sum of so many products.
                let most = 5e-7 * (inputs + 20) as f64;
                assert!(error < most, "{rows}×{inputs}×{outputs} {kind:?}: {error}");
            }
        }
    }

    #[test]
    fn instruction_sets_agree_bit_for_bit() {
        tch::manual_seed(2);
        let best = Simd::best();
        if best == Simd::Portable {
            return;
        }
        let x = numbers(&random(&[11, 77]), <[f32]>::to_vec);
        for kind in [Kind::Float, Kind::BFloat16] {
            let weights = Panels::new(&random(&[45, 77]).to_kind(kind));
            let run = |simd| {
                let mut out = vec![0f32; 11 * 45];
                let work = Product {
                    x: &x,
                    weights: &weights,
                    bias: None,
                    update: None,
                    add: false,
                };
                product(simd, work, 11, &mut out);
                out
            };
            assert_eq!(run(best), run(Simd::Avx2), "{kind:?}");
        }
    }
}
