//! What stands between the matrix products, forward and backward: norms, rotation, gate, sums of rows.
//!
//! Each is a kernel of our own where the GPU and the model have them ([`super::kernels`]), and tensor operations elsewhere.

use tch::{Kind, Tensor};

use super::attention::BackList;
use super::gradients::LiveJoint;
use super::kernels::Kernels;
use crate::model::config::ModelConfig;
use crate::model::host::product::{Low, by, by_transposed};
use crate::model::host::training;
use crate::model::linear::Linear;
use crate::model::room;
use crate::model::rope::{RopeTable, rotate};
use crate::runtime::gpu::GpuError;

/// The pieces of one model.
#[derive(Debug)]
pub struct Pieces {
    kernels: Option<Kernels>,
    eps: f64,
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
    rope: RopeTable,
}

/// What goes into a projection.
pub struct Inputs<'a> {
    /// `(T, in)`; with the inner activations of the update behind its rows where one product takes both.
    x: Tensor,
    low: Option<(&'a LiveJoint, Tensor)>,
}

impl<'a> Inputs<'a> {
    /// Of these rows, with what the projection's update makes of them first.
    pub fn new(
        pieces: &Pieces,
        x: Tensor,
        update: Option<&'a LiveJoint>,
    ) -> Result<Self, GpuError> {
        let Some(joint) = update else {
            return Ok(Self { x, low: None });
        };
        let (z, x) = joint.low(pieces, x)?;
        Ok(Self {
            x,
            low: Some((joint, z)),
        })
    }

    /// `x Aᵀ`, `(T, R)`.
    pub fn into_low(self) -> Option<Tensor> {
        self.low.map(|(_, z)| z)
    }

    fn joined(&self) -> Option<i64> {
        self.low
            .as_ref()
            .and_then(|(joint, _)| joint.joined(&self.x))
    }

    fn update(&self) -> Option<Low<'_>> {
        self.low.as_ref().map(|(joint, z)| joint.update(z))
    }
}

fn biased(mut y: Tensor, linear: &Linear) -> Result<Tensor, GpuError> {
    if let Some(bias) = linear.bias() {
        let _ = y.f_add_(bias)?;
    }
    Ok(y)
}

impl Pieces {
    /// For this model; `kernels` where the GPU has them.
    pub(in crate::model) fn new(
        config: &ModelConfig,
        rope: RopeTable,
        kernels: Option<Kernels>,
    ) -> Self {
        Self {
            kernels,
            eps: config.rms_norm_eps,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            rope,
        }
    }

    /// Whether they are kernels of our own, and attention is flash attention.
    pub fn are_fused(&self) -> bool {
        self.kernels.is_some()
    }

    /// The kernels, where there are some.
    pub(super) fn kernels(&self) -> Option<&Kernels> {
        self.kernels.as_ref()
    }

    /// x / rms(x) · w over the last dimension.
    pub fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor, GpuError> {
        match &self.kernels {
            Some(kernels) => kernels.norm(x, weight),
            None if training::serves(x) => Ok(training::normed(x, weight, self.eps)?),
            None => Ok(x.f_rms_norm(weight.size(), Some(weight), self.eps)?),
        }
    }

    /// A projection `x wᵀ` with bias and update, `(T, out)`; with room for the way back behind its rows where weights and update
    /// are one product and its gradient is to take its `place`.
    pub fn project(
        &self,
        inputs: &Inputs,
        linear: &Linear,
        place: bool,
    ) -> Result<Tensor, GpuError> {
        let Some(ranks) = inputs.joined() else {
            return Self::project_plainly(inputs, linear, None);
        };
        let (x, w) = (room::joined(&inputs.x, ranks)?, linear.with_columns(ranks)?);
        let size = (x.size()[0], w.size()[0]);
        let room = if place { linear.room() } else { 0 };
        let y = room::rows(size, room, (x.kind(), x.device()))?;
        biased(x.f_mm_out(&y, &w.f_tr()?)?, linear)
    }

    fn project_plainly(
        inputs: &Inputs,
        linear: &Linear,
        base: Option<&Tensor>,
    ) -> Result<Tensor, GpuError> {
        let y = by_transposed(&inputs.x, linear.weight(), inputs.update(), base)?;
        biased(y, linear)
    }

    /// Gradient of what went into a projection, from that of its output and, behind its rows where there is the room, of its
    /// update's inner activations.
    pub fn project_back(
        &self,
        d_y: &Tensor,
        linear: &Linear,
        low: Option<(&LiveJoint, &Tensor)>,
    ) -> Result<Tensor, GpuError> {
        let joined = low.and_then(|(joint, _)| joint.joined(d_y));
        if let Some(ranks) = joined {
            return Ok(room::joined(d_y, ranks)?.f_mm(&linear.with_rows(ranks)?)?);
        }
        let low = low.map(|(joint, d_low)| joint.back(d_low));
        Ok(by(d_y, linear.weight(), low)?)
    }

    /// A projection with its update added to `base`, `(T, hidden)`, and the norm of that sum.
    pub fn add_and_norm(
        &self,
        base: &Tensor,
        linear: &Linear,
        inputs: &Inputs,
        weight: &Tensor,
    ) -> Result<(Tensor, Tensor), GpuError> {
        if let Some(kernels) = &self.kernels {
            let y = self.project(inputs, linear, false)?;
            return kernels.add_and_norm(base, &y, weight);
        }
        let sum = Self::project_plainly(inputs, linear, Some(base))?;
        let normed = self.norm(&sum, weight)?;
        Ok((sum, normed))
    }

    /// Gradient of a norm's input, added to `more`, and the norm itself again. With r = 1 / rms(x), n numbers a row:
    /// dx = r · (w ∘ dy) − x · r³ / n · Σ (w ∘ dy ∘ x).
    pub fn norm_backward(
        &self,
        d_y: Tensor,
        x: &Tensor,
        weight: &Tensor,
        more: Option<Tensor>,
    ) -> Result<(Tensor, Tensor), GpuError> {
        if let Some(kernels) = &self.kernels {
            return kernels.norm_backward(d_y, x, weight, more);
        }
        if [Some(&d_y), Some(x), more.as_ref()]
            .into_iter()
            .flatten()
            .all(training::serves)
        {
            return Ok(training::norm_backward(
                &d_y,
                x,
                weight,
                self.eps,
                more.as_ref(),
            )?);
        }
        let d_x = self.norm_gradient(&d_y, x, weight)?;
        let d_x = match more {
            Some(more) => d_x.f_add(&more)?,
            None => d_x,
        };
        Ok((d_x, self.norm(x, weight)?))
    }

    fn norm_gradient(&self, d_y: &Tensor, x: &Tensor, weight: &Tensor) -> Result<Tensor, GpuError> {
        let wide = x.f_to_kind(Kind::Float)?;
        let squares = wide.f_square()?.f_mean_dim(-1, true, Kind::Float)?;
        let r = (squares + self.eps).f_rsqrt()?;
        let weighted = d_y.f_to_kind(Kind::Float)? * weight;
        let along = (&weighted * &wide).f_mean_dim(-1, true, Kind::Float)?;
        let d_x = (weighted - wide * (along * r.f_square()?)) * r;
        Ok(d_x.f_to_kind(x.kind())?)
    }

    /// Rotated queries `(T, heads, D)` and keys `(T, kv heads, D)` out of the joint projection `(T, (heads + 2 kv) · D)`,
    /// after the norms on heads where there are some; and the values, a view.
    pub fn rotate(
        &self,
        qkv: &Tensor,
        norms: Option<&(Tensor, Tensor)>,
        positions: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor), GpuError> {
        let [q, k, v] = self.split(qkv)?;
        if let Some(kernels) = &self.kernels {
            let (q, k) = kernels.rotate(qkv, norms, positions, self.rope.tables())?;
            return Ok((q, k, v));
        }
        if training::serves(qkv) {
            let (cos, sin) = self.rope.rows(positions);
            let heads = |first: i64, heads: i64, norm: Option<&Tensor>| {
                let sizes = [first, heads, self.head_dim].map(|n| n as usize);
                training::rotated(qkv, sizes.into(), norm, self.eps, (&cos, &sin))
            };
            let q = heads(0, self.heads, norms.map(|n| &n.0))?;
            let k = heads(self.heads, self.kv_heads, norms.map(|n| &n.1))?;
            return Ok((q, k, v));
        }
        let (q, k) = match norms {
            Some((q_norm, k_norm)) => (self.norm(&q, q_norm)?, self.norm(&k, k_norm)?),
            None => (q, k),
        };
        let rotation = self.rope.rows(positions);
        Ok((rotate(&q, &rotation), rotate(&k, &rotation), v))
    }

    /// Views of the joint projection: `(T, heads, D)`, twice `(T, kv heads, D)`.
    fn split(&self, qkv: &Tensor) -> Result<[Tensor; 3], GpuError> {
        let d = self.head_dim;
        let part = |from: i64, heads: i64| -> Result<Tensor, GpuError> {
            // (T, H · D) → (T, H, D)
            Ok(qkv
                .f_narrow(1, from * d, heads * d)?
                .f_view([-1, heads, d])?)
        };
        Ok([
            part(0, self.heads)?,
            part(self.heads, self.kv_heads)?,
            part(self.heads + self.kv_heads, self.kv_heads)?,
        ])
    }

    /// Gradient of the joint projection from those of rotated queries, rotated keys and values. With `back`, the last two
    /// have a row for every gathered key, which are summed.
    pub fn rotate_backward(
        &self,
        qkv: &Tensor,
        norms: Option<&(Tensor, Tensor)>,
        positions: &Tensor,
        gradients: &[Tensor; 3],
        back: Option<&BackList>,
    ) -> Result<Tensor, GpuError> {
        if let Some(kernels) = &self.kernels {
            return kernels.rotate_backward(
                qkv,
                norms,
                positions,
                self.rope.tables(),
                gradients,
                back,
            );
        }
        let [d_q, d_k, d_v] = gradients;
        let (cos, sin) = self.rope.rows(positions);
        // The transpose of a rotation turns the other way.
        let rotation = (cos, sin.f_neg()?);
        let (mut d_q, mut d_k) = (rotate(d_q, &rotation), rotate(d_k, &rotation));
        if let Some((q_norm, k_norm)) = norms {
            let [q, k, _] = self.split(qkv)?;
            d_q = self.norm_gradient(&d_q, &q, q_norm)?;
            d_k = self.norm_gradient(&d_k, &k, k_norm)?;
        }
        let rows = qkv.size()[0];
        let flat = [&d_q, &d_k, d_v].map(|d| d.f_reshape([rows, -1])); // (T, H, D) → (T, H · D)
        let [d_q, d_k, d_v] = flat;
        Ok(Tensor::f_cat(&[d_q?, d_k?, d_v?], 1)?)
    }

    /// silu(gate) ∘ up, `(T, 2 F)` to `(T, F)`.
    pub fn gate(&self, wide: &Tensor) -> Result<Tensor, GpuError> {
        if let Some(kernels) = &self.kernels {
            return kernels.gate(wide);
        }
        if training::serves(wide) {
            return Ok(training::gated(wide)?);
        }
        let halves = wide.f_chunk(2, 1)?;
        Ok(halves[0].f_silu()?.f_mul_(&halves[1])?)
    }

    /// Gradient of gate and up, `(T, 2 F)`, and what they made again, `(T, F)`.
    pub fn gate_backward(&self, wide: Tensor, d_act: Tensor) -> Result<(Tensor, Tensor), GpuError> {
        if let Some(kernels) = &self.kernels {
            return kernels.gate_backward(wide, d_act);
        }
        if training::serves(&wide) && training::serves(&d_act) {
            return Ok(training::gate_backward(wide, &d_act)?);
        }
        let halves = wide.f_chunk(2, 1)?;
        let (mut gate, mut up) = (halves[0].shallow_clone(), halves[1].shallow_clone());
        let silu = gate.f_silu()?;
        let act = silu.f_mul(&up)?;
        let d_gate = gate.f_silu_backward(&up.f_mul(&d_act)?)?;
        gate.f_copy_(&d_gate)?;
        up.f_copy_(&d_act.f_mul(&silu)?)?;
        Ok((wide, act))
    }

    /// `(count, n)`: row `t` is the sum of those rows of `x` whose entry in `rows` is `t`.
    pub fn sum_rows(&self, x: &Tensor, rows: &[i64], count: i64) -> Result<Tensor, GpuError> {
        if let Some(kernels) = &self.kernels {
            let back = BackList::new(rows, count as usize, x.device())?;
            return kernels.sum_rows(x, &back, count);
        }
        let index = Tensor::f_from_slice(rows)?.f_to_device(x.device())?;
        let mut sums = Tensor::f_zeros([count, x.size()[1]], (x.kind(), x.device()))?;
        Ok(sums.f_index_add_(0, &index, x)?)
    }

    /// Log-probability of a token, entropy and logarithm of the sum, `(C)` each in f32, of logits `(C, vocab)` that are
    /// divided by `temperatures`, `(C)`, where there are some.
    pub fn score(
        &self,
        logits: &Tensor,
        tokens: &Tensor,
        temperatures: Option<&Tensor>,
    ) -> Result<[Tensor; 3], GpuError> {
        if let Some(kernels) = &self.kernels {
            return kernels.score(logits, tokens, temperatures);
        }
        if training::serves(logits) {
            return Ok(training::score(logits, tokens, temperatures)?);
        }
        let mut logits = logits.f_to_kind(Kind::Float)?;
        if let Some(temperatures) = temperatures {
            logits = logits.f_div(&temperatures.f_unsqueeze(1)?)?;
        }
        let sums = logits.f_logsumexp([1i64].as_slice(), true)?;
        let all = logits.f_sub(&sums)?; // log-probabilities
        let token = all.f_gather(1, &tokens.f_unsqueeze(1)?, false)?;
        let entropy = all
            .f_exp()?
            .f_mul_(&all)?
            .f_sum_dim_intlist(-1, false, Kind::Float)?;
        Ok([
            token.f_squeeze_dim(1)?,
            entropy.f_neg()?,
            sums.f_squeeze_dim(1)?,
        ])
    }

    /// Gradient of the logits from that of the log-probabilities, `(C)` in f32; takes the logits' place where it can.
    pub fn score_backward(
        &self,
        logits: Tensor,
        tokens: &Tensor,
        temperatures: Option<&Tensor>,
        sums: &Tensor,
        gradient: &Tensor,
    ) -> Result<Tensor, GpuError> {
        if let Some(kernels) = &self.kernels {
            return kernels.score_backward(logits, tokens, temperatures, sums, gradient);
        }
        if training::serves(&logits) {
            return Ok(training::score_backward(
                logits,
                tokens,
                temperatures,
                sums,
                gradient,
            )?);
        }
        let kind = logits.kind();
        let mut p = logits.f_to_kind(Kind::Float)?;
        let mut slope = gradient.f_unsqueeze(1)?;
        if let Some(temperatures) = temperatures {
            let temperatures = temperatures.f_unsqueeze(1)?;
            p = p.f_div(&temperatures)?;
            slope = slope.f_div(&temperatures)?;
        }
        // d logprob / d logits = (onehot(token) − softmax) / temperature
        let mut p = p
            .f_sub(&sums.f_unsqueeze(1)?)?
            .f_exp_()?
            .f_mul_(&slope.f_neg()?)?;
        let _ = p.f_scatter_add_(1, &tokens.f_unsqueeze(1)?, &slope)?;
        Ok(p.f_to_kind(kind)?)
    }
}
