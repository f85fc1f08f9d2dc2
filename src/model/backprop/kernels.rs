//! The kernels of `kernels.cu` as functions of tensors, on libtorch's stream.

use tch::{Device, Kind, Tensor};

use super::attention::BackList;
use super::low_rank::LowRank;
use crate::kernel_arguments;
use crate::model::config::ModelConfig;
use crate::model::fused::shape_macros;
use crate::model::room;
use crate::runtime::gpu::{Gpu, GpuError, Kernel, Module, Shape, Stream, addresses, pointer};

/// All kernels of one model.
#[derive(Debug)]
pub struct Kernels {
    hidden: i64,
    ffn: i64,
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
    norm: Kernel,
    add_and_norm: Kernel,
    norm_backward: Kernel,
    /// Of the adapter.
    pub low_rank: LowRank,
    rotate: Kernel,
    rotate_backward: Kernel,
    gate: Kernel,
    gate_backward: Kernel,
    sum_rows: Kernel,
    score: Kernel,
    score_backward: Kernel,
    /// Where they are from.
    _module: Module,
}

/// Rows that a block of some kernels takes one after the other, or a thread at once (`kernels.cu`).
const ROWS: i64 = 8;
const TURNED_ROWS: i64 = 4;

/// Targets that rows have room for behind them: norms are read by q, k and v at most, the gate's output by down; gradients go
/// back through q, k and v, and along the residual stream through o and down.
const NORM_ROOM: usize = 3;
const ACT_ROOM: usize = 1;
const QKV_ROOM: usize = 3;
const STREAM_ROOM: usize = 1;

/// Blocks that take `each` of so many rows.
pub(super) fn blocks(rows: i64, each: i64) -> i64 {
    (rows as u64).div_ceil(each as u64) as i64
}

/// Threads a block that takes a row of logits.
const SCORE_THREADS: u32 = 512;

/// Why the kernels cannot serve this model, if they cannot.
fn unsupported(config: &ModelConfig, kind: Kind) -> Option<String> {
    let whole = |n: i64| n % 8 == 0;
    if kind != Kind::BFloat16 {
        Some(format!("weights in {kind:?}, only bf16"))
    } else if ![64, 128].contains(&config.head_dim) {
        Some(format!(
            "heads of width {}, only 64 and 128",
            config.head_dim
        ))
    } else if !whole(config.hidden_size) || config.hidden_size > 8192 {
        Some(format!(
            "a hidden width of {}, only multiples of 8 up to 8192",
            config.hidden_size
        ))
    } else if !whole(config.intermediate_size) || !whole(config.vocab_size) {
        Some("a feed-forward width or a vocabulary that is no multiple of 8".into())
    } else {
        None
    }
}

/// The source for one model.
pub(super) fn source(config: &ModelConfig) -> String {
    let mut text = shape_macros(config, 8);
    text += include_str!("../fused/kernels/common.cu");
    text += include_str!("kernels.cu");
    text += include_str!("../room.cu");
    text += include_str!("low_rank.cu");
    text
}

impl Kernels {
    /// Compile them for the GPU that holds the model.
    ///
    /// # Errors
    /// A GPU before Ampere, a shape or a precision that is not served, no compiler.
    pub fn new(config: &ModelConfig, kind: Kind, device: Device) -> Result<Self, GpuError> {
        if let Some(what) = unsupported(config, kind) {
            return Err(GpuError::Unsupported(format!(
                "the kernels of training do not serve {what}"
            )));
        }
        let gpu = Gpu::open(device)?;
        let (major, minor) = gpu.capability()?;
        if major < 8 {
            return Err(GpuError::Unsupported(format!(
                "the kernels of training need compute capability 8.0, this GPU has {major}.{minor}"
            )));
        }
        let module = Module::compile(&gpu, &source(config))?;
        Ok(Self {
            hidden: config.hidden_size,
            ffn: config.intermediate_size,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            norm: module.kernel("rms_norm")?,
            add_and_norm: module.kernel("add_and_norm")?,
            norm_backward: module.kernel("rms_norm_backward")?,
            low_rank: LowRank::new(&module)?,
            rotate: module.kernel("rotate")?,
            rotate_backward: module.kernel("rotate_backward")?,
            gate: module.kernel("gate_forward")?,
            gate_backward: module.kernel("gate_backward")?,
            sum_rows: module.kernel("sum_rows")?,
            score: module.kernel("score")?,
            score_backward: module.kernel("score_backward")?,
            _module: module,
        })
    }

    fn row_shape(&self, rows: i64) -> Shape {
        let threads = (self.hidden as u32 / 8).next_multiple_of(32);
        Shape::new((rows as u32, 1), threads)
    }

    /// Of lanes that take eight numbers of a head in so many rows.
    fn head_shape(&self, rows: i64, heads: i64) -> Shape {
        let lanes = self.head_dim / 8;
        Shape::new((blocks(rows * heads * lanes, 256) as u32, 1), 256)
    }

    fn wide_shape(rows: i64, columns: i64) -> Shape {
        Shape::new((rows as u32, (columns as u32 / 8).div_ceil(256)), 256)
    }

    /// An empty matrix with room behind its rows for an update of so many targets.
    fn roomy(&self, like: &Tensor, columns: i64, targets: usize) -> Result<Tensor, GpuError> {
        let (kind, rows) = (Kind::BFloat16, like.size()[0]);
        let size = (rows, columns);
        Ok(room::rows(
            size,
            room::of_targets(targets),
            (kind, like.device()),
        )?)
    }

    /// See [`super::Pieces::norm`]; rows of the model's width.
    pub fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor, GpuError> {
        let out = self.roomy(x, self.hidden, NORM_ROOM)?;
        let ([from, by, to], stride) = (addresses([x, weight, &out]), stride(&out));
        let shape = self.row_shape(x.size()[0]);
        launch(self.norm, shape, kernel_arguments![from, by, to, stride])?;
        Ok(out)
    }

    /// `base + y` and its norm.
    pub fn add_and_norm(
        &self,
        base: &Tensor,
        y: &Tensor,
        weight: &Tensor,
    ) -> Result<(Tensor, Tensor), GpuError> {
        assert_dense([base, y]);
        let middle = base.f_empty_like()?;
        let out = self.roomy(base, self.hidden, NORM_ROOM)?;
        let [from, add, by, sum, to] = addresses([base, y, weight, &middle, &out]);
        let (rows, stride) = (base.size()[0], stride(&out));
        let count = rows as i32;
        launch(
            self.add_and_norm,
            self.row_shape(blocks(rows, ROWS)),
            kernel_arguments![from, add, count, by, sum, to, stride],
        )?;
        Ok((middle, out))
    }

    /// See [`super::Pieces::norm_backward`]; the results take the places of `more` and `d_y`.
    pub fn norm_backward(
        &self,
        d_y: Tensor,
        x: &Tensor,
        weight: &Tensor,
        more: Option<Tensor>,
    ) -> Result<(Tensor, Tensor), GpuError> {
        assert_dense([&d_y, x]);
        let added = more.as_ref().map_or(0, pointer);
        let out = match more {
            Some(more) => more,
            None => self.roomy(x, self.hidden, STREAM_ROOM)?,
        };
        let ([d, from, by, to], stride) = (addresses([&d_y, x, weight, &out]), stride(&out));
        let shape = self.row_shape(x.size()[0]);
        launch(
            self.norm_backward,
            shape,
            kernel_arguments![d, from, by, added, to, stride],
        )?;
        Ok((out, d_y))
    }

    fn heads(&self, like: &Tensor, heads: i64) -> Result<Tensor, GpuError> {
        let shape = [like.size()[0], heads, self.head_dim];
        Ok(Tensor::f_empty(shape, (Kind::BFloat16, like.device()))?)
    }

    /// See [`super::Pieces::rotate`].
    pub fn rotate(
        &self,
        qkv: &Tensor,
        norms: Option<&(Tensor, Tensor)>,
        positions: &Tensor,
        tables: (&Tensor, &Tensor),
    ) -> Result<(Tensor, Tensor), GpuError> {
        assert_dense([qkv]);
        let (q, k) = (
            self.heads(qkv, self.heads)?,
            self.heads(qkv, self.kv_heads)?,
        );
        let [from, cosines, sines, at, q_out, k_out] =
            addresses([qkv, tables.0, tables.1, positions, &q, &k]);
        let (q_norm, k_norm) = norms.map_or((0, 0), |(q, k)| (pointer(q), pointer(k)));
        let rows = qkv.size()[0];
        let count = rows as i32;
        let shape = self.head_shape(blocks(rows, TURNED_ROWS), self.heads + self.kv_heads);
        launch(
            self.rotate,
            shape,
            kernel_arguments![
                from, count, q_norm, k_norm, cosines, sines, at, q_out, k_out
            ],
        )?;
        Ok((q, k))
    }

    /// See [`super::Pieces::rotate_backward`].
    pub fn rotate_backward(
        &self,
        qkv: &Tensor,
        norms: Option<&(Tensor, Tensor)>,
        positions: &Tensor,
        tables: (&Tensor, &Tensor),
        gradients: &[Tensor; 3],
        back: Option<&BackList>,
    ) -> Result<Tensor, GpuError> {
        assert_dense([qkv]);
        let out = self.roomy(qkv, qkv.size()[1], QKV_ROOM)?;
        let gradients = gradients.each_ref().map(Tensor::contiguous);
        let [from, cosines, sines, at, to] = addresses([qkv, tables.0, tables.1, positions, &out]);
        let [d_q, d_k, d_v] = addresses(gradients.each_ref());
        let (q_norm, k_norm) = norms.map_or((0, 0), |(q, k)| (pointer(q), pointer(k)));
        let (first, rows) = back.map_or((0, 0), |b| (pointer(&b.first), pointer(&b.rows)));
        let count = qkv.size()[0];
        let shape = self.head_shape(count, self.heads + 2 * self.kv_heads);
        let (count, stride) = (count as i32, stride(&out));
        launch(
            self.rotate_backward,
            shape,
            kernel_arguments![
                from, count, q_norm, k_norm, cosines, sines, at, d_q, d_k, d_v, first, rows, to,
                stride
            ],
        )?;
        Ok(out)
    }

    /// silu(gate) ∘ up of `wide`, `(T, 2 F)`.
    pub fn gate(&self, wide: &Tensor) -> Result<Tensor, GpuError> {
        let out = self.roomy(wide, self.ffn, ACT_ROOM)?;
        let ([both, to], [apart, out_apart]) =
            (addresses([wide, &out]), [stride(wide), stride(&out)]);
        launch(
            self.gate,
            Self::wide_shape(wide.size()[0], self.ffn),
            kernel_arguments![both, apart, to, out_apart],
        )?;
        Ok(out)
    }

    /// See [`super::Pieces::gate_backward`]; the results take the places of what they are made from.
    pub fn gate_backward(&self, wide: Tensor, d_act: Tensor) -> Result<(Tensor, Tensor), GpuError> {
        assert_dense([&d_act]);
        let ([both, d], apart) = (addresses([&wide, &d_act]), stride(&wide));
        launch(
            self.gate_backward,
            Self::wide_shape(wide.size()[0], self.ffn),
            kernel_arguments![both, apart, d],
        )?;
        Ok((wide, d_act))
    }

    /// See [`super::Pieces::sum_rows`].
    pub fn sum_rows(&self, x: &Tensor, back: &BackList, count: i64) -> Result<Tensor, GpuError> {
        let columns = x.size()[1];
        let out = Tensor::f_empty([count, columns], (Kind::BFloat16, x.device()))?;
        let [from, first, rows, to] = addresses([x, &back.first, &back.rows, &out]);
        let narrow = columns as i32;
        launch(
            self.sum_rows,
            Self::wide_shape(count, columns),
            kernel_arguments![from, first, rows, to, narrow],
        )?;
        Ok(out)
    }

    /// See [`super::Pieces::score`].
    pub fn score(
        &self,
        logits: &Tensor,
        tokens: &Tensor,
        temperatures: Option<&Tensor>,
    ) -> Result<[Tensor; 3], GpuError> {
        let rows = logits.size()[0];
        let empty = || Tensor::f_empty([rows], (Kind::Float, logits.device()));
        let out = [empty()?, empty()?, empty()?];
        let [from, token] = addresses([logits, tokens]);
        let [logprob, entropy, sums] = addresses(out.each_ref());
        let by = temperatures.map_or(0, pointer);
        launch(
            self.score,
            Shape::new((rows as u32, 1), SCORE_THREADS),
            kernel_arguments![from, token, by, logprob, entropy, sums],
        )?;
        Ok(out)
    }

    /// See [`super::Pieces::score_backward`].
    pub fn score_backward(
        &self,
        logits: Tensor,
        tokens: &Tensor,
        temperatures: Option<&Tensor>,
        sums: &Tensor,
        gradient: &Tensor,
    ) -> Result<Tensor, GpuError> {
        let [both, token, total, slope] = addresses([&logits, tokens, sums, gradient]);
        let by = temperatures.map_or(0, pointer);
        launch(
            self.score_backward,
            Shape::new((logits.size()[0] as u32, 1), SCORE_THREADS),
            kernel_arguments![both, token, by, total, slope],
        )?;
        Ok(logits)
    }
}

/// Kernels read these rows without a stride.
fn assert_dense<const N: usize>(matrices: [&Tensor; N]) {
    debug_assert!(matrices.into_iter().all(Tensor::is_contiguous));
}

/// How far rows lie apart.
fn stride(rows: &Tensor) -> i32 {
    rows.stride()[0] as i32
}

/// Nothing to launch where there are no rows.
pub(super) fn launch(
    kernel: Kernel,
    shape: Shape,
    arguments: &mut [*mut std::ffi::c_void],
) -> Result<(), GpuError> {
    if shape.grid.0 == 0 || shape.grid.1 == 0 {
        return Ok(());
    }
    // SAFETY: each function above lists its kernel's parameters in order and type; what it reads and writes are live
    // tensors of the shapes it says, and memory that is freed is used again in the order of this same stream.
    unsafe { kernel.launch(shape, Stream::of_libtorch(), arguments) }
}
