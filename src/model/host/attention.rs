//! Attention over pages: a few rows of one sequence, all query heads of one key head.
//!
//! A score is a sum over a head's numbers in order, a row's sums over positions go by position: nothing depends on how
//! many rows are computed together, or on which pages the positions lie in.

use super::cache::PagePlan;
use super::rows::{exp, tree_sum};
use crate::model::fused::PAGE;
use crate::model::lanes::{LANES, Lanes, Simd, dispatch};

/// Most rows that a task takes.
pub const ROWS: usize = 8;
/// Registers of one row's output that are summed at once.
const WIDE: usize = 4;

/// Rows that follow each other in one sequence.
pub struct Queries<'a> {
    /// `(rows, stride)`: rotated queries of one key head's group begin each row.
    pub q: &'a [f32],
    /// Numbers from a row to the next.
    pub stride: usize,
    /// How many.
    pub rows: usize,
    /// Query heads that share the key head.
    pub group: usize,
    /// Position of the first.
    pub position: usize,
}

/// Attend; row `r`'s outputs go to `out + r · out_stride`, head after head.
///
/// # Safety
/// Every page must hold keys and values to the last row's position, and nobody may write them or `out` meanwhile.
#[allow(clippy::too_many_arguments)] // a kernel's
pub unsafe fn attend(
    simd: Simd,
    queries: &Queries,
    pages: &[*const f32],
    plan: PagePlan,
    scratch: &mut Vec<f32>,
    out: *mut f32,
    out_stride: usize,
) {
    let last = queries.position + queries.rows;
    assert!(pages.len() * PAGE >= last, "pages up to the last row");
    assert!(
        queries.q.len() >= (queries.rows - 1) * queries.stride + queries.group * plan.dim,
        "rows of queries"
    );
    dispatch!(simd, attend_body(
        queries: &Queries, pages: &[*const f32], plan: PagePlan, scratch: &mut Vec<f32>, out: *mut f32,
        out_stride: usize,
    ));
}

/// # Safety
/// As [`attend`]; the processor must have the instruction set of `L`.
#[inline(always)]
unsafe fn attend_body<L: Lanes>(
    queries: &Queries,
    pages: &[*const f32],
    plan: PagePlan,
    scratch: &mut Vec<f32>,
    out: *mut f32,
    out_stride: usize,
) {
    let last = queries.position + queries.rows;
    let blocks = last.div_ceil(PAGE);
    let width = blocks * PAGE;
    let heads = queries.rows * queries.group;
    scratch.resize(heads * width, 0.0);
    // SAFETY: heads, pages and scratch are as long as asserted.
    unsafe {
        // Rows and heads are one list here: `head` is row · group + head in the group.
        let mut head = 0;
        while head < heads {
            head += match heads - head {
                8.. => scores::<L, 8>(queries, pages, plan, blocks, head, scratch),
                4.. => scores::<L, 4>(queries, pages, plan, blocks, head, scratch),
                3 => scores::<L, 3>(queries, pages, plan, blocks, head, scratch),
                2 => scores::<L, 2>(queries, pages, plan, blocks, head, scratch),
                _ => scores::<L, 1>(queries, pages, plan, blocks, head, scratch),
            };
        }
        let factor = 1.0 / (plan.dim as f32).sqrt();
        for head in 0..heads {
            let seen = queries.position + head / queries.group + 1;
            soften::<L>(&mut scratch[head * width..head * width + seen], factor);
        }
        // The heads of a row see the same positions, so values are read once for some of them.
        for row in 0..queries.rows {
            let seen = queries.position + row + 1;
            let to = out.add(row * out_stride);
            let mut inner = 0;
            while inner < queries.group {
                let weights = &scratch[(row * queries.group + inner) * width..];
                let to = to.add(inner * plan.dim);
                inner += match queries.group - inner {
                    4.. if L::ROWS >= 4 => mixed::<L, 4>(pages, plan, weights, width, seen, to),
                    3 if L::ROWS >= 4 => mixed::<L, 3>(pages, plan, weights, width, seen, to),
                    2 if L::ROWS >= 4 => mixed::<L, 2>(pages, plan, weights, width, seen, to),
                    _ => mixed::<L, 1>(pages, plan, weights, width, seen, to),
                };
            }
        }
    }
}

/// Scores of `M` heads with all keys, unscaled; gives `M`.
///
/// # Safety
/// As [`attend_body`].
#[inline(always)]
#[allow(clippy::needless_range_loop)] // indices name heads, and iterators would not inline
unsafe fn scores<L: Lanes, const M: usize>(
    queries: &Queries,
    pages: &[*const f32],
    plan: PagePlan,
    blocks: usize,
    head: usize,
    scratch: &mut [f32],
) -> usize {
    let width = blocks * PAGE;
    let mut q = [queries.q.as_ptr(); M];
    for m in 0..M {
        let (row, inner) = ((head + m) / queries.group, (head + m) % queries.group);
        q[m] = queries.q[row * queries.stride + inner * plan.dim..].as_ptr();
    }
    let mut block = 0;
    // SAFETY: keys of a page are `dim` rows of sixteen positions.
    unsafe {
        while block + 2 <= blocks {
            let (first, second) = (pages[block].add(plan.keys), pages[block + 1].add(plan.keys));
            let mut sums = [[L::zero(); 2]; M];
            let (mut first, mut second) = (first, second);
            // Pages lie apart: the processor does not see the next ones coming.
            let ahead = |page: usize| pages[page.min(blocks - 1)].add(plan.keys);
            let (mut third, mut fourth) = (ahead(block + 2), ahead(block + 3));
            for d in 0..plan.dim {
                let (a, b) = (L::load(first), L::load(second));
                L::prefetch(third.cast());
                L::prefetch(fourth.cast());
                (third, fourth) = (third.wrapping_add(PAGE), fourth.wrapping_add(PAGE));
                (first, second) = (first.add(PAGE), second.add(PAGE));
                for m in 0..M {
                    let x = L::splat(*q[m].add(d));
                    sums[m][0] = a.fma(x, sums[m][0]);
                    sums[m][1] = b.fma(x, sums[m][1]);
                }
            }
            for m in 0..M {
                let to = scratch[(head + m) * width + block * PAGE..][..2 * PAGE].as_mut_ptr();
                sums[m][0].store(to);
                sums[m][1].store(to.add(PAGE));
            }
            block += 2;
        }
        if block < blocks {
            let mut keys = pages[block].add(plan.keys);
            let mut sums = [L::zero(); M];
            for d in 0..plan.dim {
                let a = L::load(keys);
                keys = keys.add(PAGE);
                for m in 0..M {
                    sums[m] = a.fma(L::splat(*q[m].add(d)), sums[m]);
                }
            }
            for m in 0..M {
                let to = scratch[(head + m) * width + block * PAGE..][..PAGE].as_mut_ptr();
                sums[m].store(to);
            }
        }
    }
    M
}

/// Softmax of scores times `factor`, in place.
#[inline(always)]
pub(in crate::model::host) fn soften<L: Lanes>(scores: &mut [f32], factor: f32) {
    let mut tops = [f32::NEG_INFINITY; LANES];
    let mut parts = scores.chunks_exact_mut(LANES);
    for part in &mut parts {
        for (top, score) in tops.iter_mut().zip(part) {
            *score *= factor;
            *top = if *score > *top { *score } else { *top };
        }
    }
    for (top, score) in tops.iter_mut().zip(parts.into_remainder()) {
        *score *= factor;
        *top = if *score > *top { *score } else { *top };
    }
    let top = tops.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut lanes = [0f32; LANES];
    let mut parts = scores.chunks_exact_mut(LANES);
    for part in &mut parts {
        for (lane, score) in lanes.iter_mut().zip(part) {
            *score = exp::<L>(*score - top);
            *lane += *score;
        }
    }
    for (lane, score) in lanes.iter_mut().zip(parts.into_remainder()) {
        *score = exp::<L>(*score - top);
        *lane += *score;
    }
    let share = 1.0 / tree_sum(lanes);
    for score in scores {
        *score *= share;
    }
}

/// Values weighed and summed for `M` heads of a row, whose weights stand `width` apart; gives `M`.
///
/// # Safety
/// As [`attend_body`].
#[inline(always)]
unsafe fn mixed<L: Lanes, const M: usize>(
    pages: &[*const f32],
    plan: PagePlan,
    weights: &[f32],
    width: usize,
    seen: usize,
    to: *mut f32,
) -> usize {
    let mut starts = [weights.as_ptr(); M];
    for (m, start) in starts.iter_mut().enumerate() {
        *start = weights[m * width..][..seen].as_ptr();
    }
    let mut from = 0;
    while from < plan.padded {
        // SAFETY: as promised; each head's weights are there.
        from += unsafe {
            match (plan.padded - from) / LANES {
                WIDE.. => mix::<L, WIDE, M>(pages, plan, from, starts, seen, to),
                _ => mix::<L, 1, M>(pages, plan, from, starts, seen, to),
            }
        };
    }
    M
}

/// The same for `N` registers of the heads from number `from` on; gives how many numbers that were.
///
/// # Safety
/// As [`attend_body`]; `seen` weights must be readable at every start.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
unsafe fn mix<L: Lanes, const N: usize, const M: usize>(
    pages: &[*const f32],
    plan: PagePlan,
    from: usize,
    mut weights: [*const f32; M],
    seen: usize,
    to: *mut f32,
) -> usize {
    // SAFETY: values of a page are sixteen rows of `padded` numbers; of each result, `dim` numbers are written.
    unsafe {
        let mut sums = [[L::zero(); N]; M];
        for block in 0..seen.div_ceil(PAGE) {
            let mut row = pages[block].add(plan.values + from);
            // Pages lie apart: the processor does not see the next one coming.
            let mut next = match pages.get(block + 1) {
                Some(next) => next.wrapping_add(plan.values + from),
                None => row,
            };
            for _ in 0..PAGE.min(seen - block * PAGE) {
                for n in 0..N {
                    L::prefetch(next.wrapping_add(n * LANES).cast());
                }
                let mut values = [L::zero(); N];
                for n in 0..N {
                    values[n] = L::load(row.add(n * LANES));
                }
                for m in 0..M {
                    let weight = L::splat(*weights[m]);
                    weights[m] = weights[m].add(1);
                    for n in 0..N {
                        sums[m][n] = values[n].fma(weight, sums[m][n]);
                    }
                }
                (row, next) = (row.add(plan.padded), next.wrapping_add(plan.padded));
            }
        }
        for m in 0..M {
            let to = to.add(m * plan.dim);
            for (n, sum) in sums[m].iter().enumerate() {
                let first = from + n * LANES;
                if first + LANES <= plan.dim {
                    sum.store(to.add(first));
                    continue;
                }
                let numbers = sum.numbers();
                let left = plan.dim.saturating_sub(first);
                for (l, number) in numbers.iter().enumerate().take(left) {
                    *to.add(first + l) = *number;
                }
            }
        }
    }
    N * LANES
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    /// Attention of one row in f64, over keys and values as rows.
    fn exact(q: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>]) -> Vec<f64> {
        let factor = 1.0 / (q.len() as f64).sqrt();
        let dot = |k: &Vec<f32>| -> f64 {
            q.iter()
                .zip(k)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum()
        };
        let weights: Vec<f64> = keys.iter().map(|k| (dot(k) * factor).exp()).collect();
        let total: f64 = weights.iter().sum();
        (0..q.len())
            .map(|d| {
                let sum: f64 = weights
                    .iter()
                    .zip(values)
                    .map(|(w, v)| w * f64::from(v[d]))
                    .sum();
                sum / total
            })
            .collect()
    }

    #[test]
    fn rows_agree_with_f64_and_not_with_how_they_are_cut() {
        let mut draw = crate::runtime::seed::stream(5, "attention");
        let mut random = |count: usize| -> Vec<f32> {
            (0..count).map(|_| draw.random_range(-1.5..1.5)).collect()
        };
        for (dim, group, total) in [
            (64usize, 3usize, 53usize),
            (8, 2, 16),
            (128, 4, 33),
            (80, 1, 40),
        ] {
            let padded = dim.next_multiple_of(LANES);
            let plan = PagePlan {
                keys: 0,
                values: PAGE * dim,
                dim,
                padded,
            };
            let keys: Vec<_> = (0..total).map(|_| random(dim)).collect();
            let values: Vec<_> = (0..total).map(|_| random(dim)).collect();
            let queries = random(total * group * dim);
            let mut memory = vec![vec![f32::NAN; PAGE * (dim + padded)]; total.div_ceil(PAGE)];
            for position in 0..total {
                let (page, slot) = (&mut memory[position / PAGE], position % PAGE);
                for d in 0..dim {
                    page[d * PAGE + slot] = keys[position][d];
                    page[plan.values + slot * padded + d] = values[position][d];
                }
            }
            let pages: Vec<*const f32> = memory.iter().map(|p| p.as_ptr()).collect();
            let run = |at_once: usize| {
                let mut out = vec![0f32; total * group * dim];
                let mut scratch = Vec::new();
                for from in (0..total).step_by(at_once) {
                    let part = Queries {
                        q: &queries[from * group * dim..],
                        stride: group * dim,
                        rows: at_once.min(total - from),
                        group,
                        position: from,
                    };
                    let to = out[from * group * dim..].as_mut_ptr();
                    // SAFETY: pages and results are this function's, of the sizes given.
                    unsafe {
                        attend(
                            Simd::best(),
                            &part,
                            &pages,
                            plan,
                            &mut scratch,
                            to,
                            group * dim,
                        );
                    }
                }
                out
            };
            let whole = run(ROWS);
            for at_once in [1, 3, 5] {
                assert_eq!(whole, run(at_once), "{dim}, {at_once} rows at once");
            }
            for (row, got) in whole.chunks(dim).enumerate() {
                let seen = row / group + 1;
                let expected = exact(
                    &queries[row * dim..(row + 1) * dim],
                    &keys[..seen],
                    &values[..seen],
                );
                for (got, expected) in got.iter().zip(expected) {
                    assert!(
                        (f64::from(*got) - expected).abs() < 2e-6,
                        "{dim}, row {row}"
                    );
                }
            }
        }
    }
}
