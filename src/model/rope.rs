//! Rotary position embedding: a table of cosines and sines, and the rotation itself (half-split pairs, as in
//! transformers: dimension `i` turns with dimension `i + head_dim / 2`).

use tch::{Device, Kind, Tensor};

use super::config::{ModelConfig, RopeScaling};

/// Cosines and sines by position, each `(max_position, head_dim / 2)`.
#[derive(Debug)]
pub struct RopeTable {
    cos: Tensor,
    sin: Tensor,
}

/// Angle a position, one for each rotary pair, after scaling.
pub fn inverse_frequencies(config: &ModelConfig) -> Vec<f32> {
    let half = config.head_dim / 2;
    // In f32, as transformers computes them.
    let plain = (0..half)
        .map(|i| 1.0f32 / (config.rope_theta as f32).powf((2 * i) as f32 / config.head_dim as f32));
    match &config.rope_scaling {
        RopeScaling::None => plain.collect(),
        RopeScaling::Factors(factors) => plain.zip(factors).map(|(f, factor)| f / factor).collect(),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position,
        } => {
            // In f32 and in this order too: at position 4000 the last bit of a frequency is 1e-5 of the logits.
            let low_wavelength = (original_max_position / low_freq_factor) as f32;
            let high_wavelength = (original_max_position / high_freq_factor) as f32;
            let factor = *factor as f32;
            plain
                .map(|frequency| {
                    let wavelength = (2.0 * std::f64::consts::PI) as f32 / frequency;
                    if wavelength < high_wavelength {
                        frequency
                    } else if wavelength > low_wavelength {
                        frequency / factor
                    } else {
                        let smooth = (*original_max_position as f32 / wavelength
                            - *low_freq_factor as f32)
                            / (high_freq_factor - low_freq_factor) as f32;
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                })
                .collect()
        }
    }
}

impl RopeTable {
    /// The table for every position of the model's context, in the model's precision.
    pub fn new(config: &ModelConfig, kind: Kind, device: Device) -> Self {
        let frequencies = Tensor::from_slice(&inverse_frequencies(config));
        let positions = Tensor::arange(config.max_position, (Kind::Float, Device::Cpu));
        let angles = positions.outer(&frequencies); // (P, D / 2)
        let to = |t: Tensor| t.to_kind(kind).to_device(device);
        Self {
            cos: to(angles.cos()),
            sin: to(angles.sin()),
        }
    }

    /// The same tables again, in the same memory.
    pub fn share(&self) -> Self {
        Self {
            cos: self.cos.shallow_clone(),
            sin: self.sin.shallow_clone(),
        }
    }

    /// Both tables.
    pub fn tables(&self) -> (&Tensor, &Tensor) {
        (&self.cos, &self.sin)
    }

    /// The rows of these positions, `(T, 1, head_dim / 2)` each, ready to broadcast over heads.
    pub fn rows(&self, positions: &Tensor) -> (Tensor, Tensor) {
        let pick = |table: &Tensor| table.index_select(0, positions).unsqueeze(1);
        (pick(&self.cos), pick(&self.sin))
    }
}

/// Rotate `(T, H, D)` by rows of [`RopeTable::rows`].
pub fn rotate(x: &Tensor, (cos, sin): &(Tensor, Tensor)) -> Tensor {
    let halves = x.chunk(2, -1);
    let (first, second) = (&halves[0], &halves[1]);
    Tensor::cat(
        &[first * cos - second * sin, second * cos + first * sin],
        -1,
    )
}
