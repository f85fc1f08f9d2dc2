//! Training: pairs or questions in, and maybe an adapter to begin with; an adapter out.

use serde_json::Value;

use super::curriculum::Curriculum;
use super::shared::{ModelSlot, Slot};
use crate::artifact::write_atomic;
use crate::datasets::pairs;
use crate::stages::{Input, Stage, StageContext, Work};
use crate::training::TrainContext;

/// Kind of the DPO stage.
pub const DPO_KIND: &str = "train-dpo";
/// Kind of the GRPO stage.
pub const GRPO_KIND: &str = "train-grpo";
/// Folder of the adapter, as PEFT writes it.
pub const ADAPTER: &str = "adapter";
/// The pairs as a defence made them of those that were sampled, where one did.
const AUGMENTED_PAIRS: &str = "pairs.parquet";

/// Trains one model by one method on one seed's data.
pub struct TrainStage {
    name: String,
    model: ModelSlot,
    curriculum: Curriculum,
    seed: u64,
}

impl TrainStage {
    /// By the curriculum's method on its training set.
    pub fn new(name: String, curriculum: Curriculum, slot: &Slot) -> Self {
        Self {
            name,
            model: slot.model.clone(),
            curriculum,
            seed: slot.seed,
        }
    }
}

impl Stage for TrainStage {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn kind(&self) -> &'static str {
        match self.curriculum.is_dpo() {
            true => DPO_KIND,
            false => GRPO_KIND,
        }
    }

    fn format(&self) -> u32 {
        2
    }

    fn config(&self) -> Value {
        self.curriculum.config()
    }

    fn model_identity(&self) -> Option<String> {
        Some(self.model.identity())
    }

    fn model_origin(&self) -> Option<String> {
        Some(self.model.origin())
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn work(&self) -> Option<Work> {
        // The adapter, and two checkpoints of it with both moments.
        let adapter = self.model.adapter_bytes(self.curriculum.lora());
        Some(self.curriculum.work()?.storing(7 * adapter))
    }

    fn inputs(&self) -> Vec<Input> {
        self.curriculum.inputs()
    }

    fn run(&self, context: &StageContext) -> anyhow::Result<()> {
        let model = self.model.load()?;
        let render = self.curriculum.generation().render_options();
        let training = TrainContext {
            model: &model,
            render: &render,
            seed: context.seed,
            folder: &context.out,
            checkpoints: &context.checkpoints,
        };
        self.curriculum.with_lessons(
            context,
            |augmented| {
                let bytes = pairs::encode(augmented)?;
                Ok(write_atomic(&context.output(AUGMENTED_PAIRS), &bytes)?)
            },
            &mut |lessons| {
                let start = self.curriculum.start(context, &model.decoder)?;
                let adapter = lessons.train(&training, start)?;
                Ok(adapter.save(&context.output(ADAPTER), &self.model.spec.source)?)
            },
        )
    }
}
