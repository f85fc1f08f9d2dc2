//! One pass through all layers.

use std::cell::RefCell;

use tch::{Kind, Tensor};

use super::attention::{Queries, ROWS, attend};
use super::buffer::{Buffer, Parts};
use super::cache::PagePlan;
use super::panels::{Panels, Product, Update};
use super::rows::{gate, norm, turn};
use super::updates::Joint;
use super::{Host, Layer};
use crate::model::fused::PAGE;
use crate::runtime::team::{Team, with_team};

/// Rows that a task multiplies with a panel: their activations stay in the second cache.
const BLOCK: usize = 96;
/// Most panels of a task.
const PANELS: usize = 32;

/// Tokens that follow each other in one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Stretch<'a> {
    /// The tokens; not empty.
    pub tokens: &'a [u32],
    /// Position of the first; keys and values of all before it are in the pages.
    pub position: usize,
    /// The sequence's pages, up to the last of these tokens at least.
    pub pages: &'a [u32],
    /// Whether the logits after the last token are wanted.
    pub logits: bool,
}

/// Activations of a pass, a row a token.
#[derive(Debug)]
pub struct Scratch {
    x: Buffer<f32>,
    normed: Buffer<f32>,
    qkv: Buffer<f32>,
    attended: Buffer<f32>,
    wide: Buffer<f32>,
    gated: Buffer<f32>,
    low: Buffer<f32>,
    cosines: Buffer<f32>,
    sines: Buffer<f32>,
}

impl Default for Scratch {
    fn default() -> Self {
        let empty = || Buffer::new(0);
        Self {
            x: empty(),
            normed: empty(),
            qkv: empty(),
            attended: empty(),
            wide: empty(),
            gated: empty(),
            low: empty(),
            cosines: empty(),
            sines: empty(),
        }
    }
}

/// A row's place.
struct Row {
    position: usize,
    page: *mut f32,
}

/// Rows of one sequence that attend together.
struct Task {
    row: usize,
    rows: usize,
    position: usize,
    stretch: usize,
}

/// What the threads of a pass share.
struct Pass<'a> {
    host: &'a Host,
    rows: Vec<Row>,
    tasks: Vec<Task>,
    pages: Vec<Vec<*const f32>>,
    /// Rows whose logits are wanted.
    wanted: Vec<usize>,
    x: Parts<'a>,
    normed: Parts<'a>,
    qkv: Parts<'a>,
    attended: Parts<'a>,
    wide: Parts<'a>,
    gated: Parts<'a>,
    low: Parts<'a>,
    logits: Parts<'a>,
    cosines: &'a [f32],
    sines: &'a [f32],
}

// SAFETY: pages are read and written by phases that give each task its own numbers; tensors of the host are not touched
// while threads are at work, only its plain memory.
unsafe impl Sync for Pass<'_> {}
// SAFETY: as above.
unsafe impl Send for Pass<'_> {}

thread_local! {
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Host {
    /// Compute these tokens and write their keys and values; gives the logits that are wanted, `(wanted, vocabulary)`.
    ///
    /// Stretches of one sequence stand in order. Panics where pages or tokens are not those of this model.
    pub fn forward(&mut self, stretches: &[Stretch]) -> &[f32] {
        let config = self.config.clone();
        let count: usize = stretches.iter().map(|s| s.tokens.len()).sum();
        let (hidden, dim) = (config.hidden_size as usize, config.head_dim as usize);
        let (heads, kv_heads) = (config.heads as usize, config.kv_heads as usize);
        let inner = config.intermediate_size as usize;
        let low = self.updates.iter().flat_map(|u| u.layers.iter().flatten());
        let ranks = low.flatten().map(|j| j.inner.outputs()).max().unwrap_or(0);
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut logits = std::mem::replace(&mut self.logits, Buffer::new(0));
        scratch.x.ensure(count * hidden);
        scratch.normed.ensure(count * hidden);
        scratch.qkv.ensure(count * (heads + 2 * kv_heads) * dim);
        scratch.attended.ensure(count * heads * dim);
        scratch.wide.ensure(count * 2 * inner);
        scratch.gated.ensure(count * inner);
        scratch.low.ensure(count * ranks);
        scratch.cosines.ensure(count * dim / 2);
        scratch.sines.ensure(count * dim / 2);
        let mut rows = Vec::with_capacity(count);
        let (mut tasks, mut pages, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        for (index, stretch) in stretches.iter().enumerate() {
            let first = rows.len();
            let end = stretch.position + stretch.tokens.len();
            let memory: Vec<*mut f32> = stretch.pages[..end.div_ceil(PAGE)]
                .iter()
                .map(|&page| self.cache.page(page))
                .collect();
            for (offset, &token) in stretch.tokens.iter().enumerate() {
                let (row, position) = (rows.len(), stretch.position + offset);
                copy_row(
                    &self.embedding,
                    token as usize,
                    &mut scratch.x[row * hidden..][..hidden],
                );
                let half = dim / 2;
                copy_row(
                    &self.cosines,
                    position,
                    &mut scratch.cosines[row * half..][..half],
                );
                copy_row(
                    &self.sines,
                    position,
                    &mut scratch.sines[row * half..][..half],
                );
                rows.push(Row {
                    position,
                    page: memory[position / PAGE],
                });
            }
            for from in (0..stretch.tokens.len()).step_by(ROWS) {
                tasks.push(Task {
                    row: first + from,
                    rows: ROWS.min(stretch.tokens.len() - from),
                    position: stretch.position + from,
                    stretch: index,
                });
            }
            pages.push(memory.into_iter().map(<*mut f32>::cast_const).collect());
            if stretch.logits {
                wanted.push(rows.len() - 1);
            }
        }
        let vocabulary = config.vocab_size as usize;
        logits.ensure(wanted.len() * vocabulary);
        let size = wanted.len() * vocabulary;
        let pass = Pass {
            host: self,
            rows,
            tasks,
            pages,
            wanted,
            x: Parts::new(&mut scratch.x),
            normed: Parts::new(&mut scratch.normed),
            qkv: Parts::new(&mut scratch.qkv),
            attended: Parts::new(&mut scratch.attended),
            wide: Parts::new(&mut scratch.wide),
            gated: Parts::new(&mut scratch.gated),
            low: Parts::new(&mut scratch.low),
            logits: Parts::new(&mut logits),
            cosines: &scratch.cosines,
            sines: &scratch.sines,
        };
        with_team(|team| pass.run(team));
        drop(pass);
        self.scratch = scratch;
        self.logits = logits;
        &self.logits[..size]
    }
}

/// A row of a CPU matrix in f32 or bf16.
fn copy_row(matrix: &Tensor, row: usize, out: &mut [f32]) {
    let (rows, width) = matrix.size2().expect("a matrix");
    assert!(row < rows as usize && out.len() == width as usize && matrix.is_contiguous());
    let start = row * out.len();
    match matrix.kind() {
        Kind::BFloat16 => {
            // SAFETY: the row is inside a contiguous matrix of this kind on the CPU.
            let numbers = unsafe {
                std::slice::from_raw_parts(matrix.data_ptr().cast::<u16>().add(start), out.len())
            };
            for (out, number) in out.iter_mut().zip(numbers) {
                *out = f32::from_bits(u32::from(*number) << 16);
            }
        }
        _ => {
            assert_eq!(matrix.kind(), Kind::Float);
            // SAFETY: as above.
            let numbers = unsafe {
                std::slice::from_raw_parts(matrix.data_ptr().cast::<f32>().add(start), out.len())
            };
            out.copy_from_slice(numbers);
        }
    }
}

impl Pass<'_> {
    fn run(&self, team: &Team) {
        let eps = self.host.config.rms_norm_eps as f32;
        for (index, layer) in self.host.layers.iter().enumerate() {
            let updates = self.host.updates.as_ref().map(|u| &u.layers[index]);
            let update = |joint: usize| updates.and_then(|u| u[joint].as_ref());
            self.norms(team, &layer.input_norm, eps);
            self.linear(team, layer, 0, update(0), self.normed, self.qkv, false);
            self.turns(team, layer, index, eps);
            self.attention(team, index);
            self.linear(team, layer, 1, update(1), self.attended, self.x, true);
            self.norms(team, &layer.post_norm, eps);
            self.linear(team, layer, 2, update(2), self.normed, self.wide, false);
            self.gates(team);
            self.linear(team, layer, 3, update(3), self.gated, self.x, true);
        }
        self.head(team, eps);
    }

    /// Call `work` with ranges of rows.
    fn by_rows(&self, team: &Team, work: impl Fn(std::ops::Range<usize>) + Sync) {
        let rows = self.rows.len();
        team.ranges(rows, rows.div_ceil(2 * team.threads()).min(16), work);
    }

    fn norms(&self, team: &Team, weight: &[f32], eps: f32) {
        let width = weight.len();
        self.by_rows(team, |rows| {
            // SAFETY: tasks have rows of their own; x is only read in this phase.
            let (x, out) = unsafe {
                (
                    self.x.part(rows.start * width, rows.len() * width),
                    self.normed.part(rows.start * width, rows.len() * width),
                )
            };
            norm(self.host.simd, x, weight, eps, out);
        });
    }

    #[allow(clippy::too_many_arguments)] // one of the four products of a layer
    fn linear(
        &self,
        team: &Team,
        layer: &Layer,
        joint: usize,
        update: Option<&Joint>,
        x: Parts,
        out: Parts,
        add: bool,
    ) {
        let weights = &layer.joint[joint];
        let rows = self.rows.len();
        // SAFETY: x is only read in these two phases.
        let x: &[f32] = unsafe { x.part(0, rows * weights.inputs()) };
        if let Some(update) = update {
            let product = plain(x, &update.inner);
            // Few columns: rows are what can be shared out.
            let block = rows.div_ceil(2 * team.threads()).clamp(1, BLOCK);
            self.multiply(team, product, rows, block, self.low);
        }
        let update = update.map(|update| Update {
            // SAFETY: only read in this phase.
            low: unsafe { self.low.part(0, rows * update.inner.outputs()) },
            outer: &update.outer,
            ranks: &update.ranks,
        });
        let product = Product {
            bias: layer.biases[joint].as_deref(),
            update,
            add,
            ..plain(x, weights)
        };
        self.multiply(team, product, rows, BLOCK, out);
    }

    fn multiply(&self, team: &Team, product: Product, rows: usize, block: usize, out: Parts) {
        let (panels, simd) = (product.weights.count(), self.host.simd);
        let all = rows.div_ceil(block) * panels;
        // Panels that follow each other in memory, as what is prefetched beyond the end of one is the next; and some tasks
        // for each thread, so that none waits long for the last.
        let together = (all / (3 * team.threads())).clamp(1, PANELS);
        team.ranges(all, together, |parts| {
            for part in parts {
                let (from, panel) = (part / panels * block, part % panels);
                // SAFETY: a task has its own rows and columns of `out`.
                unsafe { product.panel(simd, panel, from..rows.min(from + block), out) };
            }
        });
    }

    /// Norms and rotation of queries and keys; keys and values go to their pages.
    fn turns(&self, team: &Team, layer: &Layer, index: usize, eps: f32) {
        let config = &self.host.config;
        let (heads, kv_heads) = (config.heads as usize, config.kv_heads as usize);
        let dim = config.head_dim as usize;
        let width = (heads + 2 * kv_heads) * dim;
        let (q_norm, k_norm) = match &layer.qk_norm {
            Some((q, k)) => (Some(&q[..]), Some(&k[..])),
            None => (None, None),
        };
        self.by_rows(team, |rows| {
            for row in rows {
                // SAFETY: tasks have rows of their own.
                let all = unsafe { self.qkv.part(row * width, width) };
                let angles = row * dim / 2..(row + 1) * dim / 2;
                let (cosines, sines) = (&self.cosines[angles.clone()], &self.sines[angles]);
                for (head, numbers) in all.chunks_exact_mut(dim).enumerate() {
                    if head < heads + kv_heads {
                        let weight = if head < heads { q_norm } else { k_norm };
                        turn(self.host.simd, numbers, weight, eps, cosines, sines);
                    }
                }
                let Row { position, page } = self.rows[row];
                let slot = position % PAGE;
                let (keys, values) = all[heads * dim..].split_at(kv_heads * dim);
                for head in 0..kv_heads {
                    let plan = self.host.cache.plan(index, head);
                    // SAFETY: the plan is inside the page; a position's numbers are its row's alone, and a page that
                    // other sequences read holds earlier positions only.
                    unsafe {
                        for d in 0..dim {
                            *page.add(plan.keys + d * PAGE + slot) = keys[head * dim + d];
                            *page.add(plan.values + slot * plan.padded + d) =
                                values[head * dim + d];
                        }
                    }
                }
            }
        });
    }

    fn attention(&self, team: &Team, index: usize) {
        let config = &self.host.config;
        let (heads, kv_heads) = (config.heads as usize, config.kv_heads as usize);
        let (dim, group) = (config.head_dim as usize, heads / kv_heads);
        let width = (heads + 2 * kv_heads) * dim;
        team.each(self.tasks.len() * kv_heads, &|number| {
            let (task, head) = (&self.tasks[number / kv_heads], number % kv_heads);
            let from = task.row * width + head * group * dim;
            let len = (task.rows - 1) * width + group * dim;
            let queries = Queries {
                // SAFETY: only read in this phase.
                q: unsafe { self.qkv.part(from, len) },
                stride: width,
                rows: task.rows,
                group,
                position: task.position,
            };
            let plan: PagePlan = self.host.cache.plan(index, head);
            let to = task.row * heads * dim + head * group * dim;
            let out = self
                .attended
                .at(to, (task.rows - 1) * heads * dim + group * dim);
            SCORES.with_borrow_mut(|scores| {
                // SAFETY: keys and values of all rows were written in the phase before; a task has its own rows and
                // heads of the result.
                unsafe {
                    attend(
                        self.host.simd,
                        &queries,
                        &self.pages[task.stretch],
                        plan,
                        scores,
                        out,
                        heads * dim,
                    );
                }
            });
        });
    }

    fn gates(&self, team: &Team) {
        let width = self.host.config.intermediate_size as usize;
        self.by_rows(team, |rows| {
            // SAFETY: tasks have rows of their own.
            let (wide, out) = unsafe {
                (
                    self.wide
                        .part(rows.start * 2 * width, rows.len() * 2 * width),
                    self.gated.part(rows.start * width, rows.len() * width),
                )
            };
            gate(self.host.simd, wide, out, width);
        });
    }

    /// Logits of the rows that are wanted.
    fn head(&self, team: &Team, eps: f32) {
        let width = self.host.norm.len();
        for (to, &row) in self.wanted.iter().enumerate() {
            // SAFETY: no phase is under way.
            let (x, out) = unsafe {
                (
                    self.x.part(row * width, width),
                    self.normed.part(to * width, width),
                )
            };
            norm(self.host.simd, x, &self.host.norm, eps, out);
        }
        let rows = self.wanted.len();
        // SAFETY: only read in this phase.
        let x = unsafe { self.normed.part(0, rows * width) };
        self.multiply(team, plain(x, &self.host.head), rows, BLOCK, self.logits);
    }
}

fn plain<'a>(x: &'a [f32], weights: &'a Panels) -> Product<'a> {
    Product {
        x,
        weights,
        bias: None,
        update: None,
        add: false,
    }
}
