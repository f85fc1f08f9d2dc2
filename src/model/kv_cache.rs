//! The KV cache: keys and values of the tokens already seen, one slot a sequence.

use tch::{Device, Kind, Tensor};

use super::config::ModelConfig;

/// Keys and values by layer, `(slots, capacity, kv_heads, head_dim)` each, and how many positions of a slot are valid.
#[derive(Debug)]
pub struct KvCache {
    keys: Vec<Tensor>,
    values: Vec<Tensor>,
    lengths: Vec<usize>,
    capacity: usize,
}

impl KvCache {
    /// Room for `slots` sequences of `capacity` tokens each.
    pub fn new(
        config: &ModelConfig,
        slots: usize,
        capacity: usize,
        kind: Kind,
        device: Device,
    ) -> Self {
        let shape = [
            slots as i64,
            capacity as i64,
            config.kv_heads,
            config.head_dim,
        ];
        let buffers = || {
            (0..config.layers)
                .map(|_| Tensor::zeros(shape, (kind, device)))
                .collect()
        };
        Self {
            keys: buffers(),
            values: buffers(),
            lengths: vec![0; slots],
            capacity,
        }
    }

    /// Valid positions of a slot.
    pub fn length(&self, slot: usize) -> usize {
        self.lengths[slot]
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.lengths.len()
    }

    /// Most tokens a slot can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forget a slot's sequence.
    pub fn clear(&mut self, slot: usize) {
        self.lengths[slot] = 0;
    }

    /// Make `to` a copy of `from`: a prompt prefilled once for several completions.
    pub fn fork(&mut self, from: usize, to: usize) {
        let length = self.lengths[from] as i64;
        for buffer in self.keys.iter().chain(&self.values) {
            let source = buffer.get(from as i64).narrow(0, 0, length);
            buffer.get(to as i64).narrow(0, 0, length).copy_(&source);
        }
        self.lengths[to] = self.lengths[from];
    }

    /// Write a prefilled sequence's keys and values of one layer, `(T, kv_heads, head_dim)`, from position 0.
    pub(super) fn write_prompt(&self, layer: usize, slot: usize, keys: &Tensor, values: &Tensor) {
        let length = keys.size()[0];
        for (buffer, rows) in [(&self.keys[layer], keys), (&self.values[layer], values)] {
            buffer.get(slot as i64).narrow(0, 0, length).copy_(rows);
        }
    }

    /// Write one new token a slot, `(B, kv_heads, head_dim)`, at each slot's next position.
    pub(super) fn write_step(&self, layer: usize, slots: &[usize], keys: &Tensor, values: &Tensor) {
        let index = |numbers: Vec<i64>| Some(Tensor::from_slice(&numbers).to_device(keys.device()));
        let at = [
            index(slots.iter().map(|&s| s as i64).collect()),
            index(slots.iter().map(|&s| self.lengths[s] as i64).collect()),
        ];
        for (buffer, rows) in [(&self.keys[layer], keys), (&self.values[layer], values)] {
            let _ = buffer.shallow_clone().index_put_(&at, rows, false);
        }
    }

    /// The tokens written to these slots are valid now.
    pub(super) fn advance(&mut self, slots: &[usize], by: usize) {
        for &slot in slots {
            self.lengths[slot] += by;
            debug_assert!(self.lengths[slot] <= self.capacity);
        }
    }

    /// A slot's keys and values of one layer, `(capacity, kv_heads, head_dim)`.
    #[cfg(test)]
    pub(super) fn slot(&self, layer: usize, slot: usize) -> (Tensor, Tensor) {
        (
            self.keys[layer].get(slot as i64),
            self.values[layer].get(slot as i64),
        )
    }

    /// One layer's keys and values of these slots up to `length`, `(B, length, kv_heads, head_dim)`.
    pub(super) fn gather(&self, layer: usize, slots: &Tensor, length: i64) -> (Tensor, Tensor) {
        let pick = |buffer: &Tensor| buffer.narrow(1, 0, length).index_select(0, slots);
        (pick(&self.keys[layer]), pick(&self.values[layer]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SLOTS: usize = 4;
    const CAPACITY: usize = 8;

    /// What a user of the cache may do.
    #[derive(Debug, Clone)]
    enum Act {
        Prompt(usize, usize),
        Step(Vec<usize>),
        Fork(usize, usize),
        Clear(usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        let slot = 0..SLOTS;
        prop_oneof![
            (slot.clone(), 1..CAPACITY).prop_map(|(slot, length)| Act::Prompt(slot, length)),
            prop::sample::subsequence((0..SLOTS).collect::<Vec<_>>(), 1..=SLOTS)
                .prop_map(Act::Step),
            (slot.clone(), slot.clone()).prop_map(|(from, to)| Act::Fork(from, to)),
            slot.prop_map(Act::Clear),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn each_slot_holds_what_was_written_to_it(acts in prop::collection::vec(act(), 1..40)) {
            let config = ModelConfig {
                layers: 2,
                kv_heads: 1,
                head_dim: 2,
                ..ModelConfig::qwen3_8b()
            };
            let mut cache = KvCache::new(&config, SLOTS, CAPACITY, Kind::Float, Device::Cpu);
            let mut held: Vec<Vec<f32>> = vec![vec![]; SLOTS];
            let mut count = 0f32;
            // A row is a number of its own, twice for the head's width; values are keys and a half, layers differ by 1000.
            let rows = |numbers: &[f32], layer: usize, more: f32| {
                let all: Vec<f32> = numbers.iter().flat_map(|n| [n + more + 1000.0 * layer as f32; 2]).collect();
                Tensor::from_slice(&all).reshape([numbers.len() as i64, 1, 2])
            };
            for act in acts {
                match act {
                    Act::Prompt(slot, length) => {
                        let numbers: Vec<f32> = (0..length).map(|i| count + i as f32).collect();
                        count += length as f32;
                        cache.clear(slot);
                        for layer in 0..2 {
                            cache.write_prompt(layer, slot, &rows(&numbers, layer, 0.0), &rows(&numbers, layer, 0.5));
                        }
                        cache.advance(&[slot], length);
                        held[slot] = numbers;
                    }
                    Act::Step(slots) => {
                        let slots: Vec<usize> = slots.into_iter().filter(|&s| held[s].len() < CAPACITY).collect();
                        if slots.is_empty() {
                            continue;
                        }
                        let numbers: Vec<f32> = slots.iter().enumerate().map(|(i, _)| count + i as f32).collect();
                        count += slots.len() as f32;
                        for layer in 0..2 {
                            cache.write_step(layer, &slots, &rows(&numbers, layer, 0.0), &rows(&numbers, layer, 0.5));
                        }
                        cache.advance(&slots, 1);
                        for (&slot, number) in slots.iter().zip(numbers) {
                            held[slot].push(number);
                        }
                    }
                    Act::Fork(from, to) if from != to => {
                        cache.fork(from, to);
                        held[to] = held[from].clone();
                    }
                    Act::Fork(..) => {}
                    Act::Clear(slot) => {
                        cache.clear(slot);
                        held[slot].clear();
                    }
                }
                for (slot, expected) in held.iter().enumerate() {
                    prop_assert_eq!(cache.length(slot), expected.len());
                    for layer in 0..2 {
                        let (keys, values) = cache.slot(layer, slot);
                        for (buffer, more) in [(keys, 0.0), (values, 0.5)] {
                            let got = buffer.narrow(0, 0, expected.len() as i64);
                            prop_assert!(got.equal(&rows(expected, layer, more)), "slot {slot}");
                        }
                    }
                }
            }
        }
    }
}
