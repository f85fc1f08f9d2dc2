//! Weights in panels.
//!
//! A panel holds 32 output columns, their weights side by side for each input: a product reads it once from end to end,
//! which is what memory does fastest, and every output is one lane of a register. An output is the sum of its inputs in
//! order, whatever else is computed beside it: rows do not depend on their neighbours, bit for bit.

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;
use tch::{Kind, Tensor};

use super::buffer::{Buffer, Parts, numbers};
use super::tiles::{LowPanel, Numbers, Place, Work, multiply};
use crate::model::lanes::{LANES, Lanes, Simd, dispatch};

/// Columns of a panel.
pub const PANEL: usize = 2 * LANES;

#[derive(Debug)]
enum Data {
    /// `[panel][input][column]`.
    Full(Buffer<f32>),
    /// `[panel][pair of inputs][column][2]`.
    Half(Buffer<u16>),
    /// `[panel][input][column]`, and what each column is multiplied with.
    Bytes(Buffer<i8>, Vec<f32>),
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
        Self::kept(weight, |count, inputs| match weight.kind() {
            Kind::BFloat16 => Data::Half(Buffer::new(count * inputs.next_multiple_of(2) * PANEL)),
            _ => Data::Full(Buffer::new(count * inputs * PANEL)),
        })
    }

    /// From weights that [`rounded_to_bytes`] made: kept in eight bits, nothing is lost.
    pub fn of_bytes(weight: &Tensor) -> Self {
        Self::kept(weight, |count, inputs| {
            let scales = vec![0.0; count * PANEL];
            Data::Bytes(Buffer::new(count * inputs * PANEL), scales)
        })
    }

    /// In a place for so many panels of so many inputs.
    fn kept(weight: &Tensor, place: impl FnOnce(usize, usize) -> Data) -> Self {
        let (outputs, inputs) = weight.size2().expect("a matrix");
        let (outputs, inputs) = (outputs as usize, inputs as usize);
        let count = outputs.div_ceil(PANEL);
        let data = place(count, inputs);
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
            Data::Bytes(data, scales) => {
                let panels = data[first * size..].par_chunks_mut(size);
                let scales = scales[first * PANEL..].par_chunks_mut(PANEL);
                let parts = panels.zip(scales).zip(rows.par_chunks(size));
                parts.for_each(|((panel, scales), rows)| {
                    for (column, row) in rows.chunks_exact(inputs).enumerate() {
                        let largest = row.iter().fold(0f32, |most, w| most.max(w.abs()));
                        scales[column] = largest / LARGEST;
                        let inverse = if largest > 0.0 {
                            LARGEST / largest
                        } else {
                            0.0
                        };
                        for (input, value) in row.iter().enumerate() {
                            panel[input * PANEL + column] = (value * inverse).round() as i8;
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
            Data::Bytes(data, _) => Numbers::Bytes(&data[panel * size..(panel + 1) * size]),
        }
    }

    /// What the columns of a panel are multiplied with, if anything.
    fn scales(&self, panel: usize) -> Option<&[f32]> {
        match &self.data {
            Data::Bytes(_, scales) => Some(&scales[panel * PANEL..(panel + 1) * PANEL]),
            _ => None,
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

/// The largest number of eight bits that is used; its negative is there too.
const LARGEST: f32 = 127.0;

/// Weights, `(outputs, inputs)`, as eight bits hold them: each output's are whole numbers from −127 to 127 times one scale, a
/// 127th of the largest of them.
pub fn rounded_to_bytes(weight: &Tensor) -> Tensor {
    let weight = weight.to_kind(Kind::Float);
    let scale = weight.abs().amax([1i64].as_slice(), true) / f64::from(LARGEST);
    let whole = (&weight / scale.clamp_min(f64::from(f32::MIN_POSITIVE))).round();
    whole * scale
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
                _ => unreachable!("updates are in f32"),
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
            scales: self.weights.scales(panel),
            bias: self.bias.map(|bias| &bias[first..first + place.columns]),
            update,
            add: self.add,
        };
        match work.numbers {
            // Widened once for all tiles; to the same sums, since eight bits lose nothing.
            Numbers::Bytes(bytes) if rows.len() >= WIDENED => WIDE.with_borrow_mut(|wide| {
                wide.ensure(bytes.len());
                let wide = &mut wide[..bytes.len()];
                widen(simd, bytes, wide);
                let numbers = Numbers::Full(wide);
                // SAFETY: as the caller promises.
                unsafe { multiply(simd, Work { numbers, ..work }, rows, place) };
            }),
            // SAFETY: as the caller promises.
            _ => unsafe { multiply(simd, work, rows, place) },
        }
    }
}

/// From so many rows on a panel of eight bits is widened before it is multiplied.
const WIDENED: usize = 36;

thread_local! {
    static WIDE: RefCell<Buffer<f32>> = RefCell::new(Buffer::new(0));
}

fn widen(simd: Simd, bytes: &[i8], wide: &mut [f32]) {
    assert_eq!((bytes.len(), bytes.len() % LANES), (wide.len(), 0));
    dispatch!(simd, widen_body(bytes: &[i8], wide: &mut [f32]));
}

/// # Safety
/// The processor must have the instruction set of `L`; sizes as [`widen`] checks them.
#[inline(always)]
unsafe fn widen_body<L: Lanes>(bytes: &[i8], wide: &mut [f32]) {
    for at in (0..bytes.len()).step_by(LANES) {
        // SAFETY: sixteen numbers are left in both.
        unsafe { L::load_bytes(bytes[at..].as_ptr()).store(wide[at..].as_mut_ptr()) };
    }
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
        for (rows, inputs, outputs) in [
            (1, 5, 3),
            (7, 64, 32),
            (13, 33, 70),
            (8, 576, 96),
            (50, 66, 40),
        ] {
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
            let in_bytes = rounded_to_bytes(&w);
            let kept: [(&str, Panels, &Tensor); 3] = [
                ("f32", Panels::new(&w), &w),
                (
                    "bf16",
                    Panels::new(&w.to_kind(Kind::BFloat16)),
                    &w.to_kind(Kind::BFloat16),
                ),
                ("8 bits", Panels::of_bytes(&in_bytes), &in_bytes),
            ];
            for (kind, panels, w) in kept {
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
                assert!(error < most, "{rows}×{inputs}×{outputs} {kind}: {error}");
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
        let w = random(&[45, 77]);
        let half = Panels::new(&w.to_kind(Kind::BFloat16));
        for weights in [
            Panels::new(&w),
            half,
            Panels::of_bytes(&rounded_to_bytes(&w)),
        ] {
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
            assert_eq!(run(best), run(Simd::Avx2), "{:?}", weights.data);
        }
    }

    #[test]
    fn eight_bits_hold_what_was_rounded_to_them_and_nothing_is_further_than_half_a_step() {
        tch::manual_seed(4);
        let w = random(&[40, 70]);
        let _ = w.get(7).zero_();
        let rounded = rounded_to_bytes(&w);
        let steps = w.abs().amax([1i64].as_slice(), true) / 127.0;
        let apart = (&rounded - &w).abs().le_tensor(&(steps * 0.50001));
        assert!(apart.all().int64_value(&[]) == 1);
        assert!(rounded_to_bytes(&rounded).allclose(&rounded, 1e-6, 0.0, false));
        let panels = Panels::of_bytes(&rounded);
        let Data::Bytes(bytes, scales) = &panels.data else {
            unreachable!("eight bits were asked for");
        };
        for (output, scale) in scales[..40].iter().enumerate() {
            let (panel, column) = (output / PANEL, output % PANEL);
            for input in 0..70 {
                let whole = bytes[(panel * 70 + input) * PANEL + column];
                let kept = f32::from(whole) * scale;
                let exact = rounded.double_value(&[output as i64, input as i64]) as f32;
                assert!(
                    (kept - exact).abs() <= 2e-7 * exact.abs(),
                    "{kept}, {exact}"
                );
            }
        }
    }

    #[test]
    fn many_rows_have_the_bits_of_few() {
        tch::manual_seed(5);
        let (rows, inputs, outputs) = (WIDENED + 5, 77, 45);
        let x = numbers(&random(&[rows as i64, inputs]), <[f32]>::to_vec);
        let weights = Panels::of_bytes(&rounded_to_bytes(&random(&[outputs, inputs])));
        let plain = |x| Product {
            x,
            weights: &weights,
            bias: None,
            update: None,
            add: false,
        };
        let mut together = vec![0f32; rows * outputs as usize];
        product(Simd::best(), plain(&x), rows, &mut together);
        for (row, expected) in together.chunks(outputs as usize).enumerate() {
            let mut alone = vec![0f32; outputs as usize];
            let own = &x[row * inputs as usize..(row + 1) * inputs as usize];
            product(Simd::best(), plain(own), 1, &mut alone);
            assert_eq!(alone, expected);
        }
    }
}
