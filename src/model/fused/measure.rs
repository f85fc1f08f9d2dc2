//! What the pieces of a step take, each timed apart over all layers, so that no piece finds its weights in the cache.

use std::collections::BTreeSet;
use std::time::Instant;

use super::kernels::{At, Kernels, Low, Matrix, Norm, Updates, first_rows};
use super::source::Product;
use super::{Draw, Fused, PAGE};
use crate::runtime::gpu::{GpuError, Graph, TensorMap};

/// Launches a product with a matrix, and with what rides along.
type Launch<'a> = dyn FnMut(&Matrix, Option<&Low>) -> Result<(), GpuError> + 'a;

/// The joint projections and the head, in words.
const NAMES: [&str; 5] = ["q k v", "o", "gate up", "down", "head"];

/// One piece of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Piece {
    /// Which.
    pub name: &'static str,
    /// How often it is launched in a step.
    pub launches: usize,
    /// Seconds of all its launches in a step.
    pub seconds: f64,
    /// Bytes that they must read: weights, or keys and values.
    pub bytes: f64,
    /// Floating-point operations that they must do.
    pub operations: f64,
}

/// One build of the product on one matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trial {
    /// Which matrix.
    pub name: &'static str,
    /// The build.
    pub product: Product,
    /// It is the one that steps take.
    pub chosen: bool,
    /// Blocks, and how many the GPU runs at a time.
    pub blocks: (u32, u32),
    /// Seconds of all its launches in a step.
    pub seconds: f64,
}

impl Fused {
    /// Time the pieces of a step of `rows` texts, each with `context` tokens of random keys and values in the cache.
    ///
    /// # Errors
    /// Memory that does not suffice, or a GPU that fails.
    pub fn measure(
        &mut self,
        rows: u32,
        context: usize,
        repeat: usize,
    ) -> Result<Vec<Piece>, GpuError> {
        self.occupy(rows, context)?;
        let at = self.on_stream(true);
        let columns = super::decode::bucket(rows as usize);
        let mut pieces = Vec::new();
        for which in 0..NAMES.len() {
            let graph = self.gpu.capture(|_| {
                self.each(which, &mut |matrix, low| {
                    let x = self.input(which, columns)?;
                    let y = self.output(which);
                    self.kernels.product(at, columns, matrix, &x, y, low)
                })
            })?;
            pieces.push(self.piece(which, rows, self.time(&graph, repeat)?));
        }
        let (state, count) = (self.ready(), i64::from(rows));
        let (b, layers) = (&state.buffers, self.layers.len());
        self.kernels.plan(at, columns, &state.slots, &state.plan)?;
        let kv = 2 * self.config.kv_heads * self.config.head_dim;
        let keys = f64::from(rows) * (context as f64 + 1.0) * (kv * 2) as f64 * layers as f64;
        let attention = self.gpu.capture(|_| {
            for cache in state.keys.iter().zip(&state.values) {
                self.kernels
                    .attend(at, &b.q, cache, &state.slots, &state.plan, &b.attended)?;
            }
            Ok(())
        })?;
        let group = (self.config.heads / self.config.kv_heads) as f64;
        pieces.push(Piece {
            name: "attention",
            launches: layers,
            seconds: self.time(&attention, repeat)?,
            bytes: keys,
            operations: keys * group,
        });
        let between = self.gpu.capture(|_| self.between(at, count))?;
        pieces.push(Piece {
            name: "between",
            launches: 4 * layers,
            seconds: self.time(&between, repeat)?,
            bytes: 0.0,
            operations: 0.0,
        });
        let sample = self.gpu.capture(|_| {
            let own = &state.plan.slots;
            self.kernels
                .sample(at, columns, &b.logits, own, &state.slots, &state.results)
        })?;
        pieces.push(Piece {
            name: "sampling",
            launches: 1,
            // Each launch takes one of the slots' draws.
            seconds: self.time(&sample, repeat.min(64))?,
            bytes: 0.0,
            operations: 0.0,
        });
        self.release();
        Ok(pieces)
    }

    /// Time the builds of the product that could serve a step of `rows` texts, on every matrix.
    ///
    /// # Errors
    /// As [`Self::measure`].
    pub fn try_products(&mut self, rows: u32, repeat: usize) -> Result<Vec<Trial>, GpuError> {
        self.occupy(rows, 1)?;
        let at = self.on_stream(true);
        let columns = super::decode::bucket(rows as usize);
        let builds: BTreeSet<Product> = Product::GROUPS
            .into_iter()
            .flat_map(|groups| (1..=5).map(move |split| Product::new(groups, columns, split)))
            .filter(|product| product.has_room())
            .collect();
        let kernels = Kernels::with_products(&self.gpu, &self.config, self.rank, builds.clone())?;
        let mut trials = Vec::new();
        for (which, name) in NAMES.into_iter().enumerate() {
            let matrix = self.matrix(which);
            let outputs = matrix.shape().0 as u32;
            let chosen = matrix.product(columns);
            for &product in &builds {
                let blocks = kernels.blocks(product, outputs)?;
                // Twice as many blocks as the GPU runs at a time are split for nothing.
                let wasteful = product.split > 1 && blocks.0 > blocks.1;
                if blocks.1 == 0 || wasteful && product != chosen {
                    continue;
                }
                let graph = self.gpu.capture(|_| {
                    self.each(which, &mut |matrix, low| {
                        let x = self.input(which, columns)?;
                        kernels.product_as(at, product, matrix, &x, self.output(which), low)
                    })
                })?;
                trials.push(Trial {
                    name,
                    product,
                    chosen: product == chosen,
                    blocks,
                    seconds: self.time(&graph, repeat)?,
                });
            }
        }
        self.release();
        Ok(trials)
    }

    /// Texts under way in the first `rows` slots.
    fn occupy(&mut self, rows: u32, context: usize) -> Result<(), GpuError> {
        let a_slot = (context + 1).div_ceil(PAGE);
        let pages = rows as usize * a_slot;
        self.release();
        self.reserve(pages, pages, context + 1, 256)?;
        let state = self.ready();
        for cache in state.keys.iter().chain(&state.values) {
            let _ = cache.shallow_clone().f_normal_(0.0, 1.0)?;
        }
        for buffer in [
            &state.buffers.x,
            &state.buffers.y,
            &state.buffers.q,
            &state.buffers.gated,
            &state.buffers.attended,
            &state.buffers.logits,
            &state.buffers.residual,
        ] {
            let _ = buffer.shallow_clone().f_normal_(0.0, 1.0)?;
        }
        let (mut changes, mut own) = (Vec::new(), Vec::new());
        for slot in 0..rows as usize {
            for at in 0..a_slot {
                changes.push([slot as i32, at as i32, (slot * a_slot + at) as i32]);
            }
            own.push(slot as i32);
            let draw = Draw {
                temperature: 1.0,
                top_p: 1.0,
                min_p: 0.0,
                uniforms: 0,
                top_k: 0,
                limit: i32::MAX,
                stops: [-1; 8],
                forced_from: 0,
                forced_until: 0,
            };
            self.resume(slot, context, 0, 1, draw, &[0.5; 256])?;
        }
        self.set_pages(&changes)?;
        self.set_rows(&own)
    }

    fn matrix(&self, which: usize) -> &Matrix {
        self.layers[0].joint.get(which).unwrap_or(&self.head)
    }

    fn input(&self, which: usize, columns: u32) -> Result<TensorMap, GpuError> {
        let b = &self.ready().buffers;
        first_rows([&b.x, &b.attended, &b.x, &b.gated, &b.x][which], columns)
    }

    fn output(&self, which: usize) -> &tch::Tensor {
        let b = &self.ready().buffers;
        match which {
            4 => &b.logits,
            _ => &b.y,
        }
    }

    /// One matrix of every layer, or the head.
    fn each(&self, which: usize, body: &mut Launch) -> Result<(), GpuError> {
        if which == 4 {
            return body(&self.head, None);
        }
        for (index, layer) in self.layers.iter().enumerate() {
            body(&layer.joint[which], self.low(index, which).as_ref())?;
        }
        Ok(())
    }

    fn piece(&self, which: usize, rows: u32, seconds: f64) -> Piece {
        let launches = if which == 4 { 1 } else { self.layers.len() };
        let (outputs, inner) = self.matrix(which).shape();
        let numbers = launches as f64 * (outputs * inner) as f64;
        Piece {
            name: NAMES[which],
            launches,
            seconds,
            bytes: 2.0 * numbers,
            operations: 2.0 * f64::from(rows) * numbers,
        }
    }

    /// What stands between the products of every layer.
    fn between(&self, at: At, rows: i64) -> Result<(), GpuError> {
        let (k, state) = (&self.kernels, self.ready());
        let (b, plan) = (&state.buffers, &state.plan);
        for (index, layer) in self.layers.iter().enumerate() {
            let updates = |joint: usize| {
                self.adapter.as_ref().map_or_else(Updates::default, |a| {
                    a.updates(index, joint, &b.low, &plan.adapter)
                })
            };
            let norm = |weight| Norm {
                residual: &b.residual,
                weight,
                out: &b.x,
            };
            k.rotate(at, rows, &b.y, &self.rotation(index), updates(0))?;
            k.add_and_norm(at, rows, &b.y, updates(1), norm(&layer.post_norm))?;
            k.gate(at, rows, &b.y, &b.gated, updates(2))?;
            k.add_and_norm(at, rows, &b.y, updates(3), norm(&layer.input_norm))?;
        }
        Ok(())
    }

    /// Seconds of a recorded sequence: the least of three means.
    fn time(&self, graph: &Graph, repeat: usize) -> Result<f64, GpuError> {
        let run = |times: usize| -> Result<f64, GpuError> {
            self.gpu.synchronise()?;
            let started = Instant::now();
            for _ in 0..times {
                // SAFETY: everything that was recorded belongs to this decoder, and nothing was released since.
                unsafe { graph.launch(self.gpu.stream())? };
            }
            self.gpu.synchronise()?;
            Ok(started.elapsed().as_secs_f64() / times as f64)
        };
        run(3)?;
        let mut least = f64::INFINITY;
        for _ in 0..3 {
            least = least.min(run(repeat.max(1))?);
        }
        Ok(least)
    }
}
