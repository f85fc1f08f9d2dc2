//! One step: a token for each row, from the embedding to the draw, recorded once for each number of rows.

use super::adapters::Packed;
use super::kernels::{At, BUCKETS, Low, Norm, Rotation, Updates, first_rows};
use super::{Fused, Layer};
use crate::runtime::gpu::{GpuError, TensorMap};

/// Which buffers a projection reads.
struct Inputs {
    x: TensorMap,
    attended: TensorMap,
    gated: TensorMap,
}

/// The smallest recorded step that holds this many rows.
pub fn bucket(rows: usize) -> u32 {
    let fits = BUCKETS.into_iter().find(|&b| b as usize >= rows);
    fits.unwrap_or(BUCKETS[BUCKETS.len() - 1])
}

impl Fused {
    /// Compute a token for each of the first `rows` rows; nothing is waited for.
    pub fn step(&mut self, rows: usize) -> Result<(), GpuError> {
        let bucket = bucket(rows);
        if !self.graphs.contains_key(&bucket) {
            let graph = self.gpu.capture(|_| self.emit(bucket))?;
            self.graphs.insert(bucket, graph);
        }
        // SAFETY: `reserve`, `set_adapter` and `release` drop the graphs before they drop what these use.
        unsafe { self.graphs[&bucket].launch(self.gpu.stream()) }
    }

    fn emit(&self, rows: u32) -> Result<(), GpuError> {
        let (k, state, at) = (&self.kernels, self.ready(), self.on_stream(true));
        let b = &state.buffers;
        let inputs = Inputs {
            x: first_rows(&b.x, rows)?,
            attended: first_rows(&b.attended, rows)?,
            gated: first_rows(&b.gated, rows)?,
        };
        k.plan(at, rows, &state.slots, &state.plan)?;
        let first = &self.layers[0].input_norm;
        let (tokens, own) = (&state.slots.token, Some(&state.plan.slots));
        k.embed(
            at,
            rows.into(),
            &self.embedding,
            (tokens, own),
            Norm {
                residual: &b.residual,
                weight: first,
                out: &b.x,
            },
        )?;
        for (index, layer) in self.layers.iter().enumerate() {
            let next = self
                .layers
                .get(index + 1)
                .map_or(&self.norm, |l| &l.input_norm);
            self.layer(at, rows, index, layer, &inputs, next)?;
        }
        k.product(at, rows, &self.head, &inputs.x, &b.logits, None)?;
        k.sample(
            at,
            rows,
            &b.logits,
            &state.plan.slots,
            &state.slots,
            &state.results,
        )
    }

    /// What rides along with a projection, where there is an adapter.
    pub(super) fn low(&self, index: usize, joint: usize) -> Option<Low<'_>> {
        let pair = self.adapter.as_ref()?.pair(index, joint);
        Some(Low {
            a: &pair.a,
            out: &self.ready().buffers.low,
        })
    }

    /// What a layer's rotation reads and writes in a step.
    pub(super) fn rotation(&self, index: usize) -> Rotation<'_> {
        let state = self.ready();
        let norms = self.layers[index].qk_norm.as_ref();
        Rotation {
            norms: norms.map(|(q, k)| (q, k)),
            cosines: &self.cosines,
            sines: &self.sines,
            position: &state.plan.position,
            place: &state.plan.place,
            q: &state.buffers.q,
            packed: None,
            key_cache: &state.keys[index],
            value_cache: &state.values[index],
        }
    }

    fn layer(
        &self,
        at: At,
        rows: u32,
        index: usize,
        layer: &Layer,
        inputs: &Inputs,
        next: &tch::Tensor,
    ) -> Result<(), GpuError> {
        let (k, state) = (&self.kernels, self.ready());
        let (b, plan) = (&state.buffers, &state.plan);
        let adapter: Option<&Packed> = self.adapter.as_ref();
        let project = |joint: usize, x: &TensorMap| -> Result<Updates, GpuError> {
            let low = self.low(index, joint);
            k.product(at, rows, &layer.joint[joint], x, &b.y, low.as_ref())?;
            Ok(adapter.map_or_else(Updates::default, |a| {
                a.updates(index, joint, &b.low, &plan.adapter)
            }))
        };
        let count = i64::from(rows);
        let updates = project(0, &inputs.x)?;
        let cache = (&state.keys[index], &state.values[index]);
        k.rotate(at, count, &b.y, &self.rotation(index), updates)?;
        k.attend(at, &b.q, cache, &state.slots, plan, &b.attended)?;
        let updates = project(1, &inputs.attended)?;
        k.add_and_norm(
            at,
            count,
            &b.y,
            updates,
            Norm {
                residual: &b.residual,
                weight: &layer.post_norm,
                out: &b.x,
            },
        )?;
        let updates = project(2, &inputs.x)?;
        k.gate(at, count, &b.y, &b.gated, updates)?;
        let updates = project(3, &inputs.gated)?;
        let norm = Norm {
            residual: &b.residual,
            weight: next,
            out: &b.x,
        };
        k.add_and_norm(at, count, &b.y, updates, norm)
    }
}
