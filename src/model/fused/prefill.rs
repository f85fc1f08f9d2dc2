//! Prompts, packed one behind the other: their keys and values into the cache, and a first token for each.
//!
//! Between libtorch's matrix products and flash attention stand the kernels of the step. A prompt whose beginning is in
//! the cache is computed from there on; its keys are then gathered out of the pages, the new ones with them, so prompts
//! of one call may share what one of them computes.

use tch::{Kind, Tensor};

use super::decode::bucket;
use super::kernels::{Draw, Norm, PAGE, Rotation, Updates, first_rows};
use super::state::Results;
use super::{Fused, MOST_ROWS};
use crate::model::room;
use crate::runtime::flash::{Rows, flash_attention};
use crate::runtime::gpu::GpuError;

/// A prompt to be computed into a slot.
#[derive(Debug, Clone)]
pub struct Prompt<'a> {
    /// Its slot, which was started.
    pub slot: usize,
    /// All its tokens.
    pub tokens: &'a [u32],
    /// How many of them are in the cache, or are computed by an earlier prompt of the same call; less than all.
    pub cached: usize,
    /// Its pages.
    pub pages: &'a [u32],
}

/// One call's tokens on the device.
struct Batch {
    tokens: Tensor,
    position: Tensor,
    place: Tensor,
    adapter: Tensor,
    starts: Tensor,
    longest: i64,
    /// Where all keys of all prompts lie, their starts and the longest, if some are cached.
    all: Option<(Tensor, Tensor, i64)>,
    /// Row of each prompt's last token.
    last: Tensor,
}

fn place(prompt: &Prompt, position: usize) -> i32 {
    (prompt.pages[position / PAGE] as usize * PAGE + position % PAGE) as i32
}

impl Fused {
    fn batch(&self, prompts: &[Prompt]) -> Result<Batch, GpuError> {
        let (mut tokens, mut position, mut places) = (Vec::new(), Vec::new(), Vec::new());
        let (mut starts, mut all_starts, mut all_places, mut last) =
            (vec![0i32], vec![0i32], Vec::new(), Vec::new());
        let (mut longest, mut longest_all) = (0, 0);
        for prompt in prompts {
            for at in prompt.cached..prompt.tokens.len() {
                tokens.push(prompt.tokens[at] as i32);
                position.push(at as i32);
                places.push(place(prompt, at));
            }
            all_places.extend((0..prompt.tokens.len()).map(|at| place(prompt, at)));
            starts.push(tokens.len() as i32);
            all_starts.push(all_places.len() as i32);
            last.push(tokens.len() as i64 - 1);
            longest = longest.max(prompt.tokens.len() - prompt.cached);
            longest_all = longest_all.max(prompt.tokens.len());
        }
        let up = |numbers: &[i32]| Tensor::f_from_slice(numbers)?.f_to_device(self.device);
        let cached = prompts.iter().any(|p| p.cached > 0);
        Ok(Batch {
            adapter: Tensor::f_zeros([tokens.len() as i64], (Kind::Int, self.device))?,
            tokens: up(&tokens)?,
            position: up(&position)?,
            place: up(&places)?,
            starts: up(&starts)?,
            longest: longest as i64,
            all: if cached {
                Some((up(&all_places)?, up(&all_starts)?, longest_all as i64))
            } else {
                None
            },
            last: Tensor::f_from_slice(&last)?.f_to_device(self.device)?,
        })
    }

    /// Compute prompts, at most [`MOST_ROWS`] at once, and draw the next token of each; the outcome is by their order.
    /// Their slots are started and their pages entered. On an error nothing that counts has changed: the call may be
    /// repeated with fewer.
    pub fn prefill(&mut self, prompts: &[Prompt]) -> Result<(), GpuError> {
        assert!(
            prompts.len() <= MOST_ROWS,
            "{} prompts at once",
            prompts.len()
        );
        let guard = tch::no_grad_guard();
        let batch = self.batch(prompts)?;
        let x = self.prompt_hidden(&batch)?;
        let (state, k) = (self.ready(), &self.kernels);
        let count = prompts.len();
        let columns = bucket(count);
        let b = &state.buffers;
        b.x.narrow(0, 0, count as i64).f_copy_(&x)?;
        let slots: Vec<i32> = prompts.iter().map(|p| p.slot as i32).collect();
        let own = Tensor::f_from_slice(&slots)?.f_to_device(self.device)?;
        let at = self.beside_libtorch();
        k.product(
            at,
            columns,
            &self.head,
            &first_rows(&b.x, columns)?,
            &b.logits,
            None,
        )?;
        k.sample(
            at,
            count as u32,
            &b.logits,
            &own,
            &state.slots,
            &state.results,
        )?;
        drop(guard);
        Ok(())
    }

    /// Last tokens' hidden states, `(prompts, hidden)`, after the final norm.
    fn prompt_hidden(&self, batch: &Batch) -> Result<Tensor, GpuError> {
        let (c, k, at) = (&self.config, &self.kernels, self.beside_libtorch());
        let count = batch.tokens.size()[0];
        // Rows that meet weights with an update in their room have as much of it themselves.
        let rooms = self.adapter.as_ref().and_then(|a| a.rooms.as_ref());
        if let Some(rooms) = rooms {
            k.lay_out(at, rooms)?;
        }
        let room = rooms.map_or(0, |_| room::of_targets(3));
        let like = (Kind::BFloat16, self.device);
        let rows = |columns: i64| room::rows((count, columns), room, like);
        let (residual, x) = (
            Tensor::f_empty([count, c.hidden_size], like)?,
            rows(c.hidden_size)?,
        );
        k.embed(
            at,
            count,
            &self.embedding,
            (&batch.tokens, None),
            Norm {
                residual: &residual,
                weight: &self.layers[0].input_norm,
                out: &x,
            },
        )?;
        for (index, layer) in self.layers.iter().enumerate() {
            let project = |joint: usize, x: &Tensor| self.prompt_product(index, joint, x);
            let updates = |joint: usize, low: &Option<Tensor>| match (&self.adapter, low) {
                (Some(adapter), Some(low)) => adapter.updates(index, joint, low, &batch.adapter),
                _ => Updates::default(),
            };
            let (qkv, low) = project(0, &x)?;
            let mut attended = self.prompt_attention(index, batch, &qkv, updates(0, &low))?;
            drop(qkv);
            if room > 0 {
                let mut roomy = rows(attended.size()[1])?;
                roomy.f_copy_(&attended)?;
                attended = roomy;
            }
            let (y, low) = project(1, &attended)?;
            k.add_and_norm(
                at,
                count,
                &y,
                updates(1, &low),
                Norm {
                    residual: &residual,
                    weight: &layer.post_norm,
                    out: &x,
                },
            )?;
            let (y, low) = project(2, &x)?;
            let gated = rows(c.intermediate_size)?;
            k.gate(at, count, &y, &gated, updates(2, &low))?;
            drop(y);
            let (y, low) = project(3, &gated)?;
            let next = self
                .layers
                .get(index + 1)
                .map_or(&self.norm, |l| &l.input_norm);
            let norm = Norm {
                residual: &residual,
                weight: next,
                out: &x,
            };
            k.add_and_norm(at, count, &y, updates(3, &low), norm)?;
        }
        Ok(x.f_index_select(0, &batch.last)?)
    }

    /// A projection of a prompt's rows. A x of its update comes beside it where the update is still to be added: then the
    /// output is in f32, because cuBLAS, told to add to a bf16 matrix, rounds the product first, and small updates would be
    /// lost.
    fn prompt_product(
        &self,
        layer: usize,
        joint: usize,
        x: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>), GpuError> {
        let weight = &self.layers[layer].joint[joint].weight;
        let Some(adapter) = &self.adapter else {
            return Ok((x.f_mm(&weight.f_tr()?)?, None));
        };
        let pair = adapter.pair(layer, joint);
        let a = &pair.a.weight;
        if let Some(ranks) = pair.joined() {
            let joined = room::joined(x, ranks)?; // (T, in + R)
            let _ = x.f_mm_out(&joined.f_narrow(1, x.size()[1], ranks)?, &a.f_tr()?)?;
            let weight = room::joined(weight, ranks)?;
            return Ok((joined.f_mm(&weight.f_tr()?)?, None));
        }
        let low = x.f_linear(a, None::<&Tensor>)?;
        Ok((x.f_mm_dtype(&weight.f_tr()?, Kind::Float)?, Some(low)))
    }

    /// `(T, heads · head width)`.
    fn prompt_attention(
        &self,
        index: usize,
        batch: &Batch,
        qkv: &Tensor,
        updates: Updates,
    ) -> Result<Tensor, GpuError> {
        let (c, k, at, state) = (
            &self.config,
            &self.kernels,
            self.beside_libtorch(),
            self.ready(),
        );
        let count = qkv.size()[0];
        let heads = |rows: i64, n: i64| {
            Tensor::f_empty([rows, n, c.head_dim], (Kind::BFloat16, self.device))
        };
        let q = heads(count, c.heads)?;
        let own = match batch.all {
            None => Some((heads(count, c.kv_heads)?, heads(count, c.kv_heads)?)),
            Some(_) => None,
        };
        let cache = (&state.keys[index], &state.values[index]);
        let rotation = Rotation {
            norms: self.layers[index].qk_norm.as_ref().map(|(q, k)| (q, k)),
            cosines: &self.cosines,
            sines: &self.sines,
            position: &batch.position,
            place: &batch.place,
            q: &q,
            packed: own.as_ref().map(|(k, v)| (k, v)),
            key_cache: cache.0,
            value_cache: cache.1,
        };
        k.rotate(at, count, qkv, &rotation, updates)?;
        let queries = Rows {
            starts: &batch.starts,
            longest: batch.longest,
        };
        let attended = match (&batch.all, own) {
            (Some((places, starts, longest)), _) => {
                let total = places.size()[0];
                let (keys, values) = (heads(total, c.kv_heads)?, heads(total, c.kv_heads)?);
                k.gather(at, cache, places, (&keys, &values))?;
                let rows = Rows {
                    starts,
                    longest: *longest,
                };
                flash_attention((&q, queries), (&keys, &values, rows), k.scale())?
            }
            (None, Some((keys, values))) => {
                flash_attention((&q, queries), (&keys, &values, queries), k.scale())?
            }
            (None, None) => unreachable!("keys are packed or gathered"),
        };
        Ok(attended.f_view([count, c.heads * c.head_dim])?) // (T, H, D) → (T, H · D)
    }
}

impl Fused {
    /// Draw one token from each row of these logits, `(rows, vocab)` in bf16, by these settings and uniform numbers, with
    /// the kernel that generation uses: for tests against the plain sampler.
    pub fn draw_from(
        &mut self,
        logits: &Tensor,
        draws: &[(Draw, f64)],
    ) -> Result<Results, GpuError> {
        self.reserve(draws.len(), 1, PAGE, 1)?;
        for (slot, (draw, uniform)) in draws.iter().enumerate() {
            self.start(slot, 1, 0, *draw, &[*uniform])?;
        }
        let state = self.ready();
        let count = draws.len() as i64;
        state.buffers.logits.narrow(0, 0, count).f_copy_(logits)?;
        let slots: Vec<i32> = (0..draws.len() as i32).collect();
        let own = Tensor::f_from_slice(&slots)?.f_to_device(self.device)?;
        let at = self.beside_libtorch();
        self.kernels.sample(
            at,
            draws.len() as u32,
            &state.buffers.logits,
            &own,
            &state.slots,
            &state.results,
        )?;
        let mut results = Results::new()?;
        self.fetch(&mut results)?;
        for slot in 0..draws.len() {
            self.stop(slot)?;
        }
        self.gpu.synchronise()?;
        Ok(results)
    }
}
