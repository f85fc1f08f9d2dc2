//! Causal attention over packed segments, and of single new tokens over a KV cache.

use tch::{Kind, Tensor};

use super::batch::Packed;
use super::kv_cache::KvCache;

/// Where keys and values come from and go to.
pub enum Context<'a> {
    /// Whole sequences; the first root's keys and values are written to a slot of the cache where one is given.
    Packed {
        /// The sequences.
        batch: &'a Packed,
        /// Cache and slot.
        cache: Option<(&'a KvCache, usize)>,
    },
    /// One new token a slot.
    Step {
        /// The cache.
        cache: &'a KvCache,
        /// Slot of each row.
        slots: &'a [usize],
    },
}

impl Context<'_> {
    /// Attend: `q` is `(T, heads, D)`, `k` and `v` are `(T, kv_heads, D)`; the result is `(T, heads, D)`.
    pub fn attend(&self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
        match self {
            Self::Packed { batch, cache } => {
                if let Some((cache, slot)) = cache {
                    cache.write_prompt(layer, *slot, k, v);
                }
                packed(batch, q, k, v)
            }
            Self::Step { cache, slots } => {
                cache.write_step(layer, slots, k, v);
                step(cache, layer, slots, q)
            }
        }
    }
}

/// `(T, heads, D)` to `(1, heads, T, D)`, key heads repeated to the number of query heads.
fn heads_first(x: &Tensor, group: i64) -> Tensor {
    let x = x.transpose(0, 1).unsqueeze(0);
    if group == 1 {
        x
    } else {
        x.repeat_interleave_self_int(group, 1, None)
    }
}

fn packed(batch: &Packed, q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    let group = q.size()[1] / k.size()[1];
    let (q, k, v) = (
        heads_first(q, 1),
        heads_first(k, group),
        heads_first(v, group),
    );
    let rows = |x: &Tensor, range: &std::ops::Range<usize>| {
        x.narrow(2, range.start as i64, range.len() as i64)
    };
    let mut out = Vec::new();
    for (range, parent) in batch.spans().filter(|(range, _)| !range.is_empty()) {
        let own = [rows(&q, &range), rows(&k, &range), rows(&v, &range)];
        out.push(match parent {
            None => sdpa(&own[0], &own[1], &own[2], None, true),
            Some(parent) => {
                let keys = Tensor::cat(&[rows(&k, &parent), own[1].shallow_clone()], 2);
                let values = Tensor::cat(&[rows(&v, &parent), own[2].shallow_clone()], 2);
                // true = may be seen: all of the parent, and itself causally.
                let shape = [range.len() as i64, (parent.len() + range.len()) as i64];
                let seen = Tensor::ones(shape, (Kind::Bool, q.device())).tril(parent.len() as i64);
                sdpa(&own[0], &keys, &values, Some(&seen), false)
            }
        });
    }
    let joined = if out.len() == 1 {
        out.swap_remove(0)
    } else {
        Tensor::cat(&out, 2)
    };
    joined.squeeze_dim(0).transpose(0, 1) // (T, heads, D)
}

fn sdpa(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, causal: bool) -> Tensor {
    Tensor::scaled_dot_product_attention(q, k, v, mask, 0.0, causal, None, false)
}

fn step(cache: &KvCache, layer: usize, slots: &[usize], q: &Tensor) -> Tensor {
    let device = q.device();
    let lengths: Vec<i64> = slots
        .iter()
        .map(|&slot| cache.length(slot) as i64 + 1)
        .collect();
    let longest = lengths.iter().copied().max().unwrap_or(1);
    let index =
        Tensor::from_slice(&slots.iter().map(|&s| s as i64).collect::<Vec<_>>()).to_device(device);
    let (k, v) = cache.gather(layer, &index, longest); // (B, L, kv_heads, D)
    let positions = Tensor::arange(longest, (Kind::Int64, device)).unsqueeze(0);
    // true = may be seen: positions before each slot's length.
    let seen = positions.less_tensor(&Tensor::from_slice(&lengths).to_device(device).unsqueeze(1));
    let seen = seen.unsqueeze(1).unsqueeze(1); // (B, 1, 1, L)
    let (k, v) = (k.transpose(1, 2), v.transpose(1, 2));
    let out = Tensor::scaled_dot_product_attention(
        &q.unsqueeze(2),
        &k,
        &v,
        Some(&seen),
        0.0,
        false,
        None,
        true,
    );
    out.squeeze_dim(2) // (B, heads, D)
}
