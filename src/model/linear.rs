//! A frozen linear layer, or several side by side, with room for low-rank updates.

use tch::{Kind, TchError, Tensor};

use super::lora::{Adapter, Target};
use super::room;

/// `x wᵀ` for `(T, in)` and `(out, in)`.
fn product(x: &Tensor, w: &Tensor) -> Tensor {
    x.linear(w, None::<&Tensor>)
}

/// Projections that share their input, stored as one matrix: q, k and v; gate and up; or one alone.
#[derive(Debug)]
pub struct Linear {
    /// `(sum of outputs, in)`; where it has [`room`], there are as many rows below it as numbers behind each.
    weight: Tensor,
    /// `(sum of outputs)`.
    bias: Option<Tensor>,
    /// Which rows are which projection.
    parts: Vec<(Target, i64)>,
    layer: usize,
}

impl Linear {
    /// Join projections, given as `(target, weight, bias)`; either all have a bias or none.
    ///
    /// # Errors
    /// No memory.
    pub fn new(
        layer: usize,
        projections: Vec<(Target, Tensor, Option<Tensor>)>,
    ) -> Result<Self, TchError> {
        let parts = projections
            .iter()
            .map(|(target, weight, _)| (*target, weight.size()[0]))
            .collect();
        let biases: Vec<Tensor> = projections
            .iter()
            .filter_map(|(_, _, bias)| bias.as_ref().map(Tensor::shallow_clone))
            .collect();
        let weights: Vec<Tensor> = projections
            .into_iter()
            .map(|(_, weight, _)| weight)
            .collect();
        let bias = (!biases.is_empty()).then(|| Tensor::cat(&biases, 0));
        Ok(Self {
            weight: Self::joint(weights)?,
            bias,
            parts,
            layer,
        })
    }

    /// One below the other, with room where they are to have some.
    fn joint(mut weights: Vec<Tensor>) -> Result<Tensor, TchError> {
        let (kind, device) = (weights[0].kind(), weights[0].device());
        if !room::is_given(kind, device) {
            return match weights.len() {
                1 => Ok(weights.swap_remove(0)),
                _ => Tensor::f_cat(&weights, 0),
            };
        }
        let room = room::of_targets(weights.len());
        let outputs: i64 = weights.iter().map(|w| w.size()[0]).sum();
        let size = (outputs + room, weights[0].size()[1]);
        let joint = room::rows(size, room, (kind, device))?.f_narrow(0, 0, outputs)?;
        let mut row = 0;
        for weight in weights {
            let count = weight.size()[0];
            joint.f_narrow(0, row, count)?.f_copy_(&weight)?;
            row += count;
        }
        Ok(joint)
    }

    /// Ranks that find room beside the weights; none where there is no room.
    pub fn room(&self) -> i64 {
        room::behind(&self.weight)
    }

    /// The weights with so many numbers of the room behind their rows, `(sum of outputs, in + ranks)`.
    ///
    /// # Errors
    /// There is less room.
    pub fn with_columns(&self, ranks: i64) -> Result<Tensor, TchError> {
        room::joined(&self.weight, ranks)
    }

    /// The weights with so many rows of the room below them, `(sum of outputs + ranks, in)`.
    ///
    /// # Errors
    /// There is less room.
    pub fn with_rows(&self, ranks: i64) -> Result<Tensor, TchError> {
        let size = [self.weight.size()[0] + ranks, self.weight.size()[1]];
        let stride = [self.weight.stride()[0], 1];
        self.weight
            .f_as_strided(size.as_slice(), stride.as_slice(), None)
    }

    /// The same in another precision.
    pub fn in_kind(&self, kind: Kind) -> Self {
        Self {
            weight: self.weight.to_kind(kind),
            bias: self.bias.as_ref().map(|bias| bias.to_kind(kind)),
            parts: self.parts.clone(),
            layer: self.layer,
        }
    }

    /// Take another matrix of the same shape.
    pub fn replace(&mut self, weight: Tensor) {
        self.weight = weight;
    }

    /// The joint matrix, `(sum of outputs, in)`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Its bias, if it has one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// `(T, in)` to `(T, sum of outputs)`, with the adapter that is on, if any.
    pub fn forward(&self, x: &Tensor, adapter: Option<&Adapter>) -> Tensor {
        let update = adapter.and_then(|adapter| self.update(x, adapter));
        let mut y = match update {
            // In one sum, rounded once: a small update would be lost beside an output in bf16. cuBLAS rounds a product
            // before it adds it to a matrix; what takes its place has no gradient.
            Some(update)
                if x.kind() != Kind::Float
                    && x.device().is_cuda()
                    && !(x.requires_grad() || update.requires_grad()) =>
            {
                (x.mm_dtype(&self.weight.tr(), Kind::Float) + update).to_kind(x.kind())
            }
            Some(update) if x.kind() != Kind::Float => update.addmm(x, &self.weight.tr()),
            Some(update) => product(x, &self.weight) + update,
            None => product(x, &self.weight),
        };
        if let Some(bias) = &self.bias {
            y += bias;
        }
        y
    }

    /// What the adapter adds to the frozen layer's output, if anything.
    fn update(&self, x: &Tensor, adapter: &Adapter) -> Option<Tensor> {
        let updates: Vec<_> = self
            .parts
            .iter()
            .map(|(target, _)| adapter.get(self.layer, *target))
            .collect();
        if updates.iter().all(Option::is_none) {
            return None;
        }
        // Adapters are kept in f32 whatever the weights are; the update is computed in the weights' kind.
        let kind = x.kind();
        let mut deltas: Vec<Tensor> = self
            .parts
            .iter()
            .zip(updates)
            .map(|((_, outputs), update)| match update {
                Some(update) => {
                    let low = product(x, &update.a.to_kind(kind)); // (T, r)
                    product(&(low * adapter.config.scale()), &update.b.to_kind(kind)) // (T, out)
                }
                None => Tensor::zeros([x.size()[0], *outputs], (kind, x.device())),
            })
            .collect();
        Some(match deltas.len() {
            1 => deltas.swap_remove(0),
            _ => Tensor::cat(&deltas, -1),
        })
    }

    /// Split an output into its projections.
    pub fn split(&self, y: &Tensor) -> Vec<Tensor> {
        let sizes: Vec<i64> = self.parts.iter().map(|(_, outputs)| *outputs).collect();
        y.split_with_sizes(&sizes, -1)
    }
}
