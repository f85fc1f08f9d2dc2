//! Products of many rows with frozen weights as they lie: training's forward and its way back.
//!
//! Each panel is gathered when it is needed, which is little beside the rows that it is multiplied with; so training
//! keeps no second copy of the weights.

use std::cell::RefCell;

use tch::{Device, Kind, TchError, Tensor};

use super::buffer::{Buffer, Parts, is_plain, memory};
use super::panels::{Numbers, PANEL, Place, Work, multiply, turn_over};
use crate::model::lanes::Simd;
use crate::runtime::team::with_team;

/// Rows that are multiplied with a panel before the next panel.
const BLOCK: usize = 96;
/// Fewer rows than this do not pay for gathering panels.
const FEWEST: usize = 16;

thread_local! {
    static PANEL_OF_THREAD: RefCell<Buffer<f32>> = RefCell::new(Buffer::new(0));
}

/// `x wᵀ`, added to a copy of `base` where there is one: `(T, in)` by `(out, in)`.
///
/// # Errors
/// libtorch's, where the product is its own: on a GPU, in another precision, of few rows.
pub fn by_transposed(x: &Tensor, w: &Tensor, base: Option<&Tensor>) -> Result<Tensor, TchError> {
    match serves(x, w) && base.is_none_or(is_plain) {
        true => {
            let size = [x.size()[0], w.size()[0]];
            let mut out = Tensor::f_empty(size, (Kind::Float, Device::Cpu))?;
            if let Some(base) = base {
                assert_eq!(base.size(), size, "what is added to");
                out.f_copy_(base)?;
            }
            run(x, w, out, base.is_some(), true)
        }
        false => match base {
            Some(base) => base.f_addmm(x, &w.f_tr()?),
            None => x.f_mm(&w.f_tr()?),
        },
    }
}

/// `base + x wᵀ`, in the place of `base` where it can be.
///
/// # Errors
/// As [`by_transposed`].
pub fn onto(mut base: Tensor, x: &Tensor, w: &Tensor) -> Result<Tensor, TchError> {
    match serves(x, w) && is_plain(&base) && base.is_contiguous() {
        true => run(x, w, base, true, true),
        false => base.f_addmm_(x, &w.f_tr()?),
    }
}

/// `x w`: `(T, out)` by `(out, in)`.
///
/// # Errors
/// As [`by_transposed`].
pub fn by(x: &Tensor, w: &Tensor) -> Result<Tensor, TchError> {
    match serves(x, w) {
        true => {
            let out = Tensor::f_empty([x.size()[0], w.size()[1]], (Kind::Float, Device::Cpu))?;
            run(x, w, out, false, false)
        }
        false => x.f_mm(w),
    }
}

fn serves(x: &Tensor, w: &Tensor) -> bool {
    // Without vectors of our own libtorch is the faster one.
    let vectors = Simd::best() != Simd::Portable;
    vectors && is_plain(x) && is_plain(w) && w.is_contiguous() && x.size()[0] >= FEWEST as i64
}

/// The product, written to `out` or added to it.
fn run(
    x: &Tensor,
    w: &Tensor,
    out: Tensor,
    add: bool,
    transposed: bool,
) -> Result<Tensor, TchError> {
    let (x, out) = (x.f_contiguous()?, out.f_contiguous()?);
    let (w_rows, w_columns) = w.size2()?;
    let (rows, inputs) = x.size2()?;
    let (outputs, expected) = match transposed {
        true => (w_rows, w_columns),
        false => (w_columns, w_rows),
    };
    assert_eq!(inputs, expected, "inner dimensions");
    assert_eq!(out.size(), [rows, outputs], "what is added to");
    let (rows, inputs, outputs) = (rows as usize, inputs as usize, outputs as usize);
    // SAFETY: the first two are not written in this call, and the memory of `out` is this call's alone.
    let (x, w, to) = unsafe { (memory(&x), memory(w), Parts::of(&out)) };
    let simd = Simd::best();
    with_team(|team| {
        team.each(outputs.div_ceil(PANEL), &|panel| {
            let first = panel * PANEL;
            let columns = PANEL.min(outputs - first);
            PANEL_OF_THREAD.with_borrow_mut(|gathered| {
                gathered.ensure(inputs * PANEL);
                let gathered = &mut gathered[..inputs * PANEL];
                if transposed {
                    turn_over(
                        &w[first * inputs..(first + columns) * inputs],
                        inputs,
                        gathered,
                    );
                } else {
                    let lines = gathered.chunks_exact_mut(PANEL);
                    for (line, row) in lines.zip(w.chunks_exact(outputs)) {
                        let row = &row[first..first + columns];
                        // Of a known length it is two loads and stores.
                        match row.first_chunk::<PANEL>() {
                            Some(row) => line.copy_from_slice(row),
                            None => line[..columns].copy_from_slice(row),
                        }
                    }
                }
                let work = Work {
                    x,
                    inputs,
                    numbers: Numbers::Full(gathered),
                    bias: None,
                    update: None,
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
            let most = 1e-6 * (inputs.max(outputs) + 20) as f64;
            let forward = by_transposed(&x, &w, None).expect("a product");
            let exact = double(&x).matmul(&double(&w).tr());
            assert!(worst(forward, exact.shallow_clone()) < most);
            let added = by_transposed(&x, &w, Some(&y)).expect("a product");
            assert!(worst(added, exact + double(&y)) < most);
            // Rows that do not follow each other in memory.
            let turned = y.tr().contiguous().tr();
            for y in [&y, &turned] {
                let back = by(y, &w).expect("a product");
                assert!(worst(back, double(y).matmul(&double(&w))) < most);
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
        let whole = by_transposed(&x, &w, None).expect("a product");
        for (from, count) in [(0, 17), (3, 16), (31, 19)] {
            let part = by_transposed(&x.narrow(0, from, count), &w, None).expect("a product");
            assert!(
                part.equal(&whole.narrow(0, from, count)),
                "{count} rows from {from}"
            );
        }
    }
}
