//! CPU kernels for decoding: a small matrix product and single-query attention.
//!
//! Both exist for one property that a library's general routines do not promise: each output element is summed in an
//! order that depends on its own row alone, so what a request generates cannot depend on its neighbours in the batch.
//! They also read every weight once a step, which is what bounds decoding. Sixteen partial sums run side by side and
//! are added as a fixed tree; the code is the same for every instruction set, and so are its results wherever fused
//! multiply-add exists.

use rayon::prelude::*;
use tch::{Kind, Tensor};

use super::lanes::{LANES, Lanes, Portable};

/// Fewest weight rows a thread takes.
const TILE: usize = 4;

/// A read-only view of an f32 CPU tensor's memory.
///
/// Borrows the tensor, so the memory outlives the view.
struct View<'a>(&'a [f32]);

impl<'a> View<'a> {
    fn new(tensor: &'a Tensor) -> Self {
        assert!(
            tensor.kind() == Kind::Float
                && tensor.is_contiguous()
                && tensor.device() == tch::Device::Cpu
        );
        // SAFETY: the tensor is contiguous f32 on the CPU, checked above, and borrowed for the life of the slice.
        Self(unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), tensor.numel()) })
    }
}

/// `x · wᵀ`: `(M, K)` by `(N, K)` gives `(M, N)`, all f32, contiguous, on the CPU.
///
/// Row `m` of the result depends on row `m` of `x` and on `w` only, bit for bit, whatever `M` is.
pub fn small_matmul(x: &Tensor, w: &Tensor) -> Tensor {
    let (rows, inner) = x.size2().expect("x is a matrix");
    let (outputs, w_inner) = w.size2().expect("w is a matrix");
    assert_eq!(inner, w_inner, "inner dimensions");
    let (rows, inner, outputs) = (rows as usize, inner as usize, outputs as usize);
    let (x, w) = (View::new(x), View::new(w));
    let out = Tensor::empty(
        [rows as i64, outputs as i64],
        (Kind::Float, tch::Device::Cpu),
    );
    let columns = Columns {
        start: out.data_ptr().cast::<f32>(),
        rows,
        stride: outputs,
    };
    let work = outputs * inner * rows;
    let threads = rayon::current_num_threads();
    let chunk = if work < 1 << 17 {
        outputs
    } else {
        outputs.div_ceil(8 * threads).next_multiple_of(TILE)
    };
    let simd = simd();
    let run = |first: usize| {
        let last = outputs.min(first + chunk);
        product(
            simd,
            x.0,
            &w.0[first * inner..last * inner],
            inner,
            &columns.from(first),
        );
    };
    if chunk >= outputs {
        run(0);
    } else {
        // Each call owns the columns from `first` up to the next one's.
        (0..outputs.div_ceil(chunk))
            .into_par_iter()
            .for_each(|i| run(i * chunk));
    }
    out
}

/// Columns of a row-major result that one thread writes.
struct Columns {
    start: *mut f32,
    rows: usize,
    stride: usize,
}

// SAFETY: threads write disjoint columns, see `small_matmul`.
unsafe impl Sync for Columns {}

impl Columns {
    /// The columns from `first` on.
    fn from(&self, first: usize) -> Self {
        assert!(first <= self.stride);
        // SAFETY: within the first row of the result, or one past its end.
        let start = unsafe { self.start.add(first) };
        Self { start, ..*self }
    }

    /// Write one element.
    ///
    /// # Safety
    /// `n` must be a column of this part: below `stride` minus where the part starts, and no other thread's.
    #[inline(always)]
    unsafe fn put(&self, m: usize, n: usize, value: f32) {
        debug_assert!(m < self.rows && n < self.stride);
        // SAFETY: row and column are inside the result.
        unsafe { *self.start.add(m * self.stride + n) = value }
    }
}

/// Which instruction set the kernels run on.
#[derive(Clone, Copy, PartialEq)]
enum Simd {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

fn simd() -> Simd {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return Simd::Avx512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Simd::Avx2;
        }
    }
    Simd::Portable
}

/// `out[n][m] = Σ_k w[n][k] · x[m][k]`.
fn product(simd: Simd, x: &[f32], w: &[f32], inner: usize, out: &Columns) {
    #[cfg(target_arch = "x86_64")]
    {
        use super::lanes::{Avx2, Avx512};
        #[target_feature(enable = "avx512f")]
        fn avx512(x: &[f32], w: &[f32], inner: usize, out: &Columns) {
            // SAFETY: this function has the feature.
            unsafe { product_body::<Avx512, 4>(x, w, inner, out) }
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2(x: &[f32], w: &[f32], inner: usize, out: &Columns) {
            // SAFETY: this function has the features. Half the tile: there are half the registers of half the width.
            unsafe { product_body::<Avx2, 2>(x, w, inner, out) }
        }
        match simd {
            // SAFETY: the feature was detected on this processor.
            Simd::Avx512 => return unsafe { avx512(x, w, inner, out) },
            // SAFETY: the features were detected on this processor.
            Simd::Avx2 => return unsafe { avx2(x, w, inner, out) },
            Simd::Portable => {}
        }
    }
    // SAFETY: portable lanes need no feature.
    unsafe { product_body::<Portable, 2>(x, w, inner, out) }
}

/// All tiles of a product. The arithmetic of an element is the same in every branch.
///
/// # Safety
/// The processor must have the instruction set of `L`.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // indices name rows and columns, and iterators would not inline
unsafe fn product_body<L: Lanes, const T: usize>(
    x: &[f32],
    w: &[f32],
    inner: usize,
    out: &Columns,
) {
    let (outputs, rows) = (w.len() / inner, out.rows);
    let mut n = 0;
    while n + T <= outputs {
        let ws = rows_of::<T>(w, n, inner);
        let mut m = 0;
        while m + T <= rows {
            // SAFETY: every pointer is to `inner` numbers of a slice, checked by `rows_of`; the columns are this part's.
            unsafe {
                let sums = tile::<L, T, T>(ws, rows_of::<T>(x, m, inner), inner);
                for i in 0..T {
                    for j in 0..T {
                        out.put(m + j, n + i, sums[i][j]);
                    }
                }
            }
            m += T;
        }
        while m < rows {
            // SAFETY: as above.
            unsafe {
                let sums = tile::<L, T, 1>(ws, rows_of::<1>(x, m, inner), inner);
                for i in 0..T {
                    out.put(m, n + i, sums[i][0]);
                }
            }
            m += 1;
        }
        n += T;
    }
    for n in n..outputs {
        for m in 0..rows {
            // SAFETY: as above.
            unsafe {
                let sums =
                    tile::<L, 1, 1>(rows_of::<1>(w, n, inner), rows_of::<1>(x, m, inner), inner);
                out.put(m, n, sums[0][0]);
            }
        }
    }
}

/// Pointers to `T` rows of a matrix with `inner` columns, from row `first`; panics where the matrix has fewer.
#[inline(always)]
fn rows_of<const T: usize>(matrix: &[f32], first: usize, inner: usize) -> [*const f32; T] {
    let rows = &matrix[first * inner..(first + T) * inner];
    let mut pointers = [rows.as_ptr(); T];
    for (i, pointer) in pointers.iter_mut().enumerate() {
        *pointer = rows[i * inner..].as_ptr();
    }
    pointers
}

/// `N × M` dot products at once; what is left beyond whole lanes is filled with zeros.
///
/// # Safety
/// The processor must have the instruction set of `L`; every pointer must be to `inner` readable numbers.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
unsafe fn tile<L: Lanes, const N: usize, const M: usize>(
    ws: [*const f32; N],
    xs: [*const f32; M],
    inner: usize,
) -> [[f32; M]; N] {
    // SAFETY: offsets stay below `inner`; the instruction set is the caller's promise.
    unsafe {
        let mut sums = [[L::zero(); M]; N];
        let full = inner / LANES * LANES;
        let mut k = 0;
        while k < full {
            let mut x = [L::zero(); M];
            for j in 0..M {
                x[j] = L::load(xs[j].add(k));
            }
            for i in 0..N {
                let w = L::load(ws[i].add(k));
                for j in 0..M {
                    sums[i][j] = w.fma(x[j], sums[i][j]);
                }
            }
            k += LANES;
        }
        if full < inner {
            // Closures would not inherit the instruction set, so the loops are written out.
            let mut x = [L::zero(); M];
            for j in 0..M {
                x[j] = L::load(rest(xs[j].add(full), inner - full).as_ptr());
            }
            for i in 0..N {
                let w = L::load(rest(ws[i].add(full), inner - full).as_ptr());
                for j in 0..M {
                    sums[i][j] = w.fma(x[j], sums[i][j]);
                }
            }
        }
        let mut out = [[0f32; M]; N];
        for i in 0..N {
            for j in 0..M {
                out[i][j] = tree_sum(sums[i][j].numbers());
            }
        }
        out
    }
}

/// Fewer than sixteen numbers, filled up with zeros.
///
/// # Safety
/// `count` numbers must be readable.
#[inline(always)]
unsafe fn rest(from: *const f32, count: usize) -> [f32; LANES] {
    let mut buffer = [0f32; LANES];
    // SAFETY: the caller promises the memory; `count` is below the buffer's length.
    unsafe { std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), count.min(LANES)) };
    buffer
}

/// Sum of the lanes as a fixed binary tree.
#[inline(always)]
fn tree_sum(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] += lanes[l + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// One sequence's part in a decode step: where its keys and values lie and how many are valid.
pub struct Span<'a> {
    /// Keys, `(≥ length, kv_heads, head_dim)`.
    pub keys: &'a Tensor,
    /// Values, likewise.
    pub values: &'a Tensor,
    /// Valid positions, the new token's included.
    pub length: usize,
}

/// Attention of one new token a sequence: `q` is `(B, heads, head_dim)`, the result likewise.
///
/// A sequence's result depends on its own query, keys and values only, bit for bit.
pub fn decode_attention(q: &Tensor, spans: &[Span], kv_heads: usize) -> Tensor {
    let (batch, heads, dim) = q.size3().expect("q is (B, H, D)");
    let (heads, dim) = (heads as usize, dim as usize);
    assert_eq!(batch as usize, spans.len(), "one span a sequence");
    let queries = View::new(q);
    let views: Vec<_> = spans
        .iter()
        .map(|s| (View::new(s.keys), View::new(s.values), s.length))
        .collect();
    let group = heads / kv_heads;
    let scale = 1.0 / (dim as f32).sqrt();
    let simd = simd();
    let mut out = vec![0f32; spans.len() * heads * dim];
    // One task a sequence and key head: its `group` query heads share the keys.
    out.par_chunks_mut(group * dim)
        .enumerate()
        .for_each(|(task, out)| {
            let (sequence, kv) = (task / kv_heads, task % kv_heads);
            let (keys, values, length) = &views[sequence];
            let q = &queries.0[task * group * dim..(task + 1) * group * dim];
            let stride = kv_heads * dim;
            assert!(keys.0.len() >= length * stride && values.0.len() >= length * stride);
            let cache = HeadCache {
                keys: &keys.0[kv * dim..],
                values: &values.0[kv * dim..],
                stride,
                length: *length,
            };
            attend(simd, q, &cache, dim, scale, out);
        });
    Tensor::from_slice(&out).view([batch, heads as i64, dim as i64])
}

/// Keys and values of one head: row `t` starts at `t * stride`.
struct HeadCache<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    stride: usize,
    length: usize,
}

fn attend(simd: Simd, q: &[f32], cache: &HeadCache, dim: usize, scale: f32, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        use super::lanes::{Avx2, Avx512};
        #[target_feature(enable = "avx512f")]
        fn avx512(q: &[f32], cache: &HeadCache, dim: usize, scale: f32, out: &mut [f32]) {
            // SAFETY: this function has the feature.
            unsafe { attend_body::<Avx512>(q, cache, dim, scale, out) }
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2(q: &[f32], cache: &HeadCache, dim: usize, scale: f32, out: &mut [f32]) {
            // SAFETY: this function has the features.
            unsafe { attend_body::<Avx2>(q, cache, dim, scale, out) }
        }
        match simd {
            // SAFETY: the feature was detected on this processor.
            Simd::Avx512 => return unsafe { avx512(q, cache, dim, scale, out) },
            // SAFETY: the features were detected on this processor.
            Simd::Avx2 => return unsafe { avx2(q, cache, dim, scale, out) },
            Simd::Portable => {}
        }
    }
    // SAFETY: portable lanes need no feature.
    unsafe { attend_body::<Portable>(q, cache, dim, scale, out) }
}

/// # Safety
/// The processor must have the instruction set of `L`.
#[inline(always)]
unsafe fn attend_body<L: Lanes>(
    q: &[f32],
    cache: &HeadCache,
    dim: usize,
    scale: f32,
    out: &mut [f32],
) {
    let mut scores = vec![0f32; cache.length];
    for (q, out) in q.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        let mut top = f32::NEG_INFINITY;
        for (t, score) in scores.iter_mut().enumerate() {
            let key = &cache.keys[t * cache.stride..t * cache.stride + dim];
            // SAFETY: both slices hold `dim` numbers.
            *score = unsafe { tile::<L, 1, 1>([key.as_ptr()], [q.as_ptr()], dim) }[0][0] * scale;
            top = top.max(*score);
        }
        let mut total = 0f32;
        for score in &mut scores {
            *score = (*score - top).exp();
            total += *score;
        }
        out.fill(0.0);
        for (t, score) in scores.iter().enumerate() {
            let value = &cache.values[t * cache.stride..t * cache.stride + dim];
            for (o, v) in out.iter_mut().zip(value) {
                *o = L::fma_one(*score, *v, *o);
            }
        }
        for o in out.iter_mut() {
            *o /= total;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn random(shape: &[i64]) -> Tensor {
        use rand::Rng;
        let mut draw = crate::runtime::seed::stream(7, &format!("kernels/{shape:?}"));
        let numbers: Vec<f32> = (0..shape.iter().product())
            .map(|_| draw.random_range(-1.0..1.0))
            .collect();
        Tensor::from_slice(&numbers).view(shape)
    }

    #[test]
    fn the_product_agrees_with_torch_for_every_tile_and_tail() {
        for (rows, inner, outputs) in [
            (1, 576, 192),
            (5, 576, 49),
            (8, 40, 7),
            (9, 8, 576),
            (3, 1536, 1030),
        ] {
            let (x, w) = (random(&[rows, inner]), random(&[outputs, inner]));
            let expected = x
                .to_kind(Kind::Double)
                .matmul(&w.to_kind(Kind::Double).tr());
            let error = (small_matmul(&x, &w).to_kind(Kind::Double) - expected)
                .abs()
                .max()
                .double_value(&[]);
            assert!(error < 1e-4, "{rows}×{inner}×{outputs}: {error}");
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        let (x, w) = (random(&[9, 600]), random(&[333, 600]));
        let whole = small_matmul(&x, &w);
        for m in 0..9 {
            let alone = small_matmul(&x.narrow(0, m, 1).contiguous(), &w);
            assert!(alone.equal(&whole.narrow(0, m, 1)), "row {m}");
        }
    }

    #[test]
    fn instruction_sets_agree_bit_for_bit() {
        let (x, w) = (random(&[5, 77]), random(&[9, 77]));
        let best = simd();
        if best == Simd::Portable {
            return;
        }
        let (xs, ws) = (View::new(&x), View::new(&w));
        let run = |simd| {
            let mut out = vec![0f32; 45];
            let columns = Columns {
                start: out.as_mut_ptr(),
                rows: 5,
                stride: 9,
            };
            product(simd, xs.0, ws.0, 77, &columns);
            out
        };
        assert_eq!(run(best), run(Simd::Avx2));
    }

    #[test]
    fn attention_agrees_with_torch_and_ignores_what_lies_beyond_its_length() {
        let (heads, kv_heads, dim) = (6i64, 2i64, 64i64);
        let lengths = [1usize, 17, 40];
        let q = random(&[3, heads, dim]);
        let caches: Vec<_> = (0..3i64)
            .map(|i| {
                (
                    random(&[41 + i, kv_heads, dim]),
                    random(&[51 + i, kv_heads, dim]),
                )
            })
            .collect();
        let spans: Vec<_> = caches
            .iter()
            .zip(lengths)
            .map(|((k, v), length)| Span {
                keys: k,
                values: v,
                length,
            })
            .collect();
        let out = decode_attention(&q, &spans, kv_heads as usize);
        for (i, (span, length)) in spans.iter().zip(lengths).enumerate() {
            let heads_first = |t: &Tensor| {
                t.narrow(0, 0, length as i64)
                    .transpose(0, 1)
                    .repeat_interleave_self_int(3, 0, None)
            };
            let (k, v) = (heads_first(span.keys), heads_first(span.values));
            let query = q.get(i as i64).unsqueeze(1);
            let weights =
                (query.matmul(&k.transpose(1, 2)) / (dim as f64).sqrt()).softmax(-1, Kind::Float);
            let expected = weights.matmul(&v).squeeze_dim(1);
            let error = (out.get(i as i64) - expected).abs().max().double_value(&[]);
            assert!(error < 1e-5, "sequence {i}: {error}");
        }
        let _ = Device::Cpu;
    }
}
