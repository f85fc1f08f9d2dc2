//! An adapter as training computes with it, and the gradients of its matrices.

use tch::Tensor;

use super::super::lora::{Adapter, JOINT, LoraConfig, Target};
use super::{Pieces, product_f32};
use crate::model::config::ModelConfig;
use crate::model::decoder::Decoder;
use crate::model::host::product::Low;
use crate::model::linear::Linear;
use crate::model::room;
use crate::runtime::gpu::GpuError;

/// One target's place in a joint projection.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// First row of its outputs.
    row: i64,
    outputs: i64,
    /// First of its ranks.
    rank: i64,
}

/// The low-rank updates of one joint projection: `y += z Bᵀ`, `z = x Aᵀ`, the adapter's scale being part of B.
#[derive(Debug)]
pub struct LiveJoint {
    /// `(R, in)`: the A matrices of the targets, one below the other.
    a: Tensor,
    /// `(out, R)`: their B matrices, each beside its own rows and ranks, zeros elsewhere.
    b: Tensor,
    scale: f64,
    rank: i64,
    /// Both lie in the room of the projection's weights as well, for one product of all.
    joined: bool,
}

/// An adapter in the weights' kind, for the steps until it changes.
#[derive(Debug)]
pub struct Live {
    /// The whole buffer; where the model's kind is the adapter's own, it is the adapter's.
    own: Tensor,
    /// Matrices that do not lie in it as a forward reads them.
    packed: Tensor,
    packer: Packer,
    tables: Option<Tables>,
    config: LoraConfig,
    layers: Vec<[Option<LiveJoint>; 4]>,
}

/// Entries of the kernels that pack B and that lay both matrices into the room of the weights.
#[derive(Debug)]
struct Tables {
    pack: Tensor,
    rooms: Tensor,
    /// The weights whose addresses the entries hold: their memory stays as long as these.
    weights: Vec<Tensor>,
}

impl Tables {
    fn are_of(&self, model: &Decoder) -> bool {
        let first = model.layer(0).qkv.weight().data_ptr();
        self.weights.first().is_some_and(|w| w.data_ptr() == first)
    }
}

/// The targets of a joint projection that carry an update, with their places.
fn parts<'a>(
    adapter: &'a Adapter,
    model: &'a ModelConfig,
    layer: usize,
    joint: usize,
) -> (Vec<(Target, Part)>, i64) {
    let (mut row, mut rank, mut found) = (0, 0, vec![]);
    for &target in JOINT[joint] {
        let outputs = target.features(model).1;
        if adapter.get(layer, target).is_some() {
            found.push((target, Part { row, outputs, rank }));
            rank += adapter.config.rank;
        }
        row += outputs;
    }
    (found, row)
}

impl Live {
    /// Copies of the matrices in the model's kind.
    ///
    /// # Errors
    /// The device refuses.
    pub fn new(adapter: &Adapter, model: &Decoder) -> Result<Self, GpuError> {
        let _no_grad = tch::no_grad_guard();
        let (config, kind) = (model.config(), model.kind());
        let flat = adapter.flat().detach();
        let own = flat.f_to_kind(kind)?;
        let fused = model.pieces().are_fused();
        let packer = Packer::new(adapter, config);
        let packed = Tensor::f_zeros([packer.size], (kind, flat.device()))?;
        let mut layers = Vec::with_capacity(config.layers as usize);
        let (mut rooms, mut weights) = (vec![], vec![]);
        for (layer, places) in packer.layers.iter().enumerate() {
            let mut joints = [const { None }; 4];
            for (joint, slot) in joints.iter_mut().enumerate() {
                let linear = model.layer(layer).joint(joint);
                weights.push(linear.weight().shallow_clone());
                let (Some(a), Some(place)) = (adapter.joint_a(&own, layer, joint), &places[joint])
                else {
                    continue;
                };
                let ranks = a.size()[0];
                let numbers = packed.f_narrow(0, place.b, place.outputs * ranks)?;
                let b = numbers.f_view([place.outputs, ranks])?;
                let joined = fused && ranks % 8 == 0 && ranks <= linear.room();
                if joined {
                    rooms.extend(room_entries(linear, &a, &b)?);
                }
                *slot = Some(LiveJoint {
                    a,
                    b,
                    scale: adapter.config.scale(),
                    rank: adapter.config.rank,
                    joined,
                });
            }
            layers.push(joints);
        }
        let tables = match fused {
            true => {
                let table = |entries: &[[i64; 5]]| -> Result<Tensor, GpuError> {
                    let list = Tensor::f_from_slice(entries.as_flattened())?;
                    Ok(list.f_to_device(flat.device())?)
                };
                Some(Tables {
                    pack: table(&packer.entries)?,
                    rooms: table(&rooms)?,
                    weights,
                })
            }
            false => None,
        };
        let live = Self {
            own,
            packed,
            packer,
            tables,
            config: adapter.config.clone(),
            layers,
        };
        live.pack(&flat, model)?;
        Ok(live)
    }

    /// The copies that are in `slot`, of what the adapter is now; new ones where there are none of its shape. Where each
    /// matrix lies is worked out once for all steps.
    ///
    /// # Errors
    /// The device refuses.
    pub fn renewed<'a>(
        slot: &'a mut Option<Self>,
        adapter: &Adapter,
        model: &Decoder,
    ) -> Result<&'a Self, GpuError> {
        let fits = |live: &Self| {
            let flat = adapter.flat();
            live.config == adapter.config
                && live.layers.len() == model.layer_count()
                && live.own.numel() == flat.numel()
                && (live.own.kind(), live.own.device()) == (model.kind(), flat.device())
                // Otherwise it would be another adapter's own buffer.
                && (live.own.kind() != flat.kind() || live.own.data_ptr() == flat.data_ptr())
                && live.tables.as_ref().is_none_or(|t| t.are_of(model))
        };
        let _no_grad = tch::no_grad_guard();
        match slot {
            Some(live) if fits(live) => {
                let flat = adapter.flat().detach();
                if live.own.kind() != flat.kind() {
                    live.own.f_copy_(&flat)?;
                }
                live.pack(&flat, model)?;
            }
            _ => *slot = Some(Self::new(adapter, model)?),
        }
        Ok(slot.as_ref().expect("it was just put there"))
    }

    /// Take over what the adapter is now.
    fn pack(&self, flat: &Tensor, model: &Decoder) -> Result<(), GpuError> {
        let (packer, scale) = (&self.packer, self.config.scale());
        match (model.pieces().kernels(), &self.tables) {
            (Some(kernels), Some(tables)) => {
                let low_rank = &kernels.low_rank;
                low_rank.pack(flat, &tables.pack, scale, &self.packed)
            }
            _ => packer.pack_plainly(flat, scale, &self.packed),
        }
    }

    /// Make this the adapter that lies in the room of the model's weights, until another's forward or backward begins.
    pub fn lay_out(&self, pieces: &Pieces) -> Result<(), GpuError> {
        match (pieces.kernels(), &self.tables) {
            (Some(kernels), Some(tables)) => kernels.low_rank.lay_out(&tables.rooms),
            _ => Ok(()),
        }
    }

    /// The updates of a layer, in the order of [`JOINT`].
    pub fn layer(&self, index: usize) -> &[Option<LiveJoint>; 4] {
        &self.layers[index]
    }
}

/// Where A and B go in the room of a projection's weights.
fn room_entries(linear: &Linear, a: &Tensor, b: &Tensor) -> Result<[[i64; 5]; 2], GpuError> {
    let (outputs, inputs) = linear.weight().size2()?;
    let ranks = a.size()[0];
    let below = linear.with_rows(ranks)?.f_narrow(0, outputs, ranks)?;
    let behind = linear.with_columns(ranks)?.f_narrow(1, inputs, ranks)?;
    Ok([room::entry(a, &below), room::entry(b, &behind)])
}

/// Where the B matrices that a forward reads lie in one buffer, and how they get there.
#[derive(Debug)]
struct Packer {
    /// From, to, rows, columns, stride.
    entries: Vec<[i64; 5]>,
    size: i64,
    layers: Vec<[Option<JointPlace>; 4]>,
}

#[derive(Debug)]
struct JointPlace {
    b: i64,
    outputs: i64,
}

impl Packer {
    fn new(adapter: &Adapter, model: &ModelConfig) -> Self {
        let mut all = Self {
            entries: vec![],
            size: 0,
            layers: vec![],
        };
        for layer in 0..model.layers as usize {
            let places = [0, 1, 2, 3].map(|joint| all.place(adapter, model, layer, joint));
            all.layers.push(places);
        }
        all
    }

    fn place(
        &mut self,
        adapter: &Adapter,
        model: &ModelConfig,
        layer: usize,
        joint: usize,
    ) -> Option<JointPlace> {
        let (found, outputs) = parts(adapter, model, layer, joint);
        if found.is_empty() {
            return None;
        }
        let rank = adapter.config.rank;
        let all = rank * found.len() as i64;
        let b = self.size;
        self.size += outputs * all;
        for (target, part) in &found {
            let from = adapter.start_of_b(layer, *target);
            let to = b + part.row * all + part.rank;
            self.entries.push([from, to, part.outputs, rank, all]);
        }
        Some(JointPlace { b, outputs })
    }

    fn pack_plainly(&self, flat: &Tensor, scale: f64, packed: &Tensor) -> Result<(), GpuError> {
        for &[from, to, rows, columns, stride] in &self.entries {
            let matrix = flat
                .f_narrow(0, from, rows * columns)?
                .f_view([rows, columns])?;
            let place = packed.f_as_strided(matrix.size(), [stride, 1], to)?;
            place
                .shallow_clone()
                .f_copy_(&matrix.f_mul_scalar(scale)?)?;
        }
        Ok(())
    }
}

impl LiveJoint {
    /// `z = x Aᵀ`, `(T, R)`; and x, with z behind its rows where weights and update are one product.
    pub fn low(&self, pieces: &Pieces, x: Tensor) -> Result<(Tensor, Tensor), GpuError> {
        if let Some(kernels) = pieces.kernels()
            && let Some(done) = kernels.low_rank.inner(&x, &self.a, self.joined)?
        {
            return Ok(done);
        }
        let z = x.f_mm(&self.a.f_tr()?)?;
        if !self.joined {
            return Ok((z, x));
        }
        let ranks = z.size()[1];
        let x = match room::behind(&x) >= ranks {
            true => x,
            false => {
                let roomy = room::rows(x.size2()?, ranks, (x.kind(), x.device()))?;
                roomy.shallow_clone().f_copy_(&x)?;
                roomy
            }
        };
        room::put_behind(&x, &z)?;
        Ok((z, x))
    }

    /// Whether one product of `x`, or of a gradient, has the update in it: with so many ranks behind its rows.
    pub fn joined(&self, x: &Tensor) -> Option<i64> {
        let ranks = self.a.size()[0];
        (self.joined && room::behind(x) >= ranks).then_some(ranks)
    }

    /// The update `z Bᵀ` as a part of its projection's product.
    pub fn update<'a>(&'a self, z: &'a Tensor) -> Low<'a> {
        (z, &self.b)
    }

    /// The way back through it, `d_low A`, as a part of that of the projection.
    pub fn back<'a>(&'a self, d_low: &'a Tensor) -> Low<'a> {
        (d_low, &self.a)
    }

    /// The gradient with respect to `x Aᵀ`, `(T, R)`, which is put behind the rows of `d_y` too where weights and update are one
    /// product; B's own is added.
    pub fn backward_b(
        &self,
        pieces: &Pieces,
        d_y: &Tensor,
        z: &Tensor,
        gradient: &mut JointGradient,
    ) -> Result<Tensor, GpuError> {
        if let Some(kernels) = pieces.kernels() {
            let how = (self.rank, self.scale);
            if let Some(d_low) = kernels.low_rank.back(d_y, z, &self.b, how, gradient)? {
                return Ok(d_low);
            }
        }
        let d_low = d_y.f_mm(&self.b)?;
        if self.joined(d_y).is_some() {
            room::put_behind(d_y, &d_low)?;
        }
        let d_b = product_f32(&d_y.f_tr()?, z)?; // (out, R)
        let d_b = d_b.f_mul_scalar(self.scale)?;
        for (part, b) in &mut gradient.b {
            let own =
                d_b.f_narrow(0, part.row, part.outputs)?
                    .f_narrow(1, part.rank, b.size()[1])?;
            let _ = b.f_add_(&own)?;
        }
        Ok(d_low)
    }

    /// A's gradient is added; `x` is what went into the projection.
    pub fn backward_a(
        &self,
        pieces: &Pieces,
        d_low: &Tensor,
        x: &Tensor,
        gradient: &mut JointGradient,
    ) -> Result<(), GpuError> {
        if let Some(kernels) = pieces.kernels()
            && kernels.low_rank.input(x, d_low, &gradient.a)?
        {
            return Ok(());
        }
        let _ = gradient.a.f_add_(&product_f32(&d_low.f_tr()?, x)?)?;
        Ok(())
    }
}

/// Gradients of one joint projection's matrices, views of the flat buffer.
#[derive(Debug)]
pub struct JointGradient {
    /// `(R, in)`.
    a: Tensor,
    /// `(outputs, rank)` each.
    b: Vec<(Part, Tensor)>,
    /// The whole buffer, and where to, first row, rows and first rank of each B, `(targets, 4)`.
    pub(super) flat: Tensor,
    pub(super) blocks: Tensor,
}

/// Gradients of all matrices of an adapter, in f32, in one buffer with the adapter's own layout.
#[derive(Debug)]
pub struct Gradients {
    flat: Tensor,
    pub(super) layers: Vec<[Option<JointGradient>; 4]>,
}

impl Gradients {
    /// Zeros.
    pub fn zeros(adapter: &Adapter, model: &ModelConfig) -> Self {
        let flat = adapter.flat().detach().zeros_like();
        let layers = (0..model.layers as usize).map(|layer| {
            [0, 1, 2, 3].map(|joint| {
                let a = adapter.joint_a(&flat, layer, joint)?;
                let (found, _) = parts(adapter, model, layer, joint);
                let blocks: Vec<[i64; 4]> = found
                    .iter()
                    .map(|(target, part)| {
                        let to = adapter.start_of_b(layer, *target);
                        [to, part.row, part.outputs, part.rank]
                    })
                    .collect();
                let blocks = Tensor::from_slice(blocks.as_flattened())
                    .view([-1, 4])
                    .to_device(flat.device());
                let b = found
                    .into_iter()
                    .map(|(target, part)| (part, adapter.b_of(&flat, layer, target)));
                Some(JointGradient {
                    a,
                    b: b.collect(),
                    flat: flat.shallow_clone(),
                    blocks,
                })
            })
        });
        Self {
            layers: layers.collect(),
            flat,
        }
    }

    /// All of them, `(parameters)`, in the order of [`Adapter::flat`].
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// Start anew.
    pub fn reset(&mut self) {
        let _ = self.flat.zero_();
    }
}
