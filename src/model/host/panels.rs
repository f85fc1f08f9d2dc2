//! Weights in panels, and the one matrix product of the CPU.
//!
//! A panel holds 32 output columns, their weights side by side for each input: a product reads it once from end to end,
//! which is what memory does fastest, and every output is one lane of a register. An output is the sum of its inputs in
//! order, whatever else is computed beside it: rows do not depend on their neighbours, bit for bit.

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
                    .for_each(|(panel, rows)| {
                        for (column, row) in rows.chunks_exact(inputs).enumerate() {
                            for (input, value) in row.iter().enumerate() {
                                panel[input * PANEL + column] = *value;
                            }
                        }
                    });
            }
            Data::Half(data) => {
                let stored = PANEL * inputs.next_multiple_of(2);
                let panels = data[first * stored..].par_chunks_mut(stored);
                panels
                    .zip(rows.par_chunks(size))
                    .for_each(|(panel, rows)| {
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
    pub unsafe fn panel(&self, simd: Simd, panel: usize, rows: std::ops::Range<usize>, out: Parts) {
        let width = self.weights.outputs;
        assert!(
            panel < self.weights.count() && rows.end * self.weights.inputs <= self.x.len(),
            "a part of the product"
        );
        let first = panel * PANEL;
        let place = Place {
            start: out.at(first, rows.end * width - first),
            width,
            columns: (width - first).min(PANEL),
        };
        let product = *self;
        dispatch!(simd, panel_body(product: Product, panel: usize, rows: std::ops::Range<usize>, place: Place));
    }

    /// The panel's weights in f32, where they are.
    fn full(&self, panel: usize) -> Option<&[f32]> {
        let size = self.weights.inputs * PANEL;
        match &self.weights.data {
            Data::Full(data) => Some(&data[panel * size..(panel + 1) * size]),
            Data::Half(_) => None,
        }
    }

    /// The panel's weights in bf16, where they are.
    fn half(&self, panel: usize) -> Option<&[u16]> {
        let size = self.weights.inputs.next_multiple_of(2) * PANEL;
        match &self.weights.data {
            Data::Half(data) => Some(&data[panel * size..(panel + 1) * size]),
            Data::Full(_) => None,
        }
    }
}

/// Columns of a row-major result that one call writes.
#[derive(Clone, Copy)]
struct Place {
    start: *mut f32,
    width: usize,
    columns: usize,
}

/// # Safety
/// The processor must have the instruction set of `L`; the columns of `place` in these rows must be the caller's alone.
#[inline(always)]
unsafe fn panel_body<L: Lanes>(
    product: Product,
    panel: usize,
    rows: std::ops::Range<usize>,
    place: Place,
) {
    let mut row = rows.start;
    // SAFETY: the caller's promises; tiles end before `rows.end`.
    unsafe {
        if L::ROWS >= 8 {
            while row + 8 <= rows.end {
                tile::<L, 8>(&product, panel, row, place);
                row += 8;
            }
            if row + 4 <= rows.end {
                tile::<L, 4>(&product, panel, row, place);
                row += 4;
            }
        }
        if L::ROWS >= 2 {
            while row + 2 <= rows.end {
                tile::<L, 2>(&product, panel, row, place);
                row += 2;
            }
        }
        while row < rows.end {
            tile::<L, 1>(&product, panel, row, place);
            row += 1;
        }
    }
}

/// `M` rows of a panel.
///
/// # Safety
/// As [`panel_body`]; the rows must be there.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // indices name rows, and iterators would not inline
unsafe fn tile<L: Lanes, const M: usize>(
    product: &Product,
    panel: usize,
    row: usize,
    place: Place,
) {
    let inputs = product.weights.inputs;
    let x: [*const f32; M] = starts(product.x, row, inputs);
    // SAFETY: rows of `inputs` numbers and a panel of as many rows, cut out by checked slices.
    unsafe {
        let mut sums = [[L::zero(); 2]; M];
        if let Some(weights) = product.full(panel) {
            full::<L, M>(&mut sums, x, weights.as_ptr(), inputs);
        }
        if let Some(weights) = product.half(panel) {
            half::<L, M>(&mut sums, x, weights.as_ptr(), inputs);
        }
        if let Some(bias) = product.bias {
            let mut padded = [0f32; PANEL];
            padded[..place.columns].copy_from_slice(&bias[panel * PANEL..][..place.columns]);
            let (first, second) = (L::load(padded.as_ptr()), L::load(padded[LANES..].as_ptr()));
            let one = L::splat(1.0);
            for m in 0..M {
                sums[m][0] = one.fma(first, sums[m][0]);
                sums[m][1] = one.fma(second, sums[m][1]);
            }
        }
        if let Some(update) = product.update {
            let (from, to) = update.ranks[panel];
            let rank = update.outer.inputs;
            let outer = &update.outer_panel(panel)[from * PANEL..to * PANEL];
            let mut low: [*const f32; M] = starts(update.low, row, rank);
            for m in 0..M {
                low[m] = low[m].add(from);
            }
            full::<L, M>(&mut sums, low, outer.as_ptr(), to - from);
        }
        for m in 0..M {
            let to = place.start.add((row + m) * place.width);
            if place.columns == PANEL {
                if product.add {
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
                    *to = if product.add { *number + *to } else { *number };
                }
            }
        }
    }
}

impl<'a> Update<'a> {
    fn outer_panel(&self, panel: usize) -> &'a [f32] {
        let size = self.outer.inputs * PANEL;
        match &self.outer.data {
            Data::Full(data) => &data[panel * size..(panel + 1) * size],
            Data::Half(_) => &[],
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

/// Add the products of `count` inputs with an f32 panel, one after the other.
///
/// # Safety
/// `count` numbers must be readable at every `x`, `count` rows of a panel at `w`.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
unsafe fn full<L: Lanes, const M: usize>(
    sums: &mut [[L; 2]; M],
    x: [*const f32; M],
    w: *const f32,
    count: usize,
) {
    for input in 0..count {
        // SAFETY: as promised.
        unsafe {
            let first = L::load(w.add(input * PANEL));
            let second = L::load(w.add(input * PANEL + LANES));
            for m in 0..M {
                let x = L::splat(*x[m].add(input));
                sums[m][0] = first.fma(x, sums[m][0]);
                sums[m][1] = second.fma(x, sums[m][1]);
            }
        }
    }
}

/// The same with a bf16 panel.
///
/// # Safety
/// As [`full`]; of an odd number of inputs, the last pair is there and its second half zero.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
unsafe fn half<L: Lanes, const M: usize>(
    sums: &mut [[L; 2]; M],
    x: [*const f32; M],
    w: *const u16,
    count: usize,
) {
    for pair in 0..count.div_ceil(2) {
        // SAFETY: as promised; the second input of the last pair is looked at where it is there.
        unsafe {
            let (first, first_odd) = L::load_pairs(w.add(pair * 2 * PANEL));
            let (second, second_odd) = L::load_pairs(w.add(pair * 2 * PANEL + PANEL));
            for m in 0..M {
                let even = L::splat(*x[m].add(2 * pair));
                sums[m][0] = first.fma(even, sums[m][0]);
                sums[m][1] = second.fma(even, sums[m][1]);
            }
            if 2 * pair + 1 < count {
                for m in 0..M {
                    let odd = L::splat(*x[m].add(2 * pair + 1));
                    sums[m][0] = first_odd.fma(odd, sums[m][0]);
                    sums[m][1] = second_odd.fma(odd, sums[m][1]);
                }
            }
        }
    }
}
