//! An adapter's matrices in panels.

use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use super::buffer::numbers;
use super::panels::{PANEL, Panels};
use crate::model::fused::pages::Key;
use crate::model::lora::{Adapter, JOINT, Target};

/// The update of one joint matrix.
#[derive(Debug)]
pub struct Joint {
    /// All A, one below the other: `(ranks, inputs)`.
    pub inner: Panels,
    /// All B in the block of its own outputs and ranks, times the scale: `(outputs, ranks)`.
    pub outer: Panels,
    /// Which ranks are not all zero in each panel of `outer`.
    pub ranks: Vec<(usize, usize)>,
}

/// All updates of an adapter.
#[derive(Debug)]
pub struct Updates {
    /// Digest of the adapter: keys and values are known by it.
    pub key: Key,
    /// By layer and joint matrix.
    pub layers: Vec<[Option<Joint>; 4]>,
}

/// Digest of an adapter's numbers and scale.
pub fn key_of(adapter: &Adapter) -> Key {
    let mut digest = Sha256::new();
    digest.update(adapter.config.scale().to_le_bytes());
    for (name, tensor) in adapter.named() {
        digest.update(name.as_bytes());
        numbers(&tensor.detach(), |numbers| {
            // SAFETY: numbers of four bytes each, without padding.
            let bytes = unsafe {
                std::slice::from_raw_parts(numbers.as_ptr().cast::<u8>(), size_of_val(numbers))
            };
            digest.update(bytes);
        });
    }
    digest.finalize().into()
}

impl Updates {
    /// Of this adapter; `outputs` gives the outputs of a target.
    pub fn new(
        adapter: &Adapter,
        key: Key,
        layers: usize,
        outputs: impl Fn(Target) -> i64,
    ) -> Self {
        let joint = |layer: usize, targets: &[Target]| -> Option<Joint> {
            let updates: Vec<_> = targets
                .iter()
                .filter_map(|t| Some((*t, adapter.get(layer, *t)?)))
                .collect();
            let (_, first) = updates.first()?;
            let (rank, inputs) = (first.a.size()[0], first.a.size()[1]);
            let ranks = rank * updates.len() as i64;
            let total: i64 = targets.iter().map(|t| outputs(*t)).sum();
            let options = (Kind::Float, Device::Cpu);
            let (mut inner, outer) = (
                Vec::with_capacity(updates.len()),
                Tensor::zeros([total, ranks], options),
            );
            let mut spans = Vec::new();
            let (mut from, mut column) = (0, 0);
            for target in targets {
                let size = outputs(*target);
                if let Some((_, update)) = updates.iter().find(|(t, _)| t == target) {
                    inner.push(update.a.detach().to_kind(Kind::Float).view([rank, inputs]));
                    let scaled = update.b.detach().to_kind(Kind::Float) * adapter.config.scale();
                    outer
                        .narrow(0, from, size)
                        .narrow(1, column, rank)
                        .copy_(&scaled);
                    spans.push((from, from + size, column, column + rank));
                    column += rank;
                }
                from += size;
            }
            let panels = (total as usize).div_ceil(PANEL);
            let within = |panel: usize| {
                let (first, last) = ((panel * PANEL) as i64, ((panel + 1) * PANEL) as i64);
                let mut met = spans.iter().filter(|s| s.0 < last && s.1 > first);
                let from = met.clone().map(|s| s.2).next().unwrap_or(0);
                (
                    from as usize,
                    met.next_back().map_or(from, |s| s.3) as usize,
                )
            };
            Some(Joint {
                inner: Panels::new(&Tensor::cat(&inner, 0)),
                outer: Panels::new(&outer),
                ranks: (0..panels).map(within).collect(),
            })
        };
        tch::no_grad(|| Self {
            key,
            layers: (0..layers)
                .map(|layer| JOINT.map(|targets| joint(layer, targets)))
                .collect(),
        })
    }
}
