//! What a forward keeps for its backward, and how many tokens it takes at once: the fastest that memory allows.
//!
//! Keeping nothing but the input of a layer costs a second forward; keeping all costs 85 KiB a token and layer of
//! Qwen3-8B. Gate and up are more than half of the bytes and of the products, attention's part is the rest. Layers need
//! not agree: as many as fit keep all.

use tch::Kind;

use crate::model::config::ModelConfig;
use crate::model::logprobs::KEPT_LOGITS;
use crate::model::room;
use crate::runtime::memory::gib;

/// What a layer keeps; each holds what those before it hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// Nothing: there will be no backward.
    Nothing,
    /// Its input; all else is computed again.
    Input,
    /// Its first half too; gate and up are computed again.
    Attention,
    /// All that the backward reads but what is cheap to make.
    All,
}

/// What each layer keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    layers: Vec<Keep>,
}

/// How a pass is to be computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Packed tokens of a pass, at most, as long as one item is not larger.
    pub tokens: usize,
    bytes: Option<usize>,
    costs: Costs,
}

/// Bytes a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Costs {
    layers: usize,
    /// Of a layer at each level: input, attention, all.
    kept: [usize; 3],
    /// What lives only while one layer is computed.
    passing: usize,
    /// A target's logits.
    logits: usize,
}

/// Tokens beyond which the products get no faster.
const ENOUGH: usize = 8192;
/// Tokens below which they get slower.
const LEAST: usize = 2048;
/// Kept free for libtorch's workspaces and for what its allocator cannot use.
const SPARE: usize = 2 << 30;

impl Costs {
    fn of(config: &ModelConfig, kind: Kind) -> Self {
        let size = kind.elt_size_in_bytes();
        let heads = config.heads * config.head_dim;
        let qkv = heads + 2 * config.kv_heads * config.head_dim;
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let sums = config.heads as usize * 4;
        let input = hidden as usize * size;
        // With the room behind them for an update's way back.
        let gates = 2 * wide + room::of_targets(2);
        let attention = input + (qkv + heads + hidden) as usize * size + sums;
        Self {
            layers: config.layers as usize,
            kept: [input, attention, attention + gates as usize * size],
            // Two halves of the gate made again, its gradient, and a few rows of the model's width.
            passing: (4 * wide + 2 * qkv + 6 * hidden) as usize * size,
            logits: config.vocab_size as usize * size,
        }
    }

    fn fixed(&self, tokens: usize, targets: usize) -> usize {
        tokens * self.passing + (2 * targets * self.logits).min(2 * KEPT_LOGITS)
    }
}

impl Budget {
    /// For a model on a GPU with `bytes` for activations; on a CPU, where there is no such number, all is kept and a pass
    /// is as small as the items allow.
    pub fn new(config: &ModelConfig, kind: Kind, bytes: Option<usize>) -> Self {
        let costs = Costs::of(config, kind);
        let tokens = match bytes {
            None => 1,
            Some(bytes) => {
                let a_token = costs.layers * costs.kept[2] + costs.passing + costs.logits;
                (bytes.saturating_sub(SPARE) / a_token).clamp(LEAST, ENOUGH)
            }
        };
        Self {
            tokens,
            bytes,
            costs,
        }
    }

    /// What each layer keeps in a pass of so many packed tokens and targets: all, unless memory forbids.
    pub fn plan(&self, tokens: usize, targets: usize) -> Plan {
        let Costs { layers, kept, .. } = self.costs;
        let Some(bytes) = self.bytes else {
            return Plan {
                layers: vec![Keep::All; layers],
            };
        };
        let room = bytes.saturating_sub(SPARE + self.costs.fixed(tokens, targets));
        let mut free = room / tokens.max(1); // bytes a token, all layers together
        free = free.saturating_sub(layers * kept[0]);
        let take = |free: &mut usize, each: usize, most: usize| {
            let count = (*free / each.max(1)).min(most);
            *free -= count * each;
            count
        };
        // First as many layers as possible keep their first half: it saves more time a byte.
        let attention = take(&mut free, kept[1] - kept[0], layers);
        let all = take(&mut free, kept[2] - kept[1], attention);
        let keep = |index: usize| match index {
            i if i < all => Keep::All,
            i if i < attention => Keep::Attention,
            _ => Keep::Input,
        };
        Plan {
            // The last layers keep most: what they kept is free again first.
            layers: (0..layers).rev().map(keep).collect(),
        }
    }

    /// The same with a tenth less memory, after a pass found less than was thought.
    pub fn smaller(&self) -> Option<Self> {
        let bytes = self.bytes? / 10 * 9;
        let least = SPARE + self.costs.layers * self.costs.kept[0];
        (bytes > least).then(|| Self {
            bytes: Some(bytes),
            tokens: (self.tokens / 10 * 9).max(1),
            costs: self.costs,
        })
    }

    /// In words.
    pub fn describe(&self) -> String {
        match self.bytes {
            Some(bytes) => format!(
                "{:.1} GiB for activations, up to {} packed tokens a pass",
                gib(bytes),
                self.tokens
            ),
            None => "as many activations as there are".into(),
        }
    }
}

impl Plan {
    /// Every layer keeps this.
    pub fn uniform(layers: usize, keep: Keep) -> Self {
        Self {
            layers: vec![keep; layers],
        }
    }

    /// What a layer keeps.
    pub fn keep(&self, layer: usize) -> Keep {
        self.layers[layer]
    }

    /// Number of layers that keep all, their first half, their input.
    pub fn counts(&self) -> [usize; 3] {
        [Keep::All, Keep::Attention, Keep::Input]
            .map(|keep| self.layers.iter().filter(|k| **k == keep).count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_of_qwen3_8b_costs_what_is_kept() {
        let costs = Costs::of(&ModelConfig::qwen3_8b(), Kind::BFloat16);
        assert_eq!(costs.kept[0], 2 * 4096);
        assert_eq!(costs.kept[1], 2 * (4096 + 6144 + 4096 + 4096) + 128);
        assert_eq!(costs.kept[2] - costs.kept[1], 2 * (2 * 12288 + 64));
    }

    #[test]
    fn less_memory_keeps_less_and_never_more_than_there_is() {
        let config = ModelConfig::qwen3_8b();
        let (tokens, targets) = (8192, 4096);
        let mut before = [0, 0, usize::MAX];
        for gigabytes in [6usize, 9, 12, 20, 30, 50] {
            let bytes = gigabytes << 30;
            let budget = Budget::new(&config, Kind::BFloat16, Some(bytes));
            let plan = budget.plan(tokens, targets);
            let counts = plan.counts();
            assert_eq!(counts.iter().sum::<usize>(), 36);
            assert!(
                counts[0] >= before[0] && counts[2] <= before[2],
                "{counts:?} after {before:?}"
            );
            let kept: usize = (0..36)
                .map(|layer| match plan.keep(layer) {
                    Keep::Input => budget.costs.kept[0],
                    Keep::Attention => budget.costs.kept[1],
                    Keep::All => budget.costs.kept[2],
                    Keep::Nothing => unreachable!("a backward follows"),
                })
                .sum();
            let needed = kept * tokens + budget.costs.fixed(tokens, targets) + SPARE;
            assert!(
                needed <= bytes || counts == [0, 0, 36],
                "{needed} of {bytes}"
            );
            before = counts;
        }
        assert_eq!(before, [36, 0, 0], "50 GiB hold all of it");
    }

    #[test]
    fn a_cpu_keeps_all() {
        let budget = Budget::new(&ModelConfig::qwen3_8b(), Kind::Float, None);
        assert_eq!(budget.plan(4096, 100).counts(), [36, 0, 0]);
        assert_eq!(budget.tokens, 1);
    }
}
