//! The one decoder: Llama and Qwen3 alike, on the CPU and on a GPU, for training, scoring and generation.
//!
//! Numbered as a layer computes: (1) norm, (2) q k v, (3) QK-norm and rotation, (4) attention, (5) output projection,
//! (6) norm, (7) gated feed-forward.

use std::cell::{OnceCell, RefCell, RefMut};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tch::{Device, Kind, Tensor};

use super::attention::Context;
use super::backprop::{Kernels, Pieces};
use super::batch::Packed;
use super::config::ModelConfig;
use super::fused::{Fused, LayerParts, Parts};
use super::host::Host;
use super::host::panels::rounded_to_bytes;
use super::kv_cache::KvCache;
use super::linear::Linear;
use super::lora::{Adapter, Target};
use super::rope::{RopeTable, rotate};
use super::weights::{WeightError, Weights};

/// One transformer block.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) input_norm: Tensor,
    pub(super) qkv: Linear,
    /// Weights of the norms on each head of q and k.
    pub(super) qk_norm: Option<(Tensor, Tensor)>,
    pub(super) output: Linear,
    pub(super) post_norm: Tensor,
    pub(super) gate_up: Linear,
    pub(super) down: Linear,
}

/// A decoder-only transformer with frozen weights.
#[derive(Debug)]
pub struct Decoder {
    config: ModelConfig,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    /// `(vocab, hidden)`; shares memory with the embedding where they are tied.
    head: Tensor,
    rope: RopeTable,
    /// The matrices hold numbers of eight bits, times a scale for each output.
    bytes: bool,
    /// The same weights through kernels of our own, once generation has asked for it.
    fused: OnceCell<Option<RefCell<Fused>>>,
    /// What training and scoring put between the matrix products.
    pieces: OnceLock<Pieces>,
    /// Likewise on a CPU.
    host: OnceLock<Option<Mutex<Host>>>,
}

impl Decoder {
    /// Load the weights in `kind` onto `device`. Names and shapes are checked both ways first.
    pub fn load(weights: &Weights, kind: Kind, device: Device) -> Result<Self, WeightError> {
        let config = weights.config().clone();
        weights.check()?;
        let load = |name: &str| weights.tensor(name, kind, device);
        let embedding = load("model.embed_tokens.weight")?;
        let head = if config.tied_embeddings {
            embedding.shallow_clone()
        } else {
            load("lm_head.weight")?
        };
        let layers = (0..config.layers as usize)
            .map(|layer| Layer::load(&config, layer, &load))
            .collect::<Result<_, _>>()?;
        let rope = RopeTable::new(&config, kind, device);
        Ok(Self {
            embedding,
            layers,
            norm: load("model.norm.weight")?,
            head,
            rope,
            config,
            bytes: false,
            fused: OnceCell::new(),
            pieces: OnceLock::new(),
            host: OnceLock::new(),
        })
    }

    /// The fast path of generation, where GPU and model have one; the reason is logged where they have not.
    pub fn fused(&self) -> Option<RefMut<'_, Fused>> {
        let made = self.fused.get_or_init(|| {
            if !self.device().is_cuda() {
                return None;
            }
            match Fused::new(&self.config, self.parts()) {
                Ok(fused) => Some(RefCell::new(fused)),
                Err(e) => {
                    tracing::warn!("generation takes the plain path, which is much slower: {e}");
                    None
                }
            }
        });
        made.as_ref().map(RefCell::borrow_mut)
    }

    /// Norms, rotation, gate and scores for training: kernels of our own where GPU and model have them; the reason is
    /// logged where they have not.
    pub fn pieces(&self) -> &Pieces {
        self.pieces.get_or_init(|| {
            let kernels = match self.device().is_cuda() {
                true => Kernels::new(&self.config, self.kind(), self.device())
                    .inspect_err(|e| {
                        tracing::warn!("training takes the plain path, which is slower: {e}");
                    })
                    .ok(),
                false => None,
            };
            Pieces::new(&self.config, self.rope.share(), kernels)
        })
    }

    pub(super) fn layer(&self, index: usize) -> &Layer {
        &self.layers[index]
    }

    pub(super) fn layer_count(&self) -> usize {
        self.layers.len()
    }

    pub(super) fn embedding(&self) -> &Tensor {
        &self.embedding
    }

    /// Weight of the norm that a layer begins with; after the last, the final norm's.
    pub(super) fn norm_before(&self, layer: usize) -> &Tensor {
        self.layers
            .get(layer)
            .map_or(&self.norm, |layer| &layer.input_norm)
    }

    /// The fast path of generation on a CPU; the reason is logged where there is none.
    pub fn host(&self) -> Option<MutexGuard<'_, Host>> {
        let made = self.host.get_or_init(|| {
            if self.device() != Device::Cpu {
                return None;
            }
            match Host::new(&self.config, self.parts()) {
                Ok(host) => Some(Mutex::new(host)),
                Err(why) => {
                    tracing::warn!("generation takes the plain path, which is slower: {why}");
                    None
                }
            }
        });
        let host = made.as_ref()?.lock().unwrap_or_else(|broken| {
            // Whoever broke it may have left pages without their keys.
            let mut host = PoisonError::into_inner(broken);
            host.release();
            host
        });
        Some(host)
    }

    /// Give up what generation holds beside the weights: the cache of keys and values.
    pub fn release_cache(&self) {
        if let Some(Some(fused)) = self.fused.get() {
            fused.borrow_mut().release();
        }
        if let Some(Some(_)) = self.host.get()
            && let Some(mut host) = self.host()
        {
            host.release();
        }
    }

    fn parts(&self) -> Parts {
        let (cosines, sines) = self.rope.tables();
        let layers = self.layers.iter().map(|layer| LayerParts {
            input_norm: layer.input_norm.shallow_clone(),
            qk_norm: layer
                .qk_norm
                .as_ref()
                .map(|(q, k)| (q.shallow_clone(), k.shallow_clone())),
            post_norm: layer.post_norm.shallow_clone(),
            joint: [0, 1, 2, 3].map(|index| layer.joint(index).weight().shallow_clone()),
            biases: [0, 1, 2, 3].map(|index| layer.joint(index).bias().map(Tensor::shallow_clone)),
        });
        Parts {
            embedding: self.embedding.shallow_clone(),
            head: self.head.shallow_clone(),
            norm: self.norm.shallow_clone(),
            cosines: cosines.shallow_clone(),
            sines: sines.shallow_clone(),
            layers: layers.collect(),
            bytes: self.bytes,
        }
    }

    /// A model of this shape whose weights mean nothing, for measurements: normal numbers of deviation 0.02, norms 1.
    pub fn random(config: &ModelConfig, kind: Kind, device: Device) -> Result<Self, tch::TchError> {
        let draw = |rows: i64, columns: i64| -> Result<Tensor, tch::TchError> {
            Tensor::f_randn([rows, columns], (kind, device))?.f_mul_scalar_(0.02)
        };
        let ones = |size: i64| Tensor::f_ones([size], (kind, device));
        let embedding = draw(config.vocab_size, config.hidden_size)?;
        let head = match config.tied_embeddings {
            true => embedding.shallow_clone(),
            false => draw(config.vocab_size, config.hidden_size)?,
        };
        let mut layers = Vec::new();
        for index in 0..config.layers as usize {
            let joint = |targets: &[Target]| -> Result<Linear, tch::TchError> {
                let parts = targets.iter().map(|&target| {
                    let (inputs, outputs) = target.features(config);
                    Ok((target, draw(outputs, inputs)?, None))
                });
                Linear::new(index, parts.collect::<Result<_, tch::TchError>>()?)
            };
            let qk_norm = match config.qk_norm {
                true => Some((ones(config.head_dim)?, ones(config.head_dim)?)),
                false => None,
            };
            layers.push(Layer {
                input_norm: ones(config.hidden_size)?,
                qkv: joint(&[Target::QProj, Target::KProj, Target::VProj])?,
                qk_norm,
                output: joint(&[Target::OProj])?,
                post_norm: ones(config.hidden_size)?,
                gate_up: joint(&[Target::GateProj, Target::UpProj])?,
                down: joint(&[Target::DownProj])?,
            });
        }
        Ok(Self {
            embedding,
            layers,
            norm: ones(config.hidden_size)?,
            head,
            rope: RopeTable::new(config, kind, device),
            bytes: false,
            fused: OnceCell::new(),
            pieces: OnceLock::new(),
            host: OnceLock::new(),
            config: config.clone(),
        })
    }

    /// The same weights in another precision, for comparisons.
    pub fn in_kind(&self, kind: Kind) -> Self {
        let as_kind = |t: &Tensor| t.to_kind(kind);
        let layers = self.layers.iter().map(|layer| Layer {
            input_norm: as_kind(&layer.input_norm),
            qkv: layer.qkv.in_kind(kind),
            qk_norm: layer
                .qk_norm
                .as_ref()
                .map(|(q, k)| (as_kind(q), as_kind(k))),
            output: layer.output.in_kind(kind),
            post_norm: as_kind(&layer.post_norm),
            gate_up: layer.gate_up.in_kind(kind),
            down: layer.down.in_kind(kind),
        });
        Self {
            config: self.config.clone(),
            embedding: as_kind(&self.embedding),
            layers: layers.collect(),
            norm: as_kind(&self.norm),
            head: as_kind(&self.head),
            rope: RopeTable::new(&self.config, kind, self.device()),
            bytes: self.bytes && kind == self.kind(),
            fused: OnceCell::new(),
            host: OnceLock::new(),
            pieces: OnceLock::new(),
        }
    }

    /// The model whose matrices are rounded to eight bits, [`rounded_to_bytes`]: those of the layers, the head, and the embedding
    /// where it is the head. Training and scores compute with the same numbers in f32; generation on a CPU reads the bits.
    #[must_use]
    pub fn in_bytes(mut self) -> Self {
        for layer in &mut self.layers {
            for linear in [
                &mut layer.qkv,
                &mut layer.output,
                &mut layer.gate_up,
                &mut layer.down,
            ] {
                linear.replace(rounded_to_bytes(linear.weight()));
            }
        }
        self.head = rounded_to_bytes(&self.head);
        if self.config.tied_embeddings {
            self.embedding = self.head.shallow_clone();
        }
        self.bytes = true;
        self
    }

    /// Shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the weights lie.
    pub fn device(&self) -> Device {
        self.embedding.device()
    }

    /// Precision of the weights.
    pub fn kind(&self) -> Kind {
        self.embedding.kind()
    }

    /// Output head, `(vocab, hidden)`.
    pub fn head(&self) -> &Tensor {
        &self.head
    }

    /// Last hidden states of packed sequences, `(T, hidden)`, after the final norm.
    pub fn hidden(&self, batch: &Packed, adapter: Option<&Adapter>) -> Tensor {
        let device = self.device();
        let context = Context::Packed { batch, cache: None };
        self.forward(
            &batch.tokens(device),
            &batch.positions(device),
            &context,
            adapter,
        )
    }

    /// Compute a prompt into a cache slot; gives its last token's hidden state, `(1, hidden)`.
    pub fn prefill(
        &self,
        prompt: &[u32],
        cache: &mut KvCache,
        slot: usize,
        adapter: Option<&Adapter>,
    ) -> Tensor {
        let mut batch = Packed::new();
        batch.root(prompt);
        let device = self.device();
        let context = Context::Packed {
            batch: &batch,
            cache: Some((cache, slot)),
        };
        let hidden = self.forward(
            &batch.tokens(device),
            &batch.positions(device),
            &context,
            adapter,
        );
        cache.clear(slot);
        cache.advance(&[slot], prompt.len());
        hidden.narrow(0, prompt.len() as i64 - 1, 1)
    }

    /// Append one token to each of these slots; gives their hidden states, `(B, hidden)`.
    pub fn step(
        &self,
        tokens: &[u32],
        slots: &[usize],
        cache: &mut KvCache,
        adapter: Option<&Adapter>,
    ) -> Tensor {
        let device = self.device();
        let ids: Vec<i64> = tokens.iter().map(|&t| i64::from(t)).collect();
        let positions: Vec<i64> = slots
            .iter()
            .map(|&slot| cache.length(slot) as i64)
            .collect();
        let on_device = |numbers: &[i64]| Tensor::from_slice(numbers).to_device(device);
        let context = Context::Step { cache, slots };
        let hidden = self.forward(&on_device(&ids), &on_device(&positions), &context, adapter);
        cache.advance(slots, 1);
        hidden
    }

    /// Next-token logits in f32, `(B, vocab)`, of hidden states of single tokens.
    pub fn next_token_logits(&self, hidden: &Tensor) -> Tensor {
        hidden
            .linear(&self.head, None::<&Tensor>)
            .to_kind(Kind::Float)
    }

    fn forward(
        &self,
        tokens: &Tensor,
        positions: &Tensor,
        context: &Context,
        adapter: Option<&Adapter>,
    ) -> Tensor {
        let rotation = self.rope.rows(positions);
        let mut x = self.embedding.index_select(0, tokens); // (T, hidden)
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&self.config, index, x, &rotation, context, adapter);
        }
        self.rms_norm(&x)
    }

    fn rms_norm(&self, x: &Tensor) -> Tensor {
        norm(x, &self.norm, self.config.rms_norm_eps)
    }
}

fn norm(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    x.rms_norm(weight.size(), Some(weight), eps)
}

impl Layer {
    /// A joint projection, in the order of [`super::lora::JOINT`].
    pub(super) fn joint(&self, index: usize) -> &Linear {
        [&self.qkv, &self.output, &self.gate_up, &self.down][index]
    }

    fn load(
        config: &ModelConfig,
        index: usize,
        load: &dyn Fn(&str) -> Result<Tensor, WeightError>,
    ) -> Result<Self, WeightError> {
        let path = |name: &str| format!("model.layers.{index}.{name}");
        let projections = |targets: &[Target], biased: bool| -> Result<Linear, WeightError> {
            let parts = targets.iter().map(|&target| {
                let weight = load(&path(&format!("{}.weight", target.path())))?;
                let bias = if biased {
                    Some(load(&path(&format!("{}.bias", target.path())))?)
                } else {
                    None
                };
                Ok((target, weight, bias))
            });
            let parts = parts.collect::<Result<_, WeightError>>()?;
            Ok(Linear::new(index, parts)?)
        };
        let qk_norm = if config.qk_norm {
            Some((
                load(&path("self_attn.q_norm.weight"))?,
                load(&path("self_attn.k_norm.weight"))?,
            ))
        } else {
            None
        };
        Ok(Self {
            input_norm: load(&path("input_layernorm.weight"))?,
            qkv: projections(
                &[Target::QProj, Target::KProj, Target::VProj],
                config.attention_bias,
            )?,
            qk_norm,
            output: projections(&[Target::OProj], config.attention_bias)?,
            post_norm: load(&path("post_attention_layernorm.weight"))?,
            gate_up: projections(&[Target::GateProj, Target::UpProj], config.mlp_bias)?,
            down: projections(&[Target::DownProj], config.mlp_bias)?,
        })
    }

    fn forward(
        &self,
        config: &ModelConfig,
        index: usize,
        x: Tensor,
        rotation: &(Tensor, Tensor),
        context: &Context,
        adapter: Option<&Adapter>,
    ) -> Tensor {
        let eps = config.rms_norm_eps;
        // (1) (2)
        let qkv = self
            .qkv
            .split(&self.qkv.forward(&norm(&x, &self.input_norm, eps), adapter));
        let heads = |t: &Tensor, n: i64| t.reshape([-1, n, config.head_dim]); // (T, H · D) → (T, H, D)
        let (q, k, v) = (
            heads(&qkv[0], config.heads),
            heads(&qkv[1], config.kv_heads),
            heads(&qkv[2], config.kv_heads),
        );
        // (3)
        let (q, k) = match &self.qk_norm {
            Some((q_norm, k_norm)) => (norm(&q, q_norm, eps), norm(&k, k_norm, eps)),
            None => (q, k),
        };
        let (q, k) = (rotate(&q, rotation), rotate(&k, rotation));
        // (4)
        let attended = context.attend(index, &q, &k, &v);
        let attended = attended.reshape([-1, config.heads * config.head_dim]); // (T, H, D) → (T, H · D)
        // (5)
        let x = x + self.output.forward(&attended, adapter);
        // (6) (7)
        let wide = self.gate_up.split(
            &self
                .gate_up
                .forward(&norm(&x, &self.post_norm, eps), adapter),
        );
        let gated = wide[0].silu() * &wide[1];
        x + self.down.forward(&gated, adapter)
    }
}
