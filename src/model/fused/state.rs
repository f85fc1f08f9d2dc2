//! What is under way on the device: slots, the paged cache, and the buffers of a step.

use tch::{Device, Kind, Tensor};

use super::kernels::{CHUNK, Draw, PAGE, Plan, RESULTS, Slots};
use super::pages::PagePool;
use super::{Fused, MOST_ROWS};
use crate::model::config::ModelConfig;
use crate::runtime::gpu::{Event, GpuError, Pinned, Stream, pointer};
use crate::runtime::memory::empty_cache;

/// Everything that a step reads and writes beside the weights.
#[derive(Debug)]
pub struct State {
    pub(super) slots: Slots,
    pub(super) plan: Plan,
    pub(super) keys: Vec<Tensor>,
    pub(super) values: Vec<Tensor>,
    pub(super) buffers: Buffers,
    /// `(3, MOST_ROWS)`.
    pub(super) results: Tensor,
    changes: Tensor,
    /// Who holds which page.
    pub pool: PagePool,
    longest: usize,
    most_new: usize,
}

/// `(MOST_ROWS, …)` each.
#[derive(Debug)]
pub(super) struct Buffers {
    pub residual: Tensor,
    pub x: Tensor,
    pub y: Tensor,
    pub q: Tensor,
    pub attended: Tensor,
    pub gated: Tensor,
    pub logits: Tensor,
    /// A x of the widest projection.
    pub low: Tensor,
}

/// Pages that one launch can enter into the tables.
const CHANGES: usize = 4096;

/// One step's outcome, by row.
#[derive(Debug)]
pub struct Results {
    numbers: Pinned<i32>,
    done: Event,
}

impl Results {
    /// Room for a step's outcome.
    pub fn new() -> Result<Self, GpuError> {
        Ok(Self {
            numbers: Pinned::new(RESULTS as usize * MOST_ROWS)?,
            done: Event::new()?,
        })
    }

    /// Wait for it; gives token, log-probability and status of each row. The status is 0 where the text goes on, 1
    /// where it ended with a stop token, 2 with its limit, 3 where the logits are no numbers, −1 where the row was empty.
    pub fn wait(&self) -> Result<impl Iterator<Item = (u32, f32, i32)> + '_, GpuError> {
        self.done.wait()?;
        let numbers = self.numbers.as_slice();
        Ok((0..MOST_ROWS).map(move |row| {
            (
                numbers[row] as u32,
                f32::from_bits(numbers[MOST_ROWS + row] as u32),
                numbers[2 * MOST_ROWS + row],
            )
        }))
    }
}

impl State {
    fn new(
        config: &ModelConfig,
        device: Device,
        pages: usize,
        longest: usize,
        most_new: usize,
    ) -> Result<Self, GpuError> {
        let rows = MOST_ROWS as i64;
        let int = |shape: &[i64]| Tensor::f_zeros(shape, (Kind::Int, device));
        let half = |columns: i64| Tensor::f_zeros([rows, columns], (Kind::BFloat16, device));
        let cache = || -> Result<Vec<Tensor>, GpuError> {
            let shape = [pages as i64, config.kv_heads, PAGE as i64, config.head_dim];
            (0..config.layers)
                .map(|_| Ok(Tensor::f_zeros(shape, (Kind::BFloat16, device))?))
                .collect()
        };
        let a_slot = longest.div_ceil(PAGE).next_power_of_two().max(64) as i64;
        let most_new = most_new.next_power_of_two().max(256);
        // Chunks that all rows can have: pages may be shared, so their number says nothing.
        let parts = rows * ((a_slot as usize + CHUNK / PAGE / 2) / (CHUNK / PAGE)).max(1) as i64;
        let per_part = config.heads * (config.head_dim + 2);
        Ok(Self {
            keys: cache()?,
            values: cache()?,
            slots: Slots {
                active: int(&[rows])?,
                length: int(&[rows])?,
                made: int(&[rows])?,
                token: int(&[rows])?,
                adapter: Tensor::f_full([rows], -1, (Kind::Int, device))?,
                pages: int(&[rows, a_slot])?,
                draws: Tensor::f_zeros([rows * size_of::<Draw>() as i64], (Kind::Uint8, device))?,
                uniforms: Tensor::f_zeros([rows, most_new as i64], (Kind::Double, device))?,
            },
            plan: Plan {
                slots: Tensor::f_full([rows], -1, (Kind::Int, device))?,
                position: int(&[rows])?,
                place: int(&[rows])?,
                adapter: int(&[rows])?,
                work: int(&[parts])?,
                part: int(&[rows])?,
                count: int(&[1])?,
                arrived: int(&[rows * config.kv_heads])?,
                partial: Tensor::f_empty([parts * per_part], (Kind::Float, device))?,
            },
            buffers: Buffers {
                residual: half(config.hidden_size)?,
                x: half(config.hidden_size)?,
                // Twice as much: beside an adapter it is f32.
                y: half(
                    2 * (2 * config.intermediate_size)
                        .max((config.heads + 2 * config.kv_heads) * config.head_dim),
                )?,
                q: half(config.heads * config.head_dim)?,
                attended: half(config.heads * config.head_dim)?,
                gated: half(config.intermediate_size)?,
                logits: half(config.vocab_size)?,
                low: half(3 * super::source::LARGEST_RANK)?,
            },
            results: int(&[RESULTS, rows])?,
            changes: int(&[3 * CHANGES as i64])?,
            pool: PagePool::new(pages),
            longest: a_slot as usize * PAGE,
            most_new,
        })
    }

    /// Pages of the cache.
    pub fn pages(&self) -> usize {
        self.pool.len()
    }
}

impl Fused {
    /// Whether what is there has room for this.
    pub fn suffices(&self, pages: usize, longest: usize, most_new: usize) -> bool {
        let state = self.state.as_ref();
        state.is_some_and(|s| s.pages() >= pages && s.longest >= longest && s.most_new >= most_new)
    }

    /// Make room for this many pages, texts of `longest` tokens and `most_new` new ones. Gives the pages there are:
    /// fewer where memory does not suffice, down to `least`. What is there and large enough stays, with its contents;
    /// `false` says that it was made anew.
    pub fn reserve(
        &mut self,
        pages: usize,
        least: usize,
        longest: usize,
        most_new: usize,
    ) -> Result<(usize, bool), GpuError> {
        if self.suffices(pages, longest, most_new) {
            return Ok((self.ready().pages(), true));
        }
        if let Some(state) = &self.state
            && state.pages() >= least
            && self.room()? <= state.pages()
            && self.suffices(least, longest, most_new)
        {
            return Ok((state.pages(), true));
        }
        let (longest, most_new) = match &self.state {
            Some(old) => (longest.max(old.longest), most_new.max(old.most_new)),
            None => (longest, most_new),
        };
        self.gpu.synchronise()?;
        self.release();
        // Half as much again, so that the next round's longer prompts find their beginnings still there.
        let mut wanted = (pages * 3 / 2).min(self.room()?).max(least);
        loop {
            match State::new(&self.config, self.device, wanted, longest, most_new) {
                Ok(state) => {
                    self.state = Some(state);
                    return Ok((wanted, false));
                }
                Err(e) if e.is_out_of_memory() && wanted > least => {
                    empty_cache();
                    let less = (wanted * 4 / 5).max(least);
                    tracing::warn!(
                        "GPU memory does not hold {wanted} pages of keys and values; trying {less}"
                    );
                    wanted = less;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Pages for which memory would suffice if there were none: free memory, less what prompts need to be computed.
    pub fn room(&self) -> Result<usize, GpuError> {
        let (free, _) = self.memory()?;
        let held = self
            .state
            .as_ref()
            .map_or(0, |s| s.pages() * self.page_bytes());
        Ok(self
            .footprint()
            .pages(free + held)
            .min(self.limit.unwrap_or(usize::MAX)))
    }

    /// Which slot each of the step's rows is; the others are empty.
    pub fn set_rows(&self, rows: &[i32]) -> Result<(), GpuError> {
        let state = self.ready();
        let mut all = [-1i32; MOST_ROWS];
        all[..rows.len()].copy_from_slice(rows);
        self.gpu.stream().upload(&state.plan.slots, &all)
    }

    /// Enter pages into the slots' tables: slot, index, page.
    pub fn set_pages(&self, changes: &[[i32; 3]]) -> Result<(), GpuError> {
        let state = self.ready();
        for part in changes.chunks(CHANGES) {
            let at = self.on_stream(false);
            at.stream.upload(&state.changes, part)?;
            self.kernels
                .write_pages(at, &state.slots, &state.changes, part.len())?;
        }
        Ok(())
    }

    /// Begin a text in a slot: `length` tokens will be in its cache when its next token is drawn, `made` have been
    /// generated before.
    pub fn start(
        &self,
        slot: usize,
        length: usize,
        made: usize,
        draw: Draw,
        uniforms: &[f64],
    ) -> Result<(), GpuError> {
        let (state, stream) = (self.ready(), self.gpu.stream());
        assert!(
            uniforms.len() <= state.most_new,
            "more draws than there is room for"
        );
        let slots = &state.slots;
        let row = slot * state.most_new * 8;
        stream.upload_at(&slots.uniforms, row, uniforms)?;
        let draw = Draw {
            uniforms: pointer(&slots.uniforms) + row as u64,
            ..draw
        };
        stream.upload_at(&slots.draws, slot * size_of::<Draw>(), &[draw])?;
        let adapter = if self.adapter.is_some() { 0 } else { -1 };
        for (tensor, number) in [
            // Drawing a token counts one up.
            (&slots.length, length as i32 - 1),
            (&slots.made, made as i32),
            (&slots.active, 1),
            (&slots.adapter, adapter),
        ] {
            stream.upload_at(tensor, 4 * slot, &[number])?;
        }
        Ok(())
    }

    /// Keys and values of these pages, `(layers, 2, pages, kv heads, PAGE, head width)` on the host.
    pub fn save_pages(&self, pages: &[u32]) -> Result<Tensor, GpuError> {
        let state = self.ready();
        self.gpu.synchronise()?;
        let index = self.index(pages)?;
        let mut layers = Vec::with_capacity(state.keys.len());
        for (keys, values) in state.keys.iter().zip(&state.values) {
            let both = [
                keys.f_index_select(0, &index)?,
                values.f_index_select(0, &index)?,
            ];
            layers.push(Tensor::f_stack(&both, 0)?.f_to_device(Device::Cpu)?);
        }
        Ok(Tensor::f_stack(&layers, 0)?)
    }

    /// Put what [`Self::save_pages`] gave into other pages.
    pub fn restore_pages(&self, pages: &[u32], saved: &Tensor) -> Result<(), GpuError> {
        let state = self.ready();
        let index = self.index(pages)?;
        for (layer, (keys, values)) in state.keys.iter().zip(&state.values).enumerate() {
            let both = saved.f_get(layer as i64)?.f_to_device(self.device)?;
            let _ = keys
                .shallow_clone()
                .f_index_copy_(0, &index, &both.f_get(0)?)?;
            let _ = values
                .shallow_clone()
                .f_index_copy_(0, &index, &both.f_get(1)?)?;
        }
        Ok(())
    }

    fn index(&self, pages: &[u32]) -> Result<Tensor, GpuError> {
        let numbers: Vec<i64> = pages.iter().map(|&p| i64::from(p)).collect();
        Ok(Tensor::f_from_slice(&numbers)?.f_to_device(self.device)?)
    }

    /// Go on with a text in a slot whose pages hold `length` tokens: `token` is the next one to be fed.
    pub fn resume(
        &self,
        slot: usize,
        length: usize,
        made: usize,
        token: u32,
        draw: Draw,
        uniforms: &[f64],
    ) -> Result<(), GpuError> {
        self.start(slot, length + 1, made, draw, uniforms)?;
        self.gpu
            .stream()
            .upload_at(&self.ready().slots.token, 4 * slot, &[token as i32])
    }

    /// The text in this slot does not go on.
    pub fn stop(&self, slot: usize) -> Result<(), GpuError> {
        self.gpu
            .stream()
            .upload_at(&self.ready().slots.active, 4 * slot, &[0i32])
    }

    /// Have the last step's outcome copied to the host; [`Results::wait`] says when it is there.
    pub fn fetch(&self, into: &mut Results) -> Result<(), GpuError> {
        let stream = self.gpu.stream();
        // SAFETY: the numbers are read after the event only, and written by no other download before that.
        unsafe { stream.download(&self.ready().results, into.numbers.as_mut_slice())? };
        into.done.record(stream)
    }

    pub(super) fn ready(&self) -> &State {
        self.state.as_ref().expect("`reserve` comes first")
    }

    pub(super) fn on_stream(&self, overlap: bool) -> super::kernels::At {
        super::kernels::At {
            stream: self.gpu.stream(),
            overlap,
        }
    }

    pub(super) fn beside_libtorch(&self) -> super::kernels::At {
        super::kernels::At {
            stream: Stream::of_libtorch(),
            overlap: false,
        }
    }
}
