//! Products of many rows with frozen weights as they lie: training's forward and its way back.
//!
//! Each panel is gathered when it is needed, which is little beside the rows that it is multiplied with; so training
//! keeps no second copy of the weights.

use std::cell::RefCell;

use tch::{Device, Kind, TchError, Tensor};

use super::buffer::{Buffer, Parts, is_plain, is_whole, memory};
use super::panels::{PANEL, turn_over};
use super::tiles::{LowPanel, Numbers, Place, Work, multiply};
use crate::model::lanes::Simd;
use crate::runtime::team::with_team;

/// Rows that are multiplied with a panel before the next panel.
const BLOCK: usize = 96;
/// Rows of a GPU's product that are in f32 at once.
const IN_F32: i64 = 2048;
/// Fewer rows than this do not pay for gathering panels.
const FEWEST: usize = 16;

thread_local! {
    static PANEL_OF_THREAD: RefCell<Buffer<f32>> = RefCell::new(Buffer::new(0));
}

/// A low-rank part of a product: the inner activations, `(T, R)`, and the matrix that they meet, which lies as the frozen
/// one does: `(out, R)` in [`by_transposed`], `(R, out)` in [`by`].
pub type Low<'a> = (&'a Tensor, &'a Tensor);

/// `x wᵀ` with a low-rank part and added to `base`, where there are some: `(T, in)` by `(out, in)`. All is one sum, rounded
/// once: added to an output that is rounded to bf16 already, a small update would be lost altogether.
///
/// # Errors
/// libtorch's, where the product is its own: on a GPU, in another precision, of few rows.
pub fn by_transposed(
    x: &Tensor,
    w: &Tensor,
    low: Option<Low>,
    base: Option<&Tensor>,
) -> Result<Tensor, TchError> {
    if serves(x, w, low) && base.is_none_or(is_plain) {
        return run(x, w, low, base, true);
    }
    let Some((z, outer)) = low else {
        return match base {
            Some(base) => base.f_addmm(x, &w.f_tr()?),
            None => x.f_mm(&w.f_tr()?),
        };
    };
    let mut y = match x.kind() {
        // cuBLAS rounds a bf16 product before it adds it to a matrix. A part of the rows at a time, since f32 is twice as large.
        kind if x.device().is_cuda() && kind != Kind::Float => {
            let (rows, size) = (x.size()[0], [x.size()[0], w.size()[0]]);
            let y = Tensor::f_empty(size, (kind, x.device()))?;
            for start in (0..rows).step_by(IN_F32 as usize) {
                let part = |t: &Tensor| t.f_narrow(0, start, IN_F32.min(rows - start));
                let mut sum = part(x)?.f_mm_dtype(&w.f_tr()?, Kind::Float)?;
                let _ = sum.f_add_(&part(z)?.f_mm_dtype(&outer.f_tr()?, Kind::Float)?)?;
                part(&y)?.f_copy_(&sum)?;
            }
            y
        }
        _ => z.f_mm(&outer.f_tr()?)?.f_addmm_(x, &w.f_tr()?)?,
    };
    match base {
        Some(base) => y.f_add_(base),
        None => Ok(y),
    }
}

/// `x w` with a low-rank part, where there is one: `(T, out)` by `(out, in)`.
///
/// # Errors
/// As [`by_transposed`].
pub fn by(x: &Tensor, w: &Tensor, low: Option<Low>) -> Result<Tensor, TchError> {
    if serves(x, w, low) {
        return run(x, w, low, None, false);
    }
    let mut y = x.f_mm(w)?;
    match low {
        Some((z, outer)) => y.f_addmm_(z, outer),
        None => Ok(y),
    }
}

fn serves(x: &Tensor, w: &Tensor, low: Option<Low>) -> bool {
    // Without vectors of our own libtorch is the faster one.
    let vectors = Simd::best() != Simd::Portable;
    let low = low.is_none_or(|(z, outer)| is_whole(z) && is_whole(outer));
    vectors && is_plain(x) && is_whole(w) && low && x.size()[0] >= FEWEST as i64
}

/// Columns `first..first + columns` of a product with `m`, `(outputs, inputs)` where it is `transposed`, else
/// `(inputs, outputs)`, as a panel.
fn gather(
    m: &[f32],
    transposed: bool,
    inputs: usize,
    (first, columns): (usize, usize),
    panel: &mut [f32],
) {
    if transposed {
        let rows = &m[first * inputs..(first + columns) * inputs];
        return turn_over(rows, inputs, panel);
    }
    let outputs = m.len() / inputs.max(1);
    let lines = panel.chunks_exact_mut(PANEL);
    for (line, row) in lines.zip(m.chunks_exact(outputs)) {
        let row = &row[first..first + columns];
        // Of a known length it is two loads and stores.
        match row.first_chunk::<PANEL>() {
            Some(row) => line.copy_from_slice(row),
            None => line[..columns].copy_from_slice(row),
        }
    }
}

fn run(
    x: &Tensor,
    w: &Tensor,
    low: Option<Low>,
    base: Option<&Tensor>,
    transposed: bool,
) -> Result<Tensor, TchError> {
    let x = x.f_contiguous()?;
    let (rows, inputs) = x.size2()?;
    let turned = |m: &Tensor| -> Result<(i64, i64), TchError> {
        let (a, b) = m.size2()?;
        Ok(if transposed { (a, b) } else { (b, a) })
    };
    let (outputs, expected) = turned(w)?;
    assert_eq!(inputs, expected, "inner dimensions");
    let rank = match low {
        Some((z, outer)) => {
            let rank = z.size()[1];
            assert_eq!(
                (rows, outputs, rank),
                (z.size()[0], turned(outer)?.0, turned(outer)?.1)
            );
            rank as usize
        }
        None => 0,
    };
    let mut out = Tensor::f_empty([rows, outputs], (Kind::Float, Device::Cpu))?;
    if let Some(base) = base {
        assert_eq!(base.size(), [rows, outputs], "what is added to");
        out.f_copy_(base)?;
    }
    let (rows, inputs, outputs) = (rows as usize, inputs as usize, outputs as usize);
    // SAFETY: what is read is not written in this call, and `out` is new: its memory is this call's alone.
    let (x, w, low, to) = unsafe {
        let low = low.map(|(z, outer)| (memory(z), memory(outer)));
        (memory(&x), memory(w), low, Parts::of(&out))
    };
    let (simd, add) = (Simd::best(), base.is_some());
    with_team(|team| {
        team.each(outputs.div_ceil(PANEL), &|panel| {
            let first = panel * PANEL;
            let columns = PANEL.min(outputs - first);
            PANEL_OF_THREAD.with_borrow_mut(|gathered| {
                gathered.ensure((inputs + rank) * PANEL);
                let (panel, outer) = gathered.split_at_mut(inputs * PANEL);
                let outer = &mut outer[..rank * PANEL];
                gather(w, transposed, inputs, (first, columns), panel);
                let update = low.map(|(z, m)| {
                    gather(m, transposed, rank, (first, columns), outer);
                    LowPanel::new(z, rank, outer)
                });
                let work = Work {
                    x,
                    inputs,
                    numbers: Numbers::Full(panel),
                    scales: None,
                    bias: None,
                    update,
                    add,
                };
                let place = Place {
                    start: to.at(first, rows * outputs - first),
                    width: outputs,
                    columns,
                };
                for from in (0..rows).step_by(BLOCK) {
                    // SAFETY: a panel's columns are its task's alone.
                    unsafe { multiply(simd, work, from..rows.min(from + BLOCK), place) };
                }
            });
        });
    });
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_agree_with_libtorch_in_f64() {
        tch::manual_seed(3);
        for (rows, inputs, outputs) in [(16, 40, 7), (37, 576, 100), (200, 64, 960), (19, 1536, 33)]
        {
            let options = (Kind::Float, Device::Cpu);
            let w = Tensor::randn([outputs, inputs], options);
            let x = Tensor::randn([rows, inputs], options);
            let y = Tensor::randn([rows, outputs], options);
            let double = |t: &Tensor| t.to_kind(Kind::Double);
            let worst = |got: Tensor, expected: Tensor| {
                (double(&got) - expected).abs().max().double_value(&[])
            };
            // Roundings of a sum of so many products.
            let most = 5e-7 * (inputs.max(outputs) + 20) as f64;
            let forward = by_transposed(&x, &w, None, None).expect("a product");
            let exact = double(&x).matmul(&double(&w).tr());
            assert!(worst(forward, exact.shallow_clone()) < most);
            let added = by_transposed(&x, &w, None, Some(&y)).expect("a product");
            assert!(worst(added, exact + double(&y)) < most);
            let rank = 8;
            let (z, a) = (
                Tensor::randn([rows, rank], options),
                Tensor::randn([rank, inputs], options),
            );
            let b = Tensor::randn([outputs, rank], options);
            let both = by_transposed(&x, &w, Some((&z, &b)), Some(&y)).expect("a product");
            let low = double(&z).matmul(&double(&b).tr());
            assert!(worst(both, double(&x).matmul(&double(&w).tr()) + low + double(&y)) < most);
            // Rows that do not follow each other in memory.
            let turned = y.tr().contiguous().tr();
            for y in [&y, &turned] {
                let back = by(y, &w, None).expect("a product");
                let exact = double(y).matmul(&double(&w));
                assert!(worst(back, exact.shallow_clone()) < most);
                let back = by(y, &w, Some((&z, &a))).expect("a product");
                assert!(worst(back, exact + double(&z).matmul(&double(&a))) < most);
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        tch::manual_seed(4);
        let options = (Kind::Float, Device::Cpu);
        let (x, w) = (
            Tensor::randn([50, 96], options),
            Tensor::randn([70, 96], options),
        );
        let whole = by_transposed(&x, &w, None, None).expect("a product");
        for (from, count) in [(0, 17), (3, 16), (31, 19)] {
            let part = by_transposed(&x.narrow(0, from, count), &w, None, None).expect("a product");
            assert!(
                part.equal(&whole.narrow(0, from, count)),
                "{count} rows from {from}"
            );
        }
    }
}
