//! What a model needs of a GPU's memory, known before anything is loaded.

use tch::{Device, Kind};

use super::config::ModelConfig;
use super::fused::{MOST_ROWS, PAGE, PROMPT_TOKENS};
use super::room;
use crate::runtime::memory::{free_and_total, gib};

/// Kept free for libtorch, the driver and recorded graphs, in bytes.
const SPARE: usize = 1 << 30;

/// Bytes by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// All weights.
    pub weights: usize,
    /// Keys and values of a page of [`PAGE`] tokens.
    pub page: usize,
    /// What a step of [`MOST_ROWS`] sequences reads and writes.
    pub step: usize,
    /// What prompts of [`PROMPT_TOKENS`] tokens pass through while they are computed.
    pub prompts: usize,
}

impl Footprint {
    /// Of a model in this precision on this device.
    pub fn of(config: &ModelConfig, kind: Kind, device: Device) -> Self {
        let size = kind.elt_size_in_bytes();
        let room = match room::is_given(kind, device) {
            true => room::of_model(config),
            false => 0,
        };
        let heads = config.heads * config.head_dim;
        let qkv = heads + 2 * config.kv_heads * config.head_dim;
        let row = 2 * config.hidden_size
            + qkv.max(2 * config.intermediate_size)
            + 2 * heads
            + config.intermediate_size;
        Self {
            weights: (config.parameters() + room) as usize * size,
            page: (2 * config.layers * config.kv_heads * config.head_dim) as usize * PAGE * size,
            step: MOST_ROWS * (row + config.vocab_size) as usize * size,
            // Outputs and inputs of neighbouring operations live at once.
            prompts: 2 * PROMPT_TOKENS * row as usize * size,
        }
    }

    /// Pages of keys and values that fit beside everything else into this many bytes, weights not counted.
    pub fn pages(&self, free: usize) -> usize {
        free.saturating_sub(SPARE + self.step + self.prompts) * 19 / 20 / self.page
    }

    /// In words, for a device with this many bytes.
    pub fn describe(&self, total: usize) -> String {
        let pages = self.pages(total.saturating_sub(self.weights));
        let tokens = pages * PAGE;
        format!(
            "weights {:.2} GiB, prompts and steps {:.2} GiB, keys and values {:.1} KiB a token: room for {tokens} tokens, \
             {} texts of 1024 at once",
            gib(self.weights),
            gib(SPARE + self.step + self.prompts),
            self.page as f64 / PAGE as f64 / 1024.0,
            (tokens / 1024).min(MOST_ROWS)
        )
    }

    /// Refuse what cannot be loaded, with the figures; on a CPU everything is let through.
    pub fn check(&self, device: Device) -> Result<(), String> {
        let Some((free, total)) = free_and_total(device) else {
            return Ok(());
        };
        let needed = self.weights + SPARE + self.step;
        if needed <= free {
            return Ok(());
        }
        Err(format!(
            "the weights need {:.1} GiB and a step {:.1} GiB more, the GPU has {:.1} of {:.1} GiB free; free it, or take a \
             smaller model",
            gib(self.weights),
            gib(SPARE + self.step),
            gib(free),
            gib(total)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qwen3_8b_is_what_its_card_says() {
        let footprint = Footprint::of(&ModelConfig::qwen3_8b(), Kind::BFloat16, Device::Cuda(0));
        // 8.19 billion parameters and room for adapters; 36 layers · 2 · 8 · 128 numbers a token.
        let room = 2 * room::of_model(&ModelConfig::qwen3_8b()) as usize;
        assert_eq!(footprint.weights - room, 16_381_470_720);
        assert!((300 << 20..330 << 20).contains(&room), "{room}");
        assert_eq!(footprint.page, 147_456 * PAGE);
        let gpu = 80 << 30;
        let tokens = footprint.pages(gpu - footprint.weights) * PAGE;
        assert!((350_000..450_000).contains(&tokens), "{tokens}");
    }

    #[test]
    fn what_has_no_room_has_no_pages() {
        let footprint = Footprint::of(
            &ModelConfig::llama_3_1_8b(),
            Kind::BFloat16,
            Device::Cuda(0),
        );
        assert_eq!(footprint.pages(1 << 30), 0);
    }
}
