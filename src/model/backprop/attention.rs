//! Attention over packed segments and its backward.
//!
//! A child segment attends to its parent and itself: its keys are both, gathered side by side; the gradient of a parent's
//! keys is the sum over itself and its children, in the order of the list, so that it has the same bits every time.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::Shape;
use super::pieces::Pieces;
use crate::model::batch::Packed;
use crate::model::host::training;
use crate::runtime::flash::{self, Rows};
use crate::runtime::gpu::GpuError;

/// A batch as attention and rotation see it.
pub struct Layout {
    /// Position of each token, `(T)`: i32 for kernels, i64 otherwise.
    pub positions: Tensor,
    /// Segments with their parents' rows.
    spans: Vec<(Range<usize>, Option<Range<usize>>)>,
    flash: Option<Packing>,
}

/// Sequences of queries and of keys for the flash kernels.
struct Packing {
    query_starts: Tensor,
    longest_query: i64,
    /// Where some segment has a parent: the packed row of every gathered key.
    gathered: Option<Gathered>,
}

struct Gathered {
    starts: Tensor,
    longest: i64,
    rows: Tensor,
    back: BackList,
}

/// For each packed row the gathered rows that stem from it: `rows[first[t]..first[t + 1]]`, both i32.
pub struct BackList {
    pub first: Tensor,
    pub rows: Tensor,
}

impl BackList {
    /// From the packed row of each gathered row.
    pub fn new(stems: &[i64], count: usize, device: Device) -> Result<Self, GpuError> {
        let mut first = vec![0i32; count + 1];
        for &stem in stems {
            first[stem as usize + 1] += 1;
        }
        for at in 0..count {
            first[at + 1] += first[at];
        }
        let mut next = first.clone();
        let mut rows = vec![0i32; stems.len()];
        for (row, &stem) in stems.iter().enumerate() {
            let place = &mut next[stem as usize];
            rows[*place as usize] = row as i32;
            *place += 1;
        }
        let up = |numbers: &[i32]| Tensor::f_from_slice(numbers)?.f_to_device(device);
        Ok(Self {
            first: up(&first)?,
            rows: up(&rows)?,
        })
    }
}

/// What the backward needs of a forward.
pub struct Attended {
    /// `(T, heads, D)`.
    pub out: Tensor,
    /// Of the flash kernels: the logarithms of the sums, and their random state.
    saved: Option<[Tensor; 3]>,
}

impl Attended {
    /// The output as the next projection reads it, `(T, heads · D)`.
    pub fn flat(&self) -> Result<Tensor, GpuError> {
        let [rows, heads, width] = self.out.size()[..] else {
            unreachable!("three dimensions")
        };
        Ok(self.out.f_view([rows, heads * width])?) // (T, H, D) → (T, H · D)
    }
}

impl Layout {
    /// Of a batch; segments without tokens are left out.
    pub fn new(batch: &Packed, device: Device, pieces: &Pieces) -> Result<Self, GpuError> {
        let spans: Vec<_> = batch.spans().filter(|(own, _)| !own.is_empty()).collect();
        let fused = pieces.are_fused();
        let positions = if fused {
            let narrow: Vec<i32> = batch.position_ids().iter().map(|&p| p as i32).collect();
            Tensor::f_from_slice(&narrow)?
        } else {
            Tensor::f_from_slice(batch.position_ids())?
        };
        let flash = match fused {
            true => Some(Packing::new(&spans, batch.len(), device)?),
            false => None,
        };
        Ok(Self {
            positions: positions.f_to_device(device)?,
            spans,
            flash,
        })
    }

    /// `q` is `(T, heads, D)`, `k` and `v` are `(T, kv heads, D)`.
    pub fn forward(
        &self,
        shape: &Shape,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Attended, GpuError> {
        match &self.flash {
            Some(packing) => {
                let (k, v) = packing.gather(k, v)?;
                let (queries, keys) = packing.rows();
                let [out, sums, state, unused] =
                    flash::forward((q, queries), (&k, &v, keys), shape.scale())?;
                Ok(Attended {
                    out,
                    saved: Some([sums, state, unused]),
                })
            }
            None => Ok(Attended {
                out: self.plain(shape, q, k, v)?,
                saved: None,
            }),
        }
    }

    /// Gradients of `q`, `k` and `v` from that of the output, `(T, heads, D)`. Those of `k` and `v` have a row for every
    /// gathered key where [`Self::back`] is given.
    pub fn backward(
        &self,
        shape: &Shape,
        (q, k, v): (&Tensor, &Tensor, &Tensor),
        attended: &Attended,
        d_out: &Tensor,
    ) -> Result<[Tensor; 3], GpuError> {
        match (&self.flash, &attended.saved) {
            (Some(packing), Some(saved)) => {
                let (k, v) = packing.gather(k, v)?;
                let (queries, keys) = packing.rows();
                Ok(flash::backward(
                    d_out,
                    (q, queries),
                    (&k, &v, keys),
                    &attended.out,
                    saved,
                    shape.scale(),
                )?)
            }
            _ => self.plain_backward(shape, (q, k, v), &attended.out, d_out),
        }
    }

    /// Which gathered rows stem from which packed row, where keys are gathered.
    pub fn back(&self) -> Option<&BackList> {
        Some(&self.flash.as_ref()?.gathered.as_ref()?.back)
    }

    /// Keys or values that a segment sees, heads first: `(kv heads, S, D)`.
    fn seen(
        x: &Tensor,
        own: &Range<usize>,
        parent: Option<&Range<usize>>,
    ) -> Result<Tensor, GpuError> {
        let rows = |r: &Range<usize>| x.f_narrow(0, r.start as i64, r.len() as i64);
        let all = match parent {
            Some(parent) => Tensor::f_cat(&[rows(parent)?, rows(own)?], 0)?,
            None => rows(own)?,
        };
        Ok(all.f_transpose(0, 1)?.f_contiguous()?) // (S, KV, D) → (KV, S, D)
    }

    /// Rows of queries by key head: `(kv heads, group · T, D)`.
    fn grouped(x: &Tensor, own: &Range<usize>, shape: &Shape) -> Result<Tensor, GpuError> {
        let (rows, group) = (own.len() as i64, shape.heads / shape.kv_heads);
        let x = x.f_narrow(0, own.start as i64, rows)?;
        Ok(x.f_view([rows, shape.kv_heads, group, shape.head_dim])?
            .f_permute([1, 2, 0, 3])? // (T, KV, G, D) → (KV, G, T, D)
            .f_reshape([shape.kv_heads, group * rows, shape.head_dim])?)
    }

    /// Back from `(kv heads, group · T, D)` to `(T, heads, D)`.
    fn ungrouped(x: &Tensor, rows: i64, shape: &Shape) -> Result<Tensor, GpuError> {
        let group = shape.heads / shape.kv_heads;
        Ok(x.f_view([shape.kv_heads, group, rows, shape.head_dim])?
            .f_permute([2, 0, 1, 3])? // (KV, G, T, D) → (T, KV, G, D)
            .f_reshape([rows, shape.heads, shape.head_dim])?)
    }

    /// Probabilities of a segment, `(kv heads, group · T, S)`, in f32.
    fn probabilities(q: &Tensor, k: &Tensor, rows: i64, shape: &Shape) -> Result<Tensor, GpuError> {
        let keys = k.size()[1];
        let group = shape.heads / shape.kv_heads;
        let scores = q.f_bmm(&k.f_transpose(1, 2)?)?;
        if training::serves(&scores) {
            return Ok(training::softened(scores, rows as usize, shape.scale())?);
        }
        let scores = scores
            .f_to_kind(Kind::Float)?
            .f_mul_scalar_(shape.scale())?;
        // Query i of the segment sees the keys up to S − T + i.
        let unseen =
            Tensor::f_ones([rows, keys], (Kind::Bool, q.device()))?.f_triu(keys - rows + 1)?;
        let masked = scores
            .f_view([shape.kv_heads, group, rows, keys])?
            .f_masked_fill(&unseen, f64::NEG_INFINITY)?;
        Ok(masked
            .f_softmax(-1, Kind::Float)?
            .f_view([shape.kv_heads, group * rows, keys])?)
    }

    fn plain(&self, shape: &Shape, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, GpuError> {
        let mut out = Vec::with_capacity(self.spans.len());
        for (own, parent) in &self.spans {
            let rows = own.len() as i64;
            let q = Self::grouped(q, own, shape)?;
            let k = Self::seen(k, own, parent.as_ref())?;
            let v = Self::seen(v, own, parent.as_ref())?;
            let p = Self::probabilities(&q, &k, rows, shape)?.f_to_kind(v.kind())?;
            out.push(Self::ungrouped(&p.f_bmm(&v)?, rows, shape)?);
        }
        Ok(Tensor::f_cat(&out, 0)?)
    }

    /// With P = softmax(s · q kᵀ): dv = Pᵀ do; dS = P ∘ (do vᵀ − rowsum(do ∘ o)); dq = s · dS k; dk = s · dSᵀ q.
    fn plain_backward(
        &self,
        shape: &Shape,
        (q, k, v): (&Tensor, &Tensor, &Tensor),
        out: &Tensor,
        d_out: &Tensor,
    ) -> Result<[Tensor; 3], GpuError> {
        let (d_k, d_v) = (k.f_zeros_like()?, v.f_zeros_like()?);
        let mut d_q = Vec::with_capacity(self.spans.len());
        let kind = q.kind();
        for (own, parent) in &self.spans {
            let rows = own.len() as i64;
            let q = Self::grouped(q, own, shape)?;
            let k = Self::seen(k, own, parent.as_ref())?;
            let v = Self::seen(v, own, parent.as_ref())?;
            let d_out = Self::grouped(d_out, own, shape)?;
            let p = Self::probabilities(&q, &k, rows, shape)?;
            let own_v = p.f_to_kind(kind)?.f_transpose(1, 2)?.f_bmm(&d_out)?;
            let d_p = d_out.f_bmm(&v.f_transpose(1, 2)?)?;
            let d_s = if training::serves(&d_p) {
                training::softened_backward(&p, d_p, shape.scale())?
            } else {
                let out = Self::grouped(out, own, shape)?.f_to_kind(Kind::Float)?;
                let product = out * d_out.f_to_kind(Kind::Float)?;
                let shared = product.f_sum_dim_intlist(-1, true, Kind::Float)?;
                let d_p = d_p.f_to_kind(Kind::Float)?;
                (p * (d_p - shared) * shape.scale()).f_to_kind(kind)?
            };
            d_q.push(Self::ungrouped(&d_s.f_bmm(&k)?, rows, shape)?);
            let own_k = d_s.f_transpose(1, 2)?.f_bmm(&q)?;
            let mut at = 0;
            for range in parent.iter().chain([own]) {
                let length = range.len() as i64;
                for (total, part) in [(&d_k, &own_k), (&d_v, &own_v)] {
                    // (KV, S, D) → (S, KV, D)
                    let part = part.f_narrow(1, at, length)?.f_transpose(0, 1)?;
                    let _ = total
                        .f_narrow(0, range.start as i64, length)?
                        .f_add_(&part)?;
                }
                at += length;
            }
        }
        Ok([Tensor::f_cat(&d_q, 0)?, d_k, d_v])
    }
}

impl Packing {
    fn new(
        spans: &[(Range<usize>, Option<Range<usize>>)],
        count: usize,
        device: Device,
    ) -> Result<Self, GpuError> {
        let (mut query_starts, mut key_starts, mut keys) = (vec![0i32], vec![0i32], vec![]);
        let (mut longest_query, mut longest_key) = (0, 0);
        for (own, parent) in spans {
            let before = keys.len();
            for range in parent.iter().chain([own]) {
                keys.extend(range.clone().map(|row| row as i64));
            }
            query_starts.push(own.end as i32);
            key_starts.push(keys.len() as i32);
            longest_query = longest_query.max(own.len());
            longest_key = longest_key.max(keys.len() - before);
        }
        let up = |numbers: &[i32]| Tensor::f_from_slice(numbers)?.f_to_device(device);
        let gathered = match spans.iter().any(|(_, parent)| parent.is_some()) {
            true => Some(Gathered {
                starts: up(&key_starts)?,
                longest: longest_key as i64,
                rows: Tensor::f_from_slice(&keys)?.f_to_device(device)?,
                back: BackList::new(&keys, count, device)?,
            }),
            false => None,
        };
        Ok(Self {
            query_starts: up(&query_starts)?,
            longest_query: longest_query as i64,
            gathered,
        })
    }

    fn rows(&self) -> (Rows<'_>, Rows<'_>) {
        let queries = Rows {
            starts: &self.query_starts,
            longest: self.longest_query,
        };
        let keys = self.gathered.as_ref().map_or(queries, |g| Rows {
            starts: &g.starts,
            longest: g.longest,
        });
        (queries, keys)
    }

    fn gather(&self, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor), GpuError> {
        Ok(match &self.gathered {
            Some(g) => (k.f_index_select(0, &g.rows)?, v.f_index_select(0, &g.rows)?),
            None => (k.shallow_clone(), v.shallow_clone()),
        })
    }
}
