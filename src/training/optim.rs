//! AdamW, gradient clipping and learning-rate schedules, as torch and transformers define them.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::runtime::adamw::{self, Factors};
use crate::runtime::gpu::GpuError;

/// Course of the learning rate after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Stays at its peak.
    Constant,
    /// Falls linearly to zero.
    Linear,
    /// Falls to zero along half a cosine.
    #[default]
    Cosine,
}

impl Schedule {
    /// Factor of the peak learning rate at a step (from 0): linear warm-up over `ceil(total · warmup_ratio)` steps,
    /// then the course.
    pub fn factor(self, step: u64, total: u64, warmup_ratio: f64) -> f64 {
        let warmup = (total as f64 * warmup_ratio).ceil() as u64;
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        let progress = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
        match self {
            Self::Constant => 1.0,
            Self::Linear => (1.0 - progress).max(0.0),
            Self::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0),
        }
    }
}

/// Settings of the optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimConfig {
    /// Peak learning rate.
    pub lr: f64,
    /// Course of the learning rate.
    pub schedule: Schedule,
    /// Share of steps that warm up.
    pub warmup_ratio: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients of a larger norm are scaled down to this; 0 never clips.
    pub max_grad_norm: f64,
}

impl Default for OptimConfig {
    fn default() -> Self {
        Self {
            lr: 1e-5,
            schedule: Schedule::Cosine,
            warmup_ratio: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
        }
    }
}

/// The keys of an `optim` table that are given; each method has its own defaults for the rest.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OptimGiven {
    lr: Option<f64>,
    schedule: Option<Schedule>,
    warmup_ratio: Option<f64>,
    beta1: Option<f64>,
    beta2: Option<f64>,
    eps: Option<f64>,
    weight_decay: Option<f64>,
    max_grad_norm: Option<f64>,
}

impl OptimConfig {
    /// Read an `optim` table over these defaults.
    pub fn read_over<'de, D: serde::Deserializer<'de>>(self, source: D) -> Result<Self, D::Error> {
        let given = OptimGiven::deserialize(source)?;
        Ok(Self {
            lr: given.lr.unwrap_or(self.lr),
            schedule: given.schedule.unwrap_or(self.schedule),
            warmup_ratio: given.warmup_ratio.unwrap_or(self.warmup_ratio),
            beta1: given.beta1.unwrap_or(self.beta1),
            beta2: given.beta2.unwrap_or(self.beta2),
            eps: given.eps.unwrap_or(self.eps),
            weight_decay: given.weight_decay.unwrap_or(self.weight_decay),
            max_grad_norm: given.max_grad_norm.unwrap_or(self.max_grad_norm),
        })
    }
}

/// AdamW (Loshchilov & Hutter 2019) over a fixed list of parameters.
pub struct AdamW {
    config: OptimConfig,
    parameters: Vec<Tensor>,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    steps: u64,
}

impl AdamW {
    /// Moments start at zero.
    pub fn new(config: OptimConfig, parameters: Vec<Tensor>) -> Self {
        let zeros = || {
            parameters
                .iter()
                .map(|p| p.zeros_like().set_requires_grad(false))
                .collect()
        };
        Self {
            config,
            first: zeros(),
            second: zeros(),
            parameters,
            steps: 0,
        }
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Clip these gradients in place, one a parameter, and take one step at this learning rate. Gives their norm, all
    /// together, before clipping. The device has the whole step to do before its norm is waited for.
    ///
    /// # Errors
    /// The device refuses.
    ///
    /// # Panics
    /// Unless there is a gradient for every parameter.
    pub fn step(&mut self, lr: f64, gradients: &mut [&mut Tensor]) -> Result<f64, GpuError> {
        assert_eq!(gradients.len(), self.parameters.len(), "one a parameter");
        let _no_grad = tch::no_grad_guard();
        let Some(first) = gradients.first() else {
            return Ok(0.0);
        };
        let device = first.device();
        let mut squares = Tensor::f_zeros([], (Kind::Double, device))?;
        for gradient in gradients.iter() {
            squares = squares.f_add(&gradient.f_square()?.f_sum(Kind::Double)?)?;
        }
        let norm = squares.f_sqrt()?;
        let limit = self.config.max_grad_norm;
        // As torch.nn.utils.clip_grad_norm_, which multiplies by the reciprocal.
        let divisor = if limit > 0.0 {
            let times = norm.f_add_scalar(1e-6)?.f_div_scalar(limit)?;
            times.f_clamp_min(1.0)?.f_to_kind(Kind::Float)?
        } else {
            Tensor::f_ones([], (Kind::Float, device))?
        };
        self.steps += 1;
        let step = Tensor::f_full([], self.steps as f64, (Kind::Float, device))?;
        let factors = Factors {
            lr,
            betas: (self.config.beta1, self.config.beta2),
            weight_decay: self.config.weight_decay,
            eps: self.config.eps,
        };
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((parameter, gradient), moments) in
            self.parameters.iter_mut().zip(gradients).zip(moments)
        {
            adamw::step(parameter, gradient, moments, (&step, &divisor), factors)?;
        }
        Ok(norm.f_double_value(&[])?)
    }

    /// First and second moments, one each a parameter.
    pub fn moments(&self) -> [&[Tensor]; 2] {
        [&self.first, &self.second]
    }

    /// Say how many steps the moments have seen, after they were put back.
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }
}
