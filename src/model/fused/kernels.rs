//! The kernels as functions of tensors: what each reads and writes, its launch shape, and its arguments in order.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_void;

use tch::Tensor;

pub use super::arguments::{Norm, Rotation};
use super::source::{Product, source};
use crate::kernel_arguments;
use crate::model::config::ModelConfig;
use crate::model::room;
use crate::runtime::gpu::{
    Gpu, GpuError, Kernel, Module, Shape, Stream, TensorMap, addresses, pointer,
};

/// Rows that a step can have; a graph is recorded for each that is used.
pub const BUCKETS: [u32; 5] = [16, 32, 64, 128, 256];

/// Tokens a page of the cache.
pub const PAGE: usize = 16;

/// Keys that one block of the attention takes, about (`kernels/attention.cu`).
pub const CHUNK: usize = 512;

/// Pages under way in a block of the attention.
pub(super) const RING: u32 = 8;

/// Its warps that compute; one more fetches.
pub(super) const WARPS: u32 = 4;

/// Low-rank updates of one joint projection, as the kernels read them.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Updates {
    /// A x of every adapter, `(rows, stride)`.
    pub low: u64,
    /// B of every adapter, `(adapters, outputs, rank)`; 0 where there are none.
    pub b: u64,
    /// Adapter of each row, −1 none.
    pub adapter: u64,
    /// Scale of each adapter.
    pub scale: u64,
    /// Columns of `low`.
    pub stride: i32,
    /// Columns of one adapter.
    pub width: i32,
    /// Rows of one adapter's B.
    pub outputs: i32,
    /// Number of adapters.
    pub count: i32,
    /// 1 where the output that they are added to is f32.
    pub wide: i32,
}

/// A weight matrix and the product that serves it, by number of columns.
#[derive(Debug)]
pub struct Matrix {
    /// `(outputs, inner)`.
    pub weight: Tensor,
    maps: BTreeMap<u32, TensorMap>,
    multiprocessors: u32,
}

impl Matrix {
    /// Prepare a weight.
    pub fn new(weight: &Tensor, multiprocessors: u32) -> Result<Self, GpuError> {
        let mut maps = BTreeMap::new();
        for groups in Product::GROUPS {
            maps.insert(groups, TensorMap::new(weight, 64 * groups)?);
        }
        Ok(Self {
            weight: weight.shallow_clone(),
            maps,
            multiprocessors,
        })
    }

    /// `(outputs, inner)`.
    pub fn shape(&self) -> (i64, i64) {
        (self.weight.size()[0], self.weight.size()[1])
    }

    /// The product for this many columns.
    pub fn product(&self, columns: u32) -> Product {
        Product::for_shape(self.shape().0, columns, self.multiprocessors)
    }
}

/// The first rows of a buffer as the product reads them.
pub fn first_rows(buffer: &Tensor, columns: u32) -> Result<TensorMap, GpuError> {
    TensorMap::new(&buffer.narrow(0, 0, i64::from(columns)), columns)
}

/// The A matrices beside a weight matrix, whose own output is left in f32 then, for the update to be added to before it is
/// rounded.
#[derive(Debug)]
pub struct Low<'a> {
    /// `(all ranks, inner)`.
    pub a: &'a Matrix,
    /// Where A x goes, `(rows, all ranks)`.
    pub out: &'a Tensor,
}

/// All kernels of one model.
#[derive(Debug)]
pub struct Kernels {
    config: ModelConfig,
    multiprocessors: u32,
    plan: Kernel,
    attend: Kernel,
    add_and_norm: Kernel,
    rotate: Kernel,
    gate: Kernel,
    gather: Kernel,
    sample: Kernel,
    write_pages: Kernel,
    lay_out: Kernel,
    products: BTreeMap<Product, Kernel>,
    /// Where they are from.
    _module: Module,
}

/// `(rows)` of the step, on the device: what [`Kernels::plan`] finds out for all layers.
#[derive(Debug)]
pub struct Plan {
    /// Slot of each row, −1 none; uploaded.
    pub slots: Tensor,
    /// Position of the row's new token, −1 where it has none.
    pub position: Tensor,
    /// Where its keys go: page · [`PAGE`] + offset.
    pub place: Tensor,
    /// Adapter of each row.
    pub adapter: Tensor,
    /// Work items of the attention.
    pub work: Tensor,
    /// Where a row's partial results begin.
    pub part: Tensor,
    /// Number of work items.
    pub count: Tensor,
    /// Chunks that have been computed, by row and key head.
    pub arrived: Tensor,
    /// Partial results.
    pub partial: Tensor,
}

/// `(slots)`, on the device: sequences that are under way.
#[derive(Debug)]
pub struct Slots {
    /// Whether it goes on.
    pub active: Tensor,
    /// Tokens in the cache.
    pub length: Tensor,
    /// Tokens generated.
    pub made: Tensor,
    /// The newest token.
    pub token: Tensor,
    /// Adapter, −1 none.
    pub adapter: Tensor,
    /// Pages, `(slots, pages a slot)`.
    pub pages: Tensor,
    /// Settings, as bytes of [`Draw`].
    pub draws: Tensor,
    /// Uniform numbers, `(slots, most new tokens)`, f64.
    pub uniforms: Tensor,
}

/// What `sample` gives, `(3, rows)` of 32-bit numbers: token, bits of its log-probability, status.
pub const RESULTS: i64 = 3;

/// Settings of a slot (`kernels/sampling.cu`).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Draw {
    /// Divides the logits; 0 takes the likeliest.
    pub temperature: f64,
    /// Nucleus; 1 keeps all.
    pub top_p: f64,
    /// Least weight relative to the likeliest.
    pub min_p: f64,
    /// Address of the slot's numbers, one for each token: uniform ones, or the token itself where it is forced.
    pub uniforms: u64,
    /// 0 keeps all.
    pub top_k: i32,
    /// Most tokens.
    pub limit: i32,
    /// Tokens that end the text; −1 where there are fewer.
    pub stops: [i32; 8],
    /// From this token on they are forced: known beforehand, so that nothing is drawn, and none of them stops the text.
    pub forced_from: i32,
    /// The first that is not.
    pub forced_until: i32,
}

impl Kernels {
    /// Compile and load.
    pub fn new(
        gpu: &Gpu,
        config: &ModelConfig,
        rank: i64,
        outputs: &[i64],
    ) -> Result<Self, GpuError> {
        let multiprocessors = gpu.multiprocessors()?;
        let products: BTreeSet<Product> = outputs
            .iter()
            .flat_map(|&n| BUCKETS.map(|columns| Product::for_shape(n, columns, multiprocessors)))
            .collect();
        Self::with_products(gpu, config, rank, products)
    }

    /// The same with these builds of the product.
    pub fn with_products(
        gpu: &Gpu,
        config: &ModelConfig,
        rank: i64,
        products: BTreeSet<Product>,
    ) -> Result<Self, GpuError> {
        let multiprocessors = gpu.multiprocessors()?;
        let module = Module::compile(gpu, &source(config, rank, &products))?;
        let products = products.into_iter().map(|product| {
            let kernel = module
                .kernel(&product.name())?
                .allow_shared(product.shared())?;
            Ok((product, kernel))
        });
        Ok(Self {
            products: products.collect::<Result<_, GpuError>>()?,
            plan: module.kernel("plan")?,
            attend: module.kernel("attend")?.allow_shared(ring_bytes(config))?,
            add_and_norm: module.kernel("add_and_norm")?,
            rotate: module.kernel("rotate_and_store")?,
            gate: module.kernel("gate")?,
            gather: module.kernel("gather")?,
            sample: module.kernel("sample")?,
            write_pages: module.kernel("write_pages")?,
            lay_out: module.kernel("lay_out")?,
            config: config.clone(),
            multiprocessors,
            _module: module,
        })
    }

    /// Positions, places and the attention's work of the first `rows` rows.
    pub fn plan(&self, at: At, rows: u32, slots: &Slots, plan: &Plan) -> Result<(), GpuError> {
        let [own, active, length, adapter, pages] = addresses([
            &plan.slots,
            &slots.active,
            &slots.length,
            &slots.adapter,
            &slots.pages,
        ]);
        let [position, place, of_row, work, part, count, arrived] = addresses([
            &plan.position,
            &plan.place,
            &plan.adapter,
            &plan.work,
            &plan.part,
            &plan.count,
            &plan.arrived,
        ]);
        let (most, rows) = (slots.pages.size()[1] as i32, rows as i32);
        at.launch(
            self.plan,
            Shape::new((1, 1), 1024),
            kernel_arguments![
                own, active, length, adapter, pages, most, rows, position, place, of_row, work,
                part, count, arrived
            ],
        )
    }

    /// y = x wᵀ of the first `columns` rows of x, and A x where there are adapters.
    pub fn product(
        &self,
        at: At,
        columns: u32,
        w: &Matrix,
        x: &TensorMap,
        y: &Tensor,
        low: Option<&Low>,
    ) -> Result<(), GpuError> {
        self.product_as(at, w.product(columns), w, x, y, low)
    }

    /// The same by this build of the product.
    pub fn product_as(
        &self,
        at: At,
        product: Product,
        w: &Matrix,
        x: &TensorMap,
        y: &Tensor,
        low: Option<&Low>,
    ) -> Result<(), GpuError> {
        let columns = product.columns;
        let (outputs, inner) = w.shape();
        let (outputs, inner, rows) = (outputs as i32, inner as i32, columns as i32);
        let weights = &w.maps[&product.groups];
        let updates = low.map_or(weights, |low| &low.a.maps[&product.groups]);
        let update_rows = low.map_or(0, |low| low.a.shape().0 as i32);
        let (y, out) = (pointer(y), low.map_or(0, |low| pointer(low.out)));
        let wide = i32::from(low.is_some());
        let shape = product.launch(outputs as u32, update_rows as u32);
        at.launch(
            self.products[&product],
            shape,
            kernel_arguments![
                *weights,
                *updates,
                *x,
                y,
                outputs,
                out,
                update_rows,
                inner,
                rows,
                wide
            ],
        )
    }

    /// Blocks of this build, for a matrix of so many outputs, and how many of them the GPU runs at a time.
    pub fn blocks(&self, product: Product, outputs: u32) -> Result<(u32, u32), GpuError> {
        let shape = product.launch(outputs, 0);
        let at_once = match product.split {
            1 => self.multiprocessors,
            split => split * self.products[&product].clusters_at_once(shape)?,
        };
        Ok((shape.grid.0, at_once))
    }

    /// residual = embedding of each row's token, then out = norm(residual). `tokens` are by slot where `slots` are given.
    pub fn embed(
        &self,
        at: At,
        rows: i64,
        table: &Tensor,
        (tokens, slots): (&Tensor, Option<&Tensor>),
        norm: Norm,
    ) -> Result<(), GpuError> {
        let [table, tokens, residual, weight, out] =
            addresses([table, tokens, norm.residual, norm.weight, norm.out]);
        let (slots, none, updates) = (slots.map_or(0, pointer), 0u64, Updates::default());
        let stride = norm.out.stride()[0] as i32;
        at.launch(
            self.add_and_norm,
            self.norm_shape(rows),
            kernel_arguments![
                table, tokens, slots, residual, none, weight, out, stride, updates
            ],
        )
    }

    /// residual += y with its update, then out = norm(residual) · weight.
    pub fn add_and_norm(
        &self,
        at: At,
        rows: i64,
        y: &Tensor,
        updates: Updates,
        norm: Norm,
    ) -> Result<(), GpuError> {
        let [residual, y, weight, out] = addresses([norm.residual, y, norm.weight, norm.out]);
        let (none, stride) = (0u64, norm.out.stride()[0] as i32);
        at.launch(
            self.add_and_norm,
            self.norm_shape(rows),
            kernel_arguments![none, none, none, residual, y, weight, out, stride, updates],
        )
    }

    fn norm_shape(&self, rows: i64) -> Shape {
        Shape::new(
            (rows as u32, 1),
            (self.config.hidden_size as u32 / 8).next_multiple_of(32),
        )
    }

    /// From the joint projection to rotated queries, and keys and values in the cache (and packed, where asked).
    pub fn rotate(
        &self,
        at: At,
        rows: i64,
        qkv: &Tensor,
        io: &Rotation,
        updates: Updates,
    ) -> Result<(), GpuError> {
        let [cosines, sines, position, place, q, keys, values] = addresses([
            io.cosines,
            io.sines,
            io.position,
            io.place,
            io.q,
            io.key_cache,
            io.value_cache,
        ]);
        let (q_norm, k_norm) = io.norms.map_or((0, 0), |(q, k)| (pointer(q), pointer(k)));
        let (k_out, v_out) = io.packed.map_or((0, 0), |(k, v)| (pointer(k), pointer(v)));
        let qkv = pointer(qkv);
        let heads = (self.config.heads + 2 * self.config.kv_heads) as u32;
        at.launch(
            self.rotate,
            Shape::new((rows as u32, heads.div_ceil(8)), 256),
            kernel_arguments![
                qkv, q_norm, k_norm, cosines, sines, position, place, q, k_out, v_out, keys,
                values, updates
            ],
        )
    }

    /// One new token a row against its pages.
    pub fn attend(
        &self,
        at: At,
        q: &Tensor,
        cache: (&Tensor, &Tensor),
        slots: &Slots,
        plan: &Plan,
        out: &Tensor,
    ) -> Result<(), GpuError> {
        let [q, keys, values, own, position, pages] = addresses([
            q,
            cache.0,
            cache.1,
            &plan.slots,
            &plan.position,
            &slots.pages,
        ]);
        let [work, part, count, partial, arrived, out] = addresses([
            &plan.work,
            &plan.part,
            &plan.count,
            &plan.partial,
            &plan.arrived,
            out,
        ]);
        let (most, scale) = (slots.pages.size()[1] as i32, self.scale() as f32);
        let shape = Shape {
            shared: ring_bytes(&self.config),
            ..Shape::new((3 * self.multiprocessors, 1), 32 * (WARPS + 1))
        };
        at.launch(
            self.attend,
            shape,
            kernel_arguments![
                q, keys, values, own, position, pages, most, work, part, count, partial, arrived,
                scale, out
            ],
        )
    }

    /// Factor of q·k.
    pub fn scale(&self) -> f64 {
        (self.config.head_dim as f64).powf(-0.5)
    }

    /// silu(gate) · up, each with its update.
    pub fn gate(
        &self,
        at: At,
        rows: i64,
        y: &Tensor,
        out: &Tensor,
        updates: Updates,
    ) -> Result<(), GpuError> {
        let (stride, count) = (out.stride()[0] as i32, rows as i32);
        let [y, out] = addresses([y, out]);
        let columns = (self.config.intermediate_size as u32).div_ceil(128);
        at.launch(
            self.gate,
            Shape::new((columns, (rows as u32).div_ceil(16)), 128),
            kernel_arguments![y, out, stride, count, updates],
        )
    }

    /// Keys and values of these places out of the cache, `(tokens, kv heads, head width)` each.
    pub fn gather(
        &self,
        at: At,
        cache: (&Tensor, &Tensor),
        place: &Tensor,
        out: (&Tensor, &Tensor),
    ) -> Result<(), GpuError> {
        let tokens = place.size()[0] as i32;
        let [keys, values, place, k, v] = addresses([cache.0, cache.1, place, out.0, out.1]);
        at.launch(
            self.gather,
            Shape::new((8 * self.multiprocessors, 1), 256),
            kernel_arguments![keys, values, place, tokens, k, v],
        )
    }

    /// A token for each of `rows` rows of logits; the slots move on.
    pub fn sample(
        &self,
        at: At,
        rows: u32,
        logits: &Tensor,
        own: &Tensor,
        slots: &Slots,
        results: &Tensor,
    ) -> Result<(), GpuError> {
        let [logits, own, active, length, made, token, draws] = addresses([
            logits,
            own,
            &slots.active,
            &slots.length,
            &slots.made,
            &slots.token,
            &slots.draws,
        ]);
        let row = |i: u64| pointer(results) + i * 4 * results.size()[1] as u64;
        let (tokens, logprobs, status) = (row(0), row(1), row(2));
        at.launch(
            self.sample,
            Shape::new((rows, 1), 1024),
            kernel_arguments![
                logits, own, active, length, made, token, draws, tokens, logprobs, status
            ],
        )
    }

    /// Enter pages into the table: `(changes, 3)` of slot, index, page.
    pub fn write_pages(
        &self,
        at: At,
        slots: &Slots,
        changes: &Tensor,
        count: usize,
    ) -> Result<(), GpuError> {
        let ([pages, changes], most, count) = (
            addresses([&slots.pages, changes]),
            slots.pages.size()[1] as i32,
            count as i32,
        );
        at.launch(
            self.write_pages,
            Shape::new((8, 1), 128),
            kernel_arguments![pages, most, changes, count],
        )
    }

    /// Matrices into the room of the weights, by the entries of `table`, `(matrices, 5)` ([`room::entry`]).
    pub fn lay_out(&self, at: At, table: &Tensor) -> Result<(), GpuError> {
        let [list] = addresses([table]);
        at.launch(self.lay_out, room::shape(table), kernel_arguments![list])
    }
}

/// Where a kernel is put: a stream, and whether it may overlap the one before it.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// The stream.
    pub stream: Stream,
    /// See [`Shape::overlap`].
    pub overlap: bool,
}

impl At {
    fn launch(
        self,
        kernel: Kernel,
        shape: Shape,
        arguments: &mut [*mut c_void],
    ) -> Result<(), GpuError> {
        let shape = Shape {
            overlap: self.overlap,
            ..shape
        };
        // SAFETY: each function above lists its kernel's parameters in order and type; the tensors are those of a
        // `Fused`, which outlives its stream's work, or on libtorch's stream, where freed memory is reused in order.
        unsafe { kernel.launch(shape, self.stream, arguments) }
    }
}

fn ring_bytes(config: &ModelConfig) -> u32 {
    RING * 2 * PAGE as u32 * config.head_dim as u32 * 2
}
