//! What the scheduler asks of a GPU: memory for pages, slots in which texts are computed, steps and their outcomes.

use tch::Tensor;

use crate::model::Adapter;
use crate::model::fused::pages::PagePool;
use crate::model::fused::{Draw, Fused, Prompt, Results};
use crate::runtime::gpu::GpuError;

/// A device that computes texts in slots. Work is done in the order it is given; only [`Card::wait`] waits.
pub(in crate::generation) trait Card {
    /// Room on the host for the outcome of a step or of prompts.
    type Outcome;

    /// Compute with this adapter from now on; gives what tells its weights from others.
    fn set_adapter(&mut self, adapter: Option<&Adapter>) -> Result<[f64; 2], GpuError>;
    /// Bytes of a page.
    fn page_bytes(&self) -> usize;
    /// Whether what is reserved has room for this.
    fn suffices(&self, pages: usize, longest: usize, most_new: usize) -> bool;
    /// Pages that there could be.
    fn room(&self) -> Result<usize, GpuError>;
    /// Have this many pages, or as many as there is memory for, down to `least`; gives how many there are.
    fn reserve(
        &mut self,
        pages: usize,
        least: usize,
        longest: usize,
        most_new: usize,
    ) -> Result<usize, GpuError>;
    /// The pages that are reserved.
    fn pool(&mut self) -> Option<&mut PagePool>;
    /// Begin a text in a slot: `length` tokens will be in its cache when its next token is drawn, `made` are generated.
    fn start(
        &self,
        slot: usize,
        length: usize,
        made: usize,
        draw: Draw,
        uniforms: &[f64],
    ) -> Result<(), GpuError>;
    /// Go on with a text whose pages hold `length` tokens; `token` is fed next.
    fn resume(
        &self,
        slot: usize,
        length: usize,
        made: usize,
        token: u32,
        draw: Draw,
        uniforms: &[f64],
    ) -> Result<(), GpuError>;
    /// The text in this slot does not go on.
    fn stop(&self, slot: usize) -> Result<(), GpuError>;
    /// Enter pages into the slots' tables: slot, index, page.
    fn set_pages(&self, changes: &[[i32; 3]]) -> Result<(), GpuError>;
    /// Which slot each row of a step is.
    fn set_rows(&self, rows: &[i32]) -> Result<(), GpuError>;
    /// Compute prompts, and draw the first token of each.
    fn prefill(&mut self, prompts: &[Prompt]) -> Result<(), GpuError>;
    /// One token for each row.
    fn step(&mut self, rows: usize) -> Result<(), GpuError>;
    /// What pages hold, on the host; its third dimension is the pages.
    fn save_pages(&self, pages: &[u32]) -> Result<Tensor, GpuError>;
    /// Put it into other pages.
    fn restore_pages(&self, pages: &[u32], saved: &Tensor) -> Result<(), GpuError>;
    /// Room for an outcome.
    fn outcome() -> Result<Self::Outcome, GpuError>;
    /// Have the newest outcome copied.
    fn fetch(&self, into: &mut Self::Outcome) -> Result<(), GpuError>;
    /// Wait for it: token, log-probability and status of the first `rows` rows, as [`Results::wait`] says.
    fn wait(outcome: &Self::Outcome, rows: usize) -> Result<Vec<(u32, f32, i32)>, GpuError>;
}

impl Card for Fused {
    type Outcome = Results;

    fn set_adapter(&mut self, adapter: Option<&Adapter>) -> Result<[f64; 2], GpuError> {
        Fused::set_adapter(self, adapter)
    }

    fn page_bytes(&self) -> usize {
        Fused::page_bytes(self)
    }

    fn suffices(&self, pages: usize, longest: usize, most_new: usize) -> bool {
        Fused::suffices(self, pages, longest, most_new)
    }

    fn room(&self) -> Result<usize, GpuError> {
        Fused::room(self)
    }

    fn reserve(
        &mut self,
        pages: usize,
        least: usize,
        longest: usize,
        most_new: usize,
    ) -> Result<usize, GpuError> {
        Ok(Fused::reserve(self, pages, least, longest, most_new)?.0)
    }

    fn pool(&mut self) -> Option<&mut PagePool> {
        self.state().map(|state| &mut state.pool)
    }

    fn start(
        &self,
        slot: usize,
        length: usize,
        made: usize,
        draw: Draw,
        uniforms: &[f64],
    ) -> Result<(), GpuError> {
        Fused::start(self, slot, length, made, draw, uniforms)
    }

    fn resume(
        &self,
        slot: usize,
        length: usize,
        made: usize,
        token: u32,
        draw: Draw,
        uniforms: &[f64],
    ) -> Result<(), GpuError> {
        Fused::resume(self, slot, length, made, token, draw, uniforms)
    }

    fn stop(&self, slot: usize) -> Result<(), GpuError> {
        Fused::stop(self, slot)
    }

    fn set_pages(&self, changes: &[[i32; 3]]) -> Result<(), GpuError> {
        Fused::set_pages(self, changes)
    }

    fn set_rows(&self, rows: &[i32]) -> Result<(), GpuError> {
        Fused::set_rows(self, rows)
    }

    fn prefill(&mut self, prompts: &[Prompt]) -> Result<(), GpuError> {
        Fused::prefill(self, prompts)
    }

    fn step(&mut self, rows: usize) -> Result<(), GpuError> {
        Fused::step(self, rows)
    }

    fn save_pages(&self, pages: &[u32]) -> Result<Tensor, GpuError> {
        Fused::save_pages(self, pages)
    }

    fn restore_pages(&self, pages: &[u32], saved: &Tensor) -> Result<(), GpuError> {
        Fused::restore_pages(self, pages, saved)
    }

    fn outcome() -> Result<Results, GpuError> {
        Results::new()
    }

    fn fetch(&self, into: &mut Results) -> Result<(), GpuError> {
        Fused::fetch(self, into)
    }

    fn wait(outcome: &Results, rows: usize) -> Result<Vec<(u32, f32, i32)>, GpuError> {
        Ok(outcome.wait()?.take(rows).collect())
    }
}
