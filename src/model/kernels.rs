//! CPU kernels for decoding: a small matrix product and single-query attention.
//!
//! Both exist for one property that a library's general routines do not promise: each output element is summed in an
//! order that depends on its own row alone, so what a request generates cannot depend on its neighbours in the batch.
//! They also read every weight once a step, which is what bounds decoding. Sixteen partial sums run side by side and
//! are added as a fixed tree; the code is the same for every instruction set, and so are its results wherever fused
//! multiply-add exists.

use rayon::prelude::*;
use tch::{Kind, Tensor};

/// Partial sums of one dot product.
const LANES: usize = 16;
/// Weight rows and input rows of one register tile.
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
    // Computed transposed, (N, M): threads own disjoint output rows.
    let mut transposed = vec![0f32; outputs * rows];
    let work = outputs * inner * rows;
    let chunk = if work < 1 << 17 {
        outputs
    } else {
        outputs.div_ceil(8 * rayon::current_num_threads()).max(TILE)
    };
    let fma = has_fma();
    let run = |(index, out): (usize, &mut [f32])| {
        let first = index * chunk;
        let weights = &w.0[first * inner..first * inner + out.len() / rows * inner];
        product(fma, x.0, weights, inner, rows, out);
    };
    if chunk >= outputs {
        run((0, &mut transposed));
    } else {
        transposed
            .par_chunks_mut(chunk * rows)
            .enumerate()
            .for_each(run);
    }
    let mut out = vec![0f32; rows * outputs];
    for n in 0..outputs {
        for m in 0..rows {
            out[m * outputs + n] = transposed[n * rows + m];
        }
    }
    Tensor::from_slice(&out).view([rows as i64, outputs as i64])
}

/// Which instruction set the kernels run on.
#[derive(Clone, Copy, PartialEq)]
enum Simd {
    Avx512,
    Avx2,
    Portable,
}

fn has_fma() -> Simd {
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
fn product(simd: Simd, x: &[f32], w: &[f32], inner: usize, rows: usize, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn avx512(x: &[f32], w: &[f32], inner: usize, rows: usize, out: &mut [f32]) {
            product_body::<true>(x, w, inner, rows, out)
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2(x: &[f32], w: &[f32], inner: usize, rows: usize, out: &mut [f32]) {
            product_body::<true>(x, w, inner, rows, out)
        }
        match simd {
            // SAFETY: the feature was detected on this processor.
            Simd::Avx512 => return unsafe { avx512(x, w, inner, rows, out) },
            // SAFETY: the features were detected on this processor.
            Simd::Avx2 => return unsafe { avx2(x, w, inner, rows, out) },
            Simd::Portable => {}
        }
    }
    product_body::<false>(x, w, inner, rows, out)
}

#[inline(always)]
fn product_body<const FMA: bool>(x: &[f32], w: &[f32], inner: usize, rows: usize, out: &mut [f32]) {
    let outputs = out.len() / rows;
    let mut n = 0;
    while n < outputs {
        let tile_n = TILE.min(outputs - n);
        let mut m = 0;
        while m < rows {
            let tile_m = TILE.min(rows - m);
            let (w, x) = (
                &w[n * inner..(n + tile_n) * inner],
                &x[m * inner..(m + tile_m) * inner],
            );
            // Full tiles run in registers; the arithmetic of an element is the same in every branch.
            match (tile_n, tile_m) {
                (4, 4) => tile::<FMA, 4, 4>(x, w, inner, &mut out[n * rows + m..], rows),
                (4, 3) => tile::<FMA, 4, 3>(x, w, inner, &mut out[n * rows + m..], rows),
                (4, 2) => tile::<FMA, 4, 2>(x, w, inner, &mut out[n * rows + m..], rows),
                (4, 1) => tile::<FMA, 4, 1>(x, w, inner, &mut out[n * rows + m..], rows),
                _ => {
                    for i in 0..tile_n {
                        for j in 0..tile_m {
                            let (w, x) = (
                                &w[i * inner..(i + 1) * inner],
                                &x[j * inner..(j + 1) * inner],
                            );
                            tile::<FMA, 1, 1>(
                                x,
                                w,
                                inner,
                                &mut out[(n + i) * rows + m + j..],
                                rows,
                            );
                        }
                    }
                }
            }
            m += tile_m;
        }
        n += tile_n;
    }
}

#[inline(always)]
fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `N × M` dot products at once; lanes of `inner % LANES` are filled with zeros.
#[inline(always)]
fn tile<const FMA: bool, const N: usize, const M: usize>(
    x: &[f32],
    w: &[f32],
    inner: usize,
    out: &mut [f32],
    stride: usize,
) {
    let mut sums = [[[0f32; LANES]; M]; N];
    let full = inner / LANES * LANES;
    let mut k = 0;
    while k < full {
        let mut xs = [[0f32; LANES]; M];
        for (j, lanes) in xs.iter_mut().enumerate() {
            lanes.copy_from_slice(&x[j * inner + k..j * inner + k + LANES]);
        }
        for i in 0..N {
            let mut ws = [0f32; LANES];
            ws.copy_from_slice(&w[i * inner + k..i * inner + k + LANES]);
            for j in 0..M {
                for l in 0..LANES {
                    sums[i][j][l] = fma::<FMA>(ws[l], xs[j][l], sums[i][j][l]);
                }
            }
        }
        k += LANES;
    }
    for l in 0..inner - full {
        for i in 0..N {
            for j in 0..M {
                sums[i][j][l] = fma::<FMA>(
                    w[i * inner + full + l],
                    x[j * inner + full + l],
                    sums[i][j][l],
                );
            }
        }
    }
    for i in 0..N {
        for j in 0..M {
            out[i * stride + j] = tree_sum(sums[i][j]);
        }
    }
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
    let simd = has_fma();
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
        #[target_feature(enable = "avx512f")]
        fn avx512(q: &[f32], cache: &HeadCache, dim: usize, scale: f32, out: &mut [f32]) {
            attend_body::<true>(q, cache, dim, scale, out)
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2(q: &[f32], cache: &HeadCache, dim: usize, scale: f32, out: &mut [f32]) {
            attend_body::<true>(q, cache, dim, scale, out)
        }
        match simd {
            // SAFETY: the feature was detected on this processor.
            Simd::Avx512 => return unsafe { avx512(q, cache, dim, scale, out) },
            // SAFETY: the features were detected on this processor.
            Simd::Avx2 => return unsafe { avx2(q, cache, dim, scale, out) },
            Simd::Portable => {}
        }
    }
    attend_body::<false>(q, cache, dim, scale, out)
}

#[inline(always)]
fn attend_body<const FMA: bool>(
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
            let mut dot = [0f32];
            tile::<FMA, 1, 1>(q, key, dim, &mut dot, 1);
            *score = dot[0] * scale;
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
                *o = fma::<FMA>(*score, *v, *o);
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
        let best = has_fma();
        if best == Simd::Portable {
            return;
        }
        let (xs, ws) = (View::new(&x), View::new(&w));
        let run = |simd| {
            let mut out = vec![0f32; 45];
            product(simd, xs.0, ws.0, 77, 5, &mut out);
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
