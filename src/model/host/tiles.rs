//! The one matrix product of the CPU: rows of activations with one panel of weights, in tiles of as many rows as there are
//! registers for.

use std::ops::Range;

use super::panels::PANEL;
use crate::model::lanes::{LANES, Lanes, Simd, dispatch};

/// A panel's weights.
#[derive(Clone, Copy)]
pub(super) enum Numbers<'a> {
    Full(&'a [f32]),
    Half(&'a [u16]),
    Bytes(&'a [i8]),
}

/// What one panel is multiplied with.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    /// `(rows, inputs)`.
    pub x: &'a [f32],
    pub inputs: usize,
    pub numbers: Numbers<'a>,
    /// What the columns' sums are multiplied with.
    pub scales: Option<&'a [f32]>,
    /// One a column of the panel.
    pub bias: Option<&'a [f32]>,
    pub update: Option<LowPanel<'a>>,
    pub add: bool,
}

/// A low-rank update's part of one panel.
#[derive(Clone, Copy)]
pub(super) struct LowPanel<'a> {
    /// `(rows, rank)`.
    pub low: &'a [f32],
    pub rank: usize,
    /// First of the ranks in `outer`.
    pub from: usize,
    /// A row of the panel for each rank.
    pub outer: &'a [f32],
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
        Numbers::Bytes(numbers) => numbers.len() / PANEL,
    };
    assert!(work.scales.is_none_or(|scales| scales.len() == PANEL));
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
            Numbers::Bytes(numbers) => bytes::<L, M>(zero, x, numbers.as_ptr(), work.inputs),
        };
        if let Some(scales) = work.scales {
            let (first, second) = (L::load(scales.as_ptr()), L::load(scales[LANES..].as_ptr()));
            for m in 0..M {
                sums[m][0] = sums[m][0].fma(first, L::zero());
                sums[m][1] = sums[m][1].fma(second, L::zero());
            }
        }
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

/// The same with a panel of eight bits; the columns' scales are not applied.
///
/// # Safety
/// As [`full`].
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
unsafe fn bytes<L: Lanes, const M: usize>(
    mut sums: [[L; 2]; M],
    mut x: [*const f32; M],
    mut w: *const i8,
    count: usize,
) -> [[L; 2]; M] {
    /// Inputs of a turn, which read two lines.
    const TURN: usize = 4;
    macro_rules! add {
        ($inputs:expr) => {
            for input in 0..$inputs {
                let first = L::load_bytes(w.add(input * PANEL));
                let second = L::load_bytes(w.add(input * PANEL + LANES));
                for m in 0..M {
                    let x = L::splat(*x[m].add(input));
                    sums[m][0] = first.fma(x, sums[m][0]);
                    sums[m][1] = second.fma(x, sums[m][1]);
                }
            }
        };
    }
    for _ in 0..count / TURN {
        // SAFETY: as promised.
        unsafe {
            ahead::<L>(w.cast());
            add!(TURN);
            w = w.add(TURN * PANEL);
            for m in 0..M {
                x[m] = x[m].add(TURN);
            }
        }
    }
    // SAFETY: as promised.
    unsafe { add!(count % TURN) };
    sums
}
